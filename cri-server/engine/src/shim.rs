//! The daemon's end of the shim protocol: start a shim, connect to it, call it, hear its news.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pod::container::Resources;
use prost::Message as _;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use shim_api::{ExecExited, ExitRecord, Message, Reply, Request, message, reply, request};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;

/// Longest time that a shim may take to answer: it covers a slow OCI runtime on a loaded machine.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// Longest time that undoing what a lost shim left may take.
const DELETE_PATIENCE: Duration = Duration::from_secs(30);

/// Connections that may wait until the shim accepts them.
const BACKLOG: i32 = 16;

/// File in the bundle with the shim's pid, for ending one that hangs.
const PID_FILE: &str = "shim.pid";

/// News of a container.
#[derive(Debug)]
pub(crate) enum News {
    /// It has ended, and how; the same record lies on disk, unless that is full.
    Exited(String, ExitRecord),
    /// Its shim has gone.
    Gone(String),
    /// A plugin of the node wants other limits for it.
    Change {
        id: String,
        wanted: Box<Resources>,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// What a shim is started with.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) container: String,
    pub(crate) bundle: PathBuf,
    pub(crate) runtime: PathBuf,
    pub(crate) runtime_root: PathBuf,
    pub(crate) systemd_cgroup: bool,
    /// Soft limit of open files, where it is not ours.
    pub(crate) open_files: Option<u64>,
    /// Names the operation under way.
    pub(crate) operation: fn() -> String,
}

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Shim {
    socket: AsyncFd<OwnedFd>,
    sequence: AtomicU64,
    waiting: Mutex<Waiting>,
    operation: fn() -> String,
}

/// Who waits for what. Once closed, nobody waits any more.
#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    replies: HashMap<u64, oneshot::Sender<(reply::Result, Vec<OwnedFd>)>>,
    execs: HashMap<String, oneshot::Sender<ExecExited>>,
}

const LOCK: &str = "no thread panics while it holds this lock";

/// Starts a shim. Its socket can be connected to when this returns.
pub(crate) fn start(launch: &Launch) -> io::Result<()> {
    let listener = listen(&launch.bundle)?;
    let mut child = command(launch, Stdio::from(listener)).spawn()?;
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Neither is worth a container: a shim with our limit, or one that is not known by its pid.
        if let Err(error) = describe(launch, pid) {
            tracing::warn!(container = launch.container, %error, "setting up a shim");
        }
    }
    // The task reaps it; a shim that outlives the daemon is reaped by the system's init.
    #[expect(
        clippy::disallowed_methods,
        reason = "owns the child that was just made"
    )]
    drop(tokio::spawn(async move { drop(child.wait().await) }));
    Ok(())
}

/// Notes the pid of a shim that was just started, and gives it its limit of open files.
fn describe(launch: &Launch, pid: i32) -> io::Result<()> {
    std::fs::write(launch.bundle.join(PID_FILE), pid.to_string())?;
    launch
        .open_files
        .map_or(Ok(()), |limit| limit_open_files(pid, limit))
}

/// Sets the soft limit of a process; all that it starts from then on have it too.
fn limit_open_files(pid: i32, limit: u64) -> io::Result<()> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let limit = Rlimit {
        current: Some(limit),
        ..getrlimit(Resource::Nofile)
    };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit)?;
    Ok(())
}

/// Ends a shim that hangs. The pid may be another's by now: its command line tells.
pub(crate) fn kill(launch: &Launch) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let text = std::fs::read_to_string(launch.bundle.join(PID_FILE))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("its pid file holds no pid"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    let mut words = command.split(|byte| *byte == 0);
    if words.any(|word| word == launch.container.as_bytes()) {
        pidfd_send_signal(process, Signal::KILL)?;
    }
    Ok(())
}

