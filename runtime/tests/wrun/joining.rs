//! `exec`.

use serde_json::json;

use crate::harness::bundle;

#[test]
fn exec_runs_in_the_container() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let said = b.exec("hostname; cat /proc/1/cmdline; exit 7");
    assert_eq!(said.code, 7);
    assert!(said.out.starts_with("box\nsleep"), "{said:?}");
    assert_eq!(b.exec("kill -9 $$").code, 137);
    let outer = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    let pids = b.path("pid");
    let args = [
        "exec",
        "-d",
        "--pid-file",
        pids.to_str().unwrap(),
        &b.id,
        "sleep",
        "1000",
    ];
    b.detached(&args).ok();
    let pid = std::fs::read_to_string(pids).unwrap();
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(),
        outer
    );
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(&pid), of(&b.pid().to_string()), "{kind}");
    }
}

#[test]
fn flags_change_the_process() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let args = [
        "exec",
        "-u",
        "1000:100",
        "-g",
        "7",
        "--cwd",
        "/tmp",
        "-e",
        "X=y",
        "-c",
        "CAP_NET_RAW",
        &b.id,
        "sh",
        "-c",
        "id -u; id -G; pwd; echo $X; grep CapBnd /proc/self/status",
    ];
    let said = b.wrun(&args).ok();
    assert!(said.out.starts_with("1000\n100 7\n/tmp\ny\n"), "{said:?}");
    assert!(said.out.trim().ends_with("00000000000020a1"), "{said:?}");
    b.wrun(&["exec", "-u", "1000x", &b.id, "true"])
        .fails("is not a numeric id");
}

#[test]
fn a_process_file_says_everything() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let process = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $A; ulimit -n"], "cwd": "/etc",
        "env": ["PATH=/bin", "A=b"], "user": { "uid": 3, "gid": 4 },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 55, "hard": 66 }], "noNewPrivileges": true,
    });
    std::fs::write(b.path("p.json"), process.to_string()).unwrap();
    let said = b
        .wrun(&[
            "exec",
            "--process",
            b.path("p.json").to_str().unwrap(),
            &b.id,
        ])
        .ok();
    assert_eq!(said.out, "3\n/etc\nb\n55\n");
}

#[test]
fn what_cannot_be_executed() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let said = b.wrun(&["exec", &b.id, "moon"]);
    assert_eq!(said.code, 255);
    said.fails("exec: \"moon\": executable file not found in $PATH");
    b.wrun(&["exec", "--cwd", "/none", &b.id, "true"])
        .fails("/none");
    b.wrun(&["exec", &b.id]).fails("args");
    assert_eq!(b.status(), "running");
}

#[test]
fn a_capability_that_nobody_knows_is_left_out() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["capabilities"] = json!({});
    b.start_sleeping();
    let of = |name: &str| {
        let args = [
            "exec",
            "-c",
            name,
            &b.id,
            "grep",
            "CapEff",
            "/proc/self/status",
        ];
        b.wrun(&args).ok()
    };
    let said = of("CAP_MOON");
    assert!(said.out.ends_with("0000000000000000\n"), "{said:?}");
    assert!(said.err.contains("CAP_MOON"), "{said:?}");
    assert!(of("CAP_KILL").out.ends_with("0000000000000020\n"));
}
