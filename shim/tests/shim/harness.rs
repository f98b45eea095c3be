//! A bundle, a shim that serves it, and a connection to that shim.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use shim_api::message::Content;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{
    Attach, Create, Error, Exec, ExecExited, ExitRecord, Exited, LISTENER_FD, MAX_FDS, MAX_PACKET,
    Message, Request, SOCKET, Start,
};
use tempfile::TempDir;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const SHIM: &str = env!("CARGO_BIN_EXE_wherry-shim");
const BUSYBOX: &str = "/bin/busybox";
const CGROUPS: &str = "/sys/fs/cgroup";
const APPLETS: [&str; 13] = [
    "sh", "cat", "md5sum", "sleep", "seq", "head", "dd", "stty", "true", "tr", "yes", "kill", "tty",
];

/// The runtime to test with, or the reason why there is none.
fn runtime() -> Result<PathBuf, &'static str> {
    if let Some(path) = std::env::var_os("WHERRY_TEST_RUNTIME") {
        return Ok(path.into());
    }
    let beside = Path::new(SHIM).with_file_name("wrun");
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let runc = folders.map(|folder| Path::new(folder).join("runc"));
    [beside]
        .into_iter()
        .chain(runc)
        .find(|path| path.exists())
        .ok_or("an OCI runtime")
}

/// Whether control groups are of version 2.
pub(crate) fn unified() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("/bin/busybox, static");
    }
    let controllers = fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers"));
    let v1 = || {
        Path::new(CGROUPS)
            .join("memory/memory.oom_control")
            .exists()
    };
    if !controllers.map_or_else(|_| v1(), |names| names.contains("memory")) {
        return Some("the memory controller");
    }
    runtime().err()
}

/// What a container is to be.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) args: Vec<String>,
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) memory: Option<u64>,
    pub(crate) host_pids: bool,
    pub(crate) log: bool,
}

impl Wish {
    /// A container that runs a shell script.
    pub(crate) fn script(script: &str) -> Self {
        Self {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            terminal: false,
            stdin: false,
            stdin_once: false,
            memory: None,
            host_pids: false,
            log: true,
        }
    }
}

/// A bundle with a shim. When it is dropped, nothing of it is left.
pub(crate) struct Container {
    pub(crate) dir: TempDir,
    pub(crate) id: String,
    pub(crate) shim: Pid,
    ended: bool,
    runtime: PathBuf,
    wish: Wish,
}

