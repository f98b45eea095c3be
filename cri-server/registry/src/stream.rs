//! A blob as one stream of bytes, whatever happens to the connections that bring it.
//!
//! ```text
//! registry -- connection, taken up where it broke --.
//!         `-- lanes: parts ahead, if that is slow --+--> Sink | bounded queue | Stream -> unpacking
//! ```
//!
//! Nothing is checked here: the reader knows length and digest.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::Error;
use crate::body::Pace;
use crate::lanes::Lanes;
use crate::limits::Limits;
use crate::manifest::Descriptor;
use crate::repository::Repository;
use crate::send::backoff;
use crate::span::Span;

/// What of a blob may wait to be read, in bytes.
const MAX_WAITING: u32 = 1 << 20;
/// In how many parts; each is what one read of the socket gave.
const MAX_WAITING_PARTS: usize = 256;
/// What a connection has to bring before a later failure counts as the first again, in bytes.
pub(crate) const PROGRESS: u64 = 1 << 20;

/// A part of a blob as it is sent.
enum Part {
    /// What came in; room for it is taken as long as it waits.
    Bytes(Bytes, OwnedSemaphorePermit),
    End,
    Failed(Error),
}

/// Who is told how many bytes of a blob have come in.
type Told = Box<dyn Fn(u64) + Send + Sync>;

/// Where the bytes of a blob go.
pub struct Sink {
    sender: mpsc::Sender<Part>,
    room: Arc<Semaphore>,
    told: Told,
}

/// Where they come out, in order, for a thread that may wait.
#[derive(Debug)]
pub struct Stream {
    receiver: mpsc::Receiver<Part>,
    part: Bytes,
    /// The room that the current part takes.
    room: Option<OwnedSemaphorePermit>,
    /// How it ended: from then on every read answers so.
    end: Option<Result<(), Error>>,
}

/// Both ends. `told` hears, each time that some came in, how many bytes that makes altogether; it
/// must not wait.
pub fn pipe(told: impl Fn(u64) + Send + Sync + 'static) -> (Sink, Stream) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING_PARTS);
    let sink = Sink {
        sender,
        room: Arc::new(Semaphore::new(MAX_WAITING as usize)),
        told: Box::new(told),
    };
    let stream = Stream {
        receiver,
        part: Bytes::new(),
        room: None,
        end: None,
    };
    (sink, stream)
}

/// Hands a blob on as it comes in, and then its end, or why there is none.
pub async fn feed(repository: &Arc<Repository>, blob: &Descriptor, sink: Sink) {
    let mut feed = Feed {
        repository,
        blob,
        sink: &sink,
        done: 0,
        parts: blob.size >= repository.limits().wide_from,
    };
    let last = feed.run().await;
    // If nobody takes it, the reader has ended with an error of its own.
    drop(sink.sender.send(last).await);
}

/// What ended one way of fetching.
pub(crate) enum Turn {
    /// It has all, or nobody wants more.
    End,
    /// It cannot be had.
    Failed(Error),
    /// The connection broke.
    Broken(String),
    /// The reader is faster than this connection.
    Starving(OwnedSemaphorePermit),
    /// The host does not send parts after all.
    NoParts,
}

struct Feed<'a> {
    repository: &'a Arc<Repository>,
    blob: &'a Descriptor,
    sink: &'a Sink,
    /// How many bytes were handed on.
    done: u64,
    /// Whether it may be fetched in parts.
    parts: bool,
}

impl Feed<'_> {
    async fn run(&mut self) -> Part {
        let mut failures = Setbacks::default();
        let mut turn = self.straight().await;
        loop {
            turn = match turn {
                Turn::End => return Part::End,
                Turn::Failed(error) => return Part::Failed(error),
                Turn::Starving(room) => self.wide(room).await,
                Turn::NoParts => {
                    self.parts = false;
                    self.straight().await
                }
                Turn::Broken(_) if self.done >= self.blob.size => return Part::End,
                Turn::Broken(text) => match failures.pause(self.done, self.repository.limits()) {
                    Some(pause) => {
                        tokio::time::sleep(pause).await;
                        self.straight().await
                    }
                    None => return Part::Failed(lost(self.blob, &text, self.done)),
                },
            }
        }
    }

    /// Hands on what one connection brings.
    async fn straight(&mut self) -> Turn {
        let repository = self.repository;
        let answer = match repository.blob(self.blob, Span::after(self.done)).await {
            Ok(answer) => answer,
            Err(Error::Unavailable(text)) if self.done > 0 => return Turn::Broken(text),
            Err(error) => return Turn::Failed(error),
        };
        let may_widen = self.parts && answer.knows_parts();
        let mut skip = self.done - answer.begins;
        let (mut response, limits) = (answer.response, repository.limits());
        let (mut pace, mut hunger) = (Pace::default(), Hunger::new(limits));
        loop {
            let asked = Instant::now();
            let mut bytes = match pace.chunk(&mut response, limits).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Turn::End,
                Err(text) => {
                    answer
                        .source
                        .iter()
                        .for_each(|s| repository.sources.broke(*s));
                    return Turn::Broken(text);
                }
            };
            hunger.waited(asked.elapsed());
            let known = skip.min(bytes.len() as u64);
            skip -= known;
            bytes = bytes.slice(usize::try_from(known).unwrap_or(bytes.len())..);
            if !self.hand_on(bytes).await {
                return Turn::End;
            }
            let left = self.blob.size.saturating_sub(self.done);
            if may_widen && left >= 2 * limits.part && hunger.look(self.done).is_some() {
                // Without room for a part this connection has to do.
                let room = Arc::clone(&repository.ahead).try_acquire_owned();
                if let Ok(room) = room {
                    return Turn::Starving(room);
                }
            }
        }
    }

    /// Fetches the rest in parts, several of them at the same time.
    async fn wide(&mut self, room: OwnedSemaphorePermit) -> Turn {
        tracing::debug!(blob = %self.blob.digest, from = self.done, "fetching in parts");
        let mut hunger = Hunger::new(self.repository.limits());
        let mut lanes = Lanes::new(self.repository, self.blob, self.done, room);
        loop {
            let asked = Instant::now();
            let bytes = match lanes.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Turn::End,
                Err(turn) => return turn,
            };
            hunger.waited(asked.elapsed());
            if !self.hand_on(bytes).await {
                return Turn::End;
            }
            if let Some(rate) = hunger.look(self.done) {
                lanes.still_starving(rate);
            }
        }
    }

    /// `false` if nobody takes it any more.
    async fn hand_on(&mut self, bytes: Bytes) -> bool {
        self.done += bytes.len() as u64;
        (self.sink.told)(self.done);
        bytes.is_empty() || self.sink.hand_on(bytes).await
    }
}

