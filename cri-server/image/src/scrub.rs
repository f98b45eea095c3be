//! The slow, steady look at all layers: finds what a disk has spoilt before somebody needs it.
//!
//! A thread of its own with the lowest priority reads at a bounded rate, all layers once in so much
//! time. What is damaged is mended as `check` does. When it was last done survives a restart.

use std::cell::Cell;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use crate::check::{Seen, damaged, look_at, mend};
use crate::error::During;
use crate::layer::table::Pace;
use crate::store::trash::be_idle;
use crate::tally::Counts;
use crate::{Error, Store};

/// The file whose time says when all layers were last looked at.
const DONE: &str = "scrubbed";
/// What is waited for at once: shorter waits would only wake the machine more often.
const SLICE: Duration = Duration::from_millis(100);

/// How layers are looked at while nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// Most bytes that are read in a second; not 0.
    pub rate: u64,
    /// Time from one look at all of them to the next.
    pub every: Duration,
}

/// Ends the thread when dropped.
#[derive(Debug)]
pub(crate) struct Alive(
    #[expect(dead_code, reason = "its end is the news")] SyncSender<Infallible>,
);

/// What the thread learns of the store's end by.
pub(crate) type Stopped = Receiver<Infallible>;

/// Both ends of what tells the thread to stop.
pub(crate) fn life() -> (Alive, Stopped) {
    let (alive, stopped) = sync_channel(0);
    (Alive(alive), stopped)
}

/// Starts the thread. It needs the runtime of whoever calls, to fetch what is damaged.
pub(crate) fn start(store: &Arc<Store>, scrub: Scrub, stopped: Stopped) -> Result<(), Error> {
    let runtime = Handle::try_current()
        .map_err(|cause| Error::Other(format!("looking at layers in the background: {cause}")))?;
    let scrubber = Scrubber {
        store: Arc::downgrade(store),
        counts: store.progress.counts(),
        runtime,
        done: store.root.join(DONE),
        every: scrub.every,
        throttle: Throttle {
            rate: scrub.rate.max(1),
            owed: Cell::default(),
            stopped,
        },
    };
    let thread = std::thread::Builder::new().name("image-scrub".into());
    thread
        .spawn(move || scrubber.run())
        .during(|| "starting the thread that looks at layers")
        .map(drop)
}

struct Scrubber {
    store: Weak<Store>,
    counts: Arc<Counts>,
    runtime: Handle,
    done: PathBuf,
    every: Duration,
    throttle: Throttle,
}

impl Scrubber {
    fn run(self) {
        be_idle();
        if last(&self.done).is_none() {
            // All that a new store has was verified when it came.
            note(&self.done);
        }
        while self.throttle.wait(due(&self.done, self.every)) {
            if self.look_at_all().is_none() {
                return;
            }
            note(&self.done);
        }
    }

    /// Nothing if the store has gone.
    fn look_at_all(&self) -> Option<()> {
        // The store itself is not held meanwhile: whoever drops it does not wait for this.
        let layers = Arc::clone(&self.store.upgrade()?.layers);
        let (mut whole, mut bad) = (0_u64, 0_u64);
        for id in layers.all() {
            match look_at(&layers, &id, &self.throttle) {
                Seen::Whole => {
                    whole += 1;
                    self.counts.scrubbed(true);
                }
                Seen::Unknown | Seen::Gone => {}
                Seen::Stopped => return None,
                Seen::Damaged(reason) => {
                    bad += 1;
                    self.counts.scrubbed(false);
                    let store = self.store.upgrade()?;
                    let mut finding = damaged(&store, &id, reason);
                    self.runtime.block_on(mend(&store, &mut finding));
                }
            }
        }
        tracing::info!(whole, damaged = bad, "all layers were looked at");
        Some(())
    }
}

/// When all layers of the store were last looked at.
pub(crate) fn last_look(root: &Path) -> Option<SystemTime> {
    last(&root.join(DONE))
}

fn last(done: &Path) -> Option<SystemTime> {
    std::fs::metadata(done)
        .and_then(|meta| meta.modified())
        .ok()
}

fn note(done: &Path) {
    if let Err(cause) = std::fs::write(done, "") {
        tracing::warn!(file = %done.display(), %cause, "when layers were looked at cannot be noted");
    }
}

/// How long it is to the next look. A clock that was set back does not put it off for ever.
fn due(done: &Path, every: Duration) -> Duration {
    let since = last(done).and_then(|last| SystemTime::now().duration_since(last).ok());
    every.saturating_sub(since.unwrap_or_default())
}

/// Waits as long as reading should have taken.
struct Throttle {
    rate: u64,
    owed: Cell<Duration>,
    stopped: Stopped,
}

impl Throttle {
    /// `false` if the store has gone.
    fn wait(&self, time: Duration) -> bool {
        matches!(
            self.stopped.recv_timeout(time),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

impl Pace for Throttle {
    fn go_on(&self, bytes: u64) -> bool {
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / self.rate;
        let owed = self.owed.get() + Duration::from_nanos(nanoseconds);
        if owed < SLICE {
            self.owed.set(owed);
            return true;
        }
        self.owed.set(Duration::ZERO);
        self.wait(owed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn reading_takes_as_long_as_the_rate_says() {
        let (alive, stopped) = life();
        let throttle = Throttle {
            rate: 1 << 20,
            owed: Cell::default(),
            stopped,
        };
        let began = Instant::now();
        // A quarter of what is read in a second, in many small parts.
        assert!((0..256).all(|_| throttle.go_on(1 << 10)));
        assert!(began.elapsed() >= Duration::from_millis(190));
        drop(alive);
        assert!(!throttle.go_on(1 << 20));
    }
}