impl Container {
    /// A shim that waits for its Create; `None`, and a word about it, where that cannot be.
    pub(crate) fn new(wish: Wish) -> Option<Self> {
        if let Some(missing) = missing() {
            println!("skipped: needs {missing}");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("wherry-shim-test-{}-{number}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        let runtime = runtime().unwrap();
        let shim = spawn_shim(dir.path(), &id, &runtime);
        let container = Self {
            dir,
            id,
            shim,
            ended: false,
            runtime,
            wish,
        };
        container.write_config();
        Some(container)
    }

    /// A created container and the connection that made it.
    pub(crate) fn created(wish: Wish) -> Option<(Self, Connection)> {
        let container = Self::new(wish)?;
        let mut connection = container.connect();
        match connection.call(Call::Create(container.create())).0 {
            Answer::Created(created) => assert!(created.pid > 0),
            other => panic!("create: {other:?}"),
        }
        Some((container, connection))
    }

    /// A started container.
    pub(crate) fn started(wish: Wish) -> Option<(Self, Connection)> {
        let (container, mut connection) = Self::created(wish)?;
        connection.done(Call::Start(Start {}));
        Some((container, connection))
    }

    /// Runs a container to its end.
    pub(crate) fn run(wish: Wish) -> Option<(Self, ExitRecord)> {
        let (mut container, mut connection) = Self::started(wish)?;
        let record = connection.exited();
        container.wait_for_shim();
        Some((container, record))
    }

    pub(crate) fn create(&self) -> Create {
        let counter = match unified() {
            true => "memory.events",
            false => "memory.oom_control",
        };
        Create {
            log_path: if self.wish.log {
                self.log_path().display().to_string()
            } else {
                String::new()
            },
            terminal: self.wish.terminal,
            stdin: self.wish.stdin,
            stdin_once: self.wish.stdin_once,
            oom_counter: self.cgroup(counter).display().to_string(),
            kill_file: String::new(),
            procs_file: self.cgroup("cgroup.procs").display().to_string(),
            owner_uid: 0,
            owner_gid: 0,
            log_limit: 0,
        }
    }

    pub(crate) fn cgroup(&self, file: &str) -> PathBuf {
        let hierarchy = match unified() {
            true => Path::new(CGROUPS).to_owned(),
            false => Path::new(CGROUPS).join("memory"),
        };
        hierarchy.join(self.cgroup_name()).join(file)
    }

    /// The control group below its hierarchy: on v2 in one of the test's own, as a pod's are.
    fn cgroup_name(&self) -> String {
        match unified() {
            true => format!("{}.above/{}", self.id, self.id),
            false => self.id.clone(),
        }
    }

    /// Pids of all processes in the container, those among them that nobody has reaped yet.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.cgroup("cgroup.procs")).unwrap_or_default();
        text.lines()
            .filter_map(|line| Pid::from_raw(line.parse().ok()?))
            .collect()
    }

    /// Handles of all processes in the container.
    pub(crate) fn processes(&self) -> Vec<OwnedFd> {
        self.pids().into_iter().filter_map(open_process).collect()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The log: stream, tag and text of each record.
    pub(crate) fn log(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(self.log_path()).unwrap();
        let records = text.split_terminator('\n').map(|line| {
            let mut parts = line.splitn(4, ' ').map(str::to_owned);
            let time = parts.next().unwrap();
            assert_eq!((time.len(), time.ends_with('Z')), (30, true), "{line}");
            (
                parts.next().unwrap(),
                parts.next().unwrap(),
                parts.next().unwrap(),
            )
        });
        records.collect()
    }

    /// Texts of all records.
    pub(crate) fn log_texts(&self) -> Vec<String> {
        self.log().into_iter().map(|(_, _, text)| text).collect()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::new(self.try_connect().expect("the shim listens"))
    }

    pub(crate) fn try_connect(&self) -> rustix::io::Result<OwnedFd> {
        let socket = seqpacket();
        let address = SocketAddrUnix::new(self.dir.path().join(SOCKET)).unwrap();
        connect(&socket, &address)?;
        Ok(socket)
    }

    /// Waits for the shim's end, after which nothing of the container may be left.
    pub(crate) fn wait_for_shim(&mut self) {
        let handle = pidfd_open(self.shim, PidfdFlags::empty()).unwrap();
        wait_readable(handle.as_fd());
        let (_, status) = waitpid(Some(self.shim), WaitOptions::empty())
            .unwrap()
            .unwrap();
        self.ended = true;
        assert_eq!(status.exit_status(), Some(0));
        assert!(!self.cgroup("").exists(), "the control group is left");
        let left = fs::read_dir(self.dir.path().join("root")).unwrap();
        let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert!(
            !left.iter().any(|name| *name == *self.id),
            "runtime state is left: {left:?}"
        );
    }

    /// The exit record that lies in the bundle.
    pub(crate) fn record(&self) -> ExitRecord {
        let bytes = fs::read(self.dir.path().join(shim_api::EXIT_RECORD)).unwrap();
        ExitRecord::decode(&bytes[..]).unwrap()
    }

    /// Ends the shim as a crash would.
    pub(crate) fn lose_shim(&mut self) {
        rustix::process::kill_process(self.shim, rustix::process::Signal::KILL).unwrap();
        waitpid(Some(self.shim), WaitOptions::empty()).unwrap();
        self.ended = true;
    }

    /// Runs `wherry-shim delete`; its exit code.
    pub(crate) fn delete(&self) -> Option<i32> {
        let argv = arguments(self.dir.path(), &self.id, &self.runtime, Some("delete"));
        let pid = spawn(&argv, None);
        waitpid(Some(pid), WaitOptions::empty())
            .unwrap()
            .unwrap()
            .1
            .exit_status()
    }

    pub(crate) fn write_config(&self) {
        fs::write(self.dir.path().join("config.json"), self.config()).unwrap();
    }

    fn config(&self) -> String {
        let wish = &self.wish;
        let args = wish
            .args
            .iter()
            .map(|arg| serde_json::to_string(arg).unwrap());
        let args = args.collect::<Vec<_>>().join(",");
        let pids = if wish.host_pids {
            ""
        } else {
            r#"{"type":"pid"},"#
        };
        let memory = wish.memory.map_or(String::new(), |limit| {
            format!(r#","resources":{{"memory":{{"limit":{limit},"swap":{limit}}}}}"#)
        });
        format!(
            r#"{{"ociVersion":"1.0.2","hostname":"test",
            "process":{{"terminal":{terminal},"user":{{"uid":0,"gid":0}},"cwd":"/",
              "args":[{args}],"env":["PATH=/bin","TERM=xterm"]}},
            "root":{{"path":"rootfs"}},
            "mounts":[
              {{"destination":"/proc","type":"proc","source":"proc"}},
              {{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]}},
              {{"destination":"/dev/pts","type":"devpts","source":"devpts",
                "options":["newinstance","ptmxmode=0666","mode=0620"]}}],
            "linux":{{"cgroupsPath":"/{cgroup}","namespaces":[{pids}
              {{"type":"mount"}},{{"type":"uts"}},{{"type":"ipc"}}]{memory}}}}}"#,
            terminal = wish.terminal,
            cgroup = self.cgroup_name(),
        )
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            self.lose_shim();
            self.delete();
        }
        if unified() {
            // Empty by now, or the test has failed already.
            fs::remove_dir(self.cgroup("..")).ok();
        }
    }
}

fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

fn seqpacket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn spawn_shim(bundle: &Path, id: &str, runtime: &Path) -> Pid {
    let listener = seqpacket();
    bind(
        &listener,
        &SocketAddrUnix::new(bundle.join(SOCKET)).unwrap(),
    )
    .unwrap();
    listen(&listener, 8).unwrap();
    spawn(
        &arguments(bundle, id, runtime, None),
        Some(listener.as_fd()),
    )
}

fn arguments(bundle: &Path, id: &str, runtime: &Path, mode: Option<&str>) -> Vec<String> {
    let root = bundle.join("root").display().to_string();
    let flags = [
        "--id",
        id,
        "--bundle",
        bundle.to_str().unwrap(),
        "--runtime",
    ];
    let flags = flags
        .into_iter()
        .chain([runtime.to_str().unwrap(), "--runtime-root", &root]);
    [SHIM]
        .into_iter()
        .chain(mode)
        .chain(flags)
        .map(str::to_owned)
        .collect()
}

/// Starts a program, as the daemon does.
pub(crate) fn spawn(argv: &[String], listener: Option<BorrowedFd<'_>>) -> Pid {
    let words = argv.iter().map(|word| CString::new(&**word).unwrap());
    let argv: Vec<_> = words.collect();
    let mut actions = PosixSpawnFileActions::init().unwrap();
    if let Some(listener) = listener {
        actions.add_dup2(listener.as_raw_fd(), LISTENER_FD).unwrap();
    }
    let attributes = PosixSpawnAttr::init().unwrap();
    let path = CString::new(format!("PATH={}", std::env::var("PATH").unwrap())).unwrap();
    let pid = posix_spawn(argv[0].as_c_str(), &actions, &attributes, &argv, &[path]).unwrap();
    Pid::from_raw(pid.as_raw()).unwrap()
}

/// A handle of a process; it can be read once the process has ended. `None`: reaped already.
pub(crate) fn open_process(pid: Pid) -> Option<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits until there is something to read, or an end.
/// Waits until no process lives in a control group of version 2, by its `cgroup.events`.
pub(crate) fn wait_unpopulated(events: &Path) {
    let file = File::open(events).unwrap();
    let mut text = [0; 128];
    loop {
        let length = file.read_at(&mut text, 0).unwrap();
        if String::from_utf8_lossy(&text[..length]).contains("populated 0") {
            return;
        }
        wait_for(file.as_fd(), PollFlags::PRI);
    }
}

pub(crate) fn wait_readable(fd: BorrowedFd<'_>) {
    wait_for(fd, PollFlags::IN);
}

fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) {
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout));
    assert_eq!(ready, Ok(1), "nothing came within {PATIENCE:?}");
}

