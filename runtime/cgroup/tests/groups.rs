//! Groups on the kernel that runs the tests, whichever version it has: real directories, real
//! processes. Each test has a group of its own name and removes it, also when it fails.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the whole file is a test, its helpers too"
)]

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cgroup::{Error, Group, Host};
use oci_spec::runtime::LinuxResources;

/// A group that goes when the test ends.
struct Temporary {
    host: Host,
    name: String,
    group: Group,
    children: Vec<Child>,
}

impl Temporary {
    /// None if this process may not make groups here; the test then prints that and returns.
    fn create(test: &str) -> Option<Self> {
        let host = Host::detect().unwrap();
        let name = format!("/wherry-test-{}-{test}", std::process::id());
        let group = host.group(&format!("{name}/leaf")).unwrap();
        match group.create() {
            Ok(()) => Some(Self {
                host,
                name,
                group,
                children: Vec::new(),
            }),
            Err(error) if error.errno() == Some(rustix::io::Errno::ACCESS) => {
                println!("skipped: needs a writable cgroup hierarchy ({error})");
                None
            }
            Err(error) => panic!("{error}: {:?}", error.errno()),
        }
    }

    /// Whether this machine lacks one of `controllers`; the test then has said so and returns.
    fn lacks(&self, controllers: &[&str]) -> bool {
        let paths = self.group.paths();
        let v2 = paths.get("").map(|dir| {
            let have = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
            have.split_whitespace().map(str::to_owned).collect()
        });
        let have: Vec<String> = v2.unwrap_or_else(|| paths.keys().cloned().collect());
        let has = |wanted: &&&str| have.iter().any(|one| one == **wanted);
        let missing = controllers.iter().find(|wanted| !has(wanted));
        if let Some(missing) = missing {
            println!("skipped: needs the cgroup controller {missing}");
        }
        missing.is_some()
    }

    fn above(&self) -> Group {
        self.host.group(&self.name).unwrap()
    }

