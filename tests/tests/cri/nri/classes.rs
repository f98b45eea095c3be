//! Classes of block I/O that plugins name.

use serde_json::json;
use tests::node::Node;

use super::plugin::{Plugin, program};
use crate::classes::{BLOCKIO, Loop, classed, refused};

#[test]
fn a_plugin_names_classes_and_changes_them() {
    let Some(disk) = Loop::make() else { return };
    if program().is_none() {
        return;
    }
    let config = disk.config();
    let Some(mut node) = Node::start_with(|setup| setup.config(&config)).unwrap() else {
        return;
    };
    let class = |name: &str| json!({"linux": {"resources": {"blockio_class": {"value": name}}}});
    let update = |id: &str, name: &str| {
        let mut update = class(name);
        update["container_id"] = json!(id);
        json!({"update": [update]})
    };
    let script = json!({
        "adjust": {"slow": class("slow"), "wrong": class("nonsense"), "none": class("")},
    });
    let plugin = Plugin::start(&node, "10", "classes", script);
    let slow = node.run("slow", "exec sleep 1000").unwrap();
    assert_eq!(disk.limits(&node, &slow.container), (1 << 20, 300));
    refused(
        node.run("wrong", "exec sleep 1000"),
        &["10-classes", "BlockioClass", "nonsense", "slow, slower"],
    );
    let none = classed(&node, "none", BLOCKIO, "slow").unwrap();
    assert_eq!(disk.limits(&node, &none.container), (0, 0));

    // What was limited before is known to a new daemon, and lifted where the new class has no limit.
    node.daemon.kill();
    node.daemon.start().unwrap();
    drop(plugin);
    let plugin = Plugin::start(
        &node,
        "10",
        "changer",
        json!({
            "answer": {"UpdateContainer": update("@slow", "slower")},
            "want": {"PostUpdateContainer": update("@slow", "nonsense")},
        }),
    );
    let wish = ["update", "--cpu-share", "512", &slow.container];
    node.crictl.ok(&wish).unwrap();
    assert_eq!(disk.limits(&node, &slow.container), (512_000, 0));
    let failed = plugin.wait("Wanted", "");
    assert_eq!(failed["failed"], json!([slow.container]), "{failed}");
    assert_eq!(disk.limits(&node, &slow.container), (512_000, 0));
    node.remove(&slow).unwrap();
    node.remove(&none).unwrap();
}
