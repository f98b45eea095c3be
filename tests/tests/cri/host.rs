//! What pods cost the machine that they run on: nothing of what it has few of, and nothing that
//! stays.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cri_api as cri;
use tests::process::{self, Running};
use tests::{Daemon, Node, pod, wait};

const SCRIPT: &str = "echo ready; exec sleep 1000";

/// What the open descriptors of a process are, counted.
fn descriptors(pid: impl std::fmt::Display) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    let folder = fs::read_dir(format!("/proc/{pid}/fd"));
    for entry in folder.into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let kind = target.display().to_string();
        let kind = kind.split(':').next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
        if target == Path::new("anon_inode:inotify") {
            *kinds.entry("inotify".to_owned()).or_default() += 1;
        }
    }
    kinds
}

/// Inotify instances of the daemon and all that belongs to it.
fn watchers(daemon: &Daemon) -> usize {
    let processes = daemon.traces().processes.into_iter();
    processes
        .filter_map(|(pid, _)| descriptors(pid).get("inotify").copied())
        .sum()
}

/// A machine has 128 of them for each user (inotify(7), `max_user_instances`).
#[test]
fn pods_take_no_instance_of_inotify() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let before = watchers(&node.daemon);
    assert!(before <= 1, "{before}");
    for name in ["one", "two", "three"] {
        let pod = node.run(name, SCRIPT).unwrap();
        pod.wait_for_log("ready").unwrap();
    }
    assert_eq!(watchers(&node.daemon), before);
}

/// Where the daemon waits for the disk, a slow disk holds up every pod of the node.
#[test]
fn a_pod_is_made_without_waiting_for_the_disk() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    // Pulls may wait for it, in the background.
    node.run("first", SCRIPT).unwrap();
    let calls = node.daemon.scratch().join("calls");
    let pid = node.daemon.pid().unwrap();
    let mut strace = process::lasting("strace");
    strace
        .args([
            "-f",
            "-e",
            "trace=fsync,fdatasync,msync,sync_file_range,sync,execve",
        ])
        .arg("-o")
        .arg(&calls)
        .args(["-p", &pid.to_string()]);
    let log = node.daemon.scratch().join("strace");
    let tracing = Running::spawn(&mut strace, &log).unwrap();
    wait::until("strace to watch all threads", || traced(pid).then_some(())).unwrap();
    let pod = node.run("second", SCRIPT).unwrap();
    node.remove(&pod).unwrap();
    drop(tracing);
    let calls = fs::read_to_string(calls).unwrap();
    // It did watch: the shim was executed.
    assert!(calls.contains("wherry-shim"), "{calls}");
    let synced: Vec<&str> = calls.lines().filter(|line| line.contains("sync")).collect();
    assert!(synced.is_empty(), "{synced:#?}");
}

fn traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut tasks = tasks.into_iter().flatten().flatten().peekable();
    tasks.peek().is_some()
        && tasks.all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
}

/// A program that made a mount namespace of its own while a container ran holds copies of the
/// container's mounts. That must not keep the container from being removed.
#[test]
fn a_removal_does_not_wait_for_other_mount_namespaces() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("copied", SCRIPT).unwrap();
    pod.wait_for_log("ready").unwrap();
    let folder = node.daemon.scratch().join("holder");
    fs::create_dir(&folder).unwrap();
    let mut holder = process::lasting("unshare");
    let script = format!("echo > {}/held; exec sleep 1000", folder.display());
    holder.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let holder = Running::spawn(&mut holder, &folder.join("log")).unwrap();
    wait::until("another mount namespace", || {
        folder.join("held").exists().then_some(())
    })
    .unwrap();
    let held = fs::read_to_string(format!("/proc/{}/mountinfo", holder.pid())).unwrap();
    assert!(held.contains(&pod.container), "{held}");
    node.remove(&pod).unwrap();
    let state = node.daemon.state().join("containers").join(&pod.container);
    assert!(!state.exists());
    drop(holder);
}

/// No image is needed to have a pod, and so none that could be missing or thrown away.
#[test]
fn a_pod_needs_no_image() {
    let daemon = Daemon::setup().start().unwrap();
    let Some(crictl) = daemon.crictl() else {
        return;
    };
    for shared in [false, true] {
        let name = if shared { "shared" } else { "own" };
        let mut config = pod::sandbox(daemon.scratch(), name);
        if shared {
            pod::sharing_pids(&mut config);
        }
        let file = pod::file(daemon.scratch(), name, &config).unwrap();
        crictl.ok(&["runp", pod::arg(&file)]).unwrap();
    }
    assert_eq!(
        crictl
            .ok(&["pods", "-q", "--state", "ready"])
            .unwrap()
            .lines()
            .count(),
        2
    );
    assert_eq!(crictl.ok(&["images", "-q"]).unwrap(), "");
}

/// Probes that leave something running, as those that start a daemon do: each answers when its own
/// process has ended, and the shim has nothing more afterwards.
#[test]
fn many_probes_leave_nothing() {
    const PROBES: usize = 40;
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("probed", SCRIPT).unwrap();
    pod.wait_for_log("ready").unwrap();
    let shim = shim(&node, &pod.container);
    let client = node.daemon.client().unwrap();
    let probe = |script: &str| {
        let request = cri::ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 30,
        };
        client
            .call(async |mut cri| cri.exec_sync(request).await)
            .unwrap()
    };
    probe("true");
    let before = descriptors(shim);
    let daemon = node.daemon.pid().unwrap();
    let of_daemon: usize = descriptors(daemon).values().sum();
    for _ in 0..PROBES {
        assert_eq!(probe("echo well").stdout, b"well\n");
    }
    // What goes on in the background keeps the output open; the answer comes all the same.
    assert_eq!(probe("sleep 1000 & echo started").stdout, b"started\n");
    wait::until("the shim to close what it had", || {
        (descriptors(shim) == before).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {before:?} became {:?}", descriptors(shim)));
    let now: usize = descriptors(daemon).values().sum();
    assert!(now < of_daemon + PROBES / 2, "{of_daemon} became {now}");
    node.remove(&pod).unwrap();
}

fn shim(node: &Node, container: &str) -> i32 {
    let processes = node.daemon.traces().processes.into_iter();
    let mut shims = processes
        .filter(|(_, command)| command.contains("wherry-shim") && command.contains(container));
    shims.next().expect("the container has a shim").0
}

/// The freezer of a container's control group, with what freezes it.
fn freezer(group: &str) -> Option<(PathBuf, &'static str)> {
    let group = group.trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    [
        (
            root.join("freezer").join(group).join("freezer.state"),
            "FROZEN",
        ),
        (root.join(group).join("cgroup.freeze"), "1"),
    ]
    .into_iter()
    .find(|(file, _)| file.exists())
}

/// A frozen process takes no signal, not even the one that ends all.
#[test]
fn a_frozen_container_can_be_stopped() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "frozen");
    let config = pod::container("frozen", &node.image, SCRIPT);
    let pod = node.run_as(&[], &sandbox, &config).unwrap();
    pod.wait_for_log("ready").unwrap();
    let group = format!("{}/{}", node.daemon.scratch().cgroup(), pod.container);
    let Some((file, word)) = freezer(&group) else {
        return tests::skipped("the freezer controller");
    };
    fs::write(file, word).unwrap();
    node.crictl
        .ok(&["stop", "-t", "1", &pod.container])
        .unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 137);
    node.remove(&pod).unwrap();
}
