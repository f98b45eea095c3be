//! `linux.netDevices`: links of the host that become the container's.

use std::collections::BTreeMap;

use super::namespaces::Kind;
use super::{Error, Namespaces, Result};
use crate::spec::{RawNetDevice, Text};

/// Longest name of a link: `IFNAMSIZ` without the zero byte (linux/if.h).
const MAX_NAME: usize = 15;

/// One link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NetDevice<'a> {
    /// On the host.
    pub(crate) host: &'a str,
    /// In the container.
    pub(crate) container: &'a str,
}

/// Decides about all of them, in the order of their names.
///
/// # Errors
///
/// No network namespace of the container's own; a name that no link can have, or two may get.
pub(super) fn plan<'a>(
    raw: &'a BTreeMap<Text<'a>, RawNetDevice<'a>>,
    namespaces: &Namespaces<'_>,
) -> Result<Vec<NetDevice<'a>>> {
    if raw.is_empty() {
        return Ok(Vec::new());
    }
    if !namespaces.has(Kind::Network) {
        return Err(Error::new(
            "unable to move network devices without a private NET namespace",
        ));
    }
    let mut devices: Vec<NetDevice<'a>> = Vec::with_capacity(raw.len());
    for (host, device) in raw {
        let host = valid(host.as_str())?;
        let container = match device.name.as_str() {
            "" => host,
            name => valid(name)?,
        };
        if devices.iter().any(|other| other.container == container) {
            return Err(Error::new(format!(
                "two network devices get the name {container:?}"
            )));
        }
        devices.push(NetDevice { host, container });
    }
    Ok(devices)
}

/// What the kernel takes (`dev_valid_name`).
fn valid(name: &str) -> Result<&str> {
    let refused = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace();
    let usual = !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME;
    if usual && !name.contains(refused) {
        Ok(name)
    } else {
        Err(Error::new(format!("invalid network device name {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Linux;

    fn check(devices: &str, namespaces: &str, expect: std::result::Result<&[(&str, &str)], &str>) {
        let json = format!("{{\"namespaces\":[{namespaces}],\"netDevices\":{devices}}}");
        let linux: Linux<'_> = serde_json::from_str(&json).unwrap();
        let namespaces = super::super::namespaces::plan(Some(&linux)).unwrap();
        match (plan(&linux.net_devices, &namespaces), expect) {
            (Ok(got), Ok(expect)) => {
                let got: Vec<_> = got.iter().map(|one| (one.host, one.container)).collect();
                assert_eq!(got, expect);
            }
            (Err(error), Err(text)) => assert!(error.0.contains(text), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_link_keeps_its_name_or_gets_one() {
        let own = r#"{"type":"mount"},{"type":"network"}"#;
        let one = |name: &str| format!("{{\"eth0\":{{\"name\":{name:?}}}}}");
        check(r#"{"eth0":{}}"#, own, Ok(&[("eth0", "eth0")]));
        check(&one("ctr0"), own, Ok(&[("eth0", "ctr0")]));
        check(&one("sixteen_letters_"), own, Err("invalid network device"));
        check(&one("a/b"), own, Err("invalid network device"));
        check(&one(".."), own, Err("invalid network device"));
        check(&one("a b"), own, Err("invalid network device"));
        check(
            r#"{"eth0":{"name":"a"},"eth1":{"name":"a"}}"#,
            own,
            Err("two network devices"),
        );
        let shared = r#"{"type":"mount"}"#;
        check(r#"{"eth0":{}}"#, shared, Err("private NET namespace"));
        check("{}", shared, Ok(&[]));
    }
}
