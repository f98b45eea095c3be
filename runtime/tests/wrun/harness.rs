//! A bundle of its own for each test, and the program under test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Longest run of one command, seconds; a test that hits it fails instead of hanging.
const TIMEOUT: &str = "60";

/// What the containers of the tests call.
const APPLETS: [&str; 29] = [
    "sh", "ls", "cat", "id", "mount", "true", "false", "sleep", "hostname", "env", "stat", "touch",
    "grep", "mkdir", "readlink", "pwd", "kill", "tty", "echo", "rm", "head", "dd", "umount", "ps",
    "sed", "test", "wc", "mkfifo", "ln",
];

/// capabilities(7), by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Who makes the control groups of the containers that the tests do not ask a driver for:
/// `systemd`, else this crate by mkdir. `hack/test-guest` runs the tests with both.
const DRIVER: &str = "WHERRY_TEST_CGROUP_DRIVER";

/// A bundle and a state folder; its end takes everything with it.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) spec: Value,
    pub(crate) id: String,
    /// Its containers' groups are units of systemd.
    pub(crate) systemd: bool,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It worked.
    #[track_caller]
    pub(crate) fn ok(self) -> Said {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It failed with this text.
    #[track_caller]
    pub(crate) fn fails(self, text: &str) -> Said {
        // The log quotes what it writes.
        let plain = self.err.replace("\\\"", "\"");
        assert!(
            self.code != 0 && plain.contains(text),
            "{self:?} lacks {text:?}"
        );
        self
    }
}

/// A bundle, or `None` with the reason printed where this machine cannot run containers.
pub(crate) fn bundle() -> Option<Bundle> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: needs /bin/busybox");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    for folder in ["etc", "tmp", "proc"] {
        fs::create_dir(dir.path().join("rootfs").join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let id = format!(
        "t{}",
        dir.path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('.', "")
    );
    Some(Bundle {
        dir,
        spec: spec(),
        id,
        systemd: std::env::var(DRIVER).is_ok_and(|driver| driver == "systemd"),
    })
}

/// As [`bundle`], on a machine with nothing but cgroup v2.
pub(crate) fn bundle_v2() -> Option<Bundle> {
    let has = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !has {
        println!("skipped: needs cgroup v2");
    }
    bundle().filter(|_| has)
}

/// As [`bundle`], with systemd to make the groups.
pub(crate) fn bundle_systemd() -> Option<Bundle> {
    if !Path::new("/run/systemd/system").is_dir() {
        println!("skipped: needs systemd");
        return None;
    }
    let mut bundle = bundle()?;
    bundle.systemd = true;
    Some(bundle)
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "hostname": "box",
        "process": {
            "cwd": "/",
            "args": ["true"],
            "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 },
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"],
                "effective": ["CAP_KILL", "CAP_CHOWN"],
                "permitted": ["CAP_KILL", "CAP_CHOWN"],
            },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "mode=755", "size=64k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "network" }, { "type": "cgroup" },
            ],
        },
    })
}

fn own(path: &Path, id: u32) {
    let owned = program("chown")
        .args(["-R", &format!("{id}:{id}")])
        .arg(path)
        .status()
        .unwrap();
    assert!(owned.success());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program under test is a child of its test"
)]
pub(crate) fn program(name: &str) -> Command {
    Command::new(name)
}

/// A foreign program, where `hack/peers` puts it, or the system's.
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from);
    let peers = std::env::var_os("WHERRY_PEERS").map_or(cache.join("wherry/peers"), PathBuf::from);
    let places = [peers.join("bin"), "/usr/sbin".into(), "/usr/bin".into()];
    places
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}

/// Asks again until it is so, for what gives no event to wait for; bounded by time.
#[track_caller]
pub(crate) fn until(mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed().as_secs() < 30, "it did not become so");
        std::thread::yield_now();
    }
}

/// How often something random is tried: in every run, and with `WHERRY_TEST_ALL=1`.
pub(crate) fn rounds(few: u32, all: u32) -> u32 {
    if std::env::var_os("WHERRY_TEST_ALL").is_some() {
        all
    } else {
        few
    }
}

impl Bundle {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The container runs this shell script.
    pub(crate) fn script(&mut self, text: &str) -> &mut Self {
        self.spec["process"]["args"] = json!(["sh", "-c", text]);
        self
    }

    /// Adds a mount.
    pub(crate) fn mount(&mut self, mount: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Gives the root file system to a user.
    pub(crate) fn own_rootfs(&self, id: u32) {
        own(&self.path("rootfs"), id);
    }

    /// Gives the bundle with all that is in it to a user.
    pub(crate) fn own_bundle(&self, id: u32) {
        own(self.dir.path(), id);
    }

    /// The libraries of the host are in it, so that programs of the host run.
    pub(crate) fn with_libraries(&mut self) -> &mut Self {
        for path in ["/usr/lib", "/lib", "/lib64"] {
            if Path::new(path).exists() {
                self.mount(json!({ "destination": path, "type": "bind", "source": path,
                    "options": ["bind", "ro"] }));
            }
        }
        self
    }

    /// The container's root may do everything that this process may.
    pub(crate) fn with_all_capabilities(&mut self) -> &mut Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = u64::from_str_radix(permitted.unwrap().trim(), 16).unwrap();
        let names = CAPABILITIES.iter().enumerate();
        let names = names.filter(|(number, _)| permitted & (1 << number) != 0);
        let names: Vec<String> = names.map(|(_, name)| format!("CAP_{name}")).collect();
        self.spec["process"]["capabilities"] =
            json!({ "bounding": names, "effective": names, "permitted": names });
        self
    }