    /// A shell in the group that runs `script` once it is in.
    fn run(&mut self, script: &str) -> &mut Child {
        #[expect(clippy::disallowed_methods, reason = "a test's own child")]
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.group
            .enter(i32::try_from(child.id()).unwrap())
            .unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let paths = self.group.paths();
        let dir = paths.get("").or_else(|| paths.get(controller)).unwrap();
        std::fs::read_to_string(dir.join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn update(&self, json: &str) -> Result<(), Error> {
        self.group.update(&serde_json::from_str(json).unwrap())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(self.group.thaw());
        drop(self.above().kill());
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
        let removed = self.above().remove();
        if !std::thread::panicking() {
            removed.unwrap();
            assert!(!self.above().exists());
        }
    }
}

#[test]
fn lives_and_ends() {
    let Some(mut test) = Temporary::create("lives") else {
        return;
    };
    assert!(test.group.procs().unwrap().is_empty());
    test.group.create().expect("an empty group is taken over");
    let pid = i32::try_from(test.run("exec sleep 1000").id()).unwrap();
    assert_eq!(test.group.procs().unwrap(), [pid]);
    assert_eq!(
        test.above().procs().unwrap(),
        [pid],
        "a group's processes are its parents'"
    );
    assert!(matches!(test.group.create(), Err(Error::NotEmpty(_))));
    let again = Group::open(test.group.paths()).unwrap();
    again.kill().unwrap();
    assert_eq!(test.children[0].wait().unwrap().code(), None);
    again.remove().unwrap();
    again.remove().expect("what is gone is no error");
    assert!(again.procs().unwrap().is_empty());
    again.kill().unwrap();
    assert!(!again.is_frozen().unwrap());
    assert!(!again.exists());
}

#[test]
fn removal_waits_for_the_dying_and_takes_children_along() {
    let Some(mut test) = Temporary::create("dying") else {
        return;
    };
    for path in test.group.paths().values() {
        std::fs::create_dir_all(path.join("inner/most")).unwrap();
    }
    for _ in 0..8 {
        test.run("sleep 1000 & sleep 1000 & wait");
    }
    test.group.kill().unwrap();
    test.group.remove().unwrap();
}

#[test]
fn a_living_process_keeps_its_group() {
    // The limit of waiting is ten seconds, so this is the one slow test.
    let Some(mut test) = Temporary::create("keeps") else {
        return;
    };
    test.run("exec sleep 1000");
    let started = std::time::Instant::now();
    assert!(matches!(test.group.remove(), Err(Error::Late { .. })));
    assert!(started.elapsed() < Duration::from_secs(12));
    assert_eq!(test.group.procs().unwrap().len(), 1);
}

#[test]
fn frozen_processes_stand_and_can_be_killed() {
    let Some(mut test) = Temporary::create("frozen") else {
        return;
    };
    test.run("while :; do :; done");
    test.group.freeze().unwrap();
    assert!(test.group.is_frozen().unwrap());
    let used = || test.group.stats().unwrap().cpu.unwrap().usage_ns;
    let before = used();
    assert_eq!(used(), before, "nothing runs");
    test.group.thaw().unwrap();
    assert!(!test.group.is_frozen().unwrap());
    test.group.freeze().unwrap();
    test.group.kill().unwrap();
    test.children[0].wait().unwrap();
}

#[test]
fn an_empty_frozen_group_is_not_taken_over() {
    let Some(test) = Temporary::create("cold") else {
        return;
    };
    test.group.freeze().unwrap();
    assert!(matches!(test.group.create(), Err(Error::Frozen(_))));
    test.group.thaw().unwrap();
}

#[test]
fn limits_are_what_was_asked_for() {
    let Some(test) = Temporary::create("limits") else {
        return;
    };
    if test.lacks(&["memory", "cpuset"]) {
        return;
    }
    let json = r#"{
        "memory":{"limit":67108864,"swap":100663296,"reservation":33554432},
        "cpu":{"shares":512,"quota":50000,"period":20000,"cpus":"0"},
        "pids":{"limit":32}}"#;
    test.group
        .apply(&serde_json::from_str(json).unwrap())
        .unwrap();
    let check = |controller, file: &str, expect: &str| {
        assert_eq!(test.read(controller, file), expect, "{file}");
    };
    check("pids", "pids.max", "32");
    check("cpuset", "cpuset.cpus", "0");
    if test.host.is_v2() {
        check("", "memory.max", "67108864");
        check("", "memory.low", "33554432");
        check("", "cpu.weight", "59");
        check("", "cpu.max", "50000 20000");
    } else {
        check("memory", "memory.limit_in_bytes", "67108864");
        check("memory", "memory.memsw.limit_in_bytes", "100663296");
        check("memory", "memory.soft_limit_in_bytes", "33554432");
        check("cpu", "cpu.shares", "512");
        check("cpu", "cpu.cfs_quota_us", "50000");
        check("cpu", "cpu.cfs_period_us", "20000");
    }
    let stats = test.group.stats().unwrap();
    assert_eq!(stats.memory.unwrap().limit, Some(67_108_864));
    assert_eq!(stats.pids_limit, Some(32));
}

#[test]
fn limits_move_both_ways() {
    let Some(test) = Temporary::create("moves") else {
        return;
    };
    if test.lacks(&["memory"]) {
        return;
    }
    let limit = || test.group.stats().unwrap().memory.unwrap().limit;
    for (json, expect) in [
        (
            r#"{"memory":{"limit":67108864,"swap":67108864}}"#,
            Some(67_108_864),
        ),
        (
            r#"{"memory":{"limit":134217728,"swap":268435456}}"#,
            Some(134_217_728),
        ),
        (
            r#"{"memory":{"limit":33554432,"swap":33554432}}"#,
            Some(33_554_432),
        ),
        (r#"{"memory":{"limit":-1,"swap":-1}}"#, None),
        (
            r#"{"memory":{"limit":33554432,"swap":-1}}"#,
            Some(33_554_432),
        ),
        (r#"{"memory":{"limit":-1}}"#, None),
        (r#"{"cpu":{"quota":100000,"period":100000}}"#, None),
        (r#"{"cpu":{"quota":5000,"period":5000,"burst":4000}}"#, None),
        (
            r#"{"cpu":{"quota":200000,"period":100000,"burst":90000}}"#,
            None,
        ),
        (r#"{"cpu":{"quota":-1}}"#, None),
        (r#"{"pids":{"limit":-1}}"#, None),
        ("{}", None),
    ] {
        test.update(json)
            .unwrap_or_else(|error| panic!("{json}: {error}: {:?}", error.errno()));
        assert_eq!(limit(), expect, "{json}");
    }
}

#[test]
fn refusals_name_file_and_value() {
    let Some(test) = Temporary::create("refused") else {
        return;
    };
    if test.lacks(&["cpuset"]) {
        return;
    }
    let refused = |json: &str| test.update(json).unwrap_err().to_string();
    let cpus = refused(r#"{"cpu":{"cpus":"4000"}}"#);
    assert!(
        cpus.contains(r#"write "4000" to /"#) && cpus.ends_with("cpuset.cpus"),
        "{cpus}"
    );
    let pages = refused(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":3145728}]}"#);
    assert!(pages.contains("hugetlb.3MB"), "{pages}");
    test.update(r#"{"hugepageLimits":[{"pageSize":"3MB","limit":0}]}"#)
        .expect("no pages of a size that is not there");
    if !test.host.is_v2() {
        refused(r#"{"unified":{"memory.high":"1"}}"#);
        return;
    }
    let unknown = refused(r#"{"unified":{"nonsense.max":"1"}}"#);
    assert_eq!(
        unknown,
        "cannot set nonsense.max: controller nonsense is not available"
    );
    test.update(r#"{"unified":{"memory.high":"1048576"}}"#)
        .unwrap();
    assert_eq!(test.read("", "memory.high"), "1048576");
}

#[test]
fn devices_are_confined() {
    let Some(mut test) = Temporary::create("devices") else {
        return;
    };
    if !std::path::Path::new("/dev/kmsg").exists() {
        return println!("skipped: needs /dev/kmsg");
    }
    let script = ": </dev/null && : </dev/zero && if : </dev/kmsg; then exit 7; else exit 0; fi";
    let outcome = |test: &mut Temporary| test.run(script).wait().unwrap().code();
    assert_eq!(outcome(&mut test), Some(7), "a new group is open");
    let apply = |test: &Temporary, json: &str| {
        test.group
            .apply(&serde_json::from_str(json).unwrap())
            .unwrap();
    };
    apply(&test, "{}");
    // The redirection's failure ends a shell at once where it is a special builtin's.
    assert_ne!(outcome(&mut test), Some(7), "only the defaults");
    apply(
        &test,
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#,
    );
    assert_eq!(outcome(&mut test), Some(7), "as the rule says");
}

#[test]
fn out_of_memory_is_counted() {
    let Some(mut test) = Temporary::create("oom") else {
        return;
    };
    if test.lacks(&["memory"]) {
        return;
    }
    let swap = r#"{"memory":{"limit":8388608,"swap":8388608}}"#;
    test.update(swap).unwrap();
    let status = test
        .run("text=0123456789; while :; do text=$text$text; done")
        .wait()
        .unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    let counter = std::fs::read_to_string(test.group.oom_counter().unwrap()).unwrap();
    let kills = counter
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .unwrap();
    assert!(kills.parse::<u32>().unwrap() > 0, "{counter}");
    let memory = test.group.stats().unwrap().memory.unwrap();
    assert!(memory.page_faults > 0);
    assert!(memory.available().unwrap() <= 8_388_608);
}

#[test]
fn a_thread_walks_in_by_itself() {
    let Some(test) = Temporary::create("walks") else {
        return;
    };
    if test.lacks(&["memory"]) {
        return;
    }
    if test.host.is_v2() {
        return println!("skipped: needs cgroup v1 (on v2 processes are cloned into the group)");
    }
    let entrances = test.group.entrances().unwrap();
    let inside = std::thread::spawn(move || {
        for entrance in &entrances {
            rustix::io::write(entrance, b"0").unwrap();
        }
        std::fs::read_to_string("/proc/thread-self/cgroup").unwrap()
    });
    let inside = inside.join().unwrap();
    for controller in ["memory", "pids", "freezer"] {
        let line = inside
            .lines()
            .find(|line| line.contains(controller))
            .unwrap();
        assert!(line.ends_with(&format!("{}/leaf", test.name)), "{line}");
    }
}

#[test]
fn where_a_clone_goes() {
    let Some(test) = Temporary::create("clone") else {
        return;
    };
    assert_eq!(test.group.dir_fd().unwrap().is_some(), test.host.is_v2());
    assert_eq!(test.group.kill_file().is_some(), test.host.is_v2());
    assert_eq!(
        std::fs::read_to_string(test.group.procs_file()).unwrap(),
        ""
    );
}

/// The same resources through libcgroups end in the same files.
#[test]
fn writes_what_libcgroups_writes() {
    use libcgroups::common::{CgroupManager as _, ControllerOpt};
    let Some(test) = Temporary::create("same") else {
        return;
    };
    if test.lacks(&["memory", "cpuset"]) {
        return;
    }
    let host = Host::detect().unwrap();
    let other_path = format!("{}/other", test.name);
    let other = host.group(&other_path).unwrap();
    other.create().unwrap();
    let json = r#"{
        "memory":{"limit":67108864,"swap":134217728,"reservation":33554432},
        "cpu":{"shares":2048,"quota":30000,"period":60000,"burst":10000,"cpus":"0","mems":"0"},
        "pids":{"limit":12}}"#;
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    test.update(json).unwrap();
    let options = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    let path = std::path::Path::new(&other_path);
    if host.is_v2() {
        let root = "/sys/fs/cgroup".into();
        let manager = libcgroups::v2::manager::Manager::new(root, path.to_owned()).unwrap();
        manager.apply(&options).unwrap();
    } else {
        libcgroups::v1::manager::Manager::new(path)
            .unwrap()
            .apply(&options)
            .unwrap();
    }
    let v1 = [
        "memory/memory.limit_in_bytes",
        "memory/memory.memsw.limit_in_bytes",
        "memory/memory.soft_limit_in_bytes",
        "cpu/cpu.shares",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "cpu/cpu.cfs_burst_us",
        "cpuset/cpuset.cpus",
        "pids/pids.max",
    ];
    let v2 = [
        "/memory.max",
        "/memory.low",
        "/cpu.weight",
        "/cpu.max",
        "/cpu.max.burst",
        "/cpuset.cpus",
        "/pids.max",
    ];
    for file in if host.is_v2() { &v2[..] } else { &v1[..] } {
        let (controller, file) = file.split_once('/').unwrap();
        let theirs = std::fs::read_to_string(other.paths()[controller].join(file)).unwrap();
        assert_eq!(test.read(controller, file), theirs.trim(), "{file}");
    }
}

#[test]
fn the_whole_account() {
    let Some(mut test) = Temporary::create("account") else {
        return;
    };
    if test.lacks(&["memory", "cpuset"]) {
        return;
    }
    let limits = r#"{"memory":{"limit":67108864,"swap":67108864},"pids":{"limit":32}}"#;
    test.update(limits).unwrap();
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    test.run(busy).wait().unwrap();
    test.run("exec sleep 1000");
    let account = test.group.account().unwrap();
    assert!(account.cpu.total_ns > 0);
    assert_eq!((account.pids.current, account.pids.limit), (1, 32));
    assert_eq!(account.memory.usage.limit, 67_108_864);
    assert!(account.memory.usage.max > 0);
    assert!(account.memory.raw.contains_key("pgfault"));
    if test.host.is_v2() {
        assert!(account.cpu.per_cpu_ns.is_empty());
        return;
    }
    assert_eq!(account.memory.swap.limit, 67_108_864);
    assert!(!account.cpuset.cpus.is_empty());
    assert_eq!(
        account.cpu.per_cpu_ns.len(),
        account.cpu.per_cpu_user_ns.len()
    );
    assert!(account.cpu.per_cpu_ns.iter().sum::<u64>() > 0);
}

#[test]
fn a_delegated_group_is_its_users() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(test) = Temporary::create("delegated") else {
        return;
    };
    test.group.delegate(1234).unwrap();
    let path = test.group.paths().into_values().next().unwrap();
    let owner = |file: &str| std::fs::metadata(path.join(file)).unwrap().uid();
    if !test.host.is_v2() {
        assert_eq!(owner("cgroup.procs"), 0, "v1 has no delegation");
        return;
    }
    for file in [
        ".",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        assert_eq!(owner(file), 1234, "{file}");
    }
    assert_eq!(owner("memory.max"), 0, "limits stay with who set them");
}
