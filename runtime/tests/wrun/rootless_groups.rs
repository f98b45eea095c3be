//! An ordinary user who has been given a part of the control groups (v2), by the administrator or by
//! a systemd of the user's own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{program, until};
use crate::user::Users;

/// Gives `$D` and the group `$OWN` in it to the user, and goes into that.
const ENTER_DELEGATED: &str = r#"mkdir -p "$D/own" && chown "$U" "$D" "$D/own" &&
    for file in cgroup.procs cgroup.subtree_control cgroup.threads; do
        chown "$U" "$D/$file" "$D/own/$file" || exit 98
    done && echo $$ >"$D$OWN/cgroup.procs" && "#;

/// A folder of control groups that is the user's until the end of the test.
struct Delegated {
    users: Users,
    dir: PathBuf,
    /// Where in it commands run.
    own: &'static str,
}

impl Delegated {
    fn new(own: &'static str) -> Option<Delegated> {
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            println!("skipped: needs cgroup v2");
            return None;
        }
        let users = Users::new("true")?;
        let dir = Path::new("/sys/fs/cgroup").join(format!("wruntest-{}", users.id()));
        Some(Delegated { users, dir, own })
    }

    fn wrun(&self, args: &[&str]) -> crate::harness::Said {
        let mut command = self.users.shell(ENTER_DELEGATED, args);
        command.env("D", &self.dir).env("OWN", self.own);
        self.users.bundle.said(&mut command)
    }

    fn start_sleeping(&mut self) {
        self.users.spec()["process"]["args"] = json!(["sleep", "1000"]);
        self.users.write();
        let (dir, id) = (self.users.dir().to_owned(), self.users.id().to_owned());
        self.wrun(&["run", "-d", "-b", &dir, &id]).ok();
    }

    /// The folder of the container's group.
    fn group(&self) -> PathBuf {
        kept_group(&self.users)
    }
}

fn kept_group(users: &Users) -> PathBuf {
    let state = users
        .bundle
        .path("run/wrun")
        .join(users.id())
        .join("state.json");
    let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    assert_eq!(state["rootless"], true);
    state["cgroup_paths"][""].as_str().unwrap().into()
}

fn file(group: &Path, name: &str) -> String {
    fs::read_to_string(group.join(name))
        .unwrap()
        .trim()
        .to_owned()
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let id = self.users.id().to_owned();
        let _deleted = self.wrun(&["delete", "--force", &id]);
        let _killed = fs::write(self.dir.join("cgroup.kill"), "1");
        for group in ["own", ""] {
            let dir = self.dir.join(group);
            until(|| fs::remove_dir(&dir).is_ok() || !dir.exists());
        }
    }
}

#[test]
fn a_delegated_part_is_used() {
    let Some(mut d) = Delegated::new("/own") else {
        return;
    };
    d.users.spec()["linux"]["resources"] =
        json!({ "pids": { "limit": 20 }, "memory": { "limit": 64 << 20 } });
    d.start_sleeping();
    let id = d.users.id().to_owned();
    let group = d.group();
    assert_eq!(group, d.dir.join(format!("wrun-{id}")));
    assert_eq!(file(&group, "pids.max"), "20");
    assert_eq!(file(&group, "memory.max"), (64 << 20).to_string());
    d.wrun(&["pause", &id]).ok();
    assert_eq!(d.users.state()["status"], "paused");
    d.wrun(&["resume", &id]).ok();
    d.wrun(&["update", "--pids-limit", "9", &id]).ok();
    assert_eq!(file(&group, "pids.max"), "9");
    d.wrun(&["exec", "-d", &id, "sleep", "1000"]).ok();
    assert_eq!(file(&group, "cgroup.procs").lines().count(), 2);
    let listed = d.wrun(&["ps", "-f", "json", &id]).ok().out;
    let listed: Vec<i32> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.len(), 2);
    let told = d.wrun(&["events", "--stats", &id]).ok().out;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["data"]["pids"]["current"], 2);
    d.wrun(&["delete", "--force", &id]).ok();
    assert!(!group.exists());
    d.users.assert_nothing_left();
}

