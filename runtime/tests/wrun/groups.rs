//! Control groups v2: every limit as the kernel then has it, and what else a container's group is
//! good for. With either driver ([`crate::harness`]); what only systemd has is in `systemd`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, bundle_v2, program, until};

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

/// A container with `resources`, and its files of `expect` say so.
fn check(resources: &str, expect: &[(&str, &str)]) {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = parsed(resources);
    b.start_sleeping();
    expect_files(&b, resources, expect);
}

#[track_caller]
fn expect_files(b: &Bundle, resources: &str, expect: &[(&str, &str)]) {
    for (file, value) in expect {
        let has = b.group_file(file);
        assert_eq!(has.as_deref(), Some(*value), "{file} after {resources}");
    }
}

/// Making a container with `resources` fails with `text`, and leaves nothing.
fn refused(resources: &str, text: &str) {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = parsed(resources);
    b.create().fails(text);
    b.assert_nothing_left();
}

#[test]
fn shares_become_weights() {
    // From 2 to 262144 and from 1 to 10000, with the default (1024) at the default (100).
    for (shares, weight) in [(1024, "100"), (2, "1"), (262_144, "10000"), (512, "59")] {
        check(
            &format!(r#"{{"cpu":{{"shares":{shares}}}}}"#),
            &[("cpu.weight", weight)],
        );
    }
}

#[test]
fn cpu_bandwidth() {
    check(
        r#"{"cpu":{"quota":50000,"period":20000}}"#,
        &[("cpu.max", "50000 20000")],
    );
    check(r#"{"cpu":{"quota":12345}}"#, &[("cpu.max", "12345 100000")]);
    check(
        r#"{"cpu":{"quota":-1,"period":50000}}"#,
        &[("cpu.max", "max 50000")],
    );
    check(
        r#"{"cpu":{"quota":20000,"period":100000,"burst":10000}}"#,
        &[("cpu.max", "20000 100000"), ("cpu.max.burst", "10000")],
    );
    check(r#"{"cpu":{"idle":1}}"#, &[("cpu.idle", "1")]);
}

#[test]
fn cpus_and_memory_nodes() {
    check(
        r#"{"cpu":{"cpus":"0","mems":"0"}}"#,
        &[("cpuset.cpus", "0"), ("cpuset.mems", "0")],
    );
    refused(r#"{"cpu":{"cpus":"4000"}}"#, "4000");
}

#[test]
fn memory_limits() {
    // The specification's swap is memory and swap together; the kernel's is swap alone.
    check(
        r#"{"memory":{"limit":67108864,"swap":100663296,"reservation":33554432}}"#,
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("memory.low", "33554432"),
        ],
    );
    check(
        r#"{"memory":{"limit":67108864,"swap":67108864}}"#,
        &[("memory.swap.max", "0")],
    );
    check(
        r#"{"memory":{"limit":-1}}"#,
        &[("memory.max", "max"), ("memory.swap.max", "max")],
    );
    check(
        r#"{"memory":{"limit":67108864,"swap":-1,"kernel":1000,"swappiness":10}}"#,
        &[("memory.max", "67108864"), ("memory.swap.max", "max")],
    );
    check(
        r#"{"unified":{"memory.high":"50331648","memory.min":"1048576"}}"#,
        &[("memory.high", "50331648"), ("memory.min", "1048576")],
    );
    refused(
        r#"{"memory":{"swap":67108864}}"#,
        "unable to set swap limit without memory limit",
    );
    refused(
        r#"{"memory":{"limit":67108864,"swap":1048576}}"#,
        "memory+swap limit should be",
    );
}

#[test]
fn numbers_of_processes() {
    // Zero is "as few as possible": the first process is one already.
    check(r#"{"pids":{"limit":0}}"#, &[("pids.max", "1")]);
    check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")]);
    check(r#"{"pids":{"limit":77}}"#, &[("pids.max", "77")]);
}

#[test]
fn one_process_is_one() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = json!({ "pids": { "limit": 0 } });
    let said = b.script("sleep 0 & wait; echo no").run();
    assert!(said.err.contains("fork"), "{said:?}");
    b.assert_nothing_left();
}

#[test]
fn unified_is_written_last() {
    check(
        r#"{"memory":{"limit":67108864},"cpu":{"shares":2},"pids":{"limit":9},
            "unified":{"memory.max":"33554432","cpu.weight":"77","pids.max":"12",
                       "cpu.max":"10000 50000","cgroup.max.depth":"3"}}"#,
        &[
            ("memory.max", "33554432"),
            ("cpu.weight", "77"),
            ("pids.max", "12"),
            ("cpu.max", "10000 50000"),
            ("cgroup.max.depth", "3"),
        ],
    );
}

#[test]
fn unified_that_cannot_be_is_refused() {
    refused(
        r#"{"unified":{"nonsense.max":"1"}}"#,
        "controller nonsense is not available",
    );
    refused(r#"{"unified":{"memory.nonsense":"1"}}"#, "memory.nonsense");
    refused(r#"{"unified":{"../memory.max":"1"}}"#, "no slashes");
    refused(r#"{"unified":{"memory.max":"much"}}"#, "much");
}

/// A block device that nobody uses: a loop over a file, which both go with the test.
struct Loop(String, PathBuf);

impl Loop {
    fn make(b: &Bundle) -> Option<Self> {
        let file = b.path("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        let made = program("losetup")
            .args(["--find", "--show"])
            .arg(&file)
            .output()
            .ok()?;
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let name = device.strip_prefix("/dev/")?;
        let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        Some(Self(number.trim().to_owned(), PathBuf::from(device)))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _gone = program("losetup").arg("--detach").arg(&self.1).status();
    }
}

#[test]
fn throttled_devices() {
    let Some(mut b) = bundle_v2() else { return };
    let Some(device) = Loop::make(&b) else {
        return println!("skipped: needs a loop device");
    };
    let (major, minor) = device.0.split_once(':').unwrap();
    let rate = |rate: u64| {
        json!([{ "major": major.parse::<i64>().unwrap(), "minor": minor.parse::<i64>().unwrap(),
            "rate": rate }])
    };
    b.spec["linux"]["resources"]["blockIO"] = json!({
        "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
        "throttleReadIOPSDevice": rate(300), "throttleWriteIOPSDevice": rate(400),
        // Has no meaning on v2.
        "leafWeight": 10,
    });
    b.start_sleeping();
    let all = format!("{} rbps=1048576 wbps=2097152 riops=300 wiops=400", device.0);
    assert_eq!(b.group_file("io.max"), Some(all));
    let change = json!({ "blockIO": { "throttleReadBpsDevice": rate(0) } });
    let file = b.path("change");
    std::fs::write(&file, change.to_string()).unwrap();
    b.wrun(&["update", "-r", file.to_str().unwrap(), &b.id])
        .ok();
    let rest = format!("{} rbps=max wbps=2097152 riops=300 wiops=400", device.0);
    assert_eq!(b.group_file("io.max"), Some(rest));
}

#[test]
fn weights_of_devices() {
    let Some(mut b) = bundle_v2() else { return };
    b.start_sleeping();
    let bfq = b.group_file("io.bfq.weight").is_some();
    if !bfq && b.group_file("io.weight").is_none() {
        return println!("skipped: needs io.weight (BFQ or io.cost)");
    }
    let (file, value) = if bfq {
        ("io.bfq.weight", "default 500")
    } else {
        ("io.weight", "default 4950")
    };
    check(r#"{"blockIO":{"weight":500}}"#, &[(file, value)]);
}

#[test]
fn huge_pages() {
    // A size that nobody has and nobody wants is no matter.
    check(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":0}]}"#, &[]);
    let Some(mut b) = bundle_v2() else { return };
    b.start_sleeping();
    if b.group_file("hugetlb.2MB.max").is_none() {
        return println!("skipped: needs the hugetlb controller");
    }
    check(
        r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        &[
            ("hugetlb.2MB.max", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
        ],
    );
}

#[test]
fn rdma_devices() {
    let limits = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}}"#;
    let there =
        std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut all| all.next().is_some());
    if !there {
        // The device is not there, so the kernel refuses; nothing is made.
        refused(limits, "rdma");
        return println!("skipped: needs an RDMA device");
    }
    let Some(mut b) = bundle_v2() else { return };
    let mut devices = std::fs::read_dir("/sys/class/infiniband").unwrap();
    let device = devices.next().unwrap().unwrap().file_name();
    let device = device.to_str().unwrap();
    b.spec["linux"]["resources"]["rdma"][device] = json!({ "hcaHandles": 3 });
    b.start_sleeping();
    let max = b.group_file("rdma.max").unwrap();
    assert!(
        max.contains(&format!("{device} hca_handle=3 hca_object=max")),
        "{max}"
    );
}

#[test]
fn miscellaneous_resources() {
    let Some(mut b) = bundle_v2() else { return };
    let capacity = std::fs::read_to_string("/sys/fs/cgroup/misc.capacity").unwrap_or_default();
    let Some(name) = capacity.split_whitespace().next() else {
        refused(r#"{"unified":{"misc.max":"none 1"}}"#, "misc.max");
        return println!("skipped: needs a resource of the misc controller");
    };
    b.spec["linux"]["resources"]["unified"]["misc.max"] = json!(format!("{name} 1"));
    b.start_sleeping();
    let max = b.group_file("misc.max").unwrap();
    assert!(max.contains(&format!("{name} 1")), "{max}");
}

/// Flags of `update`, and files with their values afterwards.
type Step<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

#[test]
fn updates_of_a_living_group() {
    let Some(mut b) = bundle_v2() else { return };
    b.start_sleeping();
    let steps: [Step<'_>; 9] = [
        (
            &["--cpu-quota", "50000", "--cpu-period", "100000"],
            &[("cpu.max", "50000 100000")],
        ),
        (
            &[
                "--cpu-quota",
                "5000",
                "--cpu-period",
                "5000",
                "--cpu-burst",
                "4000",
            ],
            &[("cpu.max", "5000 5000"), ("cpu.max.burst", "4000")],
        ),
        // The old burst is more than the new quota has room for.
        (
            &["--cpu-quota", "2000", "--cpu-burst", "1000"],
            &[("cpu.max", "2000 5000"), ("cpu.max.burst", "1000")],
        ),
        (&["--cpu-share", "512"], &[("cpu.weight", "59")]),
        (&["--cpu-idle", "1"], &[("cpu.idle", "1")]),
        (
            &["--cpu-idle", "0"],
            &[("cpu.idle", "0"), ("cpu.weight", "59")],
        ),
        (
            &[
                "--memory",
                "64M",
                "--memory-swap",
                "96M",
                "--memory-reservation",
                "32M",
            ],
            &[
                ("memory.max", "67108864"),
                ("memory.swap.max", "33554432"),
                ("memory.low", "33554432"),
            ],
        ),
        // The swap that is known goes along with another memory limit.
        (
            &["--memory", "32M"],
            &[("memory.max", "33554432"), ("memory.swap.max", "67108864")],
        ),
        (
            &[
                "--memory=-1",
                "--memory-swap=-1",
                "--pids-limit=0",
                "--cpuset-cpus",
                "0",
            ],
            &[
                ("memory.max", "max"),
                ("memory.swap.max", "max"),
                ("pids.max", "1"),
                ("cpuset.cpus", "0"),
            ],
        ),
    ];
    for (flags, expect) in steps {
        let mut args = vec!["update"];
        args.extend(flags);
        args.push(&b.id);
        b.wrun(&args).ok();
        expect_files(&b, &flags.join(" "), expect);
    }
    b.wrun(&["update", "--cpu-idle", "1", &b.id]).ok();
    b.wrun(&["update", "--cpu-share", "200", &b.id])
        .fails("while cpu idle is 1");
}

#[test]
fn a_limit_below_what_is_used_is_refused_if_asked() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
    b.start_sleeping();
    let file = b.path("change");
    for (memory, text) in [
        (
            json!({ "limit": 1, "swap": 1 << 30, "checkBeforeUpdate": true }),
            "rejecting memory limit",
        ),
        (
            json!({ "limit": 1, "swap": 1, "checkBeforeUpdate": true }),
            "rejecting memory+swap limit",
        ),
    ] {
        std::fs::write(&file, json!({ "memory": memory }).to_string()).unwrap();
        b.wrun(&["update", "-r", file.to_str().unwrap(), &b.id])
            .fails(text);
        expect_files(&b, text, &[("memory.max", "67108864")]);
    }
    b.exec("true").ok();
}

#[test]
fn a_pause_is_a_freeze() {
    let Some(mut b) = bundle_v2() else { return };
    b.start_sleeping();
    b.wrun(&["pause", &b.id]).ok();
    assert_eq!(b.group_file("cgroup.freeze").as_deref(), Some("1"));
    assert!(b.group_file("cgroup.events").unwrap().contains("frozen 1"));
    assert_eq!(b.status(), "paused");
    b.wrun(&["resume", &b.id]).ok();
    assert_eq!(b.group_file("cgroup.freeze").as_deref(), Some("0"));
    // Also what cannot run ends at once.
    b.wrun(&["pause", &b.id]).ok();
    let pid = b.pid();
    b.wrun(&["kill", &b.id, "KILL"]).ok();
    b.wait_for_end(pid);
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn every_process_of_the_group_is_killed_and_listed() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    b.spec["hostname"] = json!("");
    b.script("sleep 1000 & sleep 1000 & touch /tmp/all; wait");
    b.create().ok();
    b.wrun(&["start", &b.id]).ok();
    until(|| b.path("rootfs/tmp/all").exists());
    let listed = |b: &Bundle| -> Vec<i32> {
        serde_json::from_str(&b.wrun(&["ps", "-f", "json", &b.id]).ok().out).unwrap()
    };
    let all = listed(&b);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all.contains(&b.pid()), "{all:?}");
    // One below is one of them.
    let below = b.group().unwrap().join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), all[2].to_string()).unwrap();
    let mut again = listed(&b);
    again.sort_unstable();
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert_eq!(again, sorted);
    let pid = b.pid();
    b.wrun(&["kill", "--all", &b.id, "KILL"]).ok();
    b.wait_for_end(pid);
    let group = b.group().unwrap();
    let empty =
        || std::fs::read_to_string(below.join("cgroup.procs")).is_ok_and(|all| all.is_empty());
    until(|| !group.exists() || empty());
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn a_group_in_use_is_nobody_elses() {
    let Some(mut b) = bundle_v2() else { return };
    let (asked, _) = b.group_path();
    b.spec["linux"]["cgroupsPath"] = json!(asked);
    b.start_sleeping();
    let Some(mut other) = bundle_v2() else { return };
    other.spec["linux"]["cgroupsPath"] = json!(asked);
    let text = if b.systemd {
        "UnitExists"
    } else {
        "container's cgroup is not empty"
    };
    let begun = std::time::Instant::now();
    other.create().fails(text);
    assert!(
        begun.elapsed().as_secs() < 9,
        "nobody waits for the other's end"
    );
    other.assert_nothing_left();
    assert_eq!(b.status(), "running", "the refused one takes nothing along");
    assert!(b.exec("true").ok().err.is_empty());
    let group = b.group().unwrap();
    b.wrun(&["delete", "-f", &b.id]).ok();
    let _gone = group.parent().map(std::fs::remove_dir);
}

#[test]
fn a_frozen_group_is_not_taken_over() {
    let Some(mut b) = bundle_v2() else { return };
    if b.systemd {
        return println!("skipped: needs the cgroupfs driver (systemd makes new groups only)");
    }
    let group = PathBuf::from(format!("/sys/fs/cgroup/wrun-test-{}", b.id));
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("cgroup.freeze"), "1").unwrap();
    b.spec["linux"]["cgroupsPath"] = json!(format!("/wrun-test-{}", b.id));
    b.create().fails("container's cgroup unexpectedly frozen");
    let _gone = std::fs::remove_dir(group);
}

/// A root of ids that are nobody on the host, and control groups that can be written.
fn with_own_user(b: &mut Bundle, options: &Value) {
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = maps.clone();
    b.spec["linux"]["gidMappings"] = maps;
    b.own_rootfs(100_000);
    mount_groups(b, options);
}

fn mount_groups(b: &mut Bundle, options: &Value) {
    b.mount(
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": options }),
    );
}

#[test]
fn a_group_belongs_to_the_root_of_its_user_namespace() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(mut b) = bundle_v2() else { return };
    with_own_user(&mut b, &json!(["rw", "nosuid", "noexec", "nodev"]));
    b.start_sleeping();
    let group = b.group().unwrap();
    let owner = |file: &str| std::fs::metadata(group.join(file)).unwrap().uid();
    for file in [
        ".",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        assert_eq!(owner(file), 100_000, "{file}");
    }
    assert_eq!(
        owner("pids.max"),
        0,
        "limits are not the container's to set"
    );
    b.exec("mkdir /sys/fs/cgroup/own && echo 0 > /sys/fs/cgroup/own/cgroup.procs")
        .ok();
    b.exec("echo max > /sys/fs/cgroup/pids.max").fails("");
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn a_group_that_cannot_be_written_stays_the_hosts() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(mut b) = bundle_v2() else { return };
    with_own_user(&mut b, &json!(["ro", "nosuid", "noexec", "nodev"]));
    b.start_sleeping();
    assert_eq!(std::fs::metadata(b.group().unwrap()).unwrap().uid(), 0);
    b.exec("mkdir /sys/fs/cgroup/own").fails("Read-only");
}

#[test]
fn the_own_group_is_the_root_of_a_cgroup_namespace() {
    let Some(mut b) = bundle_v2() else { return };
    mount_groups(&mut b, &json!(["rw"]));
    let script = "cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x";
    let said = b.script(script).run().ok();
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[0], "0::/", "{said:?}");
    assert!(lines.contains(&"1"), "{said:?}");
    b.assert_nothing_left();
}

#[test]
fn without_a_cgroup_namespace_the_whole_hierarchy_is_seen() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|one| one["type"] != "cgroup");
    mount_groups(&mut b, &json!(["ro"]));
    let said = b
        .script("own=$(cat /proc/self/cgroup); cat /sys/fs/cgroup${own#0::}/cgroup.procs")
        .run()
        .ok();
    assert!(said.out.lines().any(|line| line == "1"), "{said:?}");
}

