//! After a reboot: what the disk remembers, and what is free again.

use serde_json::json;
use tests::{Node, pod};

#[test]
fn pods_are_known_and_gone() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let port = tests::registry::free_port().unwrap();
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "before");
    sandbox["port_mappings"] = json!([{"protocol": 0, "container_port": 80, "host_port": port}]);
    let container = pod::container("before", &node.image, "echo up; sleep 1000");
    let old = node.run_as(&[], &sandbox, &container).unwrap();
    old.wait_for_log("up").unwrap();

    node.daemon.reboot().unwrap();
    node.daemon.start().unwrap();

    let status = node.crictl.json(&["inspectp", &old.id]).unwrap();
    assert_eq!(status["status"]["state"], "SANDBOX_NOTREADY", "{status}");
    assert_eq!(
        node.crictl.container(&old.container, "state").unwrap(),
        "CONTAINER_EXITED"
    );
    assert_eq!(
        node.crictl.container(&old.container, "exitCode").unwrap(),
        255
    );
    let images = node.crictl.json(&["images", "-o", "json"]).unwrap();
    assert_eq!(
        images["images"][0]["repoTags"][0],
        node.image.as_str(),
        "{images}"
    );

    // The same pod's next attempt, with the same port, as kubelet would ask for it.
    sandbox["metadata"]["attempt"] = json!(1);
    let script = pod::container(
        "before",
        &node.image,
        "trap 'exit 0' TERM; echo again; sleep 1000 & wait",
    );
    let new = node.run_as(&[], &sandbox, &script).unwrap();
    new.wait_for_log("again").unwrap();
    node.remove(&old).unwrap();
    assert_eq!(node.exec(&new.container, "echo alive").unwrap(), "alive");
    node.remove(&new).unwrap();
}
