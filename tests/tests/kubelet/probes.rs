//! Probes of every kind, and many of them every second.

use std::time::Duration;

use serde_json::{Value, json};
use tests::conformance::images;
use tests::image::{Format, Image, Layer, Packed};
use tests::kubelet::{Kubelet, on_node};
use tests::{Node, peers, thorough, wait};

use crate::{container, plain, pod, ready, status};

/// Containers with an exec probe a second, as many as a pod has.
const PODS: usize = 4;
const CONTAINERS: usize = 5;
/// How long they are watched, seconds.
const WATCHED: (u64, u64) = (10, 60);

/// An image with a server of gRPC's health protocol; gives its name.
fn push_health(node: &Node) -> Option<String> {
    let program = peers::peer("bin/kubelet-health")?;
    let mut layer = Layer::default();
    layer
        .file("/bin/health", 0o755, &std::fs::read(program).unwrap())
        .unwrap();
    let layers = [images::busybox().unwrap(), Packed::new(layer).unwrap()];
    let image = Image::new(Format::Oci, &layers, &json!({}));
    node.registry.push("health", &["1"], &image).unwrap();
    Some(format!("{}/health:1", node.registry.host))
}

/// A container with one probe of liveness and one of readiness, both once a second.
fn probed(mut container: Value, probe: &Value) -> Value {
    let mut probe = probe.clone();
    probe["periodSeconds"] = json!(1);
    probe["failureThreshold"] = json!(2);
    // A machine that is busy answers late.
    probe["timeoutSeconds"] = json!(10);
    container["readinessProbe"] = probe.clone();
    container["livenessProbe"] = probe;
    container
}

#[test]
fn every_kind_sees_a_container_that_is_well_and_one_that_is_not() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let Some(health) = push_health(&node) else {
        return;
    };
    let serve = "mkdir /www; touch /www/index.html; httpd -p 8080 -h /www; touch /tmp/well; \
                 exec sleep 1000";
    let http = json!({"httpGet": {"port": 8080, "path": "/index.html"}});
    let tcp = json!({"tcpSocket": {"port": 8080}});
    let exec = json!({"exec": {"command": ["test", "-e", "/tmp/well"]}});
    let mut grpc = container(&node, "grpc", "");
    grpc["image"] = json!(health);
    grpc["command"] = json!(["/bin/health", "8080", "/ill"]);
    let kinds = [
        ("http", probed(container(&node, "http", serve), &http)),
        ("tcp", probed(container(&node, "tcp", serve), &tcp)),
        ("exec", probed(container(&node, "exec", serve), &exec)),
        ("grpc", probed(grpc, &json!({"grpc": {"port": 8080}}))),
    ];
    for (name, container) in &kinds {
        kubelet
            .add(&pod(name, std::slice::from_ref(container)))
            .unwrap();
    }
    for (name, _) in &kinds {
        let well = kubelet.wait(name, "to be ready", ready).unwrap();
        assert_eq!(status(&well, name)["restartCount"], 0);
    }
    let make_ill = [
        ("http", "rm /www/index.html"),
        ("tcp", "killall httpd"),
        ("exec", "rm /tmp/well"),
        ("grpc", "touch /ill"),
    ];
    for (name, script) in make_ill {
        let label = format!("io.kubernetes.container.name={name}");
        let id = node.crictl.ok(&["ps", "-q", "--label", &label]).unwrap();
        node.exec(&id, script).unwrap();
    }
    for (name, _) in &kinds {
        let again = |pod: &Value| status(pod, name)["restartCount"] == 1 && ready(pod);
        kubelet
            .wait(name, "to be well after one restart", again)
            .unwrap();
    }
    kubelet.finish(&node.crictl).unwrap();
}

/// How often probes of a kind ended in some way, from `/metrics/probes`.
fn probes(kubelet: &Kubelet, kind: &str, result: &str) -> f64 {
    let text = kubelet.text("/metrics/probes").unwrap();
    let (kind, result) = (
        format!("probe_type=\"{kind}\""),
        format!("result=\"{result}\""),
    );
    let lines = text
        .lines()
        .filter(|line| line.starts_with("prober_probe_total{"));
    let lines = lines.filter(|line| line.contains(&kind) && line.contains(&result));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn twenty_containers_with_a_probe_each_second() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let probe = json!({"exec": {"command": ["true"]}});
    let name = |pod: usize| format!("many-{pod}");
    for number in 0..PODS {
        let of_pod: Vec<Value> = (0..CONTAINERS)
            .map(|at| {
                probed(
                    container(&node, &format!("c{at}"), "exec sleep 1000"),
                    &probe,
                )
            })
            .collect();
        kubelet.add(&pod(&name(number), &of_pod)).unwrap();
    }
    for number in 0..PODS {
        kubelet.wait(&name(number), "to be ready", ready).unwrap();
    }
    let before = probes(&kubelet, "Readiness", "successful");
    let seconds = if thorough() { WATCHED.1 } else { WATCHED.0 };
    wait::pass(Duration::from_secs(seconds));
    let done = probes(&kubelet, "Readiness", "successful") - before;
    let wanted = (PODS * CONTAINERS) as f64 * seconds as f64;
    println!("{done} readiness probes in {seconds} s, {wanted} wanted");
    assert!(done > wanted / 2.0, "{done} of {wanted}");
    for kind in ["Readiness", "Liveness"] {
        assert_eq!(probes(&kubelet, kind, "failed"), 0.0, "{kind}");
    }
    for number in 0..PODS {
        let pod = kubelet.pod(&name(number)).unwrap();
        assert!(ready(&pod), "{:#}", pod["status"]);
        for at in 0..CONTAINERS {
            assert_eq!(status(&pod, &format!("c{at}"))["restartCount"], 0);
        }
    }
    kubelet.finish(&node.crictl).unwrap();
}
