//! Scopes and slices by the systemd that runs the tests (a guest does, `hack/test-guest`). Each
//! test has units of its own name and removes them, also when it fails.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the whole file is a test, its helpers too"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cgroup::{Driver, Error, Group, Host, Property};
use oci_spec::runtime::LinuxResources;

/// None if this machine has no systemd for us; the test then prints that and returns.
fn host() -> Option<Host> {
    let host = Host::detect().unwrap();
    if Path::new("/run/systemd/system").is_dir() {
        return Some(host);
    }
    println!("skipped: needs systemd");
    None
}

fn v2() -> Option<Host> {
    let host = host()?;
    if !host.is_v2() {
        println!("skipped: needs systemd on cgroup v2");
    }
    host.is_v2().then_some(host)
}

/// A scope with a process in it, which both go when the test ends.
struct Scope {
    is_v2: bool,
    name: String,
    group: Group,
    child: Child,
}

impl Scope {
    fn plan(test: &str) -> Option<Self> {
        let host = host()?;
        let name = format!("{}-{test}", std::process::id());
        let path = format!("wherry-test.slice:cg:{name}");
        let group = host.group_by(Driver::Systemd, &path).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own child")]
        let child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let name = format!("cg-{name}.scope");
        Some(Self {
            is_v2: host.is_v2(),
            name,
            group,
            child,
        })
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn start(&self, resources: &str, properties: &[Property]) -> Result<(), Error> {
        self.group
            .start(self.pid(), &resources_of(resources), properties)
    }

    /// A property as systemd tells it.
    fn shown(&self, property: &str) -> String {
        systemctl(&["show", "--value", "--property", property, &self.name])
    }

    fn dir(&self) -> PathBuf {
        let paths = self.group.paths();
        let dir = paths.get("").or_else(|| paths.get("devices"));
        dir.unwrap().clone()
    }

    fn read(&self, file: &str) -> String {
        let path = self.dir().join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    fn end(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.end();
        let removed = self.group.remove();
        if !std::thread::panicking() {
            removed.unwrap();
            assert!(!self.group.exists());
            assert_eq!(self.shown("LoadState"), "not-found");
        }
    }
}

fn resources_of(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn systemctl(arguments: &[&str]) -> String {
    let whose = if user() == 0 { "--system" } else { "--user" };
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    let mut command = Command::new("systemctl");
    let output = command.arg(whose).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_scope_lives_and_ends() {
    let Some(mut scope) = Scope::plan("lives") else {
        return;
    };
    assert!(scope.group.needs_process());
    assert_eq!(scope.group.unit(), Some(scope.name.as_str()));
    assert!(matches!(scope.group.create(), Err(Error::NeedsProcess(_))));
    scope.start("{}", &[]).unwrap();
    let above = match (scope.is_v2, user()) {
        (true, 0) => "/sys/fs/cgroup".to_owned(),
        (true, user) => {
            format!("/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service")
        }
        (false, _) => "/sys/fs/cgroup/devices".to_owned(),
    };
    let expect = format!("{above}/wherry.slice/wherry-test.slice/{}", scope.name);
    assert_eq!(scope.dir(), Path::new(&expect));
    for dir in scope.group.paths().values() {
        let inside = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert_eq!(inside.trim(), scope.pid().to_string(), "{}", dir.display());
    }
    assert_eq!(scope.group.procs().unwrap(), [scope.pid()]);
    assert_eq!(scope.shown("ActiveState"), "active");
    assert_eq!(scope.shown("Delegate"), "yes");
    assert_eq!(scope.shown("Slice"), "wherry-test.slice");
    let again = Group::open_unit(scope.group.paths(), &scope.name).unwrap();
    again.freeze().unwrap();
    assert!(again.is_frozen().unwrap());
    again.kill().unwrap();
    scope.child.wait().unwrap();
    again.remove().unwrap();
    again.remove().expect("what is gone is no error");
    assert!(!again.exists());
}

#[test]
fn limits_are_systemds_and_the_kernels() {
    if v2().is_none() {
        return;
    }
    let Some(scope) = Scope::plan("limits") else {
        return;
    };
    let json = r#"{
        "memory":{"limit":67108864,"swap":100663296,"reservation":33554432},
        "cpu":{"shares":512,"quota":12345,"period":20000,"cpus":"0","mems":"0"},
        "pids":{"limit":32}}"#;
    scope.start(json, &[]).unwrap();
    let check = |property: &str, expect: &str| {
        assert_eq!(scope.shown(property), expect, "{property}");
    };
    check("MemoryMax", "67108864");
    check("MemorySwapMax", "33554432");
    check("MemoryLow", "33554432");
    check("CPUWeight", "59");
    check("CPUQuotaPerSecUSec", "620ms");
    check("TasksMax", "32");
    check("AllowedCPUs", "0");
    scope.group.apply(&resources_of(json)).unwrap();
    assert_eq!(scope.read("cpu.max"), "12345 20000", "unrounded");
    assert_eq!(scope.read("memory.max"), "67108864");
    assert_eq!(scope.read("pids.max"), "32");
}

#[test]
fn updates_reach_both() {
    if v2().is_none() {
        return;
    }
    let Some(scope) = Scope::plan("updates") else {
        return;
    };
    scope.start("{}", &[]).unwrap();
    scope.group.apply(&resources_of("{}")).unwrap();
    for (quota, limit) in [
        (12_345, 33_554_432),
        (54_321, 67_108_864),
        (7_777, 50_331_648),
    ] {
        let json = format!(r#"{{"cpu":{{"quota":{quota}}},"memory":{{"limit":{limit}}}}}"#);
        scope.group.update(&resources_of(&json)).unwrap();
        assert_eq!(scope.read("cpu.max"), format!("{quota} 100000"));
        assert_eq!(scope.shown("MemoryMax"), limit.to_string());
    }
    systemctl(&["daemon-reload"]);
    assert_eq!(scope.shown("MemoryMax"), "50331648");
    assert_eq!(scope.read("memory.max"), "50331648");
}

#[test]
fn annotations_become_properties() {
    let Some(scope) = Scope::plan("annotated") else {
        return;
    };
    let properties = [
        ("TimeoutStopSec", "7"),
        ("Description", "'for a test'"),
        ("After", "['basic.target']"),
        ("TasksMax", "uint64 11"),
    ]
    .map(|(name, text)| Property::parse(name, text).unwrap());
    scope
        .start(r#"{"pids":{"limit":32}}"#, &properties)
        .unwrap();
    assert_eq!(scope.shown("TimeoutStopUSec"), "7s");
    assert_eq!(scope.shown("Description"), "for a test");
    assert_eq!(scope.shown("TasksMax"), "11");
    assert!(scope.shown("After").contains("basic.target"));
}

#[test]
fn what_systemd_refuses_is_told() {
    let Some(scope) = Scope::plan("refused") else {
        return;
    };
    let property = Property::parse("NoSuchThing", "true").unwrap();
    let refused = scope.start("{}", &[property]).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::Unit { .. }), "{text}");
    assert!(
        text.contains(&scope.name) && text.contains("NoSuchThing"),
        "{text}"
    );
    assert!(!scope.group.exists());
    scope.start("{}", &[]).expect("the name is free");
}

#[test]
fn a_name_in_use_is_refused_and_a_failed_one_taken_over() {
    let Some(scope) = Scope::plan("used") else {
        return;
    };
    scope.start("{}", &[]).unwrap();
    let Some(other) = Scope::plan("used") else {
        return;
    };
    let refused = other.start("{}", &[]).unwrap_err().to_string();
    assert!(refused.contains("UnitExists"), "{refused}");
    drop(other);
    assert!(!scope.group.exists(), "both stand for one unit");
}

#[test]
fn a_failed_scope_is_forgotten() {
    let Some(mut scope) = Scope::plan("failed") else {
        return;
    };
    let keep = Property::parse("CollectMode", "'inactive'").unwrap();
    let short = Property::parse("RuntimeMaxUSec", "uint64 50000").unwrap();
    scope.start("{}", &[keep, short]).unwrap();
    scope.child.wait().unwrap();
    let failed = (0..100).any(|_| scope.shown("ActiveState") == "failed");
    assert!(failed, "{}", scope.shown("ActiveState"));
    let Some(next) = Scope::plan("failed") else {
        return;
    };
    next.start("{}", &[]).unwrap();
    assert_eq!(next.shown("ActiveState"), "active");
}

#[test]
fn a_slice_needs_no_process() {
    let Some(host) = v2() else { return };
    let name = format!("wherry-test-{}.slice", std::process::id());
    let path = format!("wherry-test.slice::{name}");
    let group = host.group_by(Driver::Systemd, &path).unwrap();
    assert!(!group.needs_process());
    group.create().unwrap();
    let state = || systemctl(&["show", "--value", "--property", "ActiveState", &name]);
    assert_eq!(state(), "active");
    assert!(group.exists());
    group
        .update(&resources_of(r#"{"memory":{"limit":67108864}}"#))
        .unwrap();
    let limit = systemctl(&["show", "--value", "--property", "MemoryMax", &name]);
    assert_eq!(limit, "67108864");
    group.remove().unwrap();
    assert_eq!(state(), "inactive");
    assert!(!group.exists());
}

#[test]
fn devices_stay_confined_over_a_reload() {
    let Some(scope) = Scope::plan("devices") else {
        return;
    };
    scope.start("{}", &[]).unwrap();
    scope.group.apply(&resources_of("{}")).unwrap();
    systemctl(&["daemon-reload"]);
    let path = scope.dir().join("cgroup.procs");
    let script = format!("echo 0 >{}; exec 3</dev/kmsg", path.display());
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(!output.status.success(), "/dev/kmsg is not for containers");
}

#[test]
fn limits_on_v1() {
    let Some(host) = host() else { return };
    if host.is_v2() {
        return println!("skipped: needs systemd on cgroup v1");
    }
    let Some(scope) = Scope::plan("v1") else {
        return;
    };
    let json = r#"{"cpu":{"shares":512,"quota":12345},"pids":{"limit":32}}"#;
    scope.start(json, &[]).unwrap();
    assert_eq!(scope.shown("CPUShares"), "512");
    assert_eq!(scope.shown("TasksMax"), "32");
    assert_eq!(scope.shown("DevicePolicy"), "strict");
    scope.group.apply(&resources_of(json)).unwrap();
    systemctl(&["daemon-reload"]);
    let read = |controller, file| {
        let path = scope.group.paths()[controller].join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("pids", "pids.max"), "32");
    let devices = read("devices", "devices.list");
    assert!(
        devices.contains("c 1:3 rwm") && devices.contains("c 136:* rwm"),
        "{devices}"
    );
    assert!(!devices.contains("a *:*"), "{devices}");
}

/// The systemd of a user, started for the test.
struct UsersSystemd {
    service: String,
    program: PathBuf,
}

impl Drop for UsersSystemd {
    fn drop(&mut self) {
        systemctl(&["stop", &self.service]);
        drop(std::fs::remove_file(&self.program));
    }
}

/// As nobody, this program's own first test.
#[test]
fn a_user_asks_the_users_systemd() {
    const NOBODY: u32 = 65_534;
    if v2().is_none() {
        return;
    }
    let run = format!("/run/user/{NOBODY}");
    if user() != 0 || Path::new(&run).exists() {
        return println!("skipped: needs root, and no session of nobody");
    }
    let users = UsersSystemd {
        service: format!("user@{NOBODY}.service"),
        program: PathBuf::from(format!("/run/wherry-test-{}", std::process::id())),
    };
    // Nobody may not come where this program lies.
    std::fs::copy(std::env::current_exe().unwrap(), &users.program).unwrap();
    systemctl(&["start", &users.service]);
    if !Path::new(&run).join("systemd/private").exists() {
        return println!("skipped: needs {}", users.service);
    }
    #[expect(clippy::disallowed_methods, reason = "a test's own child")]
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--pipe", "--wait"]);
    command.arg(format!("--uid={NOBODY}"));
    command.arg(format!("--slice=user-{NOBODY}.slice"));
    command.arg(format!("--setenv=XDG_RUNTIME_DIR={run}"));
    command.arg(&users.program).arg("a_scope_lives_and_ends");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn without_systemd_there_is_no_scope() {
    if Path::new("/run/systemd/system").is_dir() {
        return println!("skipped: needs a machine without systemd");
    }
    let host = Host::detect().unwrap();
    let refused = host.group_by(Driver::Systemd, "a.slice:b:c");
    assert!(matches!(refused, Err(Error::NoSystemd)));
}
