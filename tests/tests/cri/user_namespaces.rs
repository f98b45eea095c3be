//! Pods with a user namespace of their own (KEP-127).

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};
use tests::node::Node;
use tests::{peers, pod, skipped};

/// What 0 inside is on the host, and how many ids there are.
const HOST: u32 = 300_000;
const LENGTH: u32 = 65_536;

fn ids() -> Value {
    json!([{"container_id": 0, "host_id": HOST, "length": LENGTH}])
}

fn user() -> Value {
    json!({"mode": 0, "uids": ids(), "gids": ids()})
}

/// Gives a configuration a user namespace, with process ids of the container's own.
pub(crate) fn with_user(config: &mut Value) {
    config["linux"]["security_context"] =
        json!({"namespace_options": {"pid": 1, "userns_options": user()}});
}

/// Whether the handler has user namespaces here; else says so.
pub(crate) fn supported(node: &Node, handler: &str) -> bool {
    // A program of another user id has to find its way to the pod's files.
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(node.daemon.scratch().join(""), open).unwrap();
    let status = node.crictl.json(&["info"]).unwrap();
    let handlers = status["runtimeHandlers"].as_array().unwrap();
    let has = handlers
        .iter()
        .any(|one| one["name"] == handler && one["features"]["user_namespaces"] == true);
    if !has {
        skipped(&format!(
            "user namespaces with idmapped mounts in {handler}"
        ));
    }
    has
}

fn whole_life(node: &Node, handler: &str) {
    let name = format!("user-{handler}");
    let mut sandbox = pod::sandbox(node.daemon.scratch(), &name);
    // One of the network, one of the queues: each belongs to another owner in the kernel. Those of
    // `net.core` are not there in such a network on Debian 12's kernel (6.1).
    sandbox["linux"]["sysctls"] =
        json!({"net.ipv4.tcp_retries2": "7", "fs.mqueue.msg_max": "11", "kernel.shmmni": "99"});
    with_user(&mut sandbox);
    let volume = node.daemon.scratch().join(format!("volume-{handler}"));
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("old"), "x").unwrap();
    let script = "echo begun >/dev/stdout; mkdir /made && touch /made/file; exec sleep 1000";
    let mut container = pod::container(&name, &node.image, script);
    with_user(&mut container);
    container["linux"]["security_context"]["capabilities"] =
        json!({"add_capabilities": ["NET_ADMIN", "MKNOD"]});
    container["mounts"] = json!([{
        "container_path": "/volume",
        "host_path": volume,
        "uidMappings": ids(),
        "gidMappings": ids(),
    }]);
    let pod = node.run_as(&["-r", handler], &sandbox, &container).unwrap();
    pod.wait_for_log("begun").unwrap();
    let line = format!("0 {HOST} {LENGTH}");
    let check = |script: &str, expect: &str| {
        let found = node.exec(&pod.container, script).unwrap();
        let words: Vec<&str> = found.split_whitespace().collect();
        assert_eq!(words.join(" "), expect, "{script}");
    };
    check("cat /proc/self/uid_map", &line);
    check("cat /proc/self/gid_map", &line);
    check("id -u", "0");
    // The image's files, those of the pod, and what is new all belong to root here.
    check(
        "stat -c %u / /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm /made/file",
        "0 0 0 0 0 0 0",
    );
    check("stat -c %u /volume/old", "0");
    check("touch /volume/new && echo yes", "yes");
    check("echo again >/dev/stdout", "again");
    check(
        "cat /proc/sys/net/ipv4/tcp_retries2 /proc/sys/fs/mqueue/msg_max /proc/sys/kernel/shmmni",
        "7 11 99",
    );
    // Root of the network, and of nothing else.
    check(
        "ip link set lo down && ip link set lo up && echo yes",
        "yes",
    );
    check(
        "touch /volume/device; mknod /volume/null c 1 3 2>/dev/null || echo refused",
        "refused",
    );
    check("hostname", &name);
    // On the host it is nobody special, and the volume's files have kept their ids.
    assert_eq!(std::fs::metadata(volume.join("new")).unwrap().uid(), 0);
    let pid = node.crictl.json(&["inspect", &pod.container]).unwrap()["info"]["pid"]
        .as_u64()
        .unwrap();
    let process = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((process.uid(), process.gid()), (HOST, HOST));
    let status = node.crictl.json(&["inspectp", &pod.id]).unwrap();
    let told = &status["status"]["linux"]["namespaces"]["options"]["usernsOptions"];
    assert_eq!(told["uids"][0]["hostId"], HOST, "{status}");
    node.remove(&pod).unwrap();
}

#[test]
fn root_inside_is_nobody_outside() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    if supported(&node, "wrun") {
        whole_life(&node, "wrun");
    }
}

