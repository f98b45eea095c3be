//! Processes whose streams somebody follows, and connections into a pod.
//!
//! The streams of an exec are the process's own pipes or terminal, handed over by the shim: no byte
//! of them passes through the shim. Those of an attachment are copies that the shim makes.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use shim_api::{Attach, Exec, ExecExited, ResizeTerminal, request};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::exec::{self, Session};
use crate::shim::Shim;

/// How long a port of a pod may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Which streams of a process are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// What it reads.
    pub stdin: bool,
    /// What it writes; with a terminal, everything that it writes.
    pub stdout: bool,
    /// What it writes to its standard error.
    pub stderr: bool,
    /// It gets a terminal.
    pub tty: bool,
}

/// A command under way in a container. Dropped before its end, it is ended with all that it
/// started.
#[derive(Debug)]
pub struct ExecSession {
    /// Where it reads from.
    pub stdin: Option<Sender>,
    /// What it writes.
    pub stdout: Option<Receiver>,
    /// What it writes to its standard error.
    pub stderr: Option<Receiver>,
    /// Its terminal; then there are no other streams.
    pub terminal: Option<Terminal>,
    /// How it ends.
    pub end: ExecEnd,
}

/// The end of a command, to be waited for.
#[derive(Debug)]
pub struct ExecEnd {
    session: Session,
    ended: oneshot::Receiver<ExecExited>,
}

/// A client's connection to the streams of a container.
#[derive(Debug)]
pub struct Attachment {
    /// Where the container reads from.
    pub stdin: Option<Sender>,
    /// What the container writes; ends with it.
    pub stdout: Option<Receiver>,
    /// What the container writes to its standard error.
    pub stderr: Option<Receiver>,
    shim: Arc<Shim>,
}

/// The master side of a process's terminal. Clones are the same terminal.
#[derive(Clone, Debug)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

/// Starts a command.
pub(crate) async fn exec(
    shim: &Arc<Shim>,
    id: String,
    process: Vec<u8>,
    root: (u32, u32),
    followed: Followed,
) -> Result<ExecSession, Error> {
    let piped = Followed {
        stdin: followed.stdin && !followed.tty,
        stdout: followed.stdout && !followed.tty,
        stderr: followed.stderr && !followed.tty,
        tty: followed.tty,
    };
    let (streams, theirs) = Pipes::new(piped)?;
    let given = theirs.iter().try_for_each(|pipe| exec::give(pipe, root));
    given.map_err(|error| Error::failed("giving pipes to the container's root", error))?;
    let ended = shim.expect_exec(&id);
    let mut session = Session::new(shim, &id);
    let call = request::Call::Exec(Exec {
        id,
        process,
        terminal: piped.tty,
        stdin: piped.stdin,
        stdout: piped.stdout,
        stderr: piped.stderr,
        deadline_ms: 0,
    });
    let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let started = shim.call(call, &fds).await;
    drop(theirs);
    let (_, mut given) = match started {
        Ok(started) => started,
        Err(error) => {
            session.refused(&error);
            return Err(error);
        }
    };
    let terminal = match (followed.tty, given.pop()) {
        (true, Some(master)) => Some(Terminal::new(master)?),
        (true, None) => return Err(Error::Failed("the shim gave no terminal".into())),
        (false, _) => None,
    };
    Ok(ExecSession {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal,
        end: ExecEnd { session, ended },
    })
}

impl ExecEnd {
    /// Waits for the command's end; answers with its exit code, 128 + N where signal N ended it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`]: the container has gone before.
    pub async fn wait(&mut self) -> Result<i32, Error> {
        let ended = (&mut self.ended).await;
        self.session.ended();
        let ended = ended.map_err(|_closed| {
            Error::WrongState("the container ended while the command ran".into())
        })?;
        Ok(ended.exit_code)
    }
}