#[test]
fn exec_goes_where_the_first_process_went() {
    let Some(mut b) = bundle_v2() else { return };
    mount_groups(&mut b, &json!(["rw"]));
    // As an init system does: leaves the top, which then may hand controllers down.
    b.script(
        "cd /sys/fs/cgroup && mkdir init && echo 1 > init/cgroup.procs && \
         echo +pids > cgroup.subtree_control && touch /tmp/done; sleep 1000",
    );
    b.create().ok();
    b.wrun(&["start", &b.id]).ok();
    until(|| b.path("rootfs/tmp/done").exists());
    let said = b.exec("cat /proc/self/cgroup").ok();
    assert_eq!(said.out.trim(), "0::/init", "{said:?}");
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn device_rules_are_a_filter() {
    let Some(mut b) = bundle_v2() else { return };
    let node = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    b.spec["linux"]["devices"] = node;
    let script = ": < /dev/null && exec 3< /dev/kmsg && echo open";
    let closed = b.script(script).run();
    assert!(
        closed.out.is_empty() && closed.err.contains("Operation not permitted"),
        "{closed:?}"
    );
    let rule = |access: &str| {
        json!({ "devices": [{ "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": access }] })
    };
    b.spec["linux"]["resources"] = rule("r");
    assert_eq!(b.script(script).run().ok().out, "open\n");
    b.spec["linux"]["resources"] = rule("w");
    let closed = b.script(script).run();
    assert!(closed.out.is_empty(), "{closed:?}");
    // Everything, as a privileged container has it.
    b.spec["linux"]["resources"] = json!({ "devices": [{ "allow": true, "access": "rwm" }] });
    assert_eq!(b.script(script).run().ok().out, "open\n");
    b.assert_nothing_left();
}

#[test]
fn too_much_memory_ends_the_process() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    b.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|one| one["type"] != "pid");
    b.script("t=0123456789; while :; do t=$t$t; done");
    assert_eq!(b.run().code, 137);
    b.assert_nothing_left();
    b.start_sleeping();
    b.exec("t=0123456789; while :; do t=$t$t; done").fails("");
    let events = b.group_file("memory.events").unwrap();
    let killed = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    assert!(killed.unwrap().parse::<u32>().unwrap() > 0, "{events}");
    assert_eq!(b.status(), "running", "only who asked for it");
}

#[test]
fn figures_of_v2() {
    let Some(mut b) = bundle_v2() else { return };
    b.spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20, "swap": 64 << 20 },
        "pids": { "limit": 32 }, "cpu": { "cpus": "0" } });
    b.start_sleeping();
    b.exec("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        .ok();
    let said = b.wrun(&["events", "--stats", &b.id]).ok();
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let data = &report["data"];
    assert!(
        data["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{report}"
    );
    assert_eq!(
        data["memory"]["usage"]["limit"],
        json!(64 << 20),
        "{report}"
    );
    assert!(
        data["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{report}"
    );
    assert!(data["memory"]["raw"]["anon"].is_u64(), "{report}");
    assert_eq!(
        data["pids"],
        json!({ "current": 1, "limit": 32 }),
        "{report}"
    );
    if !std::path::Path::new("/proc/pressure/cpu").exists() {
        return println!("skipped: needs pressure stall information");
    }
    for kind in ["cpu", "memory", "blkio"] {
        assert!(
            data[kind]["psi"]["some"]["total"].is_u64(),
            "{kind}: {report}"
        );
    }
}
