//! From create to delete.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::bundle;

#[test]
fn a_container_goes_through_its_states() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.spec["annotations"] = json!({ "a": "b" });
    b.create().ok();
    let state = b.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["annotations"]["a"], "b");
    assert_eq!(state["bundle"], json!(b.dir.path().canonicalize().unwrap()));
    let cmdline = format!("/proc/{}/cmdline", b.pid());
    assert!(
        std::fs::read_to_string(&cmdline)
            .unwrap()
            .contains("create")
    );
    b.wrun(&["start", &b.id]).ok();
    assert_eq!(b.status(), "running");
    assert!(
        std::fs::read_to_string(&cmdline)
            .unwrap()
            .starts_with("sleep")
    );
    b.wrun(&["start", &b.id]).fails("already running");
    b.wrun(&["delete", &b.id])
        .fails("that is not stopped: running");
    let pid = b.pid();
    b.wrun(&["kill", &b.id, "KILL"]).ok();
    b.wait_for_end(pid);
    assert_eq!(b.status(), "stopped");
    assert_eq!(b.state()["pid"], 0);
    b.wrun(&["kill", &b.id]).fails("container not running");
    b.wrun(&["exec", &b.id, "true"]).fails("stopped container");
    b.wrun(&["delete", &b.id]).ok();
    b.wrun(&["state", &b.id]).fails("container does not exist");
    b.assert_nothing_left();
}

#[test]
fn run_gives_the_exit_code() {
    let Some(mut b) = bundle() else { return };
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 0),
        ("exit 255", 255),
    ] {
        let got = b.script(script).run();
        // The first process of a pid namespace does not feel its own signals.
        assert_eq!(got.code, code, "{script}: {got:?}");
    }
    b.assert_nothing_left();
}

#[test]
fn a_signal_becomes_a_code() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    b.spec["hostname"] = json!("");
    assert_eq!(b.script("kill -9 $$").run().code, 137);
    b.assert_nothing_left();
}

#[test]
fn delete_force_ends_everything_and_forgives() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let pid = b.pid();
    b.wrun(&["delete", &b.id, "--force"]).ok();
    b.wait_for_end(pid);
    b.assert_nothing_left();
    b.wrun(&["delete", "--force", &b.id]).ok();
    b.wrun(&["delete", &b.id]).fails("container does not exist");
}

#[test]
fn a_created_container_can_be_deleted() {
    let Some(mut b) = bundle() else { return };
    b.script("true").create().ok();
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn delete_force_ends_a_paused_container() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    b.wrun(&["pause", &b.id]).ok();
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn a_signal_that_kills_reaches_a_paused_container() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let pid = b.pid();
    b.wrun(&["pause", &b.id]).ok();
    b.wrun(&["kill", &b.id, "KILL"]).ok();
    b.wait_for_end(pid);
    assert_eq!(b.status(), "stopped");
}

#[test]
fn kill_all_ends_processes_without_their_own_pids() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    b.spec["hostname"] = json!("");
    b.script("sleep 1000 & sleep 1000").create().ok();
    b.wrun(&["start", &b.id]).ok();
    let pid = b.pid();
    b.wrun(&["kill", "--all", &b.id, "9"]).ok();
    b.wait_for_end(pid);
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn pause_and_resume() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    b.wrun(&["resume", &b.id]).fails("container not paused");
    b.wrun(&["pause", &b.id]).ok();
    assert_eq!(b.status(), "paused");
    b.wrun(&["exec", &b.id, "true"])
        .fails("cannot exec in a paused container");
    b.wrun(&["pause", &b.id]).fails("already paused");
    b.wrun(&["resume", &b.id]).ok();
    assert_eq!(b.status(), "running");
    assert_eq!(b.exec("exit 3").code, 3);
}

#[test]
fn list_and_ps_show_what_is_there() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let pid = b.pid();
    let list: Value = serde_json::from_str(&b.wrun(&["list", "-f", "json"]).ok().out).unwrap();
    assert_eq!(list[0]["id"], json!(b.id));
    assert_eq!(list[0]["owner"], "root");
    assert_eq!(b.wrun(&["list", "-q"]).ok().out, format!("{}\n", b.id));
    let table = b.wrun(&["list"]).ok().out;
    assert!(
        table.starts_with("ID ") && table.contains("running"),
        "{table}"
    );
    let pids: Vec<i32> =
        serde_json::from_str(&b.wrun(&["ps", "--format", "json", &b.id]).ok().out).unwrap();
    assert_eq!(pids, [pid]);
    let table = b.wrun(&["ps", &b.id, "-o", "pid,comm", "-e"]).ok().out;
    assert!(
        table.contains("sleep") && table.lines().count() == 2,
        "{table}"
    );
}

#[test]
fn the_pid_file_holds_the_pid() {
    let Some(mut b) = bundle() else { return };
    b.script("true").write();
    let file = b.path("pid");
    let args = [
        "create",
        "--pid-file",
        file.to_str().unwrap(),
        "-b",
        b.dir.path().to_str().unwrap(),
        &b.id,
    ];
    b.detached(&args).ok();
    assert_eq!(std::fs::read_to_string(file).unwrap(), b.pid().to_string());
}

