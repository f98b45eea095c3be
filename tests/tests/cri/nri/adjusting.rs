//! What plugins change of a container, seen in it as it runs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::node::{Node, Pod};
use tests::{pod, process};

use super::plugin::{Asked, Plugin, node};

/// A link of the host that goes away with the test, if the pod did not take it.
struct Link(String);

impl Link {
    fn add(name: &str) -> Option<Link> {
        let ip = |args: &[&str]| process::ok(process::bounded("ip").args(args));
        ip(&["link", "add", name, "type", "dummy"]).ok()?;
        Some(Link(name.to_owned()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        process::run(process::bounded("ip").args(["link", "del", &self.0])).ok();
    }
}

#[track_caller]
fn check(node: &Node, pod: &Pod, script: &str, expect: &str) {
    let found = node.exec(&pod.container, script).unwrap();
    assert_eq!(found, expect, "{script}");
}

/// A container that a plugin adjusts.
fn adjusted(node: &Node, name: &str, adjust: &Value) -> (Plugin, Pod) {
    let script = json!({"adjust": {name: adjust}});
    let plugin = Plugin::start(node, "10", "adjuster", script);
    let pod = node.run(name, "exec sleep 1000").unwrap();
    (plugin, pod)
}

#[test]
fn the_process_and_its_files() {
    let Some(node) = node("") else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "from the host").unwrap();
    let hook = |point: &str| {
        let script = format!("echo {point} >>{}/hooks", folder.path().display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": {"value": 10}}])
    };
    let adjust = json!({
        "annotations": {"io.wherry.test": "noted", "-io.kubernetes.cri.image-name": ""},
        "args": ["sh", "-c", "exec sleep 2000"],
        "env": [{"key": "ADDED", "value": "a=b"}, {"key": "-HOSTNAME"}],
        "mounts": [
            {"destination": "/added", "type": "bind", "source": folder.path(), "options": ["ro", "bind"]},
            {"destination": "-/dev/mqueue"},
        ],
        "hooks": {
            "create_runtime": hook("createRuntime"),
            "poststart": hook("poststart"),
            "poststop": hook("poststop"),
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 512, "soft": 256}],
        "linux": {
            "devices": [{"path": "/dev/other", "type": "c", "major": 1, "minor": 3,
                "file_mode": {"value": 0o600}, "uid": {"value": 7}, "gid": {"value": 8}}],
            "oom_score_adj": {"value": 321},
            "io_priority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
            "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "4321"},
            "memory_policy": {"mode": "MPOL_BIND", "nodes": "0"},
        },
    });
    let (plugin, pod) = adjusted(&node, "process", &adjust);
    let spec = node.spec(&pod.container);
    assert_eq!(spec["annotations"]["io.wherry.test"], "noted");
    assert!(
        spec["annotations"]
            .get("io.kubernetes.cri.image-name")
            .is_none()
    );
    assert_eq!(spec["process"]["ioPriority"]["priority"], 6);

    check(&node, &pod, "tr '\\0' ' ' </proc/1/cmdline", "sleep 2000");
    check(
        &node,
        &pod,
        "tr '\\0' '\\n' </proc/1/environ | grep -E '^(ADDED|HOSTNAME)='",
        "ADDED=a=b",
    );
    check(&node, &pod, "cat /added/file", "from the host");
    check(
        &node,
        &pod,
        "(echo x >/added/x) 2>/dev/null || echo refused",
        "refused",
    );
    check(
        &node,
        &pod,
        "grep -c ' /dev/mqueue ' /proc/mounts || true",
        "0",
    );
    check(
        &node,
        &pod,
        "awk '/open files/ {print $4, $5}' /proc/1/limits",
        "256 512",
    );
    check(
        &node,
        &pod,
        "stat -c '%a %u %g %t %T' /dev/other",
        "600 7 8 1 3",
    );
    check(&node, &pod, "echo x >/dev/other && echo written", "written");
    check(&node, &pod, "cat /proc/1/oom_score_adj", "321");
    check(&node, &pod, "awk '{print $19, $41}' /proc/1/stat", "5 3");
    check(
        &node,
        &pod,
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "4321",
    );
    check(
        &node,
        &pod,
        "grep -q bind:0 /proc/1/numa_maps && echo bound",
        "bound",
    );

    // What comes after sees what was made of it.
    let made = &plugin.wait("PostCreateContainer", "process")["container"];
    assert_eq!(made["args"], json!(["sh", "-c", "exec sleep 2000"]));
    assert_eq!(made["linux"]["scheduler"]["policy"], "SCHED_BATCH");
    assert_eq!(made["rlimits"][0]["soft"], "256");
    node.remove(&pod).unwrap();
    let ran = fs::read_to_string(folder.path().join("hooks")).unwrap();
    assert_eq!(
        ran.lines().collect::<Vec<_>>(),
        ["createRuntime", "poststart", "poststop"]
    );
}

#[test]
fn limits() {
    let Some(node) = node("") else { return };
    let group = format!("{}/tuned-@id", node.daemon.scratch().cgroup());
    let adjust = json!({"linux": {
        "cgroups_path": group,
        "resources": {
            "memory": {"limit": {"value": 134_217_728}, "reservation": {"value": 67_108_864}},
            "cpu": {"shares": {"value": 300}, "quota": {"value": 40_000}, "period": {"value": 80_000},
                "cpus": "0", "mems": "0"},
            "pids": {"limit": 77},
            "devices": [{"allow": true, "type": "c", "major": {"value": 10}, "minor": {"value": 200},
                "access": "rw"}],
        },
    }});
    let (_plugin, pod) = adjusted(&node, "limits", &adjust);
    let group = group.replace("@id", &pod.container);
    let read = |files: [(&str, &str); 2]| {
        let [(controller, v1), (_, v2)] = files;
        let place = |controller: &str, file: &str| {
            let root = Path::new("/sys/fs/cgroup").join(controller);
            root.join(group.trim_start_matches('/')).join(file)
        };
        let text = fs::read_to_string(place(controller, v1));
        let text = text.or_else(|_| fs::read_to_string(place("", v2)));
        text.unwrap().trim().to_owned()
    };
    assert_eq!(
        read([("memory", "memory.limit_in_bytes"), ("", "memory.max")]),
        "134217728"
    );
    let soft = [("memory", "memory.soft_limit_in_bytes"), ("", "memory.low")];
    assert_eq!(read(soft), "67108864");
    assert_eq!(read([("pids", "pids.max"), ("", "pids.max")]), "77");
    assert_eq!(read([("cpuset", "cpuset.cpus"), ("", "cpuset.cpus")]), "0");
    let quota = read([("cpu", "cpu.cfs_quota_us"), ("", "cpu.max")]);
    assert!(
        ["40000", "40000 80000"].contains(&quota.as_str()),
        "{quota}"
    );
    // What a client changes later leaves the rest as the plugin has it.
    node.crictl
        .ok(&["update", "--cpu-share", "512", &pod.container])
        .unwrap();
    assert_eq!(read([("pids", "pids.max"), ("", "pids.max")]), "77");
    let shares = read([("cpu", "cpu.shares"), ("", "cpu.weight")]);
    assert!(shares == "512" || Path::new("/sys/fs/cgroup/cgroup.controllers").exists());
    node.remove(&pod).unwrap();
}

#[test]
fn namespaces_filters_links_and_devices_of_vendors() {
    let folder = tempfile::tempdir().unwrap();
    let vendor = json!({"cdiVersion": "0.6.0", "kind": "test.example/thing",
        "devices": [{"name": "one", "containerEdits": {"env": ["THING=one"]}}]});
    fs::write(folder.path().join("vendor.json"), vendor.to_string()).unwrap();
    if super::plugin::program().is_none() {
        return;
    }
    let dirs = format!("cdi_spec_dirs = [{:?}]\n", folder.path());
    let Some(node) = Node::start_with(|setup| setup.keys(&dirs)).unwrap() else {
        return;
    };
    let name = format!("d{}", std::process::id());
    let Some(link) = Link::add(&name) else {
        return tests::skipped("links of type dummy");
    };
    let adjust = json!({
        "CDI_devices": [{"name": "test.example/thing=one"}],
        "linux": {
            "namespaces": [{"type": "ipc"}],
            "net_devices": {name: {"name": "fast0"}},
            "seccomp_policy": {"default_action": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errno_ret": {"value": 5}}]},
        },
    });
    let (_plugin, pod) = adjusted(&node, "kernel", &adjust);
    check(
        &node,
        &pod,
        "tr '\\0' '\\n' </proc/1/environ | grep THING",
        "THING=one",
    );
    check(
        &node,
        &pod,
        "test -e /sys/class/net/fast0 || ip link show fast0 >/dev/null && echo there",
        "there",
    );
    check(
        &node,
        &pod,
        "mkdir /x 2>&1 | grep -c 'Input/output\\|I/O'",
        "1",
    );
    let spec = node.spec(&pod.container);
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
    let kinds = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(kinds.contains(&json!({"type": "ipc"})), "{kinds:?}");
    node.remove(&pod).unwrap();
    drop(link);
}

#[test]
fn what_cannot_be_is_refused_with_the_plugins_name() {
    let Some(node) = node("") else { return };
    let refused = [
        (
            "class",
            json!({"linux": {"resources": {"blockio_class": {"value": "fast"}}}}),
            "BlockioClass",
        ),
        (
            "filter",
            json!({"linux": {"seccomp_policy": {"default_action": "NONSENSE"}}}),
            "SeccompPolicy",
        ),
        (
            "group",
            json!({"linux": {"cgroups_path": "/"}}),
            "cgroups_path",
        ),
        (
            "cpus",
            json!({"linux": {"resources": {"cpu": {"cpus": "many"}}}}),
            "cpuset_cpus",
        ),
        (
            "device",
            json!({"CDI_devices": [{"name": "test.example/none=1"}]}),
            "test.example/none=1",
        ),
        (
            "mount",
            json!({"mounts": [{"destination": "relative"}]}),
            "relative",
        ),
    ];
    let adjust: serde_json::Map<_, _> = refused
        .iter()
        .map(|(name, adjust, _)| ((*name).to_owned(), adjust.clone()))
        .collect();
    let plugin = Plugin::start(&node, "10", "wrong", json!({"adjust": adjust}));
    let sandbox = pod::sandbox(node.daemon.scratch(), "refused");
    node.crictl.ok(&["pull", &node.image]).unwrap();
    let sandbox_file = node.file("refused-pod", &sandbox).unwrap();
    let id = node.crictl.ok(&["runp", &sandbox_file]).unwrap();
    for (name, _, part) in &refused {
        let config = pod::container(name, &node.image, "exec sleep 1000");
        let file = node.file(name, &config).unwrap();
        let create = ["create", "--no-pull", &id, &file, &sandbox_file];
        let error = format!("{:#}", node.crictl.ok(&create).unwrap_err());
        assert!(error.contains(part), "{name}: {error}");
        // A device is named; whose wish it was is not known to who looks for it.
        assert!(error.contains("10-wrong") || *name == "device", "{error}");
        assert_eq!(
            plugin.heard_of(name),
            ["CreateContainer", "StopContainer", "RemoveContainer"]
        );
    }
    assert!(node.crictl.ok(&["ps", "-aq"]).unwrap().is_empty());
    node.crictl.ok(&["rmp", "-f", &id]).unwrap();
}
