//! One large blob over several connections: parts of it are fetched ahead and handed out in order.
//!
//! Many registries bound what one connection brings. How many parts wait in memory is bounded
//! over all blobs by the room that [`Registry`](crate::Registry) has, and each of them by
//! `Limits::part`. Two lanes at first; more only while each one more made it faster.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use crate::Error;
use crate::body::Pace;
use crate::manifest::Descriptor;
use crate::repository::Repository;
use crate::span::Span;
use crate::stream::{Setbacks, Turn, lost};

/// Most parts of one blob that are fetched at the same time.
const MAX_LANES: usize = 4;
/// How many it begins with.
const FIRST_LANES: usize = 2;
/// Small pieces that come in are put together up to this length, in bytes, so that a part is
/// never held in many of them.
const PIECE: usize = 64 << 10;
/// Most of them that a lane holds; the last one is that of the end.
const MAX_PIECES: usize = 1024;
/// By how much a lane has to have made it faster for another one to be tried, in percent.
const WORTH: u64 = 110;

/// The parts that are on their way, the next one first.
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    repository: &'a Arc<Repository>,
    blob: &'a Descriptor,
    /// The first byte that nobody fetches yet.
    next: u64,
    lanes: VecDeque<Lane>,
    most: usize,
    /// How fast it was before the last lane was added, in bytes a second.
    before: u64,
    /// Room for the part that is begun next, if it was got already.
    room: Option<OwnedSemaphorePermit>,
    /// Ends what runs when this is dropped.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Lane {
    pieces: mpsc::Receiver<Result<Bytes, Lost>>,
    _room: OwnedSemaphorePermit,
    left: u64,
}

/// Why a part does not come.
#[derive(Debug)]
enum Lost {
    NoParts,
    Failed(Error),
}

impl<'a> Lanes<'a> {
    /// Fetches all from byte `from` on; there is room for a first part.
    pub(crate) fn new(
        repository: &'a Arc<Repository>,
        blob: &'a Descriptor,
        from: u64,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            repository,
            blob,
            next: from,
            lanes: VecDeque::new(),
            most: FIRST_LANES,
            before: 0,
            room: Some(room),
            tasks: JoinSet::new(),
        }
    }

    /// The next bytes; nothing at the end of the blob.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Turn> {
        loop {
            self.begin().await;
            let Some(lane) = self.lanes.front_mut() else {
                return Ok(None);
            };
            if lane.left == 0 {
                self.lanes.pop_front();
                continue;
            }
            return match lane.pieces.recv().await {
                Some(Ok(bytes)) => {
                    lane.left = lane.left.saturating_sub(bytes.len() as u64);
                    Ok(Some(bytes))
                }
                Some(Err(Lost::NoParts)) => Err(Turn::NoParts),
                Some(Err(Lost::Failed(error))) => Err(Turn::Failed(error)),
                None => Err(Turn::Broken("the fetch of a part was lost".into())),
            };
        }
    }

    /// Says that the reader still waits for the network, which brings that many bytes a second.
    pub(crate) fn still_starving(&mut self, rate: u64) {
        let worth = rate.saturating_mul(100) >= self.before.saturating_mul(WORTH);
        if self.most < MAX_LANES && worth {
            self.most += 1;
            self.before = rate;
        }
    }

    /// Begins as many parts as there may be. For the very next one room is waited for: whoever has
    /// room hands on what lies in it and gives it back.
    async fn begin(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        while self.lanes.len() < self.most && self.next < self.blob.size {
            let ahead = Arc::clone(&self.repository.ahead);
            let room = match self.room.take() {
                Some(room) => Ok(room),
                None if self.lanes.is_empty() => {
                    let room = ahead.acquire_owned().await;
                    Ok(room.expect("nobody closes the semaphore"))
                }
                None => ahead.try_acquire_owned(),
            };
            let Ok(room) = room else { break };
            let limits = self.repository.limits();
            let to = (self.next + limits.part).min(self.blob.size);
            let (sender, pieces) = mpsc::channel(MAX_PIECES);
            let part = Part {
                repository: Arc::clone(self.repository),
                blob: self.blob.clone(),
                done: self.next,
                to,
                pieces: sender,
            };
            self.tasks.spawn(part.fetch());
            self.lanes.push_back(Lane {
                pieces,
                _room: room,
                left: to - self.next,
            });
            self.next = to;
        }
    }
}

/// A part that is being fetched.
struct Part {
    repository: Arc<Repository>,
    blob: Descriptor,
    done: u64,
    to: u64,
    pieces: mpsc::Sender<Result<Bytes, Lost>>,
}

impl Part {
    /// A connection that breaks is taken up where it broke.
    async fn fetch(mut self) {
        let mut failures = Setbacks::default();
        let lost = loop {
            match self.once().await {
                Ok(()) => return,
                Err(Broken::Lost(lost)) => break lost,
                Err(Broken::Connection(text)) => {
                    let Some(pause) = failures.pause(self.done, self.repository.limits()) else {
                        break Lost::Failed(lost(&self.blob, &text, self.done));
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        };
        // Whoever does not listen any more needs no reason.
        drop(self.pieces.send(Err(lost)).await);
    }

    async fn once(&mut self) -> Result<(), Broken> {
        let span = Span {
            from: self.done,
            to: Some(self.to),
        };
        let repository = Arc::clone(&self.repository);
        let answer = match repository.blob(&self.blob, span).await {
            Ok(answer) => answer,
            Err(Error::Unavailable(text)) => return Err(Broken::Connection(text)),
            Err(error) => return Err(Broken::Lost(Lost::Failed(error))),
        };
        if !answer.partial || answer.begins != self.done {
            return Err(Broken::Lost(Lost::NoParts));
        }
        let (mut response, mut pace) = (answer.response, Pace::default());
        let mut piece = BytesMut::new();
        while self.done + (piece.len() as u64) < self.to {
            let come = pace.chunk(&mut response, repository.limits()).await;
            let bytes = match come {
                Ok(Some(bytes)) => bytes,
                broken => {
                    answer
                        .source
                        .iter()
                        .for_each(|s| repository.sources.broke(*s));
                    self.hand_on(piece.freeze()).await;
                    let short = || "a part was sent that is too short".to_owned();
                    return Err(Broken::Connection(broken.err().unwrap_or_else(short)));
                }
            };
            let wanted = self.to - self.done - piece.len() as u64;
            let count = usize::try_from(wanted).map_or(bytes.len(), |w| w.min(bytes.len()));
            piece.extend_from_slice(&bytes[..count]);
            if piece.len() >= PIECE {
                self.hand_on(std::mem::take(&mut piece).freeze()).await;
            }
        }
        self.hand_on(piece.freeze()).await;
        Ok(())
    }

    async fn hand_on(&mut self, piece: Bytes) {
        self.done += piece.len() as u64;
        if !piece.is_empty() {
            // Whoever does not listen any more ends this task.
            drop(self.pieces.send(Ok(piece)).await);
        }
    }
}

enum Broken {
    Connection(String),
    Lost(Lost),
}