#[test]
fn a_group_path_is_used_and_limits_are_set() {
    let Some(mut b) = bundle() else { return };
    let (asked, group) = b.group_path();
    b.spec["linux"]["cgroupsPath"] = json!(asked);
    b.spec["linux"]["resources"] = json!({ "pids": { "limit": 17 } });
    b.start_sleeping();
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    assert!(
        cgroups.lines().any(|line| line.ends_with(&group)),
        "{cgroups}"
    );
    let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
    let limit = roots
        .iter()
        .find_map(|root| std::fs::read_to_string(format!("{root}{group}/pids.max")).ok());
    assert_eq!(limit.as_deref().map(str::trim), Some("17"));
    b.wrun(&["delete", "-f", &b.id]).ok();
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let made = entry.path().join(group.trim_start_matches('/'));
        assert!(!made.exists());
        // The parent was made on the way and may stay; it is ours to remove.
        let _gone = made.parent().map(std::fs::remove_dir);
    }
    let made = PathBuf::from(format!("/sys/fs/cgroup{group}"));
    assert!(!made.exists());
    let _gone = made.parent().map(std::fs::remove_dir);
}

#[test]
fn a_hundred_runs_leave_nothing() {
    let Some(b) = bundle() else { return };
    for _ in 0..100 {
        b.run().ok();
    }
    b.assert_nothing_left();
}

#[test]
fn what_a_killed_maker_left_can_be_deleted() {
    let Some(mut b) = bundle() else { return };
    // The hook kills its parent, which is the program under test, half-way through.
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"] }]);
    b.spec["hooks"] = json!({ "createRuntime": hook });
    b.create().fails("");
    b.wrun(&["state", &b.id]).fails("container does not exist");
    b.create().fails("already exists");
    b.wrun(&["delete", "--force", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn without_pivot_root() {
    let Some(mut b) = bundle() else { return };
    b.script("ls /; echo x > /tmp/made").write();
    let bundle = b.dir.path().to_str().unwrap().to_owned();
    let said = b
        .wrun(&[
            "run",
            "--no-pivot",
            "--no-new-keyring",
            "-b",
            &bundle,
            &b.id,
        ])
        .ok();
    assert_eq!(said.out, "bin\ndev\netc\nproc\ntmp\n", "{said:?}");
    assert!(b.path("rootfs/tmp/made").exists());
    b.assert_nothing_left();
}

#[test]
fn signals_of_the_caller_reach_a_container_in_the_foreground() {
    let Some(mut b) = bundle() else { return };
    b.script("trap 'echo got it; exit 9' USR1; echo ready; while true; do sleep 0.05; done");
    b.write();
    let bundle = b.dir.path().to_str().unwrap().to_owned();
    let mut child = b
        .direct(&["run", "-b", &bundle, &b.id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    b.assert_nothing_left();
}

#[test]
fn delete_ends_what_outlived_the_first_process() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["namespaces"] = json!([{ "type": "mount" }]);
    b.spec["hostname"] = json!("");
    b.script("sleep 1000 & exit 0").create().ok();
    let pid = b.pid();
    b.wrun(&["start", &b.id]).ok();
    b.wait_for_end(pid);
    assert_eq!(b.status(), "stopped");
    b.wrun(&["delete", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn two_starts_and_two_deletes_at_once_have_one_winner() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.create().ok();
    let race = |args: &[&str]| {
        let mut children: Vec<_> = (0..4)
            .map(|_| {
                let null = std::process::Stdio::null;
                b.command(args)
                    .stdout(null())
                    .stderr(null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let won = children
            .iter_mut()
            .map(|child| child.wait().unwrap().success());
        won.filter(|won| *won).count()
    };
    assert_eq!(race(&["start", &b.id]), 1);
    assert_eq!(b.status(), "running");
    b.wrun(&["kill", &b.id, "9"]).ok();
    // The end is near, but may not have been seen yet.
    crate::harness::until(|| b.status() == "stopped");
    assert_eq!(race(&["delete", &b.id]), 1);
    b.assert_nothing_left();
}

/// Somebody else's frozen group, which goes with the test.
struct Frozen(std::path::PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        let _thawed = std::fs::write(self.0.join("freezer.state"), "THAWED");
        let _gone = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_container_in_a_foreign_frozen_group_is_deleted() {
    let Some(mut b) = bundle() else { return };
    let hierarchy = std::path::Path::new("/sys/fs/cgroup/freezer");
    if !hierarchy.join("cgroup.procs").exists() {
        println!("skipped: needs the v1 freezer");
        return;
    }
    b.start_sleeping();
    let other = Frozen(hierarchy.join(format!("wrun-test-{}", b.id)));
    std::fs::create_dir(&other.0).unwrap();
    std::fs::write(other.0.join("tasks"), b.pid().to_string()).unwrap();
    std::fs::write(other.0.join("freezer.state"), "FROZEN").unwrap();
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.assert_nothing_left();
}
