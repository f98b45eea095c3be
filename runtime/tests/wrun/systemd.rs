//! Containers whose control groups systemd makes: as transient scopes, on the machine's systemd.

use serde_json::{Value, json};

use crate::harness::{Bundle, bundle_systemd, program, until};

/// What systemd knows of a unit.
fn shown(unit: &str, property: &str) -> String {
    systemctl(&["show", "--value", "--property", property, unit])
}

fn systemctl(args: &[&str]) -> String {
    let said = program("systemctl").args(args).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

fn v2() -> Option<Bundle> {
    let bundle = bundle_systemd()?;
    let has = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !has {
        println!("skipped: needs systemd on cgroup v2");
    }
    has.then_some(bundle)
}

fn unit(b: &Bundle) -> String {
    format!("wrun-{}.scope", b.id)
}

#[track_caller]
fn check(unit: &str, expect: &[(&str, &str)]) {
    for (property, value) in expect {
        assert_eq!(shown(unit, property), *value, "{property} of {unit}");
    }
}

#[test]
fn a_container_is_a_scope() {
    let Some(mut b) = v2() else { return };
    b.start_sleeping();
    let unit = unit(&b);
    check(
        &unit,
        &[
            ("ActiveState", "active"),
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("DefaultDependencies", "no"),
            ("Transient", "yes"),
            ("ControlGroup", &format!("/system.slice/{unit}")),
        ],
    );
    let inside = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    assert_eq!(inside.trim(), format!("0::/system.slice/{unit}"));
    assert_eq!(b.exec("exit 4").code, 4);
    b.wrun(&["pause", &b.id]).ok();
    assert_eq!(b.status(), "paused");
    b.wrun(&["resume", &b.id]).ok();
    // Who drives it later need not know who made its group.
    b.systemd = false;
    b.wrun(&["update", "--pids-limit", "40", &b.id]).ok();
    check(&unit, &[("TasksMax", "40")]);
    b.wrun(&["delete", "-f", &b.id]).ok();
    check(&unit, &[("LoadState", "not-found")]);
    b.assert_nothing_left();
}

#[test]
fn a_scope_goes_with_its_last_process() {
    let Some(mut b) = v2() else { return };
    b.script("exit 3").create().ok();
    let pid = b.pid();
    b.wrun(&["start", &b.id]).ok();
    b.wait_for_end(pid);
    assert_eq!(b.status(), "stopped");
    until(|| shown(&unit(&b), "LoadState") == "not-found");
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
    assert_eq!(b.run().code, 3, "the name is free");
    b.assert_nothing_left();
}

#[test]
fn a_path_names_slice_prefix_and_name() {
    let Some(mut b) = v2() else { return };
    let (asked, path) = b.group_path();
    b.spec["linux"]["cgroupsPath"] = json!(asked);
    b.start_sleeping();
    let inside = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    assert_eq!(inside.trim(), format!("0::{path}"));
    b.wrun(&["delete", "-f", &b.id]).ok();
    for (path, text) in [
        ("/a/b", "slice:prefix:name"),
        ("a.slice:b", "slice:prefix:name"),
        ("a:b:c", ".slice"),
        ("a--b.slice:p:n", "dash"),
        ("a.slice:p:", "names no unit"),
        ("a.slice:p:b c", "unit's name"),
    ] {
        b.spec["linux"]["cgroupsPath"] = json!(path);
        b.create().fails(text);
        b.assert_nothing_left();
    }
}

#[test]
fn limits_are_properties_of_the_unit() {
    let Some(mut b) = v2() else { return };
    b.spec["linux"]["resources"] = json!({
        "memory": { "limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20 },
        // 617.25 ms a second: systemd takes steps of 10 ms, upwards.
        "cpu": { "shares": 512, "quota": 12345, "period": 20000, "cpus": "0", "mems": "0" },
        "pids": { "limit": 0 },
        "unified": { "memory.high": "50331648" },
    });
    b.start_sleeping();
    check(
        &unit(&b),
        &[
            ("MemoryMax", "67108864"),
            ("MemorySwapMax", "33554432"),
            ("MemoryLow", "33554432"),
            ("MemoryHigh", "50331648"),
            ("CPUWeight", "59"),
            ("CPUQuotaPerSecUSec", "620ms"),
            ("CPUQuotaPeriodUSec", "20ms"),
            ("AllowedCPUs", "0"),
            ("AllowedMemoryNodes", "0"),
            ("TasksMax", "1"),
        ],
    );
    assert_eq!(b.group_file("cpu.max").unwrap(), "12345 20000", "unrounded");
}

#[test]
fn annotations_are_properties_of_the_unit() {
    let Some(mut b) = v2() else { return };
    b.spec["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.Description": "'of a test'",
        "org.systemd.property.After": "['basic.target']",
        "org.systemd.property.TasksMax": "uint64 11",
        "org.example": "not one",
    });
    b.start_sleeping();
    check(
        &unit(&b),
        &[
            ("TimeoutStopUSec", "7s"),
            ("CollectMode", "inactive-or-failed"),
            ("Description", "of a test"),
            ("TasksMax", "11"),
        ],
    );
    assert!(shown(&unit(&b), "After").contains("basic.target"));
    b.wrun(&["delete", "-f", &b.id]).ok();
    for (name, value) in [
        ("NoSuchThing", "true"),
        ("TimeoutStopSec", "soon"),
        ("X", "1"),
    ] {
        let key = format!("org.systemd.property.{name}");
        b.spec["annotations"] = json!({ key: value });
        b.create().fails(name);
        check(&unit(&b), &[("LoadState", "not-found")]);
        b.assert_nothing_left();
    }
}

/// What systemd was not told of, it takes back when it reads its units again.
#[test]
fn updates_outlive_a_reload() {
    let Some(mut b) = v2() else { return };
    b.spec["linux"]["resources"] = json!({ "cpu": { "idle": 1 } });
    b.start_sleeping();
    let idle = |b: &Bundle| b.group_file("cpu.idle").unwrap();
    systemctl(&["daemon-reload"]);
    assert_eq!(idle(&b), "1");
    let flags = [
        "--memory",
        "32M",
        "--memory-swap",
        "48M",
        "--memory-reservation",
        "16M",
        "--pids-limit",
        "20",
        "--cpu-quota",
        "25000",
        "--cpu-share",
        "512",
        "--cpuset-cpus",
        "0",
        "--cpu-idle",
        "0",
    ];
    let mut args = vec!["update"];
    args.extend(flags);
    args.push(&b.id);
    b.wrun(&args).ok();
    systemctl(&["daemon-reload"]);
    for (file, value) in [
        ("memory.max", "33554432"),
        ("memory.swap.max", "16777216"),
        ("memory.low", "16777216"),
        ("pids.max", "20"),
        ("cpu.weight", "59"),
        ("cpuset.cpus", "0"),
        ("cpu.idle", "0"),
        ("cpu.max", "25000 100000"),
    ] {
        assert_eq!(b.group_file(file).as_deref(), Some(value), "{file}");
    }
    // Also what is taken back stays so.
    b.wrun(&[
        "update",
        "--memory=-1",
        "--memory-swap=-1",
        "--cpu-quota=-1",
        "--pids-limit=-1",
        &b.id,
    ])
    .ok();
    systemctl(&["daemon-reload"]);
    for file in ["memory.max", "memory.swap.max", "pids.max"] {
        assert_eq!(b.group_file(file).as_deref(), Some("max"), "{file}");
    }
    assert!(b.group_file("cpu.max").unwrap().starts_with("max "));
}

#[test]
fn device_rules_outlive_a_reload() {
    let Some(mut b) = v2() else { return };
    b.spec["linux"]["devices"] =
        json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    b.start_sleeping();
    let open = "echo x > /dev/null && exec 3< /dev/kmsg";
    b.exec(open).fails("Operation not permitted");
    systemctl(&["daemon-reload"]);
    b.exec(open).fails("Operation not permitted");
    b.wrun(&["update", "--pids-limit", "30", &b.id]).ok();
    b.exec(open).fails("Operation not permitted");
    // Nor does a filter that systemd adds take ours away.
    systemctl(&[
        "set-property",
        "--runtime",
        &unit(&b),
        "DevicePolicy=auto",
        "DeviceAllow=char-* rwm",
    ]);
    b.exec(open).fails("Operation not permitted");
}

/// The runtime dies while it makes a container: what is left is found, and in nobody's way.
#[test]
fn a_crash_leaves_nothing_that_cannot_be_deleted() {
    let Some(mut b) = v2() else { return };
    b.spec["hooks"]["createRuntime"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"] }]);
    assert_ne!(b.create().code, 0);
    b.spec.as_object_mut().unwrap().remove("hooks");
    b.wrun(&["delete", "--force", &b.id]).ok();
    check(&unit(&b), &[("LoadState", "not-found")]);
    b.assert_nothing_left();
    b.start_sleeping();
    assert_eq!(b.status(), "running");
}

#[test]
fn a_failed_unit_of_the_same_name_is_taken_over() {
    let Some(mut b) = v2() else { return };
    let name = unit(&b);
    // Ended by its time limit, a scope has failed; this kind stays until it is reset.
    let ran = program("systemd-run")
        .args([
            "--scope",
            "--quiet",
            "--property=RuntimeMaxSec=50ms",
            "--unit",
            &name,
        ])
        .args(["sleep", "1000"])
        .status();
    assert!(!ran.unwrap().success());
    until(|| shown(&name, "ActiveState") == "failed");
    b.start_sleeping();
    check(&name, &[("ActiveState", "active")]);
}

#[test]
fn a_unit_of_somebody_else_is_not_touched() {
    let Some(b) = v2() else { return };
    let name = unit(&b);
    let mut other = program("systemd-run")
        .args(["--scope", "--quiet", "--unit", &name, "sleep", "1000"])
        .spawn()
        .unwrap();
    until(|| shown(&name, "ActiveState") == "active");
    b.create().fails("UnitExists");
    check(&name, &[("ActiveState", "active")]);
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    until(|| shown(&name, "LoadState") == "not-found");
    b.assert_nothing_left();
}

#[test]
fn stopping_the_unit_ends_the_container() {
    let Some(mut b) = v2() else { return };
    b.spec["annotations"] = json!({ "org.systemd.property.TimeoutStopUSec": "uint64 100000" });
    b.start_sleeping();
    let pid = b.pid();
    systemctl(&["stop", &unit(&b)]);
    b.wait_for_end(pid);
    assert_eq!(b.status(), "stopped");
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn memory_that_runs_out_in_one_process_does_not_end_the_unit() {
    let Some(mut b) = v2() else { return };
    b.spec["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    b.start_sleeping();
    b.exec("t=0123456789; while :; do t=$t$t; done").fails("");
    until(|| {
        b.group_file("memory.events")
            .unwrap()
            .contains("oom_kill 1")
    });
    systemctl(&["daemon-reload"]);
    assert_eq!(b.status(), "running");
    check(&unit(&b), &[("ActiveState", "active")]);
}

#[test]
fn the_state_names_the_unit() {
    let Some(mut b) = v2() else { return };
    b.start_sleeping();
    let file = b.path("state").join(&b.id).join("state.json");
    let state: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(state["wrun"]["unit"], json!(unit(&b)));
}
