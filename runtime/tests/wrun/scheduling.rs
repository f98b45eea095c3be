//! How processes are scheduled, what they take themselves for, where their memory comes from.

use serde_json::json;

use crate::harness::bundle;

#[test]
fn the_scheduler_and_the_io_priority_are_set() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 3 });
    b.spec["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
    b.start_sleeping();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", b.pid())).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    // proc_pid_stat(5): nice is field 19, policy 41; the first here is 3.
    assert_eq!((fields[16], fields[38]), ("3", "3"), "{stat}");
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.spec["process"]["scheduler"] = json!({ "policy": "SCHED_MOON" });
    b.create().fails("scheduler policy");
}

#[test]
fn a_personality_holds_for_every_process() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["personality"] = json!({ "domain": "LINUX32" });
    b.start_sleeping();
    let personality = std::fs::read_to_string(format!("/proc/{}/personality", b.pid())).unwrap();
    assert_eq!(personality.trim(), "00000008");
    assert_eq!(
        b.exec("cat /proc/self/personality").ok().out.trim(),
        "00000008"
    );
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.spec["linux"]["personality"]["flags"] = json!(["X"]);
    b.create().fails("personality flags");
}

#[test]
fn exec_is_kept_on_its_cpus() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let process = json!({
        "cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "env": ["PATH=/bin"], "execCPUAffinity": { "initial": "0", "final": "0" },
    });
    let file = b.path("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let said = b.wrun(&["exec", "-p", file.to_str().unwrap(), &b.id]).ok();
    assert_eq!(said.out.split_whitespace().last(), Some("0"), "{said:?}");
}

#[test]
fn the_affinity_of_the_maker_is_not_the_containers() {
    let Some(mut b) = bundle() else { return };
    let wide = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = |status: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list"));
        line.map(|line| line.replace(char::is_whitespace, ""))
    };
    if allowed(&wide).is_some_and(|list| list.ends_with(":0")) {
        println!("skipped: needs two CPUs");
        return;
    }
    b.script("grep Cpus_allowed_list /proc/self/status").write();
    let bundle = b.dir.path().to_str().unwrap().to_owned();
    let run = b.direct(&["run", "-b", &bundle, &b.id]);
    let mut pinned = crate::harness::program("taskset");
    pinned.args(["-c", "0"]).arg(run.get_program());
    let output = pinned.args(run.get_args()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(allowed(&said), allowed(&wide), "{said}");
}

#[test]
fn a_memory_policy_is_set_or_named_as_wrong() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_MOON", "nodes": "0" });
    b.create().fails("invalid memory policy mode");
    b.spec["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        println!("skipped: needs a kernel with NUMA");
        return;
    }
    let said = b.script("head -n 1 /proc/self/numa_maps").run();
    if said.err.contains("not implemented") || said.err.contains("not permitted") {
        println!("skipped: needs set_mempolicy");
        return;
    }
    assert!(said.ok().out.contains("bind:0"));
}

#[test]
fn a_time_namespace_beside_a_user_namespace() {
    let Some(mut b) = bundle() else { return };
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        println!("skipped: needs time namespaces");
        return;
    }
    let spaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.push(json!({ "type": "user" }));
    spaces.push(json!({ "type": "time" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
    b.own_rootfs(100_000);
    crate::harness::program("chmod")
        .arg("755")
        .arg(b.dir.path())
        .status()
        .unwrap();
    let said = b.script("cat /proc/uptime").run().ok();
    let seconds: f64 = said.out.split_whitespace().next().unwrap().parse().unwrap();
    assert!(seconds > 1_000_000.0, "{said:?}");
}
