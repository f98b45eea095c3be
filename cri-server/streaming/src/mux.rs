//! One connection shared by several streams: readers and writers of each, and the driver that
//! moves bytes between them and the socket.
//!
//! Everything that waits is bounded: what a client sends waits in its stream's inbox, and when
//! one is full the socket is not read; what we send waits in the outbox, and when it is full
//! writers wait. No task is needed: the driver is a future that its owner polls beside the work.
//!
//! ```text
//!   Writer --poll_write--> [wire] --> outbox --+
//!                                              |-- Driver <--> socket
//!   Reader <--poll_read--- inbox <-- [wire] <--+
//! ```

mod driver;
mod handles;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

pub(crate) use self::driver::Driver;
pub use self::handles::{Reader, Writer};
use crate::spdy::MAX_STREAMS;
use crate::wire::{Event, Headers, Wire, WireError};

/// Bytes that may wait for the reader of one stream before the socket is no longer read.
const INBOX: usize = 256 * 1024;
/// The same for all streams of a connection together.
const ALL_INBOXES: usize = 1024 * 1024;
/// Bytes that may wait for the socket before writers wait.
const OUTBOX: usize = 256 * 1024;
/// Bytes on top of [`OUTBOX`] for what the protocol answers by itself; a client that pings
/// without reading the answers is no longer read beyond that.
const ANSWERS: usize = 64 * 1024;

/// A connection, shared by its driver, readers and writers.
#[derive(Clone, Debug)]
pub(crate) struct Mux {
    core: Arc<Mutex<Core>>,
}

/// A stream that the client opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Its number.
    pub(crate) stream: u32,
    /// What the client says of it.
    pub(crate) headers: Headers,
    /// What it sends.
    pub(crate) reader: Reader,
    /// What it receives.
    pub(crate) writer: Writer,
}

/// How far the connection's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Streams work.
    Open,
    /// The last words are written; they go out and nothing comes in.
    Closing,
    /// There is nobody at the other end.
    Gone,
}

/// Who ended it.
#[derive(Clone, Copy, Debug)]
enum Parting {
    /// We said goodbye.
    Ours,
    /// The client did.
    Theirs,
    /// The client broke a rule.
    Broken(WireError),
}

/// What arrived on one stream.
#[derive(Debug, Default)]
struct Inbox {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<StreamEnd>,
    reader: Option<Waker>,
}

/// How a stream's data ended.
#[derive(Clone, Copy, Debug)]
enum StreamEnd {
    Finished,
    Reset,
}

#[derive(Debug)]
struct Core {
    wire: Box<dyn Wire>,
    phase: Phase,
    /// Set once the phase is no longer open, unless the socket broke.
    parting: Option<Parting>,
    outbox: BytesMut,
    /// One for each stream that somebody may still read.
    inboxes: HashMap<u32, Inbox>,
    /// Bytes in all inboxes.
    waiting: usize,
    opened: VecDeque<(u32, Headers)>,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
    /// Who waits for the end.
    watcher: Option<Waker>,
    writers: HashMap<u32, Waker>,
    /// Kept for its room.
    scratch: Vec<u8>,
}

