//! AppArmor profiles of containers.

use serde_json::json;
use tests::node::Node;
use tests::{pod, skipped};

#[test]
fn the_default_profile_confines_and_a_missing_one_is_refused() {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let parser = std::path::Path::new("/sbin/apparmor_parser").exists();
    if !enabled.is_ok_and(|text| text.starts_with('Y')) || !parser {
        return skipped("AppArmor");
    }
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let confined = node.run("confined", "exec sleep 1000").unwrap();
    let profile = "cat /proc/self/attr/current";
    let found = node.exec(&confined.container, profile).unwrap();
    assert_eq!(found, "wherry-default (enforce)");
    node.remove(&confined).unwrap();

    let mut container = pod::container("missing", &node.image, "exec sleep 1000");
    container["linux"]["security_context"]["apparmor"] =
        json!({"profile_type": 2, "localhost_ref": "wherry-is-not-there"});
    let sandbox = pod::sandbox(node.daemon.scratch(), "missing");
    let error = node.run_as(&[], &sandbox, &container).unwrap_err();
    let error = format!("{error:?}");
    let expect = "profile \"wherry-is-not-there\" is not loaded on this node";
    assert!(error.replace('\\', "").contains(expect), "{error}");
}