/// Undoes what a lost shim left of a container.
pub(crate) async fn delete(launch: &Launch) -> Result<(), Error> {
    let what = || format!("deleting what is left of container {}", launch.container);
    let mut command = command(launch, Stdio::null());
    command.arg("delete").process_group(0).kill_on_drop(true);
    match tokio::time::timeout(DELETE_PATIENCE, command.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(Error::failed(what(), status)),
        Ok(Err(error)) => Err(Error::failed(what(), error)),
        Err(elapsed) => Err(Error::failed(what(), elapsed)),
    }
}

fn command(launch: &Launch, stdin: Stdio) -> tokio::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the one place that starts shims")]
    let mut command = tokio::process::Command::new(&launch.program);
    command
        .arg("--id")
        .arg(&launch.container)
        .arg("--bundle")
        .arg(&launch.bundle)
        .arg("--runtime")
        .arg(&launch.runtime)
        .arg("--runtime-root")
        .arg(&launch.runtime_root)
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if launch.systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    command
}

/// A path to the socket that is short enough for a socket address, however deep the bundle lies.
fn address(bundle: &OwnedFd) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{}", bundle.as_raw_fd(), shim_api::SOCKET);
    Ok(SocketAddrUnix::new(path)?)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn listen(bundle: &Path) -> io::Result<OwnedFd> {
    let folder = open_folder(bundle)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &address(&folder)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn connect_socket(bundle: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let folder = open_folder(bundle)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address(&folder)?)?;
    #[expect(
        deprecated,
        reason = "its heir is unsafe; an OwnedFd upholds what that asks for"
    )]
    AsyncFd::new(socket)
}

