//! Containers that a runc made, driven by this program.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Bundle, bundle, peer, program};

fn by_runc(b: &Bundle, runc: &Path) -> bool {
    b.write();
    let status = program(runc.to_str().unwrap())
        .arg("--root")
        .arg(b.path("state"))
        .args(["run", "-d", "-b", b.dir.path().to_str().unwrap(), &b.id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

#[test]
fn a_living_container_of_runc_changes_hands() {
    let Some(mut b) = bundle() else { return };
    let Some(runc) = peer("runc") else {
        println!("skipped: needs runc");
        return;
    };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.spec["annotations"] = json!({ "a": "b" });
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
    });
    if !by_runc(&b, &runc) {
        println!("skipped: needs a runc that runs here");
        return;
    }
    let state = b.state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["annotations"]["a"], "b");
    assert_eq!(b.wrun(&["list", "-q"]).ok().out.trim(), b.id);
    let said = b.exec("hostname; mkdir /tmp/x; exit 5");
    assert_eq!((said.code, said.out.trim()), (5, "box"), "{said:?}");
    assert!(
        said.err.contains("not permitted"),
        "the filter is not applied: {said:?}"
    );
    b.wrun(&["pause", &b.id]).ok();
    assert_eq!(b.status(), "paused");
    b.wrun(&["resume", &b.id]).ok();
    b.wrun(&["update", "--pids-limit", "40", &b.id]).ok();
    let pid = b.pid();
    b.wrun(&["kill", &b.id, "KILL"]).ok();
    b.wait_for_end(pid);
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        assert!(!entry.path().join(&b.id).exists(), "{entry:?}");
    }
}
