//! What a container uses, when it runs out of memory, and several containers at once.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::bundle;

#[test]
fn one_report_has_the_figures() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    b.start_sleeping();
    let said = b.wrun(&["events", "--stats", &b.id]).ok();
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["type"], "stats");
    assert_eq!(report["id"], json!(b.id));
    let data = &report["data"];
    assert_eq!(data["pids"]["limit"], json!(50), "{report}");
    assert!(
        data["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{report}"
    );
    assert_eq!(data["network_interfaces"][0]["Name"], "lo", "{report}");
    b.wrun(&["events", "--interval", "0s", &b.id])
        .fails("greater than 0");
}

#[test]
fn reports_come_until_the_end_and_tell_of_missing_memory() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["resources"] = json!({ "memory": { "limit": 8 << 20, "swap": 8 << 20 } });
    // head keeps a line that never ends in memory; it is what the kernel ends.
    b.script("read go < /tmp/go; grep x /dev/zero; sleep 1000");
    crate::harness::program("mkfifo")
        .arg(b.path("rootfs/tmp/go"))
        .status()
        .unwrap();
    b.spec["linux"]["devices"] =
        json!([{ "path": "/dev/zero", "type": "c", "major": 1, "minor": 5 }]);
    b.create().ok();
    b.wrun(&["start", &b.id]).ok();
    let mut events = b
        .command(&["events", "--interval", "100ms", &b.id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["type"], "stats");
    std::fs::write(b.path("rootfs/tmp/go"), "go\n").unwrap();
    let oom = lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.contains("\"oom\""));
    assert!(oom.is_some());
    let pid = b.pid();
    b.wrun(&["kill", &b.id, "9"]).ok();
    b.wait_for_end(pid);
    drop(lines.by_ref().last());
    assert!(events.wait().unwrap().success());
}

#[test]
fn several_containers_by_one_expression() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.write();
    let dir = b.dir.path().to_str().unwrap().to_owned();
    let ids = ["one", "two", "other"].map(|name| format!("{}-{name}", b.id));
    for id in &ids {
        b.detached(&["run", "-d", "-b", &dir, id]).ok();
    }
    b.wrun(&["kill", "--regex", "(one|two)$", "KILL"]).ok();
    b.wrun(&["delete", "--regex", "-f", "(one|two)$"]).ok();
    assert_eq!(b.wrun(&["list", "-q"]).ok().out, format!("{}\n", ids[2]));
    b.wrun(&["delete", "--regex", "("])
        .fails("regular expression");
    b.wrun(&["delete", "-f", "-r", "."]).ok();
    b.assert_nothing_left();
}

#[test]
fn shells_and_manuals_come_from_the_table() {
    let Some(b) = bundle() else { return };
    assert!(
        b.wrun(&["completion", "bash"])
            .ok()
            .out
            .contains("complete -F _wrun wrun")
    );
    b.wrun(&["completion", "tcsh"]).fails("none of bash");
    assert!(b.wrun(&["man"]).ok().out.starts_with(".TH WRUN 8"));
    let script = b.path("complete");
    std::fs::write(&script, b.wrun(&["completion", "bash"]).ok().out).unwrap();
    let checked = crate::harness::program("bash")
        .arg("-n")
        .arg(script)
        .status();
    assert!(checked.unwrap().success());
}
