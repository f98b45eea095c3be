//! A real kubelet on a real `wherryd`, over both programs' own boundaries: static pods go in, and
//! what is looked at is the pods' status, files of theirs, and the kubelet's answers.
//!
//! One module a capability. Each test has a kubelet, a daemon and control groups of its own.

#![expect(
    clippy::unwrap_used,
    reason = "what the tests' own steps cannot do fails the test"
)]

mod checkpoint;
mod figures;
mod life;
mod logs;
mod network;
mod probes;
mod restart;
mod sessions;
mod users;
mod volumes;

use serde_json::{Value, json};
use tests::Node;
use tests::kubelet::Setup;

/// The kubelet as it comes, with the second socket for its cAdvisor.
fn plain() -> Setup {
    Setup {
        containerd: true,
        ..Setup::default()
    }
}

/// The kubelet with what it can have from CRI alone.
fn gated() -> Setup {
    Setup {
        gates: vec!["PodAndContainerStatsFromCRI", "EventedPLEG"],
        ..Setup::default()
    }
}

/// A pod from what it contains; more fields of its `spec` may be set afterwards.
fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 5},
    })
}

/// A container that runs a shell script; more fields may be set afterwards.
fn container(node: &Node, name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": node.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// The status of one of a pod's containers, init containers too.
fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten();
    let mut of_it = all.filter(|status| status["name"] == container);
    of_it.next().unwrap_or(&Value::Null)
}

/// Whether every container of a pod is ready.
fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