/// Why a blob cannot be had, after all attempts.
pub(crate) fn lost(blob: &Descriptor, text: &str, done: u64) -> Error {
    let Descriptor { digest, size, .. } = blob;
    Error::Unavailable(format!(
        "layer {digest}: {text}, {done} of {size} bytes received"
    ))
}

/// Counts failures; those before some progress are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Setbacks {
    count: u32,
    at: u64,
}

impl Setbacks {
    /// How long to wait after a failure when so much is done; nothing if it was the last.
    pub(crate) fn pause(&mut self, done: u64, limits: &Limits) -> Option<Duration> {
        if done.saturating_sub(self.at) >= PROGRESS {
            self.count = 0;
        }
        (self.count, self.at) = (self.count + 1, done);
        (self.count < limits.attempts).then(|| backoff(limits.pause, self.count))
    }
}

/// Tells whether the reader waits for the network, or the network for the reader.
#[derive(Debug)]
struct Hunger {
    over: Duration,
    since: Instant,
    waited: Duration,
    done: Option<u64>,
}

impl Hunger {
    fn new(limits: &Limits) -> Self {
        Self {
            over: limits.starving,
            since: Instant::now(),
            waited: Duration::ZERO,
            done: None,
        }
    }

    fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// At the end of a span of time: bytes a second, if most of the time was spent waiting for
    /// the network.
    fn look(&mut self, done: u64) -> Option<u64> {
        let before = *self.done.get_or_insert(done);
        let (elapsed, waited) = (self.since.elapsed(), self.waited);
        if elapsed < self.over {
            return None;
        }
        (self.since, self.waited, self.done) = (Instant::now(), Duration::ZERO, Some(done));
        let millis = u64::try_from(elapsed.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        (waited >= elapsed / 4 * 3).then(|| (done - before).saturating_mul(1000) / millis)
    }
}

impl Sink {
    /// Waits for room; `false` if nobody takes it any more.
    async fn hand_on(&self, bytes: Bytes) -> bool {
        let count = u32::try_from(bytes.len()).unwrap_or(MAX_WAITING);
        let taken = Arc::clone(&self.room).acquire_many_owned(count.min(MAX_WAITING));
        tokio::select! {
            permit = taken => match permit {
                Ok(permit) => self.sender.send(Part::Bytes(bytes, permit)).await.is_ok(),
                Err(_) => false,
            },
            () = self.sender.closed() => false,
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match &self.end {
                Some(Ok(())) => break,
                Some(Err(error)) => return Err(io::Error::other(error.clone())),
                None => {}
            }
            // Given back before waiting: the next part may need all of it.
            self.room = None;
            match self.receiver.blocking_recv() {
                Some(Part::Bytes(bytes, room)) => {
                    self.part = bytes;
                    self.room = Some(room);
                }
                Some(Part::End) => self.end = Some(Ok(())),
                Some(Part::Failed(error)) => self.end = Some(Err(error)),
                // Without an end the sender has gone: nobody wants the layer any more.
                None => self.end = Some(Err(Error::Other("cancelled".into()))),
            }
        }
        let count = self.part.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes, _) => write!(f, "{} bytes", bytes.len()),
            Self::End => f.write_str("End"),
            Self::Failed(error) => write!(f, "Failed({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_far_apart_are_not_added_up() {
        let limits = Limits {
            attempts: 3,
            ..Limits::default()
        };
        let mut failures = Setbacks::default();
        assert!(failures.pause(0, &limits).is_some());
        assert!(failures.pause(10, &limits).is_some());
        assert!(failures.pause(PROGRESS + 10, &limits).is_some());
        assert!(failures.pause(PROGRESS + 20, &limits).is_some());
        assert!(failures.pause(PROGRESS + 30, &limits).is_none());
    }

    #[test]
    fn who_waits_for_the_network_starves() {
        let limits = |starving| Limits {
            starving,
            ..Limits::default()
        };
        let mut hunger = Hunger::new(&limits(Duration::from_secs(3600)));
        hunger.waited(Duration::from_secs(3600));
        assert_eq!(hunger.look(5), None);
        let mut hunger = Hunger::new(&limits(Duration::ZERO));
        assert_eq!(hunger.look(0).is_some(), hunger.since.elapsed().is_zero());
        hunger.waited(Duration::from_secs(3600));
        assert!(hunger.look(5).is_some());
    }
}
