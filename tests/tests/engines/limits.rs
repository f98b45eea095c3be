//! Limits of memory, processor and processes: written, felt, and changed while a container runs.

use serde_json::Value;
use tests::engines::{Container, Engine};
use tests::wait;

use crate::SERVICE;

/// Reads the first file that is there: its name under v1, its name under v2.
fn either(v1: &str, v2: &str) -> String {
    format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
}

/// Memory in bytes, and processes, as the kernel has them for the reader.
fn memory() -> String {
    either("memory/memory.limit_in_bytes", "memory.max")
}
fn pids() -> String {
    either("pids/pids.max", "pids.max")
}

/// Processor time per period in µs.
fn quota(container: &Container<'_>) -> String {
    let v1 = "cd /sys/fs/cgroup/cpu 2>/dev/null && echo $(cat cpu.cfs_quota_us cpu.cfs_period_us)";
    container
        .output(&format!("{v1} || cat /sys/fs/cgroup/cpu.max"))
        .unwrap()
}

pub(crate) fn limits_are_written(engine: &Engine) {
    let flags = [
        "-m",
        "48m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "40",
    ];
    let container = engine.detached(&flags, SERVICE).unwrap();
    assert_eq!(container.output(&memory()).unwrap(), "50331648");
    assert_eq!(container.output(&pids()).unwrap(), "40");
    assert_eq!(quota(&container), "50000 100000");
    let low = either("memory/memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(container.output(&low).unwrap(), "33554432");
}

pub(crate) fn limits_change_while_it_runs(engine: &Engine) {
    let flags = ["-m", "48m", "--cpus", "0.5", "--pids-limit", "40"];
    let container = engine.detached(&flags, SERVICE).unwrap();
    let more = [
        "update",
        "-m",
        "96m",
        "--memory-swap",
        "-1",
        "--cpus",
        "1.5",
        "--pids-limit",
        "80",
    ];
    container.ok(&more).unwrap();
    assert_eq!(container.output(&memory()).unwrap(), "100663296");
    assert_eq!(container.output(&pids()).unwrap(), "80");
    assert_eq!(quota(&container), "150000 100000");
    let less = [
        "update",
        "-m",
        "64m",
        "--memory-swap",
        "64m",
        "--cpus",
        "0.25",
        "--pids-limit",
        "20",
    ];
    container.ok(&less).unwrap();
    assert_eq!(container.output(&memory()).unwrap(), "67108864");
    assert_eq!(container.output(&pids()).unwrap(), "20");
    assert_eq!(quota(&container), "25000 100000");
    // What was not named stays.
    container.ok(&["update", "--pids-limit", "30"]).unwrap();
    assert_eq!(container.output(&memory()).unwrap(), "67108864");
    assert_eq!(container.output(&pids()).unwrap(), "30");
}

/// A program that wants 64 MiB.
const GREEDY: &str = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";

pub(crate) fn too_much_memory_is_an_oom_kill(engine: &Engine) {
    let container = engine
        .detached(&["-m", "16m", "--memory-swap", "16m"], GREEDY)
        .unwrap();
    assert_eq!(container.wait().unwrap(), 137);
    let state = &container.inspect().unwrap()["State"];
    assert_eq!(state["OOMKilled"], true, "{state}");
    let enough = engine.detached(&["-m", "256m"], GREEDY).unwrap();
    assert_eq!(enough.wait().unwrap(), 0);
    assert_eq!(enough.inspect().unwrap()["State"]["OOMKilled"], false);
}

pub(crate) fn processor_time_is_throttled(engine: &Engine) {
    let script = format!(
        "timeout 1 sh -c 'while :; do :; done'; ({}) | grep nr_throttled",
        either("cpu/cpu.stat", "cpu.stat")
    );
    let said = engine.output(&["--cpus", "0.1"], &script).unwrap();
    let throttled: u32 = said.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(throttled > 3, "{said}");
}

pub(crate) fn no_more_processes_than_allowed(engine: &Engine) {
    let script = "for n in $(seq 12); do sleep 20 & done; echo all";
    let run = engine.run(&["--pids-limit", "8"], script).unwrap();
    assert!(
        run.stderr.contains("can't fork"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    let enough = "for n in $(seq 12); do sleep 0 & done; wait; echo all";
    assert_eq!(
        engine.output(&["--pids-limit", "30"], enough).unwrap(),
        "all"
    );
}

pub(crate) fn processors_and_shares(engine: &Engine) {
    let script = format!(
        "grep Cpus_allowed_list /proc/self/status; {}",
        either("cpu/cpu.shares", "cpu.weight")
    );
    let said = engine
        .output(&["--cpuset-cpus", "0", "--cpu-shares", "2048"], &script)
        .unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[1], "0", "{said}");
    assert!(["2048", "59", "157"].contains(&words[2]), "{said}");
}

pub(crate) fn rlimits_and_oom_score(engine: &Engine) {
    let flags = [
        "--ulimit",
        "nofile=123:456",
        "--ulimit",
        "core=0",
        "--oom-score-adj",
        "500",
    ];
    let script = "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj";
    assert_eq!(engine.output(&flags, script).unwrap(), "123\n456\n0\n500");
    let container = engine.detached(&flags, SERVICE).unwrap();
    assert_eq!(container.output(script).unwrap(), "123\n456\n0\n500");
}

pub(crate) fn top_and_stats(engine: &Engine) {
    let container = engine
        .detached(&["-m", "64m"], "sleep 500 & sleep 600")
        .unwrap();
    wait::until("both to run", || {
        let top = container.ok(&["top"]).ok()?;
        (top.contains("sleep 500") && top.contains("sleep 600")).then_some(())
    })
    .unwrap();
    let stats = container
        .ok(&["stats", "--no-stream", "--format", "json"])
        .unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let stats = if stats.is_array() { &stats[0] } else { &stats };
    let text = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| stats[key].as_str());
        found.unwrap_or_else(|| panic!("{stats}")).to_owned()
    };
    assert_eq!(text(["PIDs", "pids"]), "2", "{stats}");
    let memory = text(["MemUsage", "mem_usage"]);
    assert!(
        !memory.starts_with('0') && memory.contains("64MiB") || memory.contains("67.11MB"),
        "{stats}"
    );
}