impl Mux {
    /// A connection without streams.
    pub(crate) fn new(wire: Box<dyn Wire>) -> Self {
        let core = Core {
            wire,
            phase: Phase::Open,
            parting: None,
            outbox: BytesMut::new(),
            inboxes: HashMap::new(),
            waiting: 0,
            opened: VecDeque::new(),
            driver: None,
            acceptor: None,
            watcher: None,
            writers: HashMap::new(),
            scratch: Vec::new(),
        };
        Self {
            core: Arc::new(Mutex::new(core)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // No code panics in the middle of a change; and if it did, only this connection suffers.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both ends of a stream, which exists from now on if the client does not open it. Dropping
    /// one says that it is not wanted.
    pub(crate) fn ends(&self, stream: u32) -> (Reader, Writer) {
        self.lock().inboxes.entry(stream).or_default();
        (
            Reader::new(self.clone(), stream),
            Writer::new(self.clone(), stream),
        )
    }

    /// The next stream that the client opens; none when the connection is over.
    pub(crate) async fn incoming(&self) -> Option<Incoming> {
        let (stream, headers) = poll_fn(|context| self.lock().poll_opened(context)).await?;
        let (reader, writer) = self.ends(stream);
        Some(Incoming {
            stream,
            headers,
            reader,
            writer,
        })
    }

    /// Welcomes a stream.
    pub(crate) fn accept(&self, stream: u32) {
        self.lock().say(|wire, out| wire.accept(stream, out));
    }

    /// Sends a stream away that was not accepted.
    pub(crate) fn refuse(&self, stream: u32) {
        self.lock().say(|wire, out| wire.reset(stream, true, out));
    }

    /// Gives a stream up in both directions.
    pub(crate) fn abandon(&self, stream: u32) {
        self.lock().say(|wire, out| wire.reset(stream, false, out));
    }

    /// Says goodbye: what was written still goes out, then the driver ends.
    pub(crate) fn close(&self, well: bool) {
        self.lock().close(Parting::Ours, well);
    }

    /// Waits until streams no longer work, whatever the reason.
    pub(crate) async fn over(&self) {
        poll_fn(|context| {
            let mut core = self.lock();
            if core.phase != Phase::Open {
                return Poll::Ready(());
            }
            core.watcher = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Core {
    fn poll_opened(&mut self, context: &Context<'_>) -> Poll<Option<(u32, Headers)>> {
        if let Some(opened) = self.opened.pop_front() {
            wake(&mut self.driver);
            return Poll::Ready(Some(opened));
        }
        if self.phase != Phase::Open {
            return Poll::Ready(None);
        }
        self.acceptor = Some(context.waker().clone());
        Poll::Pending
    }

    /// Lets the wire write, and the driver know.
    fn say(&mut self, write: impl FnOnce(&mut dyn Wire, &mut Vec<u8>)) {
        if self.phase != Phase::Open {
            return;
        }
        write(self.wire.as_mut(), &mut self.scratch);
        self.outbox.extend_from_slice(&self.scratch);
        self.scratch.clear();
        wake(&mut self.driver);
    }

    /// Says goodbye, once.
    fn close(&mut self, parting: Parting, well: bool) {
        if self.phase == Phase::Open {
            self.say(|wire, out| wire.goodbye(well, out));
            self.parting = Some(parting);
            self.enter(Phase::Closing);
        }
    }

    /// Takes what the socket gave.
    fn receive(&mut self, bytes: &[u8]) {
        let mut events = Vec::new();
        let result = self.wire.receive(bytes, &mut self.scratch, &mut events);
        self.outbox.extend_from_slice(&self.scratch);
        self.scratch.clear();
        for event in events {
            self.apply(event);
        }
        if let Err(error) = result {
            self.close(Parting::Broken(error), false);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Opened { stream, headers } => {
                self.inboxes.insert(stream, Inbox::default());
                self.opened.push_back((stream, headers));
                wake(&mut self.acceptor);
            }
            Event::Data { stream, bytes } => {
                // Without an inbox nobody wants it.
                if let Some(inbox) = self.inboxes.get_mut(&stream) {
                    inbox.bytes += bytes.len();
                    self.waiting += bytes.len();
                    inbox.chunks.push_back(bytes);
                    wake(&mut inbox.reader);
                }
            }
            Event::Finished(stream) => self.end(stream, StreamEnd::Finished),
            Event::Reset(stream) => self.end(stream, StreamEnd::Reset),
            Event::Left => self.close(Parting::Theirs, true),
        }
    }

    fn end(&mut self, stream: u32, end: StreamEnd) {
        if let Some(inbox) = self.inboxes.get_mut(&stream) {
            inbox.end.get_or_insert(end);
            wake(&mut inbox.reader);
        }
        if let Some(writer) = self.writers.remove(&stream) {
            writer.wake();
        }
    }

    /// Forgets a stream's inbox, with what is in it.
    fn forget(&mut self, stream: u32) {
        if let Some(inbox) = self.inboxes.remove(&stream) {
            self.waiting -= inbox.bytes;
            wake(&mut self.driver);
        }
    }

    /// Goes on to a later phase; everybody looks again.
    fn enter(&mut self, phase: Phase) {
        if self.phase == Phase::Gone {
            return;
        }
        self.phase = phase;
        wake(&mut self.driver);
        wake(&mut self.acceptor);
        wake(&mut self.watcher);
        self.inboxes
            .values_mut()
            .for_each(|inbox| wake(&mut inbox.reader));
        self.wake_writers();
    }

    fn wake_writers(&mut self) {
        self.writers.drain().for_each(|(_, writer)| writer.wake());
    }

    /// Whether the socket is to be left unread for now.
    fn is_full(&self) -> bool {
        self.phase == Phase::Open
            && (self.waiting >= ALL_INBOXES
                || self.outbox.len() >= OUTBOX + ANSWERS
                || self.opened.len() >= MAX_STREAMS
                || self.inboxes.values().any(|inbox| inbox.bytes >= INBOX))
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
