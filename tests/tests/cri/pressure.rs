//! What runs short on the host: told in the log, in Status, by `wherryd debug` and as metrics.

use cri_api as cri;
use serde_json::Value;
use tests::{Node, wait};

/// What of a kind is said to run short, as `wherryd debug` has it.
fn short(node: &Node, subject: &str) -> Option<Value> {
    let said = node.daemon.command(&["debug", "--json"]).ok()?.ok().ok()?;
    let now: Value = serde_json::from_str(&said).ok()?;
    let all = now["short"].as_array()?.iter();
    all.into_iter()
        .find(|one| one["subject"] == subject)
        .cloned()
}

#[test]
fn what_runs_short_is_told_everywhere_with_its_cure() {
    // No disk is empty, and every log has more than that.
    let lines = "[pressure]\nfree_disk = \"100%\"\nlog = \"100\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(lines)).unwrap() else {
        return;
    };
    let disk = wait::until("the disk to be short", || short(&node, "disk")).unwrap();
    let found = disk["found"].as_str().unwrap();
    assert!(found.contains(" free"), "{disk}");
    assert!(
        disk["cure"].as_str().unwrap().contains("larger disk"),
        "{disk}"
    );
    assert!(short(&node, "log").is_none());

    let script = "i=0; while [ $i -lt 20 ]; do echo a line of some length; i=$((i+1)); done; \
        exec sleep 1000";
    let pod = node.run("talkative", script).unwrap();
    let log = wait::until("the log to be too long", || short(&node, "log")).unwrap();
    assert!(
        log["found"]
            .as_str()
            .unwrap()
            .contains("container talkative"),
        "{log}"
    );

    let client = node.daemon.client().unwrap();
    let request = cri::StatusRequest { verbose: true };
    let status = client
        .call(async |mut cri| cri.status(request).await)
        .unwrap();
    let pressure: Value = serde_json::from_str(&status.info["pressure"]).unwrap();
    let subjects: Vec<&str> = pressure
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    assert!(
        subjects.contains(&"disk") && subjects.contains(&"log"),
        "{pressure}"
    );
    let metrics = node.daemon.command(&["metrics"]).unwrap().ok().unwrap();
    for line in [
        "wherryd_host_short{subject=\"log\"} 1",
        "wherryd_host_used{place=\"root\",resource=\"disk_bytes\"} ",
        "wherryd_host_limit{place=\"daemon\",resource=\"open_files\"} ",
        "wherryd_host_used{place=\"\",resource=\"pids\"} ",
    ] {
        assert!(
            metrics.lines().any(|one| one.starts_with(line)),
            "{line}:\n{metrics}"
        );
    }

    node.remove(&pod).unwrap();
    let over = wait::until("the log to be gone", || {
        let lines = node.daemon.log();
        lines.contains("not short any more").then_some(lines)
    });
    // However often it is looked: once.
    let lines = over.unwrap();
    let told = |part: &str| lines.lines().filter(|line| line.contains(part)).count();
    assert_eq!(told("container talkative"), 2, "{lines}");
    assert_eq!(
        told("runs short subject=\"disk\" found=\"root: "),
        1,
        "{lines}"
    );
}