#[test]
fn runc_does_the_same() {
    let Some(runc) = peers::peer_or_installed("runc") else {
        return;
    };
    let Some(node) = Node::start_with(|setup| setup.runtime("runc", &runc)).unwrap() else {
        return;
    };
    if supported(&node, "runc") {
        whole_life(&node, "runc");
    }
}

#[test]
fn the_pod_outlives_the_daemon_and_its_containers_share_process_ids() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    if !supported(&node, "wrun") {
        return;
    }
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "shared");
    let mut container = pod::container("shared", &node.image, "exec sleep 1000");
    for config in [&mut sandbox, &mut container] {
        with_user(config);
        config["linux"]["security_context"]["namespace_options"]["pid"] = json!(0);
    }
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    node.daemon.kill();
    node.daemon.start().unwrap();
    let uid = "stat -c %u /proc/1/status /proc/self/status";
    assert_eq!(node.exec(&pod.container, uid).unwrap(), "65534\n0");
    let second = node.file(
        "second",
        &pod::container("second", &node.image, "exec sleep 1000"),
    );
    let sandbox = node.file("again", &sandbox).unwrap();
    let create = ["create", "--no-pull", &pod.id, &second.unwrap(), &sandbox];
    let second = node.crictl.ok(&create).unwrap();
    node.crictl.ok(&["start", &second]).unwrap();
    node.remove(&pod).unwrap();
}

#[test]
fn on_the_hosts_network_the_kernels_objects_are_read_only() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    if !supported(&node, "wrun") {
        return;
    }
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "hostnet");
    let mut container = pod::container("hostnet", &node.image, "exec sleep 1000");
    for config in [&mut sandbox, &mut container] {
        with_user(config);
        config["linux"]["security_context"]["namespace_options"]["network"] = json!(2);
    }
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let check = |script: &str, expect: &str| {
        assert_eq!(
            node.exec(&pod.container, script).unwrap(),
            expect,
            "{script}"
        );
    };
    check("ls -d /sys/class/net/lo", "/sys/class/net/lo");
    check("grep -c ' /sys .*\\bro\\b' /proc/mounts", "1");
    check("ip link set lo down 2>/dev/null || echo refused", "refused");
    node.remove(&pod).unwrap();
}

#[test]
fn what_the_pod_cannot_have_is_refused_by_name() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let options = "linux.security_context.namespace_options";
    let mut two = user();
    two["uids"] = json!([ids()[0], ids()[0]]);
    let cases = [
        (json!({"userns_options": two}), "userns_options.uids: "),
        (
            json!({"userns_options": {"mode": 1}}),
            "userns_options.mode: ",
        ),
        (
            json!({"userns_options": {"mode": 3}}),
            "userns_options.mode: ",
        ),
        (json!({"userns_options": user(), "ipc": 2}), "ipc: "),
        (json!({"userns_options": user(), "pid": 2}), "pid: "),
    ];
    for (given, field) in cases {
        let mut sandbox = pod::sandbox(node.daemon.scratch(), "refused");
        sandbox["linux"]["security_context"] = json!({ "namespace_options": given });
        let file = node.file("refused", &sandbox).unwrap();
        let error = node.crictl.ok(&["runp", &file]).unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains(&format!("{options}.{field}")), "{error}");
    }
    // A container cannot leave its pod's.
    let sandbox = pod::sandbox(node.daemon.scratch(), "plain");
    let mut container = pod::container("plain", &node.image, "exec sleep 1000");
    with_user(&mut container);
    let error = node.run_as(&[], &sandbox, &container).unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("userns_options: differs"), "{error}");
}

#[test]
fn the_privileged_are_so_in_their_namespace_only() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    if !supported(&node, "wrun") {
        return;
    }
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "mighty");
    let mut container = pod::container("mighty", &node.image, "exec sleep 1000");
    for config in [&mut sandbox, &mut container] {
        with_user(config);
        config["linux"]["security_context"]["privileged"] = json!(true);
    }
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let exec = |script: &str| node.exec(&pod.container, script).unwrap();
    // Everything in the pod ...
    assert_eq!(
        exec("mkdir /m && mount -t tmpfs none /m && echo done"),
        "done"
    );
    assert_eq!(exec("ip link set lo mtu 1400 && echo done"), "done");
    // ... and nothing of the host.
    let refused = |script: &str| exec(&format!("({script}) >/dev/null 2>&1 || echo refused"));
    assert_eq!(refused("echo 1 >/proc/sys/kernel/panic"), "refused");
    assert_eq!(refused("mknod /x b 8 0"), "refused");
    node.remove(&pod).unwrap();
}