impl Shim {
    /// Connects to the shim of a bundle. Its news go to `news`, the last of them being
    /// [`News::Gone`].
    ///
    /// # Errors
    ///
    /// `ECONNREFUSED` or `ENOENT`: there is no shim.
    pub(crate) fn connect(
        launch: &Launch,
        news: mpsc::UnboundedSender<News>,
    ) -> io::Result<Arc<Self>> {
        let shim = Arc::new(Self {
            socket: connect_socket(&launch.bundle)?,
            sequence: AtomicU64::new(1),
            waiting: Mutex::default(),
            operation: launch.operation,
        });
        let reader = Arc::clone(&shim);
        let container = launch.container.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the one reader of this connection"
        )]
        drop(tokio::spawn(async move {
            reader.read_all(container, &news).await
        }));
        Ok(shim)
    }

    /// Whether the connection has ended, which [`News::Gone`] tells a little later.
    pub(crate) fn is_gone(&self) -> bool {
        self.waiting.lock().expect(LOCK).closed
    }

    /// Commands that it runs beside the container's own process.
    pub(crate) fn exec_sessions(&self) -> usize {
        self.waiting.lock().expect(LOCK).execs.len()
    }

    /// Makes a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        call: request::Call,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(reply::Result, Vec<OwnedFd>), Error> {
        self.call_within(CALL_PATIENCE, call, fds).await
    }

    /// The same for a request that may take longer than others, or must not.
    pub(crate) async fn call_within(
        &self,
        patience: Duration,
        call: request::Call,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(reply::Result, Vec<OwnedFd>), Error> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().expect(LOCK);
            if waiting.closed {
                return Err(gone());
            }
            waiting.replies.insert(sequence, sender);
        }
        let bytes = Request {
            sequence,
            call: Some(call),
            operation: (self.operation)(),
        }
        .encode_to_vec();
        let answer = tokio::time::timeout(patience, async {
            self.send(&bytes, fds)
                .await
                .map_err(|error| Error::failed("calling a shim", error))?;
            receiver.await.map_err(|_closed| gone())
        });
        let answer = answer.await.unwrap_or_else(|_elapsed| {
            Err(Error::DeadlineExceeded(format!(
                "a shim did not answer within {patience:?}"
            )))
        });
        self.waiting.lock().expect(LOCK).replies.remove(&sequence);
        match answer? {
            (reply::Result::Error(error), _) => Err(translate(error)),
            success => Ok(success),
        }
    }

    /// The end of an exec session, once it comes. To be called before the session is asked for.
    pub(crate) fn expect_exec(&self, id: &str) -> oneshot::Receiver<ExecExited> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect(LOCK);
        if !waiting.closed {
            waiting.execs.insert(id.to_owned(), sender);
        }
        receiver
    }

    /// Stops waiting for an exec session.
    pub(crate) fn forget_exec(&self, id: &str) {
        self.waiting.lock().expect(LOCK).execs.remove(id);
    }

    async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > shim_api::MAX_PACKET {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a request of {} bytes is over {}",
                    bytes.len(),
                    shim_api::MAX_PACKET
                ),
            ));
        }
        loop {
            let mut guard = self.socket.writable().await?;
            if let Ok(sent) = guard.try_io(|socket| send_now(socket.as_fd(), bytes, fds)) {
                return sent;
            }
        }
    }

    async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.socket.readable().await?;
            if let Ok(received) = guard.try_io(|socket| receive_now(socket.as_fd())) {
                return received;
            }
        }
    }

    async fn read_all(&self, container: String, news: &mpsc::UnboundedSender<News>) {
        loop {
            match self.receive().await {
                Ok(Some((message, fds))) => self.hear(&container, message, fds, news),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(container, %error, "the connection to a shim broke");
                    break;
                }
            }
        }
        let mut waiting = self.waiting.lock().expect(LOCK);
        *waiting = Waiting {
            closed: true,
            ..Waiting::default()
        };
        drop(waiting);
        // Nobody listens any more when the pod's task has ended; then there is nobody to tell.
        drop(news.send(News::Gone(container)));
    }

    fn hear(
        &self,
        container: &str,
        message: Message,
        fds: Vec<OwnedFd>,
        news: &mpsc::UnboundedSender<News>,
    ) {
        let mut waiting = self.waiting.lock().expect(LOCK);
        match message.content {
            Some(message::Content::Reply(Reply {
                sequence,
                result: Some(result),
            })) => {
                if let Some(sender) = waiting.replies.remove(&sequence) {
                    drop(sender.send((result, fds)));
                }
            }
            Some(message::Content::ExecExited(exited)) => {
                if let Some(sender) = waiting.execs.remove(&exited.id) {
                    drop(sender.send(exited));
                }
            }
            Some(message::Content::Exited(shim_api::Exited {
                record: Some(record),
            })) => {
                drop(news.send(News::Exited(container.to_owned(), record)));
            }
            _ => tracing::debug!(container, "a shim said something unknown"),
        }
    }
}

fn gone() -> Error {
    Error::WrongState("the container's shim has gone".into())
}

fn translate(error: shim_api::Error) -> Error {
    use shim_api::error::Kind;
    match error.kind() {
        Kind::WrongState => Error::WrongState(error.message),
        Kind::Invalid => Error::Invalid(error.message),
        Kind::UnknownRequest => Error::Unsupported(error.message),
        _ => Error::Failed(error.message),
    }
}

fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(shim_api::MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let parts = [io::IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads one packet into a buffer of just its size: connections are many and mostly idle.
fn receive_now(socket: BorrowedFd<'_>) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let (_, length) = rustix::net::recv(
        socket,
        &mut [0_u8; 0][..],
        RecvFlags::PEEK | RecvFlags::TRUNC,
    )?;
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; length.min(shim_api::MAX_PACKET)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(shim_api::MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let message = Message::decode(&bytes[..received.bytes.min(bytes.len())])?;
    Ok(Some((message, fds)))
}

/// Reads the exit record of a bundle; `None` if there is none.
pub(crate) fn exit_record(bundle: &Path) -> io::Result<Option<ExitRecord>> {
    match std::fs::read(bundle.join(shim_api::EXIT_RECORD)) {
        Ok(bytes) => Ok(Some(ExitRecord::decode(&bytes[..])?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
