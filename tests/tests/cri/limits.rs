//! Limits of the daemon's own processes.

use std::fs;

use tests::Node;

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
