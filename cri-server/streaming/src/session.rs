//! What a caller gives for a ticket: which streams, and who works on them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::mux::{Reader, Writer};
use crate::resize::Resizes;

/// A future in a box, as traits that are used through a pointer return it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a ticket leads to.
#[derive(Debug)]
pub enum Session {
    /// A new process; path `/exec/`.
    Exec(Command),
    /// A container's main process; path `/attach/`.
    Attach(Command),
    /// Ports of a pod; path `/portforward/`.
    PortForward(Forward),
}

/// Streams of a process.
pub struct Command {
    /// Which streams the client will open.
    pub wanted: Wanted,
    /// Who works on them.
    pub target: Box<dyn Target>,
}

/// Which streams of a process a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What it reads.
    pub stdin: bool,
    /// What it writes; with a terminal, everything that it writes.
    pub stdout: bool,
    /// What it writes to its standard error.
    pub stderr: bool,
    /// It has a terminal, whose size the client tells.
    pub tty: bool,
}

/// Why a [`Wanted`] cannot be served: the client's mistake, `InvalidArgument` in CRI.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unfit {
    /// Nothing would be carried.
    #[error("one of stdin, stdout or stderr must be set")]
    Nothing,
    /// A terminal has one output.
    #[error("tty and stderr cannot both be set")]
    TerminalWithStderr,
}

impl Wanted {
    /// Whether it can be served.
    ///
    /// # Errors
    /// [`Unfit`] says why not.
    pub fn check(self) -> Result<(), Unfit> {
        if self.tty && self.stderr {
            return Err(Unfit::TerminalWithStderr);
        }
        if self.stdin || self.stdout || self.stderr {
            Ok(())
        } else {
            Err(Unfit::Nothing)
        }
    }
}

/// Works on the streams of a process. A closure `|streams| async { Outcome }` is one.
pub trait Target: Send {
    /// Runs until the session is over.
    ///
    /// It is dropped when the client leaves; dropping it has to let go of everything.
    /// Streams that it still holds when it is ready are finished before the outcome is sent.
    fn run(self: Box<Self>, streams: Streams) -> Boxed<'static, Outcome>;
}

impl<F, R> Target for F
where
    F: FnOnce(Streams) -> R + Send,
    R: Future<Output = Outcome> + Send + 'static,
{
    fn run(self: Box<Self>, streams: Streams) -> Boxed<'static, Outcome> {
        Box::pin(self(streams))
    }
}

/// A client's ends, as asked for in [`Wanted`].
#[derive(Debug)]
pub struct Streams {
    /// What the client types; its end is the client's half-close.
    pub stdin: Option<Reader>,
    /// Shown to the client; closed when dropped.
    pub stdout: Option<Writer>,
    /// Shown to the client; closed when dropped.
    pub stderr: Option<Writer>,
    /// Sizes of the client's terminal; only with a tty, and not from the oldest clients.
    pub resizes: Option<Resizes>,
}

/// What the client is told at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended, or the client's attachment to it did (0).
    Exit(u8),
    /// It could not be run, or be followed to its end; a sentence for the client's user.
    Error(String),
}

/// Ports of a pod.
#[derive(Clone)]
pub struct Forward {
    /// The ports that were asked for. Only clients of the older WebSocket protocol cannot name
    /// them by themselves and need the list.
    pub ports: Vec<u16>,
    /// Who connects.
    pub dialer: Arc<dyn Dialer>,
}

/// Connects to a pod's ports.
pub trait Dialer: Send + Sync {
    /// A new connection to `port`, which is not 0.
    ///
    /// # Errors
    /// Whatever the client's user shall read.
    fn dial(&self, port: u16) -> Boxed<'_, io::Result<Box<dyn Connection>>>;
}

/// A byte stream in both directions, each closed by itself.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl std::fmt::Debug for Command {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Command")
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Forward")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}
