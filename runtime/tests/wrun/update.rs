//! Limits that change while a container runs.

use serde_json::{Value, json};

use crate::harness::{Bundle, bundle};

/// A file of the container's group, whatever the version of control groups.
fn limit(b: &Bundle, v1: (&str, &str), v2: &str) -> Option<String> {
    let folder = b.group_of(v1.0)?;
    let name = if b.group().is_some() { v2 } else { v1.1 };
    let file = folder.join(name);
    Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
}

const MEMORY: (&str, &str) = ("memory", "memory.limit_in_bytes");
const PIDS: (&str, &str) = ("pids", "pids.max");

#[test]
fn flags_change_limits_and_the_state_keeps_them() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["resources"] =
        json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
    b.start_sleeping();
    let Some(before) = limit(&b, MEMORY, "memory.max") else {
        println!("skipped: needs the memory controller");
        return;
    };
    assert_eq!(before, (64 << 20).to_string());
    b.wrun(&["update", "--memory", "32M", "--pids-limit", "20", &b.id])
        .ok();
    assert_eq!(
        limit(&b, MEMORY, "memory.max").unwrap(),
        (32 << 20).to_string()
    );
    assert_eq!(limit(&b, PIDS, "pids.max").unwrap(), "20");
    let text = std::fs::read_to_string(b.path("state").join(&b.id).join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        state["wrun"]["resources"]["memory"]["limit"],
        json!(32 << 20)
    );
    assert_eq!(state["wrun"]["resources"]["pids"]["limit"], json!(20));
    b.wrun(&["update", "--memory", "much", &b.id])
        .fails("invalid value for memory");
    b.wrun(&["update", "--l3-cache-schema", "L3:0=f", &b.id])
        .fails("RDT");
}

#[test]
fn a_file_or_standard_input_takes_the_place_of_flags() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["resources"] = json!({ "cpu": { "quota": 50000, "period": 100_000 } });
    b.start_sleeping();
    let file = b.path("resources.json");
    // Device rules of an update are not looked at: this one would forbid /dev/null.
    let resources = json!({
        "cpu": { "period": 200_000 }, "pids": { "limit": 30 }, "memory": null,
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    std::fs::write(&file, resources.to_string()).unwrap();
    b.wrun(&[
        "update",
        "-r",
        file.to_str().unwrap(),
        "--pids-limit",
        "7",
        &b.id,
    ])
    .ok();
    let quota = limit(&b, ("cpu", "cpu.cfs_quota_us"), "cpu.max").unwrap();
    assert!(quota.starts_with("50000"), "{quota}");
    let period = limit(&b, ("cpu", "cpu.cfs_period_us"), "cpu.max").unwrap();
    assert!(period.ends_with("200000"), "{period}");
    assert_eq!(limit(&b, PIDS, "pids.max").unwrap(), "30");
    b.exec("echo x > /dev/null").ok();
    let mut child = b
        .command(&["update", "--resources=-", &b.id])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = json!({ "pids": { "limit": 9 } }).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(limit(&b, PIDS, "pids.max").unwrap(), "9");
}

#[test]
fn a_failed_update_leaves_the_old_limits() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    b.start_sleeping();
    b.wrun(&[
        "update",
        "--pids-limit",
        "20",
        "--cpuset-cpus",
        "4000",
        &b.id,
    ])
    .fails("set limits");
    assert_eq!(limit(&b, PIDS, "pids.max").unwrap(), "50");
    b.wrun(&["update", "-r", "/nowhere", &b.id])
        .fails("no such file");
    let pid = b.pid();
    b.wrun(&["kill", &b.id, "9"]).ok();
    b.wait_for_end(pid);
    b.wrun(&["update", "--pids-limit", "20", &b.id])
        .fails("container not running");
}
