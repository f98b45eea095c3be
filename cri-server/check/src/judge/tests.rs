//! Each fault of a host, alone.

use std::collections::BTreeSet;

use super::*;
use crate::facts::Socket;

fn set(words: &str) -> BTreeSet<String> {
    words.split(' ').map(str::to_owned).collect()
}

/// A host without a fault.
fn fine() -> Facts {
    let mut facts = Facts {
        root: true,
        release: "6.18.4-amd64".to_owned(),
        filesystems: set("overlay erofs ext4"),
        modules: set("bridge veth nf_tables"),
        namespaces: set("cgroup ipc mnt net pid user uts time"),
        seccomp: set("kill_process allow user_notif"),
        lsm: set("apparmor"),
        programs: BTreeSet::from(["criu", "apparmor_parser"]),
        memory: Some((8 << 30, 4 << 30)),
        open_files: Some(1 << 20),
        cni: ("/etc/cni/net.d".into(), Vec::new()),
        ..Facts::default()
    };
    facts.cgroups.v2 = Some(set("cpu memory pids io"));
    facts.disks = vec![disk_of("ext4")];
    facts.sysctls = crate::look::SYSCTLS.map(|name| (name, 1 << 20)).into();
    for (name, value) in [
        ("vm.overcommit_memory", 1),
        ("kernel.panic", 10),
        ("kernel.panic_on_oops", 1),
    ] {
        facts.sysctls.insert(name, value);
    }
    facts
}

fn disk_of(kind: &str) -> Disk {
    Disk {
        key: "root",
        folder: "/var/lib/wherry".into(),
        kind: kind.to_owned(),
        bytes: (100 << 30, 50 << 30),
        inodes: (1 << 20, 1 << 19),
    }
}

fn heavy(facts: &Facts) -> Vec<(&'static str, Weight)> {
    let all = all(facts).into_iter();
    all.filter(|finding| finding.weight != Weight::Good)
        .map(|finding| (finding.subject, finding.weight))
        .collect()
}

#[test]
fn a_good_host_has_no_findings_of_weight() {
    assert_eq!(heavy(&fine()), []);
}

#[test]
fn each_fault_is_found_alone() {
    type Spoil = fn(&mut Facts);
    let cases: [(Spoil, &str, Weight); 21] = [
        (|facts| facts.root = false, "user", Weight::Warning),
        (
            |facts| facts.release = "6.1.0-40-amd64".into(),
            "kernel",
            Weight::Failure,
        ),
        (
            |facts| facts.filesystems = set("erofs"),
            "overlay",
            Weight::Failure,
        ),
        (
            |facts| facts.filesystems = set("overlay"),
            "erofs",
            Weight::Note,
        ),
        (
            |facts| {
                facts.namespaces.remove("net");
            },
            "namespaces",
            Weight::Failure,
        ),
        (
            |facts| {
                facts.namespaces.remove("user");
            },
            "user-namespaces",
            Weight::Note,
        ),
        (
            |facts| {
                facts.sysctls.insert("user.max_user_namespaces", 0);
            },
            "user-namespaces",
            Weight::Warning,
        ),
        (|facts| facts.cgroups.v2 = None, "cgroups", Weight::Failure),
        (
            |facts| facts.cgroups.v1 = set("cpu memory pids"),
            "cgroups",
            Weight::Note,
        ),
        (
            |facts| facts.cgroups.v2 = Some(set("cpu pids")),
            "cgroup-controllers",
            Weight::Warning,
        ),
        (|facts| facts.seccomp.clear(), "seccomp", Weight::Warning),
        (
            |facts| {
                facts.programs.remove("apparmor_parser");
            },
            "apparmor",
            Weight::Warning,
        ),
        (|facts| facts.lsm.clear(), "lsm", Weight::Note),
        (
            |facts| facts.streaming = Some("taken".into()),
            "streaming",
            Weight::Failure,
        ),
        (
            |facts| facts.disks[0].bytes.1 = 1 << 30,
            "disk",
            Weight::Warning,
        ),
        (
            |facts| facts.disks[0].inodes.1 = 9,
            "inodes",
            Weight::Warning,
        ),
        (
            |facts| facts.disks[0].kind = "overlay".into(),
            "root-file-system",
            Weight::Failure,
        ),
        (
            |facts| facts.memory = Some((8 << 30, 1 << 20)),
            "memory",
            Weight::Warning,
        ),
        (|facts| facts.swaps = 1, "swap", Weight::Note),
        (
            |facts| facts.open_files = Some(1024),
            "limits",
            Weight::Warning,
        ),
        (
            |facts| {
                facts.links.insert("cni0".into());
            },
            "engines",
            Weight::Warning,
        ),
    ];
    for (spoil, subject, weight) in cases {
        let mut facts = fine();
        spoil(&mut facts);
        let found = heavy(&facts);
        // An old kernel lacks more than one thing.
        assert!(found.contains(&(subject, weight)), "{subject}: {found:?}");
        assert!(
            found.len() == 1 || subject == "kernel",
            "{subject}: {found:?}"
        );
    }
}

#[test]
fn a_low_limit_is_told_with_the_number_and_the_cure() {
    let mut facts = fine();
    facts.sysctls.insert("fs.inotify.max_user_instances", 128);
    let all = all(&facts);
    let found = all
        .iter()
        .find(|finding| finding.subject == "limits")
        .unwrap();
    assert!(found.found.contains("is 128"), "{found:?}");
    assert_eq!(
        found.cure.as_deref(),
        Some("sysctl -w fs.inotify.max_user_instances=1024")
    );
}

#[test]
fn a_running_daemon_may_hold_its_address() {
    let mut facts = fine();
    facts.streaming = Some("127.0.0.1:1: in use".into());
    facts.sockets = vec![Socket {
        engine: OURS,
        path: "/run/wherry/wherryd.sock".into(),
        answers: true,
    }];
    assert_eq!(heavy(&facts), []);
}

#[test]
fn what_is_cured_says_how() {
    let mut facts = fine();
    facts.cgroups.v2 = None;
    facts.filesystems.clear();
    for finding in all(&facts) {
        if finding.weight == Weight::Failure {
            assert!(finding.cure.is_some(), "{finding:?}");
        }
    }
}
