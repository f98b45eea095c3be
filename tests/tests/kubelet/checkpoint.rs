//! A container written to an archive through the kubelet's own port (KEP-2008).

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tests::kubelet::on_node;
use tests::{peers, wait};

use crate::{container, plain, pod, ready, status};

/// Counts in the memory of a shell.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo n=$i; sleep 0.05; done";

/// How far a container must have counted before it is written.
const FAR: u64 = 20;

/// The last number that a log holds.
fn last(log: &str) -> u64 {
    let number = log.rsplit_once("n=").map(|(_, number)| number.trim());
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[test]
fn a_container_is_written_and_goes_on() {
    if !peers::criu_works() {
        return;
    }
    let Some((mut kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let counter = pod("counter", &[container(&node, "main", COUNT)]);
    kubelet.add(&counter).unwrap();
    kubelet.wait("counter", "to be ready", ready).unwrap();
    let path = kubelet.path("containerLogs", "counter", "main");
    let counted = || last(&kubelet.secure_text(&path).unwrap_or_default());
    let beyond = |far: u64| {
        wait::until(&format!("it to count beyond {far}"), || {
            let now = counted();
            (now > far).then_some(now)
        })
    };
    beyond(FAR).unwrap();

    let answer = kubelet.post(&kubelet.path("checkpoint", "counter", "main"));
    let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    let [archive] = &answer["items"].as_array().unwrap()[..] else {
        panic!("{answer}");
    };
    let archive = PathBuf::from(archive.as_str().unwrap());
    assert!(fs::metadata(&archive).unwrap().len() > 0, "{answer}");
    let written = counted();
    beyond(written + 5).unwrap();
    let found = kubelet.pod("counter").unwrap();
    assert_eq!(status(&found, "main")["restartCount"], 0, "{found}");
    let missing = kubelet.post(&kubelet.path("checkpoint", "counter", "nobody"));
    let missing = missing.unwrap_err().to_string();
    assert!(missing.contains("404"), "{missing}");

    // What kubelet has got can be restored; but not under its eyes, as it would take a pod away that
    // it does not know.
    kubelet.kill();
    let sandbox = tests::pod::sandbox(node.daemon.scratch(), "again");
    let mut config = tests::pod::container("again", "", "exit 3");
    config["image"] = json!({"image": archive});
    config["mounts"] = mounts(&node);
    let again = node.run_as(&[], &sandbox, &config).unwrap();
    let goes_on = wait::until("the restored container to count on", || {
        let log = fs::read_to_string(&again.log).ok()?;
        (last(&log) > written + 5).then_some(())
    });
    goes_on.unwrap();
    node.remove(&again).unwrap();
    // Takes away what it has made, also what criu has made again of that: it brings back all groups
    // below the one of a process, and on a host with v1 beside v2 that is the root of v2.
    kubelet.start_again().unwrap();
    kubelet.finish(&node.crictl).unwrap();
}

/// The places at which kubelet mounts files of its own into every container.
fn mounts(node: &tests::Node) -> Value {
    let scratch = node.daemon.scratch();
    let file = |name: &str, at: &str| {
        let source = scratch.join(name);
        fs::write(&source, "").unwrap();
        json!({"container_path": at, "host_path": source})
    };
    json!([
        file("hosts", "/etc/hosts"),
        file("termination-log", "/dev/termination-log"),
    ])
}
