//! Devices by the names that their vendors give them (CDI).

use std::fs;

use serde_json::json;
use tests::node::Node;
use tests::pod;

/// A vendor with one device, in the form in which nearly all are written.
const VENDOR: &str = "
cdiVersion: 0.6.0
kind: test.example/thing
containerEdits:
  env: [VENDOR=yes]
devices:
- name: one
  containerEdits:
    env: [THING=one]
    additionalGids: [4321]
    deviceNodes:
    - path: /dev/thing
      hostPath: /dev/zero
      permissions: r
    mounts:
    - hostPath: LIBRARY
      containerPath: /opt/thing
      options: [ro, nosuid, nodev, bind]
    hooks:
    - hookName: createRuntime
      path: /bin/sh
      args: [sh, -c, 'echo ran >LIBRARY/hook']
";

#[test]
fn a_vendors_device_brings_all_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = format!("cdi_spec_dirs = [{:?}]\n", folder.path());
    let Some(node) = Node::start_with(|setup| setup.keys(&dirs)).unwrap() else {
        return;
    };
    let library = folder.path().join("library");
    fs::create_dir(&library).unwrap();
    fs::write(library.join("lib"), "a library").unwrap();
    let text = VENDOR.replace("LIBRARY", library.to_str().unwrap());
    fs::write(folder.path().join("vendor.yaml"), text).unwrap();

    let sandbox = pod::sandbox(node.daemon.scratch(), "cdi");
    let mut container = pod::container("cdi", &node.image, "exec sleep 1000");
    container["CDI_devices"] = json!([{"name": "test.example/thing=one"}]);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let check = |script: &str, expect: &str| {
        assert_eq!(
            node.exec(&pod.container, script).unwrap(),
            expect,
            "{script}"
        );
    };
    check("echo $VENDOR $THING", "yes one");
    check("head -c 3 /dev/thing | od -An -tx1", " 00 00 00");
    check("cat /opt/thing/lib", "a library");
    check(
        "(echo x >/opt/thing/x) 2>/dev/null || echo refused",
        "refused",
    );
    check("id -G", "0 4321");
    assert_eq!(fs::read_to_string(library.join("hook")).unwrap(), "ran\n");
    node.remove(&pod).unwrap();

    // The old way to ask for it, and one that nobody has.
    let mut container = pod::container("old", &node.image, "exec sleep 1000");
    container["annotations"] = json!({"cdi.k8s.io/test": "test.example/thing=one"});
    let sandbox = pod::sandbox(node.daemon.scratch(), "old");
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    assert_eq!(node.exec(&pod.container, "echo $THING").unwrap(), "one");
    node.remove(&pod).unwrap();
    container["annotations"] = json!({});
    container["CDI_devices"] = json!([{"name": "test.example/thing=two"}]);
    let sandbox = pod::sandbox(node.daemon.scratch(), "none");
    let error = node.run_as(&[], &sandbox, &container).unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("is not known on this node"), "{error}");
}
