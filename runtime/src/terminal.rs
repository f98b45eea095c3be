//! Terminals and signals on the host's side: connecting to a console socket, and standing between
//! the caller's terminal and that of a container in the foreground.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::activation::Readiness;
use crate::failure::{Attempt, Failure, Result};
use crate::messages;
use crate::reap::{Ended, reap};
use crate::socket;

/// Bytes that are moved at once.
const CHUNK: usize = 16 * 1024;

/// Connects to the socket that gets the master of a terminal.
pub(crate) fn connect(path: &str) -> Result<OwnedFd> {
    socket::connect(path).attempt(|| format!("connect to console socket {path:?}"))
}

/// Where the master of a new terminal goes.
#[derive(Debug)]
pub(crate) enum Console {
    /// There is no terminal.
    None,
    /// To the caller's socket.
    Socket(OwnedFd),
    /// To this process, which passes everything on.
    Here { near: OwnedFd, far: OwnedFd },
}

impl Console {
    /// By what the command line and the configuration say.
    pub(crate) fn choose(socket: Option<&str>, terminal: bool, detached: bool) -> Result<Console> {
        match (socket.filter(|path| !path.is_empty()), terminal) {
            (Some(path), true) if detached => Ok(Console::Socket(connect(path)?)),
            (Some(_), _) => Err(Failure::new(messages::SOCKET_NEEDS_TERMINAL)),
            (None, true) if detached => Err(Failure::new(messages::TERMINAL_NEEDS_SOCKET)),
            (None, false) => Ok(Console::None),
            (None, true) => {
                let flags = SocketFlags::CLOEXEC;
                let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                    .attempt(|| "make a console socket".to_owned())?;
                Ok(Console::Here { near, far })
            }
        }
    }

    /// For the child.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Console::None => None,
            Console::Socket(socket) | Console::Here { far: socket, .. } => Some(socket),
        }
    }

    /// The master, if it came here.
    pub(crate) fn master(self) -> Result<Option<OwnedFd>> {
        match self {
            Console::None | Console::Socket(_) => Ok(None),
            Console::Here { near, far } => {
                drop(far);
                receive(&near).map(Some)
            }
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let what = || "receive the terminal".to_owned();
    let mut text = [0_u8; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )
    .attempt(what)?;
    let fds = beside.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.flatten().next().ok_or_else(|| Failure::new(what()))
}

/// From now on signals wait to be read from the descriptor; the child resets its own mask.
pub(crate) fn block_signals() -> Result<OwnedFd> {
    let mut all = SigSet::all();
    // Faults of our own must still end us.
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        all.remove(fault);
    }
    all.thread_block().attempt(|| "block signals".to_owned())?;
    let descriptor = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .attempt(|| "make a signal descriptor".to_owned())?;
    descriptor
        .as_fd()
        .try_clone_to_owned()
        .attempt(|| "keep the signal descriptor".to_owned())
}

