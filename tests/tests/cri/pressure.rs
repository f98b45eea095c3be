//! What runs short on the host: told in the log, in Status, by `wherryd debug` and as metrics.

use cri_api as cri;
use serde_json::Value;
use tests::{Node, wait};

use crate::config::{READ_AGAIN, drop_in, reload, wait_for_log};

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

#[test]
fn a_reload_changes_when_it_is_warned() {
    let lines = "[pressure]\nfree_disk = \"100%\"\n[images]\nscrub_rate = \"1Mi\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(lines)).unwrap() else {
        return;
    };
    wait::until("the disk to be short", || short(&node, "disk")).unwrap();
    drop_in(
        &node.daemon,
        "[pressure]\nfree_disk = \"0%\"\n[images]\nscrub_rate = \"2Mi\"\n",
    );
    reload(&node.daemon);
    wait_for_log(&node.daemon, READ_AGAIN, 1);
    let log = node.daemon.log();
    for key in ["pressure.free_disk", "images.scrub_rate"] {
        assert!(log.contains(key), "{key}: {log}");
    }
    assert!(!log.contains("wait for the next start"), "{log}");
    wait::until("the disk to be short no more", || {
        let said = node.daemon.command(&["debug", "--json"]).ok()?.ok().ok()?;
        let now: Value = serde_json::from_str(&said).ok()?;
        let mut short = now["short"].as_array()?.iter();
        short.all(|one| one["subject"] != "disk").then_some(())
    })
    .unwrap();
}
