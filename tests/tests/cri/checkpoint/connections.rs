//! TCP connections that are open when a pod is written.

use std::path::Path;

use cri_api as cri;
use tests::node::Pod;
use tonic::Code;

use super::{
    FAR, checkpoint, checkpoint_pod, last, node, pair, restore_pod_with, run_pair, wait_beyond,
};

/// Counts; each number goes through a connection of the pod's own before it is in the log.
const ECHO: &str = "nc -ll -p 7000 -e cat & \
    until nc 127.0.0.1 7000 </dev/null; do sleep 0.05; done 2>/dev/null; \
    (i=0; while :; do i=$((i+1)); echo n=$i; sleep 0.05; done) | nc 127.0.0.1 7000";

const KEEP: (&str, &str) = ("tcp-established", "true");

#[test]
fn they_go_on_where_that_is_asked_for() {
    let Some(node) = node() else { return };
    let volume = node.daemon.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut configs = pair(&node, &volume);
    configs[0].command = ["sh", "-c", ECHO].map(String::from).to_vec();
    configs[1].command = ["sleep", "1000"].map(String::from).to_vec();
    let [talks, _sleeps] = run_pair(&node, "before", &configs);
    wait_beyond(&talks, FAR);
    let folder = node.daemon.scratch().join("pod");
    std::fs::create_dir(&folder).unwrap();
    let only = [talks.container.as_str()];

    // Nobody said what is to become of them, or could: the container goes on.
    let refused = checkpoint_pod(&node, &talks.id, &only, &folder, &[]).unwrap_err();
    assert_eq!(refused.code(), Code::Unknown, "{refused:?}");
    let archive = node.daemon.scratch().join("alone.tar");
    let alone = checkpoint(&node, &talks.container, &archive, 0).unwrap_err();
    assert_eq!(alone.code(), Code::Unknown, "{alone:?}");
    let counted = last(&talks);
    wait_beyond(&talks, counted + 3);

    checkpoint_pod(&node, &talks.id, &only, &folder, &[KEEP]).unwrap();
    let counted = last(&talks);
    wait_beyond(&talks, counted + 3);
    node.remove(&talks).unwrap();
    // Lines on their way are in nobody's memory but the kernel's.
    let again = restored(&node, &folder, &configs[..1], KEEP);
    wait_beyond(&again, counted + 20);
    node.remove(&again).unwrap();

    // Closed: the client of the connection sees its end, and so the container ends.
    let again = restored(&node, &folder, &configs[..1], ("tcp-close", "true"));
    tests::wait::until("the container to end", || {
        let state = node.crictl.container(&again.container, "state").ok()?;
        (state == "CONTAINER_EXITED").then_some(())
    })
    .unwrap();
    node.remove(&again).unwrap();
}

/// The pod from the folder, its container started.
fn restored(
    node: &tests::Node,
    folder: &Path,
    configs: &[cri::ContainerConfig],
    option: (&str, &str),
) -> Pod {
    let name = format!("after-{}", option.0);
    let answer = restore_pod_with(node, folder, &name, configs, &[option]).unwrap();
    let container = answer.restored_containers[0].container_id.clone();
    node.crictl.ok(&["start", &container]).unwrap();
    let logs = node.daemon.scratch().join("logs").join(&name);
    Pod {
        id: answer.pod_sandbox_id,
        container,
        log: logs.join(&configs[0].log_path),
    }
}
