//! Devices by the names that their vendors give them (CDI).

use std::fs;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tests::node::Node;
use tests::{pod, process};

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

/// A vendor with a link, and with nodes of every kind that a file can say; the newest words.
const NEWER: &str = "
cdiVersion: 1.1.0
kind: test.example/newer
annotations: {made.by: hand}
devices:
- name: link
  containerEdits:
    netDevices:
    - hostInterfaceName: LINK
      name: fast0
- name: nodes
  containerEdits:
    deviceNodes:
    - path: /dev/mine
      hostPath: /dev/zero
    - path: /dev/theirs
      hostPath: /dev/zero
      uid: 5
      gid: 6
      fileMode: 416
    - path: /dev/nowhere
      type: c
      major: 1
      minor: 5
    - path: /dev/closed
      hostPath: /dev/fuse
      permissions: none
    - path: /dev/pipe
      type: p
- name: library
  containerEdits:
    mounts:
    - hostPath: LIBRARY
      containerPath: /opt/thing
      options: [ro]
- name: class
  containerEdits:
    intelRdt: {closID: wherry-test, schemata: ['L3:0=f'], enableMonitoring: true}
";

/// A link of the host's, taken away if it is still there.
struct Link(String);

impl Link {
    fn new(node: &Node) -> Link {
        // At most 15 bytes; the name of the test's own bridge tells it from those of others.
        let name = format!("c{}", node.daemon.scratch().name());
        let peer = format!("{name}p");
        ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]).unwrap();
        Link(name)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // In the pod, and gone with it, if all went well.
        drop(ip(&["link", "del", &self.0]));
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let said = process::run(process::bounded("ip").args(args))?;
    anyhow::ensure!(said.code == 0, "ip {args:?}: {}", said.stderr);
    Ok(())
}

/// A node that knows [`NEWER`].
fn newer(folder: &Path) -> Option<(Node, Link)> {
    let dirs = format!("cdi_spec_dirs = [{folder:?}]\n");
    let node = Node::start_with(|setup| setup.keys(&dirs)).unwrap()?;
    let link = Link::new(&node);
    fs::create_dir(folder.join("library")).unwrap();
    fs::write(folder.join("library/lib"), "a library").unwrap();
    let library = folder.join("library").display().to_string();
    let text = NEWER.replace("LIBRARY", &library).replace("LINK", &link.0);
    fs::write(folder.join("newer.yaml"), text).unwrap();
    Some((node, link))
}

fn asking(node: &Node, name: &str, devices: &[&str]) -> Value {
    let mut container = pod::container(name, &node.image, "exec sleep 1000");
    let full = |device: &&str| json!({"name": format!("test.example/newer={device}")});
    container["CDI_devices"] = devices.iter().map(full).collect();
    container
}

#[test]
fn links_and_nodes_are_as_their_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some((node, _link)) = newer(folder.path()) else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "newer");
    let mut container = asking(&node, "newer", &["link", "nodes"]);
    container["linux"]["security_context"]["run_as_user"] = json!({"value": 1234});
    container["linux"]["security_context"]["run_as_group"] = json!({"value": 2345});
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let exec = |script: &str| node.exec(&pod.container, script).unwrap();
    assert!(exec("ls /sys/class/net").contains("fast0"));
    let owner = |path: &str| exec(&format!("stat -c '%u:%g %F' {path}"));
    assert_eq!(owner("/dev/mine"), "1234:2345 character special file");
    assert_eq!(owner("/dev/theirs"), "5:6 character special file");
    assert_eq!(exec("stat -c %a /dev/theirs"), "640");
    assert_eq!(owner("/dev/pipe"), "1234:2345 fifo");
    assert_eq!(exec("head -c 1 /dev/nowhere | od -An -tx1"), " 00");
    let closed = "(head -c 1 </dev/closed) 2>&1 | grep -o 'not permitted'";
    assert_eq!(exec(closed), "not permitted");
    node.remove(&pod).unwrap();
}

#[test]
fn a_link_is_not_for_a_pod_on_the_hosts_network() {
    let folder = tempfile::tempdir().unwrap();
    let Some((node, link)) = newer(folder.path()) else {
        return;
    };
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "host");
    let mut container = asking(&node, "host", &["link"]);
    pod::on_host_network(&mut sandbox, &mut container);
    let error = format!("{:?}", node.run_as(&[], &sandbox, &container).unwrap_err());
    assert!(error.contains("CDI_devices"), "{error}");
    assert!(Path::new("/sys/class/net").join(&link.0).exists());
}

#[test]
fn a_class_of_service_is_entered_or_missed_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let Some((node, _link)) = newer(folder.path()) else {
        return;
    };
    if Path::new("/sys/fs/resctrl/info").exists() {
        return tests::skipped("a machine without resctrl, whose classes are not for tests");
    }
    let sandbox = pod::sandbox(node.daemon.scratch(), "class");
    let container = asking(&node, "class", &["class"]);
    let error = format!("{:?}", node.run_as(&[], &sandbox, &container).unwrap_err());
    assert!(error.contains("RDT is not enabled"), "{error}");
}

#[test]
fn a_vendors_files_keep_their_owners_in_a_user_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let Some((node, _link)) = newer(folder.path()) else {
        return;
    };
    let status = node.crictl.json(&["info"]).unwrap();
    let handlers = status["runtimeHandlers"].as_array().unwrap();
    if !handlers
        .iter()
        .any(|one| one["features"]["user_namespaces"] == true)
    {
        return tests::skipped("user namespaces with idmapped mounts");
    }
    let open = fs::Permissions::from_mode(0o711);
    for path in [node.daemon.scratch().join(""), folder.path().to_owned()] {
        fs::set_permissions(path, open.clone()).unwrap();
    }
    let ids = json!([{"container_id": 0, "host_id": 300_000, "length": 65_536}]);
    let user = json!({"namespace_options": {"pid": 1,
        "userns_options": {"mode": 0, "uids": ids, "gids": ids}}});
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "mapped");
    let mut container = asking(&node, "mapped", &["library"]);
    for config in [&mut sandbox, &mut container] {
        config["linux"]["security_context"] = user.clone();
    }
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let exec = |script: &str| node.exec(&pod.container, script).unwrap();
    assert_eq!(exec("stat -c %u:%g /opt/thing/lib"), "0:0");
    assert_eq!(exec("cat /opt/thing/lib"), "a library");
    node.remove(&pod).unwrap();
}

#[test]
fn a_file_with_a_word_that_nobody_knows_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dirs = format!("cdi_spec_dirs = [{:?}]\n", folder.path());
    let Some(node) = Node::start_with(|setup| setup.keys(&dirs)).unwrap() else {
        return;
    };
    let text = NEWER.replace("netDevices", "spaceships");
    fs::write(folder.path().join("newer.yaml"), text).unwrap();
    let sandbox = pod::sandbox(node.daemon.scratch(), "word");
    let container = asking(&node, "word", &["nodes"]);
    let error = format!("{:?}", node.run_as(&[], &sandbox, &container).unwrap_err());
    for part in ["InvalidArgument", "CDI_devices", "newer.yaml", "spaceships"] {
        assert!(error.contains(part), "{error}");
    }
}
