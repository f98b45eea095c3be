//! What a service manager gives to a service, passed on into a container: listening sockets
//! (sd_listen_fds(3)) and the socket to report readiness to (sd_notify(3)).
//!
//! A container cannot use the manager's socket: what it says there would not count, because it is
//! not the manager's child. So it gets one of its own, and whoever starts it passes on what matters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::failure::{Attempt, Result};
use crate::socket;
use crate::spec::{RawMount, Spec, Text};
use crate::state::Folder;

/// Where a container finds its socket; runc's place.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";

/// Longest message that is read (sd_notify(3) sends a few short lines), bytes.
const MAX_MESSAGE: usize = 4096;

/// Longest wait for the manager to have taken note, seconds; runc's.
const BARRIER_DEADLINE: i64 = 30;

/// Descriptors after the standard streams that are meant for this process.
pub(crate) fn listening() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let own = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id());
    number("LISTEN_FDS").filter(|_| own).unwrap_or(0)
}

/// The manager's socket, if there is one.
fn manager() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|path| path.starts_with(['/', '@']))
}

/// A container would get a socket to report on.
pub(crate) fn is_wanted() -> bool {
    manager().is_some()
}

fn outside(folder: &Folder) -> PathBuf {
    folder.path().join("notify")
}

/// Tells the container of both.
pub(crate) fn add_to(spec: &mut Spec<'_>, folder: &Folder) {
    let text = |text: &str| Text::from(text.to_owned());
    let mut variables = Vec::new();
    let count = listening();
    if count > 0 {
        variables.push(format!("LISTEN_FDS={count}"));
        variables.push("LISTEN_PID=1".to_owned());
    }
    if manager().is_some() {
        variables.push(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"));
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
        spec.mounts.push(RawMount {
            destination: text(INSIDE),
            source: text(&outside(folder).to_string_lossy()),
            options: options.into_iter().map(text).collect(),
            ..RawMount::default()
        });
    }
    if let Some(process) = &mut spec.process {
        process.env.extend(variables.into_iter().map(Text::from));
    }
}

/// Makes the folder for the container's socket, if it gets one.
pub(crate) fn make_folder(folder: &Folder) -> Result<()> {
    if manager().is_none() {
        return Ok(());
    }
    let path = outside(folder);
    std::fs::create_dir(&path).attempt(|| format!("make {path:?}"))
}

/// The container's socket, listened to.
#[derive(Debug)]
pub(crate) struct Readiness {
    socket: UnixDatagram,
    manager: UnixDatagram,
}

impl Readiness {
    /// Listens, if there is a manager to tell and the container was made with a socket.
    pub(crate) fn listen(folder: &Folder) -> Result<Option<Readiness>> {
        let dir = outside(folder);
        let Some(name) = manager().filter(|_| dir.is_dir()) else {
            return Ok(None);
        };
        let path = dir.join(NAME);
        let what = || format!("listen on {path:?}");
        let socket = UnixDatagram::bind(&path).attempt(what)?;
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, all).attempt(what)?;
        let manager = connect(&name).attempt(|| format!("connect to {name:?}"))?;
        Ok(Some(Readiness { socket, manager }))
    }

    /// To be polled for reading.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads one message; `true` once the container is ready, which the manager then knows, and
    /// that `pid` is the process to look after.
    pub(crate) fn pass(&self, pid: i32) -> Result<bool> {
        let mut message = [0_u8; MAX_MESSAGE];
        let length = self
            .socket
            .recv(&mut message)
            .attempt(|| "read what the container reports".to_owned())?;
        let text = String::from_utf8_lossy(&message[..length]);
        let Some(ready) = text.lines().find(|line| line.starts_with("READY=")) else {
            return Ok(false);
        };
        for line in [ready, &format!("MAINPID={pid}")] {
            self.manager
                .send(line.as_bytes())
                .attempt(|| "report to the service manager".to_owned())?;
        }
        Ok(true)
    }

    /// Waits until the container is ready or has ended, and the manager has taken note: it may
    /// only believe what comes from a process that still exists.
    pub(crate) fn wait(&self, process: &OwnedFd, pid: i32) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(process, PollFlags::IN),
            ];
            retry_on_intr(|| poll(&mut fds, None))
                .attempt(|| "wait for the container to be ready".to_owned())?;
            if !fds[0].revents().is_empty() {
                if self.pass(pid)? {
                    return self.barrier();
                }
            } else if !fds[1].revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// sd_notify_barrier(3): the manager closes the pipe when it has seen all that came before.
    fn barrier(&self) -> Result<()> {
        let what = || "wait for the service manager".to_owned();
        let (near, far) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt(what)?;
        socket::send(&self.manager, b"BARRIER=1", far.as_fd()).attempt(what)?;
        drop(far);
        let deadline = Timespec {
            tv_sec: BARRIER_DEADLINE,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&near, PollFlags::empty())];
        retry_on_intr(|| poll(&mut fds, Some(&deadline))).attempt(what)?;
        Ok(())
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