/// Connects to the streams of a container.
pub(crate) async fn attach(shim: &Arc<Shim>, followed: Followed) -> Result<Attachment, Error> {
    let (streams, theirs) = Pipes::new(followed)?;
    let call = request::Call::Attach(Attach {
        stdin: followed.stdin,
        stdout: followed.stdout,
        stderr: followed.stderr,
    });
    let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    shim.call(call, &fds).await?;
    Ok(Attachment {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        shim: Arc::clone(shim),
    })
}

impl Attachment {
    /// How the container's terminal is resized while the attachment's streams are in use.
    #[must_use]
    pub fn resizer(&self) -> Resizer {
        Resizer {
            shim: Arc::clone(&self.shim),
        }
    }
}

/// Resizes the terminal of a container.
#[derive(Debug)]
pub struct Resizer {
    shim: Arc<Shim>,
}

impl Resizer {
    /// Sets the terminal's size, in characters.
    ///
    /// # Errors
    ///
    /// The container has no terminal, or has ended.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let call = request::Call::ResizeTerminal(ResizeTerminal {
            width: width.into(),
            height: height.into(),
        });
        self.shim.call(call, &[]).await.map(drop)
    }
}

/// Our ends of a process's pipes.
struct Pipes {
    stdin: Option<Sender>,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
}

impl Pipes {
    /// Makes pipes for the streams that are followed; theirs are in the order of the protocol.
    fn new(followed: Followed) -> Result<(Self, Vec<OwnedFd>), Error> {
        let mut theirs = Vec::new();
        let made = (|| {
            let stdin = followed.stdin.then(|| to_them(&mut theirs)).transpose()?;
            let stdout = followed
                .stdout
                .then(|| from_them(&mut theirs))
                .transpose()?;
            let stderr = followed
                .stderr
                .then(|| from_them(&mut theirs))
                .transpose()?;
            io::Result::Ok(Self {
                stdin,
                stdout,
                stderr,
            })
        })();
        let ours = made.map_err(|error| Error::failed("making pipes", error))?;
        Ok((ours, theirs))
    }
}

fn to_them(theirs: &mut Vec<OwnedFd>) -> io::Result<Sender> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    theirs.push(reader);
    Sender::from_owned_fd(writer)
}

fn from_them(theirs: &mut Vec<OwnedFd>) -> io::Result<Receiver> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    theirs.push(writer);
    Receiver::from_owned_fd(reader)
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::failed("taking over a terminal", error);
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| failed(error.into()))?;
        #[expect(
            deprecated,
            reason = "its heir is unsafe; an OwnedFd upholds what that asks for"
        )]
        let master = AsyncFd::new(master).map_err(failed)?;
        Ok(Self {
            master: Arc::new(master),
        })
    }

    /// Sets the terminal's size, in characters.
    ///
    /// # Errors
    ///
    /// ioctl_tty(2), `TIOCSWINSZ`.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&*self.master, size)?;
        Ok(())
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let read = guard.try_io(|master| Ok(rustix::io::read(master, room)?));
            match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // How a master learns that nobody has the other side any more (pty(7)).
                Ok(Err(error))
                    if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::IO) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            let written = guard.try_io(|master| Ok(rustix::io::write(master, bytes)?));
            if let Ok(written) = written {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Connects to a port of localhost in a network namespace (`None`: the host's), on a thread that
/// enters it and ends.
pub(crate) fn dial(netns: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("dial".into())
            .spawn_scoped(scope, || {
                if let Some(netns) = netns {
                    nix::sched::setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
                }
                connect(port)
            })?
            .join()
            .expect("connecting does not panic")
    })
}

fn connect(port: u16) -> io::Result<std::net::TcpStream> {
    let [v4, v6]: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    std::net::TcpStream::connect_timeout(&v4, DIAL_PATIENCE).or_else(|error| {
        // What the first says is what a client wants to read.
        std::net::TcpStream::connect_timeout(&v6, DIAL_PATIENCE).map_err(|_second| error)
    })
}

/// Makes a connection one of this runtime's.
pub(crate) fn adopt(connection: std::net::TcpStream) -> io::Result<TcpStream> {
    connection.set_nonblocking(true)?;
    TcpStream::from_std(connection)
}
