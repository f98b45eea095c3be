//! What the store has done since it was opened, in numbers: counted where it happens, read by whoever
//! watches the daemon.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use crate::{Error, Store, Usage, pull};

/// Numbers since the store was opened, and some of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pulls that gave an image.
    pub pulled: u64,
    /// Pulls that failed.
    pub failed: u64,
    /// Pulls that nobody waited for any more.
    pub cancelled: u64,
    /// Bytes of layers that registries sent.
    pub received: u64,
    /// Layers of the weekly look that were whole.
    pub scrubbed_whole: u64,
    /// Layers of the weekly look that were damaged.
    pub scrubbed_damaged: u64,
    /// When all layers were last looked at.
    pub scrubbed_at: Option<SystemTime>,
    /// What is removed and not yet deleted.
    pub trash: Usage,
    /// Layers that may be worked on at once, and how many are.
    pub layer_slots: (usize, usize),
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pulled: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    received: AtomicU64,
    whole: AtomicU64,
    damaged: AtomicU64,
}

/// A pull that is counted as cancelled unless it ends.
struct Ending<'a>(&'a AtomicU64);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Counts {
    /// Counts how a pull ends.
    pub(crate) async fn pull<T>(
        self: std::sync::Arc<Self>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut ending = Ending(&self.cancelled);
        let result = work.await;
        ending.0 = match &result {
            Ok(_) => &self.pulled,
            Err(_) => &self.failed,
        };
        result
    }

    /// Counts bytes of layers that came in.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Counts layers of the weekly look.
    pub(crate) fn scrubbed(&self, whole: bool) {
        let counter = if whole { &self.whole } else { &self.damaged };
        counter.fetch_add(1, Relaxed);
    }
}

impl Store {
    /// What it has done so far. Looks at one file's time, waits for nothing.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let counts = self.progress.counts();
        let slots = pull::layers_at_once();
        Tally {
            pulled: counts.pulled.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            cancelled: counts.cancelled.load(Relaxed),
            received: counts.received.load(Relaxed),
            scrubbed_whole: counts.whole.load(Relaxed),
            scrubbed_damaged: counts.damaged.load(Relaxed),
            scrubbed_at: crate::scrub::last_look(&self.root),
            trash: self.layers.trash_usage(),
            layer_slots: (slots, slots - self.slots.available_permits().min(slots)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_pull_is_counted_by_how_it_ends() {
        let counts = Arc::new(Counts::default());
        let pull = |result: Result<(), Error>| Arc::clone(&counts).pull(async { result });
        pull(Ok(())).await.unwrap();
        pull(Err(Error::Other("no".into()))).await.unwrap_err();
        drop(pull(Ok(())));
        tokio::select! {
            biased;
            _ = Arc::clone(&counts).pull(std::future::pending::<Result<(), Error>>()) => {}
            () = std::future::ready(()) => {}
        }
        let seen = [&counts.pulled, &counts.failed, &counts.cancelled].map(|one| one.load(Relaxed));
        assert_eq!(seen, [1, 1, 1]);
    }
}
