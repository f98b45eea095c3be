//! The account of a process that runs under a number which its image does not know.

use serde_json::json;
use tests::node::Node;
use tests::pod;

#[test]
fn an_unknown_user_has_a_name_in_its_own_container_only() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "named");
    let mut container = pod::container("named", &node.image, "exec sleep 1000");
    container["envs"] = json!([{"key": "HOME", "value": "/tmp"}]);
    let security = &mut container["linux"]["security_context"];
    security["run_as_user"] = json!({"value": 4242});
    security["run_as_group"] = json!({"value": 4343});
    security["readonly_rootfs"] = json!(true);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let check = |container: &str, script: &str, expect: &str| {
        let found = node.exec(container, script).unwrap();
        assert_eq!(found, expect, "{script}");
    };
    check(&pod.container, "whoami; id -gn", "4242\n4343");
    check(
        &pod.container,
        "tail -n1 /etc/passwd",
        "4242:x:4242:4343:4242 user:/tmp:/sbin/nologin",
    );
    check(&pod.container, "ls ~ >/dev/null && echo ~4242", "/tmp");

    // The image's own files are as they were, for its other containers too.
    let other = node.run("other", "exec sleep 1000").unwrap();
    check(&other.container, "grep -c 4242 /etc/passwd || true", "0");
    let mut nobody = pod::container("nobody", &node.image, "exec sleep 1000");
    nobody["linux"]["security_context"]["run_as_user"] = json!({"value": 65534});
    let sandbox = pod::sandbox(node.daemon.scratch(), "nobody");
    let known = node.run_as(&[], &sandbox, &nobody).unwrap();
    check(&known.container, "whoami", "nobody");
    for pod in [&pod, &other, &known] {
        node.remove(pod).unwrap();
    }
}

#[test]
fn a_clients_own_accounts_stay_as_they_are() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let own = node.daemon.scratch().join("passwd");
    std::fs::write(&own, "root:x:0:0::/:\n").unwrap();
    let sandbox = pod::sandbox(node.daemon.scratch(), "mounted");
    let mut container = pod::container("mounted", &node.image, "exec sleep 1000");
    container["linux"]["security_context"]["run_as_user"] = json!({"value": 4242});
    container["mounts"] = json!([{"container_path": "/etc/passwd", "host_path": own}]);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let name = node.exec(&pod.container, "whoami 2>/dev/null || echo unknown");
    assert_eq!(name.unwrap(), "unknown");
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "root:x:0:0::/:\n");
    node.remove(&pod).unwrap();
}
