//! Moves bytes between a connection's socket and its streams.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::{Core, Mux, OUTBOX, Parting, Phase};
use crate::wire::WireError;

/// Bytes read from the socket at once.
const READ: usize = 32 * 1024;
/// How long a client may take to close after the last words reached its kernel.
const LINGER: Duration = Duration::from_secs(5);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// We said goodbye, and everything went out.
    #[error("the session is over")]
    Closed,
    /// The client closed.
    #[error("the client left")]
    Left,
    /// Nothing moved for too long.
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
    /// The client's bytes cannot be followed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The socket failed.
    #[error("cannot use the connection: {0}")]
    Socket(#[from] io::Error),
}

/// The future that does it; it ends with the connection.
#[derive(Debug)]
pub(crate) struct Driver<S> {
    mux: Mux,
    socket: S,
    buffer: Box<[u8]>,
    idle: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
    farewell: Farewell,
}

/// What of the closing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// Bytes have to go out first.
    Pending,
    /// The client knows; it gets [`LINGER`] to close.
    Said,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// `idle`: how long nothing may move.
    pub(crate) fn new(mux: Mux, socket: S, idle: Duration) -> Self {
        let buffer = vec![0; READ].into_boxed_slice();
        let timer = Box::pin(sleep(idle));
        let moved = Instant::now();
        Self {
            mux,
            socket,
            buffer,
            idle,
            moved,
            timer,
            farewell: Farewell::Pending,
        }
    }

    /// Writes what waits; whether anything moved.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut core = self.mux.lock();
        let mut moved = false;
        while core.outbox.has_remaining() {
            match Pin::new(&mut self.socket).poll_write(context, &core.outbox) {
                Poll::Pending if moved => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(written) => match written? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => core.sent(written),
                },
            }
            moved = true;
        }
        drop(core);
        if moved {
            return Poll::Ready(Ok(true));
        }
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        Poll::Ready(Ok(false))
    }

    /// Reads what arrived; none when it is not the time to, zero at the end.
    fn poll_in(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        if self.mux.lock().is_full() {
            return Poll::Ready(Ok(None));
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        let bytes = buffer.filled();
        let mut core = self.mux.lock();
        // While closing the client's bytes are only read so that the kernel does not answer
        // them with a reset, which would throw away what the client has not read yet.
        if core.phase == Phase::Open && !bytes.is_empty() {
            core.receive(bytes);
        }
        Poll::Ready(Ok(Some(bytes.len())))
    }

    /// Ends the outgoing direction when everything is out; whether that just happened.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.farewell == Farewell::Said || self.mux.lock().phase != Phase::Closing {
            return Poll::Ready(Ok(false));
        }
        ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
        self.farewell = Farewell::Said;
        self.moved = Instant::now();
        Poll::Ready(Ok(true))
    }

    fn limit(&self) -> Duration {
        match self.farewell {
            Farewell::Pending => self.idle,
            Farewell::Said => LINGER,
        }
    }

    /// Everything that can be done now; ready when the connection is over.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mux.lock().driver = Some(context.waker().clone());
        loop {
            let mut moved = false;
            if let Poll::Ready(wrote) = self.poll_out(context) {
                moved |= wrote?;
                if !moved && let Poll::Ready(said) = self.poll_farewell(context) {
                    moved |= said?;
                }
            }
            if let Poll::Ready(read) = self.poll_in(context) {
                match read? {
                    Some(0) => return Poll::Ready(Ok(())),
                    read => moved |= read.is_some(),
                }
            }
            if !moved {
                return Poll::Pending;
            }
            if self.farewell == Farewell::Pending {
                self.moved = Instant::now();
            }
        }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = self.moved + self.limit();
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }

    /// The end, with everybody told of it; `end` counts unless the connection was closing.
    fn end(&mut self, end: End) -> End {
        let mut core = self.mux.lock();
        core.enter(Phase::Gone);
        match core.parting {
            Some(Parting::Ours) => End::Closed,
            Some(Parting::Theirs) => End::Left,
            Some(Parting::Broken(error)) => End::Wire(error),
            None => end,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        if let Poll::Ready(result) = this.poll_step(context) {
            let end = result.map_or_else(End::Socket, |()| End::Left);
            return Poll::Ready(this.end(end));
        }
        ready!(this.poll_timer(context));
        Poll::Ready(this.end(End::Idle(this.idle)))
    }
}

impl Core {
    fn sent(&mut self, bytes: usize) {
        self.outbox.advance(bytes);
        if self.outbox.len() < OUTBOX {
            self.wake_writers();
        }
    }
}
