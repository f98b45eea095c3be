//! Other programs take the place of those under which pods run, and what is removed leaves what it
//! is told to.

use std::fs;
use std::path::Path;

use tests::{Node, daemon};

/// The three programs.
const PROGRAMS: [&str; 3] = ["wherryd", "wherry-shim", "wrun"];

/// Puts fresh copies of the programs into a folder, as a package does: by rename.
fn install(folder: &Path) {
    for name in PROGRAMS {
        let fresh = folder.join(format!("{name}.new"));
        fs::copy(daemon::programs().join(name), &fresh).unwrap();
        fs::rename(&fresh, folder.join(name)).unwrap();
    }
}

#[test]
fn pods_live_through_an_exchange_of_all_programs() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path());
    let Some(mut node) = Node::start_with(|setup| setup.programs(folder.path())).unwrap() else {
        return;
    };
    let pod = node
        .run("old", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
        .unwrap();
    let pid = |node: &Node| {
        node.crictl.json(&["inspect", &pod.container]).unwrap()["info"]["pid"].clone()
    };
    let before = pid(&node);
    install(folder.path());
    node.daemon.terminate().unwrap();
    node.daemon.start().unwrap();
    assert_eq!(pid(&node), before);
    assert_eq!(node.exec(&pod.container, "echo here").unwrap(), "here");
    node.crictl
        .ok(&["stop", "--timeout", "30", &pod.container])
        .unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 5);
    node.remove(&pod).unwrap();
}

#[test]
fn a_reset_may_keep_the_images() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    node.run("gone", "while :; do sleep 0.1; done").unwrap();
    let reset = node.daemon.command(&["reset", "--keep-images"]).unwrap();
    assert_eq!(reset.code, 0, "{reset:?}");
    node.daemon.kill();
    let left: Vec<_> = fs::read_dir(node.daemon.root()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(node.daemon.traces().processes.is_empty());
    node.daemon.start().unwrap();
    assert_eq!(node.crictl.ok(&["pods", "-q"]).unwrap(), "");
    // Without a registry it could not be had anew.
    let image = node.image.clone();
    assert!(
        node.crictl
            .json(&["images", "-o", "json"])
            .unwrap()
            .to_string()
            .contains(&image)
    );
    node.run("again", "while :; do sleep 0.1; done").unwrap();
}
