//! Several OCI runtimes as handlers of one daemon.

use tests::{Node, peers, pod};

/// Runs a pod with a handler, through its whole life.
fn whole_life(node: &Node, handler: &str) {
    let name = format!("by-{handler}");
    let sandbox = pod::sandbox(node.daemon.scratch(), &name);
    let script = "trap 'exit 6' TERM; cat /proc/self/oom_score_adj; echo ready; \
        while :; do sleep 1 & wait $!; done";
    let container = pod::container(&name, &node.image, script);
    let pod = node.run_as(&["-r", handler], &sandbox, &container).unwrap();
    pod.wait_for_log("ready").unwrap();
    let status = node.crictl.json(&["inspectp", &pod.id]).unwrap();
    assert_eq!(status["status"]["runtimeHandler"], handler);
    assert_eq!(node.exec(&pod.container, "echo inside").unwrap(), "inside");
    node.crictl
        .ok(&["stop", "-t", "10", &pod.container])
        .unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 6);
    node.remove(&pod).unwrap();
}

#[test]
fn wrun_and_runc_beside_each_other() {
    let Some(runc) = peers::peer_or_installed("runc") else {
        return;
    };
    let Some(node) = Node::start_with(|setup| setup.runtime("runc", &runc)).unwrap() else {
        return;
    };
    whole_life(&node, "wrun");
    whole_life(&node, "runc");
}