/// The caller's terminal in raw mode, and back again at the end.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Result<Raw> {
        if !isatty(stdin()) {
            return Ok(Raw(None));
        }
        let before = tcgetattr(stdin()).attempt(|| "read the terminal's settings".to_owned())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .attempt(|| "make the terminal raw".to_owned())?;
        Ok(Raw(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // There is nothing better to do for a terminal that has gone.
            let _gone = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Passes signals and, with a terminal, bytes between the caller and a process until it ends.
pub(crate) fn accompany(
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    master: Option<&OwnedFd>,
    mut readiness: Option<(Readiness, i32)>,
) -> Result<Ended> {
    let raw = master.map(|_| Raw::enter()).transpose()?;
    let mut relay = Relay {
        master,
        output: master.is_some(),
        input: master.is_some(),
    };
    if let Some(master) = master {
        copy_size(master);
    }
    loop {
        let reports = readiness.as_ref().map(|(readiness, _)| readiness.fd());
        let ready = relay.wait(pidfd, signals, reports)?;
        relay.pass(ready);
        if let Some((reports, pid)) = readiness.as_ref().filter(|_| ready.report)
            && reports.pass(*pid)?
        {
            readiness = None;
        }
        if ready.signal {
            forward(signals, pidfd, master)?;
        }
        if ready.end {
            relay.finish();
            drop(raw);
            return reap(pidfd);
        }
    }
}

/// The two directions of a terminal.
#[derive(Debug)]
struct Relay<'a> {
    master: Option<&'a OwnedFd>,
    /// More may come from the container.
    output: bool,
    /// More may come from the caller.
    input: bool,
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    end: bool,
    signal: bool,
    output: bool,
    input: bool,
    report: bool,
}

impl Relay<'_> {
    fn wait(
        &self,
        pidfd: &OwnedFd,
        signals: &OwnedFd,
        reports: Option<BorrowedFd<'_>>,
    ) -> Result<Ready> {
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        // What is not watched stands for itself as the handle, and is not asked about below: a
        // descriptor that has hung up would report that without end.
        let output = self.master.filter(|_| self.output).unwrap_or(pidfd);
        let input = if self.input { stdin() } else { pidfd.as_fd() };
        let mut fds = [
            watch(pidfd.as_fd()),
            watch(signals.as_fd()),
            watch(output.as_fd()),
            watch(input),
            watch(reports.unwrap_or(pidfd.as_fd())),
        ];
        retry_on_intr(|| poll(&mut fds, None)).attempt(|| "wait for the container".to_owned())?;
        let [end, signal, output, input, report] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            end,
            signal,
            output: output && self.output,
            input: input && self.input,
            report: report && reports.is_some(),
        })
    }

    fn pass(&mut self, ready: Ready) {
        let Some(master) = self.master else { return };
        if ready.output {
            self.output = pass(master.as_fd(), stdout());
        }
        if ready.input {
            self.input = pass(stdin(), master.as_fd());
        }
    }

    fn finish(&self) {
        if let Some(master) = self.master.filter(|_| self.output) {
            drain(master);
        }
    }
}

/// Moves what is there; `false` if there will never be more.
fn pass(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut chunk = [0_u8; CHUNK];
    let got = match retry_on_intr(|| read(from, &mut chunk)) {
        // A terminal whose other side is closed gives EIO.
        Ok(0) | Err(Errno::IO) => return false,
        Ok(got) => got,
        Err(error) => return error == Errno::AGAIN,
    };
    let mut rest = &chunk[..got];
    while !rest.is_empty() {
        match retry_on_intr(|| write(to, rest)) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return false,
        }
    }
    true
}

/// What a process wrote before it ended.
fn drain(master: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ready = retry_on_intr(|| poll(&mut fds, Some(&now))).unwrap_or(0);
        if ready == 0
            || !fds[0].revents().contains(PollFlags::IN)
            || !pass(master.as_fd(), stdout())
        {
            return;
        }
    }
}

fn copy_size(master: &OwnedFd) {
    // Without a terminal of the caller's there is no size to copy.
    if let Ok(size) = tcgetwinsize(stdin()) {
        let _gone = tcsetwinsize(master, size);
    }
}

/// Every waiting signal goes to the process; a change of size to its terminal.
fn forward(signals: &OwnedFd, pidfd: &OwnedFd, master: Option<&OwnedFd>) -> Result<()> {
    /// Size of `struct signalfd_siginfo` (signalfd(2)); its first field is the number.
    const SIZE: usize = 128;
    let mut info = [0_u8; SIZE];
    loop {
        match retry_on_intr(|| read(signals, &mut info)) {
            Ok(SIZE) => {}
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error).attempt(|| "read a signal".to_owned()),
        }
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        match (number, master) {
            (WINCH, Some(master)) => copy_size(master),
            // Orphans that came to us end with us; the main one is seen by its handle.
            (CHLD, _) => {}
            _ => {
                // It may have ended just now, or be of a user that we may not signal any more.
                drop(sys::process::pidfd_send_signal(pidfd.as_fd(), number));
            }
        }
    }
}

const CHLD: i32 = 17;
const WINCH: i32 = 28;
