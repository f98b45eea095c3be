//! `wherryd debug`, its report, and the ids of operations in the log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tests::process::Running;
use tests::{Daemon, Node, pod, wait};

/// What the daemon does now.
fn debug(daemon: &Daemon) -> Value {
    let said = daemon.command(&["debug", "--json"]).unwrap().ok().unwrap();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn what_goes_on_is_told_with_what_it_waits_for() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node
        .run("busy", "trap '' TERM; while :; do sleep 1; done")
        .unwrap();
    let idle = debug(&node.daemon);
    let verbs = |now: &Value| -> Vec<String> {
        let all = now["operations"].as_array().unwrap().iter();
        all.map(|one| one["verb"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(verbs(&idle), ["Debug"]);
    assert_eq!(idle["pods"][0]["id"], pod.id.as_str());
    assert_eq!(idle["pods"][0]["state"], "ready");
    assert_eq!(idle["pods"][0]["containers"][0]["state"], "running");
    assert_eq!(idle["shims"], 1);

    let log = node.daemon.scratch().join("stop.log");
    let program = tests::peers::peer_or_installed("crictl").unwrap();
    let mut stop = tests::process::lasting(program);
    let socket = format!("unix://{}", node.daemon.socket().display());
    stop.args([
        "-r",
        &socket,
        "-t",
        "600s",
        "stop",
        "-t",
        "500",
        &pod.container,
    ]);
    let _stopping = Running::spawn(&mut stop, &log).unwrap();
    let stopping = wait::until("the stop to be under way", || {
        let now = debug(&node.daemon);
        let all = now["operations"].as_array()?.clone();
        all.into_iter().find(|one| one["verb"] == "StopContainer")
    });
    let stopping = stopping.unwrap();
    assert_eq!(stopping["service"], "runtime.v1.RuntimeService");
    let subject = stopping["subject"].as_str().unwrap();
    assert!(subject.contains("default/busy"), "{stopping}");
    assert!(subject.contains(&pod.container), "{stopping}");
    assert_eq!(stopping["steps"][0]["name"], "stop", "{stopping}");
    let text = node.daemon.command(&["debug"]).unwrap().ok().unwrap();
    assert!(text.contains("StopContainer"), "{text}");
    // Another stop shortens its grace.
    node.crictl
        .ok(&["stop", "-t", "0", &pod.container])
        .unwrap();
    wait::until("nothing to be under way", || {
        (verbs(&debug(&node.daemon)) == ["Debug"]).then_some(())
    })
    .unwrap();
}

#[test]
fn every_line_about_an_operation_has_its_id() {
    let lines = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(lines)).unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "failing");
    let mut container = pod::container("failing", &node.image, "true");
    container["command"] = json!(["/no/such/program"]);
    node.run_as(&[], &sandbox, &container).unwrap_err();
    let log = node.daemon.log();
    let parsed: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let refused: Vec<&Value> = parsed
        .iter()
        .filter(|line| line["message"] == "refused or failed")
        .collect();
    assert_eq!(refused.len(), 1, "told once: {log}");
    let span = &refused[0]["spans"][0];
    assert_eq!(span["verb"], "CreateContainer");
    assert_eq!(span["id"].as_str().unwrap().len(), 16);
    let subject = span["subject"].as_str().unwrap();
    assert_eq!(subject, "default/failing");
    // No two operations share an id.
    let mut verbs = std::collections::BTreeMap::new();
    for span in parsed.iter().map(|line| &line["spans"][0]) {
        let (Some(id), Some(verb)) = (span["id"].as_str(), span["verb"].as_str()) else {
            continue;
        };
        assert_eq!(*verbs.entry(id).or_insert(verb), verb);
    }
    assert!(verbs.len() >= 3, "{log}");
}

#[test]
fn the_runtime_is_told_of_which_operation_it_is_part() {
    let folder = tempfile::tempdir().unwrap();
    let (wrapper, noted) = (folder.path().join("runtime"), folder.path().join("noted"));
    let wrun = tests::daemon::programs().join("wrun");
    let script = format!(
        "#!/bin/sh\necho \"$WHERRY_OPERATION $*\" >>{}\nexec {} \"$@\"\n",
        noted.display(),
        wrun.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let lines = "[log]\nformat = \"json\"\nlevel = \"debug\"\n";
    let change = |setup: tests::daemon::Setup| setup.config(lines).runtime("noting", &wrapper);
    let Some(node) = Node::start_with(change).unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "noted");
    let container = pod::container("noted", &node.image, "exec sleep 1000");
    let pod = node
        .run_as(&["-r", "noting"], &sandbox, &container)
        .unwrap();
    let inside = node.exec(&pod.container, "tr '\\0' '\\n' </proc/1/environ; env");
    assert!(!inside.unwrap().contains("WHERRY_OPERATION"));
    node.remove(&pod).unwrap();
    let verb = |id: &str| {
        let log = node.daemon.log();
        let lines = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut spans = lines.map(|line| line["spans"][0].clone());
        let span = spans.find(|span| span["id"] == id)?;
        Some(span["verb"].as_str()?.to_owned())
    };
    let noted = fs::read_to_string(&noted).unwrap();
    for (word, expect) in [
        (" create ", "CreateContainer"),
        (" start ", "StartContainer"),
    ] {
        let line = noted.lines().find(|line| line.contains(word)).unwrap();
        let id = line.split(' ').next().unwrap();
        assert_eq!(id.len(), 16, "{line}");
        // What has nothing to say in the log has no line.
        let known = verb(id);
        assert!(known.is_none_or(|verb| verb == expect), "{line}");
    }
    // What happens by itself is part of none.
    let features = noted
        .lines()
        .find(|line| line.contains("features"))
        .unwrap();
    assert!(features.starts_with(' '), "{features}");
}

#[test]
fn a_report_has_all_but_secrets() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let secret = "not-for-the-eyes-of-others";
    let sandbox = pod::sandbox(node.daemon.scratch(), "secretive");
    let mut container = pod::container("secretive", &node.image, "exec sleep 1000");
    container["envs"] = json!([{ "key": "PASSWORD", "value": secret }]);
    container["annotations"] = json!({ "note": secret });
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let file = node.daemon.scratch().join("report");
    let name = file.display().to_string();
    let report = |node: &Node| {
        node.daemon
            .command(&["debug", "report", &name])
            .unwrap()
            .ok()
            .unwrap();
        std::fs::read_to_string(&file).unwrap()
    };
    let text = report(&node);
    for part in [
        "==== versions\nwherryd ",
        "wherry-shim",
        "wrun",
        "==== kernel\nLinux",
        "\"builtin\"",
        "==== check\n",
        "this host can run pods",
        "default/secretive",
        &pod.id[..12],
        "serving",
        "wherryd_pods{state=\"ready\"} 1",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    assert!(!text.contains(secret), "{text}");
    node.daemon.kill();
    let text = report(&node);
    assert!(text.contains("==== daemon\nno daemon answers on"), "{text}");
    node.daemon.start().unwrap();
}
