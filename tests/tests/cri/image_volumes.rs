//! Images as volumes.

use serde_json::{Value, json};
use tests::node::Node;
use tests::pod;

/// A container that has the small image as a volume at `/volume`, from `sub_path` on.
fn with_volume(node: &Node, name: &str, sub_path: &str) -> Value {
    let mut config = pod::container(name, &node.image, "exec sleep 1000");
    config["mounts"] = json!([{
        "container_path": "/volume",
        "readonly": true,
        "image": {"image": node.image},
        "image_sub_path": sub_path,
    }]);
    config
}

fn failure(node: &Node, name: &str, config: &Value) -> String {
    let sandbox = pod::sandbox(node.daemon.scratch(), name);
    let error = node.run_as(&[], &sandbox, config).unwrap_err();
    format!("{error:?}")
}

#[test]
fn an_image_can_be_read_and_run_but_not_changed() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "whole");
    let pod = node
        .run_as(&[], &sandbox, &with_volume(&node, "whole", ""))
        .unwrap();
    let run = "/volume/bin/busybox echo from the volume";
    assert_eq!(node.exec(&pod.container, run).unwrap(), "from the volume");
    let write = "(echo x > /volume/x) 2>/dev/null || echo refused";
    assert_eq!(node.exec(&pod.container, write).unwrap(), "refused");

    let status = node.crictl.json(&["inspect", &pod.container]).unwrap();
    let mount = &status["status"]["mounts"][0];
    assert_eq!(mount["image"]["image"], node.image.as_str(), "{status}");

    // The volume outlives its image's name and the daemon, and goes with its container.
    node.crictl.ok(&["rmi", &node.image]).unwrap();
    node.daemon.kill();
    node.daemon.start().unwrap();
    assert_eq!(node.exec(&pod.container, run).unwrap(), "from the volume");
    node.remove(&pod).unwrap();
}

#[test]
fn a_part_of_an_image_is_a_volume_too() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "part");
    let pod = node
        .run_as(&[], &sandbox, &with_volume(&node, "part", "bin"))
        .unwrap();
    let run = "/volume/busybox echo from a part";
    assert_eq!(node.exec(&pod.container, run).unwrap(), "from a part");
}

#[test]
fn what_cannot_be_mounted_says_the_kubelets_word() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let missing = failure(&node, "nowhere", &with_volume(&node, "nowhere", "no/such"));
    assert!(missing.contains("ImageVolumeMountFailed"), "{missing}");
    let mut unknown = with_volume(&node, "unknown", "");
    unknown["mounts"][0]["image"]["image"] = json!("no/such:image");
    let unknown = failure(&node, "unknown", &unknown);
    assert!(unknown.contains("ImageVolumeMountFailed"), "{unknown}");
    let mut writable = with_volume(&node, "writable", "");
    writable["mounts"][0]["readonly"] = json!(false);
    let writable = failure(&node, "writable", &writable);
    assert!(writable.contains("mounts[0].readonly"), "{writable}");
}