#[test]
fn a_group_with_processes_gives_no_limits() {
    let Some(mut d) = Delegated::new("") else {
        return;
    };
    d.start_sleeping();
    let id = d.users.id().to_owned();
    let group = d.group();
    assert_eq!(group, d.dir.join(format!("wrun-{id}")));
    // What takes no controller is to be had all the same.
    d.wrun(&["pause", &id]).ok();
    assert_eq!(d.users.state()["status"], "paused");
    d.wrun(&["delete", "--force", &id]).ok();
    assert!(!group.exists());
    d.users.spec()["linux"]["resources"] = json!({ "pids": { "limit": 20 } });
    d.users.write();
    let dir = d.users.dir().to_owned();
    d.wrun(&["run", "-b", &dir, &id])
        .fails("cannot set pids.max: controller pids is not available");
    d.users.assert_nothing_left();
}

#[test]
fn the_container_gets_its_group() {
    let Some(mut d) = Delegated::new("/own") else {
        return;
    };
    let mounts = d.users.spec()["mounts"].as_array_mut().unwrap();
    for mount in mounts {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
    let script =
        "mkdir /sys/fs/cgroup/below && cat /proc/self/cgroup && rmdir /sys/fs/cgroup/below";
    d.users.bundle.script(script);
    d.users.write();
    let (dir, id) = (d.users.dir().to_owned(), d.users.id().to_owned());
    let said = d.wrun(&["run", "-b", &dir, &id]).ok();
    assert_eq!(said.out, "0::/\n", "{said:?}");
}

#[test]
fn without_a_part_there_are_no_limits() {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: needs cgroup v2");
        return;
    }
    let Some(mut u) = Users::new("echo ran") else {
        return;
    };
    assert_eq!(u.run().ok().out, "ran\n");
    u.spec()["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
    u.run().fails("rootless needs no limits + no cgrouppath");
}

/// A user and group that every machine has (`bin`): systemd takes no others.
const KNOWN: u32 = 2;

/// A systemd of the user's own, as a session of the user has it.
struct Session {
    users: Users,
    unit: String,
}

impl Session {
    fn new() -> Option<Session> {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if !v2 || !Path::new("/run/systemd/system").is_dir() {
            println!("skipped: needs systemd on cgroup v2");
            return None;
        }
        let users = Users::of(KNOWN, KNOWN, "true")?;
        let unit = format!("wruntest-{}.service", users.id());
        let session = Session { users, unit };
        let run = session.users.bundle.path("run");
        let said = program("systemd-run")
            .args(["--unit", &session.unit, "--collect", "-p", "Type=notify"])
            .args(["-p", "Delegate=yes", "-p", &format!("User={KNOWN}")])
            .args(["-p", &format!("Group={KNOWN}")])
            .arg(format!("--setenv=XDG_RUNTIME_DIR={}", run.display()))
            .args(["/lib/systemd/systemd", "--user"])
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        Some(session)
    }

    fn wrun(&self, args: &[&str]) -> crate::harness::Said {
        let mut all = vec!["--systemd-cgroup"];
        all.extend(args);
        self.users.wrun(&all)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let id = self.users.id().to_owned();
        let _deleted = self.wrun(&["delete", "--force", &id]);
        let _stopped = program("systemctl").args(["stop", &self.unit]).output();
    }
}

#[test]
fn a_systemd_of_the_user_makes_scopes() {
    let Some(mut s) = Session::new() else { return };
    s.users.spec()["linux"]["resources"] = json!({ "pids": { "limit": 20 } });
    s.users.spec()["process"]["args"] = json!(["sleep", "1000"]);
    s.users.write();
    let (dir, id) = (s.users.dir().to_owned(), s.users.id().to_owned());
    s.wrun(&["run", "-d", "-b", &dir, &id]).ok();
    let group = kept_group(&s.users);
    let place = format!("system.slice/{}/user.slice/wrun-{id}.scope", s.unit);
    assert_eq!(group, Path::new("/sys/fs/cgroup").join(place));
    assert_eq!(file(&group, "pids.max"), "20");
    let pid = s.users.state()["pid"].to_string();
    assert_eq!(file(&group, "cgroup.procs"), pid);
    s.wrun(&["update", "--pids-limit", "9", &id]).ok();
    assert_eq!(file(&group, "pids.max"), "9");
    // From a place that the user may not move processes out of.
    s.wrun(&["exec", "-d", &id, "sleep", "1000"]).ok();
    assert_eq!(file(&group, "cgroup.procs").lines().count(), 2);
    s.wrun(&["pause", &id]).ok();
    assert_eq!(s.users.state()["status"], "paused");
    s.wrun(&["resume", &id]).ok();
    s.wrun(&["delete", "--force", &id]).ok();
    assert!(!group.exists());
    s.users.assert_nothing_left();
}