    /// It has a user namespace whose ids begin at `first` of its maker's.
    pub(crate) fn own_user_namespace(&mut self, first: u32) -> &mut Self {
        let map = json!([{ "containerID": 0, "hostID": first, "size": 65_536 }]);
        self.spec["linux"]["uidMappings"] = map.clone();
        self.spec["linux"]["gidMappings"] = map;
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut();
        namespaces.unwrap().push(json!({ "type": "user" }));
        self
    }

    /// A named pipe in the bundle, open to everybody.
    pub(crate) fn make_pipe(&mut self, name: &str) -> &mut Self {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, self.path(name), kind, mode, 0).unwrap();
        self
    }

    /// Writes `config.json`.
    pub(crate) fn write(&self) -> &Self {
        fs::write(self.path("config.json"), self.spec.to_string()).unwrap();
        self
    }

    /// The program with its own state folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = program("timeout");
        command.args(["-k", "5", TIMEOUT, env!("CARGO_BIN_EXE_wrun")]);
        command.args(self.globals()).args(args);
        command
    }

    /// The same without a time limit around it, for a test that signals it.
    pub(crate) fn direct(&self, args: &[&str]) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_wrun"));
        command.args(self.globals()).args(args);
        command
    }

    /// What stands before every verb.
    fn globals(&self) -> Vec<std::ffi::OsString> {
        let mut globals = vec!["--root".into(), self.path("state").into()];
        if self.systemd {
            globals.push("--systemd-cgroup".into());
        }
        globals
    }

    /// A place for the container's group, in the form that its driver takes, and the same below
    /// the hierarchy.
    pub(crate) fn group_path(&self) -> (String, String) {
        if self.systemd {
            let stem = self.id.to_lowercase();
            return (
                format!("wruntest-{stem}.slice:own:{}", self.id),
                format!(
                    "/wruntest.slice/wruntest-{stem}.slice/own-{}.scope",
                    self.id
                ),
            );
        }
        let path = format!("/wrun-test-{}/inner", self.id);
        (path.clone(), path)
    }

    /// The folder of the container's group: on v2 the only one.
    pub(crate) fn group(&self) -> Option<PathBuf> {
        self.group_of("")
    }

    /// The folder of the container's group where `controller` is: on v2 the only one.
    pub(crate) fn group_of(&self, controller: &str) -> Option<PathBuf> {
        let state = self.path("state").join(&self.id).join("state.json");
        let state: Value = serde_json::from_str(&fs::read_to_string(state).unwrap()).unwrap();
        let paths = &state["cgroup_paths"];
        Some(paths[""].as_str().or(paths[controller].as_str())?.into())
    }

    /// A file of the container's v2 group; `None` if it has no such file.
    pub(crate) fn group_file(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.group()?.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn wrun(&self, args: &[&str]) -> Said {
        Said::of(
            &self
                .command(args)
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap(),
        )
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Said {
        self.write();
        self.wrun(&["run", "-b", self.dir.path().to_str().unwrap(), &self.id])
    }

    /// `create`, with the container's streams going nowhere.
    pub(crate) fn create(&self) -> Said {
        self.write();
        self.detached(&["create", "-b", self.dir.path().to_str().unwrap(), &self.id])
    }

    /// `run --detach` of something that stays.
    pub(crate) fn start_sleeping(&mut self) {
        self.spec["process"]["args"] = json!(["sleep", "1000"]);
        self.create().ok();
        self.wrun(&["start", &self.id]).ok();
    }

    /// A command whose container keeps the streams: they must not be pipes that the test reads.
    pub(crate) fn detached(&self, args: &[&str]) -> Said {
        self.said(&mut self.command(args))
    }

    /// The same with any command.
    pub(crate) fn said(&self, command: &mut Command) -> Said {
        let (out, err) = (self.path("out"), self.path("err"));
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .status();
        Said {
            code: status.unwrap().code().unwrap_or(-1),
            out: fs::read_to_string(out).unwrap(),
            err: fs::read_to_string(err).unwrap(),
        }
    }

    /// `exec` of a shell script.
    pub(crate) fn exec(&self, script: &str) -> Said {
        self.wrun(&["exec", &self.id, "sh", "-c", script])
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.wrun(&["state", &self.id]).ok().out).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Waits for the end of the container's first process.
    pub(crate) fn wait_for_end(&self, pid: i32) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let Ok(handle) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else {
            return;
        };
        let deadline = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&handle, PollFlags::IN)];
        assert_eq!(
            poll(&mut fds, Some(&deadline)).unwrap(),
            1,
            "process {pid} did not end"
        );
    }

    /// Nothing is left of the container but its bundle.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let states = fs::read_dir(self.path("state")).map_or(0, Iterator::count);
        assert_eq!(states, 0, "a state is left");
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = entry.path().join(format!("wrun-{}", self.id));
            assert!(!group.exists(), "{group:?} is left");
            let scope = entry.path().join(format!("wrun-{}.scope", self.id));
            assert!(!scope.exists(), "{scope:?} is left");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.dir.path().to_str().unwrap()),
            "a mount is left"
        );
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.path("state")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let _deleted = self
                .command(&["delete", "--force", name.to_str().unwrap_or("")])
                .output();
        }
    }
}
