//! Each fault of a host, alone.

use std::collections::BTreeSet;

use super::*;
use crate::facts::{Layers, Socket, Tried};

fn set(words: &str) -> BTreeSet<String> {
    words.split(' ').map(str::to_owned).collect()
}

/// A host without a fault.
fn fine() -> Facts {
    let mut facts = Facts {
        root: true,
        release: "6.18.4-amd64".to_owned(),
        tried: Tried {
            mount_setattr: Some(true),
            layers: Some(Layers::Descriptors),
            landlock: 7,
            cgroup_kill: Some(true),
        },
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
    let cases: [(Spoil, &str, Weight); 25] = [
        (|facts| facts.root = false, "user", Weight::Warning),
        (
            |facts| facts.tried.mount_setattr = Some(false),
            "kernel",
            Weight::Failure,
        ),
        (
            |facts| {
                facts.tried.mount_setattr = None;
                facts.release = "5.10.0-32-amd64".into();
            },
            "kernel",
            Weight::Failure,
        ),
        (
            |facts| facts.tried.layers = Some(Layers::Folders),
            "erofs",
            Weight::Note,
        ),
        (|facts| facts.tried.landlock = 1, "landlock", Weight::Note),
        (
            |facts| facts.tried.cgroup_kill = Some(false),
            "cgroup-kill",
            Weight::Note,
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
        assert_eq!(found, [(subject, weight)], "{subject}");
    }
}

#[test]
fn what_was_tried_counts_and_not_the_version() {
    let mut facts = fine();
    facts.release = "5.14.0-611.el9.x86_64".into();
    assert_eq!(heavy(&facts), [], "all of it was taken from later ones");
    facts.tried.layers = Some(Layers::Page);
    let found = heavy(&facts);
    let notes = ["erofs", "user-namespaces"].map(|subject| (subject, Weight::Note));
    assert_eq!(found, notes);
    facts.release = "6.1.0-50-amd64".into();
    assert_eq!(heavy(&facts), [("erofs", Weight::Note)]);
    facts.tried = Tried {
        landlock: 7,
        ..Tried::default()
    };
    facts.release = "of no known age".into();
    assert_eq!(heavy(&facts), [], "nothing is held against it");
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
