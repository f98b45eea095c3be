//! Limits of the daemon's own processes, and of what containers leave on disk.

use std::fs;

use serde_json::json;
use tests::{Node, pod, wait};

/// Soft and hard limit of open files, as the kernel shows them (proc(5)).
fn open_files(pid: impl std::fmt::Display) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn parent(pid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().to_owned()
}

#[test]
fn only_the_daemon_raises_its_limit_of_open_files() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let (soft, hard) = open_files("self");
    let pid = node.daemon.pid().unwrap();
    assert_eq!(open_files(pid), (hard.clone(), hard.clone()));
    let pod = node.run("limits", "exec sleep 1000").unwrap();
    let info = node.crictl.json(&["inspect", &pod.container]).unwrap();
    let init = info["info"]["pid"].as_u64().unwrap().to_string();
    for process in [&parent(&init), &init] {
        assert_eq!(open_files(process), (soft.clone(), hard.clone()));
    }
}

#[test]
fn a_log_ends_at_its_limit_until_it_is_rotated() {
    let limits = "[limits]\nlog = \"64Ki\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(limits)).unwrap() else {
        return;
    };
    let script = "seq 1 20000; while ! test -e /again; do sleep 0.1; done; echo more; sleep 1000";
    let pod = node.run("chatty", script).unwrap();
    let messages = pod.wait_for_log("has reached its limit").unwrap();
    let last = messages.last().unwrap();
    assert_eq!(
        last,
        "wherry-shim: the log has reached its limit of 65536 bytes"
    );
    let size = fs::metadata(&pod.log).unwrap().len();
    assert!(size <= 65_536 + 256, "{size}");
    let info = node.crictl.json(&["inspect", &pod.container]).unwrap();
    assert_eq!(info["info"]["storage"]["logLimit"], 65_536);
    assert_eq!(info["info"]["storage"]["logBytes"], size);
    fs::rename(&pod.log, pod.log.with_extension("old")).unwrap();
    node.crictl
        .ok(&["logs", "--reopen", &pod.container])
        .unwrap();
    node.exec(&pod.container, "touch /again").unwrap();
    let messages = pod.wait_for_log(" more").unwrap();
    assert!(messages[0].ends_with("log records lost: the log had reached its limit"));
    node.remove(&pod).unwrap();
}

#[test]
fn a_container_that_fills_its_writable_layer_is_ended() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "greedy");
    sandbox["annotations"]["wherry/writable-layer-limit"] = json!("3Mi");
    let script = "head -c 1000000 /dev/zero >/a; echo begun; while ! test -e /more; do sleep 0.1; \
                  done; head -c 4000000 /dev/zero >/b; sleep 1000";
    let container = pod::container("greedy", &node.image, script);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let other = node.run("other", "head -c 5000000 /dev/zero >/b; sleep 1000");
    let other = other.unwrap();
    pod.wait_for_log("begun").unwrap();
    // What holds is on record: a new daemon watches too.
    node.daemon.kill();
    node.daemon.start().unwrap();
    node.exec(&pod.container, "touch /more").unwrap();
    let status = wait::until("the container to be ended", || {
        let status = node.crictl.json(&["inspect", &pod.container]).ok()?;
        (status["status"]["state"] == "CONTAINER_EXITED").then_some(status)
    });
    let status = status.unwrap();
    assert_eq!(status["status"]["reason"], "WritableLayerLimit", "{status}");
    assert_eq!(status["status"]["exitCode"], 137);
    let message = status["status"]["message"].as_str().unwrap();
    assert!(
        message.ends_with("may have no more than 3145728"),
        "{message}"
    );
    let running = node.crictl.json(&["inspect", &other.container]).unwrap();
    assert_eq!(running["status"]["state"], "CONTAINER_RUNNING");
    node.remove(&pod).unwrap();
    node.remove(&other).unwrap();
}

#[test]
fn a_limit_that_is_no_number_is_refused_by_name() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "wrong");
    let mut container = pod::container("wrong", &node.image, "exec sleep 1000");
    container["annotations"] = json!({"wherry/log-limit": "much"});
    let error = node.run_as(&[], &sandbox, &container).unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("annotations["), "{error}");
    assert!(error.contains("InvalidArgument"), "{error}");
}
