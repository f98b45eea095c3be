//! What plugins may ask to be told of a pod: the capability arguments, made from plain values.
//!
//! Names are those of the CNI conventions document and of the Kubernetes network plugins page.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::{Attachment, Error, Port};

/// Bits that may pass at once; the largest number that the bandwidth plugin takes.
const BURST: u32 = u32::MAX;

/// All that there is to tell, whoever asks.
pub(crate) fn of(pod: &Attachment) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    if !pod.ports.is_empty() {
        let mappings = pod.ports.iter().map(mapping).collect();
        all.insert("portMappings".to_owned(), Value::Array(mappings));
    }
    if let Some(bandwidth) = bandwidth(&pod.annotations)? {
        all.insert("bandwidth".to_owned(), bandwidth);
    }
    if !pod.cgroup_parent.is_empty() {
        all.insert("cgroupPath".to_owned(), pod.cgroup_parent.clone().into());
    }
    if !pod.annotations.is_empty() {
        all.insert(
            "io.kubernetes.cri.pod-annotations".to_owned(),
            json!(pod.annotations),
        );
    }
    Ok(all)
}

fn mapping(port: &Port) -> Value {
    json!({
        "hostPort": port.host,
        "containerPort": port.container,
        "protocol": port.protocol,
        "hostIP": port.host_ip.map(|ip: IpAddr| ip.to_string()).unwrap_or_default(),
    })
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, Error> {
    let mut limits = Map::new();
    for direction in ["ingress", "egress"] {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = annotations.get(&name) else {
            continue;
        };
        let rate = quantity(text).ok_or_else(|| {
            Error::Invalid(format!(
                "annotation {name}: {text:?} is no number of bits a second"
            ))
        })?;
        limits.insert(format!("{direction}Rate"), rate.into());
        limits.insert(format!("{direction}Burst"), BURST.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A Kubernetes quantity of whole units: digits, then a decimal or binary suffix.
fn quantity(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
        .filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_whole_numbers_with_a_suffix() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(quantity(text), expect, "{text}");
        check("10M", Some(10_000_000));
        check("1Gi", Some(1 << 30));
        check("7", Some(7));
        check("", None);
        check("0", None);
        check("M", None);
        check("-1M", None);
        check("1x", None);
        check("99999999999T", None);
    }

    #[test]
    fn what_a_pod_did_not_say_is_not_told() {
        let mut pod = Attachment {
            id: "a".to_owned(),
            netns: "/n".into(),
            args: BTreeMap::new(),
            ports: vec![],
            cgroup_parent: String::new(),
            annotations: BTreeMap::new(),
        };
        assert_eq!(of(&pod).unwrap(), Map::new());
        pod.ports.push(Port {
            protocol: "tcp".to_owned(),
            host: 80,
            container: 8080,
            host_ip: None,
        });
        pod.annotations
            .insert("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned());
        let all = of(&pod).unwrap();
        let mapping = json!([{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":""}]);
        assert_eq!(all["portMappings"], mapping);
        assert_eq!(
            all["bandwidth"],
            json!({"egressRate": 1_000_000, "egressBurst": BURST})
        );
        pod.annotations.insert(
            "kubernetes.io/egress-bandwidth".to_owned(),
            "fast".to_owned(),
        );
        assert!(matches!(of(&pod), Err(Error::Invalid(_))));
    }
}