/// The daemon's end of a connection.
pub(crate) struct Connection {
    socket: OwnedFd,
    sequence: u64,
    news: VecDeque<Content>,
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            sequence: 0,
            news: VecDeque::new(),
        }
    }

    /// Asks, with descriptors, and waits for the answer.
    pub(crate) fn call_with(
        &mut self,
        call: Call,
        fds: &[BorrowedFd<'_>],
    ) -> (Answer, Vec<OwnedFd>) {
        self.ask(Some(call), fds);
        self.answer()
    }

    pub(crate) fn call(&mut self, call: Call) -> (Answer, Vec<OwnedFd>) {
        self.call_with(call, &[])
    }

    /// Asks for what must succeed without a result.
    pub(crate) fn done(&mut self, call: Call) {
        let name = format!("{call:?}");
        assert!(matches!(self.call(call).0, Answer::Done(_)), "{name}");
    }

    /// Asks for what must fail.
    pub(crate) fn error(&mut self, call: Call) -> Error {
        match self.call(call).0 {
            Answer::Error(error) => error,
            other => panic!("no error but {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, call: Option<Call>, fds: &[BorrowedFd<'_>]) {
        self.sequence += 1;
        let packet = Request {
            sequence: self.sequence,
            call,
            operation: "0123456789abcdef".into(),
        }
        .encode_to_vec();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let packet = [IoSlice::new(&packet)];
        sendmsg(&self.socket, &packet, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    pub(crate) fn answer(&mut self) -> (Answer, Vec<OwnedFd>) {
        loop {
            match self.receive() {
                Some((Content::Reply(reply), fds)) => {
                    assert_eq!(reply.sequence, self.sequence);
                    return (reply.result.expect("a reply has a result"), fds);
                }
                Some((news, _)) => self.news.push_back(news),
                None => panic!("the connection ended before the answer"),
            }
        }
    }

    /// Waits for news; `None`: the connection has ended.
    pub(crate) fn news(&mut self) -> Option<Content> {
        self.news
            .pop_front()
            .or_else(|| self.receive().map(|(content, _)| content))
    }

    /// Waits for the container's end; other news is dropped.
    pub(crate) fn exited(&mut self) -> ExitRecord {
        loop {
            if let Content::Exited(Exited { record }) = self.news().expect("news of the end") {
                return record.unwrap();
            }
        }
    }

    pub(crate) fn exec_exited(&mut self) -> ExecExited {
        match self.news() {
            Some(Content::ExecExited(news)) => news,
            other => panic!("no end of an exec but {other:?}"),
        }
    }

    fn receive(&mut self) -> Option<(Content, Vec<OwnedFd>)> {
        wait_readable(self.socket.as_fd());
        let mut buffer = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(
            &self.socket,
            &mut parts,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .ok()?;
        let fds = ancillary.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights.collect::<Vec<_>>()),
            _ => None,
        });
        let fds = fds.flatten().collect();
        (received.bytes > 0).then(|| {
            (
                Message::decode(&buffer[..received.bytes])
                    .unwrap()
                    .content
                    .unwrap(),
                fds,
            )
        })
    }
}

/// An Exec of a shell script.
pub(crate) fn exec(id: &str, script: &str) -> Exec {
    let script = serde_json::to_string(script).unwrap();
    let process = format!(
        r#"{{"args":["/bin/sh","-c",{script}],"cwd":"/","env":["PATH=/bin"],"user":{{"uid":0,"gid":0}}}}"#
    );
    Exec {
        id: id.to_owned(),
        process: process.into_bytes(),
        ..Exec::default()
    }
}

/// Attaches to standard output.
pub(crate) fn attach_output(connection: &mut Connection) -> File {
    let (own, theirs) = UnixStream::pair().unwrap();
    let attach = Attach {
        stdin: false,
        stdout: true,
        stderr: false,
    };
    let (answer, _) = connection.call_with(Call::Attach(attach), &[theirs.as_fd()]);
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    File::from(OwnedFd::from(own))
}

/// Reads until a word has come; everything that came.
pub(crate) fn read_until(file: &mut File, word: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(word) {
        wait_readable(file.as_fd());
        let mut buffer = [0; 4096];
        let count = file.read(&mut buffer).unwrap();
        assert!(count > 0, "the end came before {word}");
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads to the end.
pub(crate) fn read_all(file: &mut File) -> Vec<u8> {
    let mut data = Vec::new();
    let mut buffer = [0; 64 * 1024];
    loop {
        wait_readable(file.as_fd());
        match file.read(&mut buffer) {
            // EIO: a terminal that has hung up.
            Ok(0) | Err(_) => return data,
            Ok(count) => data.extend_from_slice(&buffer[..count]),
        }
    }
}
