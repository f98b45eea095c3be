//! How far pulls are: counted where bytes pass, shown to whoever asks, logged now and then.
//!
//! A layer that several pulls wait for is counted once and shown in each of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use registry::Digest;
use registry::manifest::Descriptor;

use crate::tally::Counts;

/// How often a pull tells in the log how far it is.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(10);

/// A pull under way, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// The name that was asked for.
    pub reference: String,
    /// Since when.
    pub since: Instant,
    /// Its layers, lowest first; none until the manifest is known.
    pub layers: Vec<LayerProgress>,
}

/// A layer of a pull under way, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of what is sent.
    pub digest: String,
    /// Bytes to be sent.
    pub total: u64,
    /// Bytes received so far, or all if the layer was here already.
    pub received: u64,
    /// Whether it is unpacked and both of its digests are right.
    pub verified: bool,
}

impl PullProgress {
    /// Bytes to be sent for all layers.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.layers.iter().map(|layer| layer.total).sum()
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.layers.iter().map(|layer| layer.received).sum()
    }

    /// Bytes of the layers that are whole and right.
    #[must_use]
    pub fn verified(&self) -> u64 {
        let whole = self.layers.iter().filter(|layer| layer.verified);
        whole.map(|layer| layer.total).sum()
    }
}

/// The counters of one layer.
#[derive(Debug)]
pub(crate) struct Counter {
    digest: Digest,
    total: u64,
    received: AtomicU64,
    verified: AtomicBool,
    counts: Arc<Counts>,
}

impl Counter {
    /// Says how many bytes have come in.
    pub(crate) fn received(&self, bytes: u64) {
        let before = self.set(bytes);
        // Less than before: the layer is fetched anew.
        self.counts
            .received(bytes.checked_sub(before).unwrap_or(bytes));
    }

    /// Answers with what it was before.
    fn set(&self, bytes: u64) -> u64 {
        self.received.swap(bytes.min(self.total), Ordering::Relaxed)
    }

    /// Says that the layer is whole and right.
    pub(crate) fn verified(&self) {
        self.set(self.total);
        self.verified.store(true, Ordering::Relaxed);
    }

    fn left(&self) -> u64 {
        self.total - self.received.load(Ordering::Relaxed).min(self.total)
    }

    fn now(&self) -> LayerProgress {
        LayerProgress {
            digest: self.digest.as_str().to_owned(),
            total: self.total,
            received: self.received.load(Ordering::Relaxed),
            verified: self.verified.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug)]
struct Shown {
    reference: String,
    since: Instant,
    layers: Vec<Arc<Counter>>,
}

impl Shown {
    fn now(&self) -> PullProgress {
        PullProgress {
            reference: self.reference.clone(),
            since: self.since,
            layers: self.layers.iter().map(|layer| layer.now()).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pulls: BTreeMap<u64, Shown>,
    counters: HashMap<Digest, Weak<Counter>>,
}

/// All pulls under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
}

impl Progress {
    /// Shows a pull until the answer is dropped.
    pub(crate) fn begin(&self, reference: &str) -> Pull {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let shown = Shown {
            reference: reference.to_owned(),
            since: Instant::now(),
            layers: Vec::new(),
        };
        state.pulls.insert(id, shown);
        drop(state);
        Pull {
            progress: self.clone(),
            id,
        }
    }

    /// What all pulls came to.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// All of them, the oldest first.
    pub(crate) fn all(&self) -> Vec<PullProgress> {
        self.lock().pulls.values().map(Shown::now).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pull, shown as long as this lives.
#[derive(Debug)]
pub(crate) struct Pull {
    progress: Progress,
    id: u64,
}

impl Pull {
    /// Says which layers there are; answers with their counters.
    pub(crate) fn layers(&self, layers: &[Descriptor]) -> Vec<Arc<Counter>> {
        let mut state = self.progress.lock();
        state
            .counters
            .retain(|_, counter| counter.strong_count() > 0);
        let counters: Vec<_> = layers
            .iter()
            .map(|layer| counter(&mut state, layer, &self.progress.counts))
            .collect();
        if let Some(shown) = state.pulls.get_mut(&self.id) {
            shown.layers.clone_from(&counters);
        }
        counters
    }

    /// Bytes that this pull, and those that began before it and others do not share with it, still
    /// have to receive.
    pub(crate) fn outstanding(&self) -> (u64, u64) {
        let state = self.progress.lock();
        let mut seen = HashSet::new();
        let mut left = |shown: &Shown| -> u64 {
            let new = shown
                .layers
                .iter()
                .filter(|layer| seen.insert(layer.digest.clone()));
            new.map(|layer| layer.left()).sum()
        };
        let own = state.pulls.get(&self.id).map_or(0, &mut left);
        let others = state
            .pulls
            .range(..self.id)
            .map(|(_, shown)| left(shown))
            .sum();
        (own, others)
    }

    /// Writes to the log how far it is.
    pub(crate) fn tell(&self) {
        let now = self.progress.lock().pulls.get(&self.id).map(Shown::now);
        let Some(now) = now else { return };
        let whole = now.layers.iter().filter(|layer| layer.verified).count();
        tracing::info!(
            reference = %now.reference,
            layers = format!("{whole}/{}", now.layers.len()),
            received = now.received(),
            total = now.total(),
            seconds = now.since.elapsed().as_secs(),
            "pulling"
        );
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.progress.lock().pulls.remove(&self.id);
    }
}

/// The counter that another pull uses for that layer, or a new one.
fn counter(state: &mut State, layer: &Descriptor, counts: &Arc<Counts>) -> Arc<Counter> {
    if let Some(known) = state.counters.get(&layer.digest).and_then(Weak::upgrade) {
        return known;
    }
    let counter = Arc::new(Counter {
        digest: layer.digest.clone(),
        total: layer.size,
        received: AtomicU64::new(0),
        verified: AtomicBool::new(false),
        counts: Arc::clone(counts),
    });
    let weak = Arc::downgrade(&counter);
    state.counters.insert(layer.digest.clone(), weak);
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(content: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::of(content), content.len() as u64)
    }

    #[test]
    fn a_layer_of_two_pulls_is_counted_once_and_shown_twice() {
        let progress = Progress::default();
        let (one, two) = (progress.begin("one"), progress.begin("two"));
        let first = one.layers(&[layer(b"1234"), layer(b"56")]);
        two.layers(&[layer(b"1234")]);
        first[0].received(3);
        let all = progress.all();
        let seen: Vec<_> = all
            .iter()
            .map(|p| (p.received(), p.total(), p.verified()))
            .collect();
        assert_eq!(seen, [(3, 6, 0), (3, 4, 0)]);
        assert_eq!((one.outstanding(), two.outstanding()), ((3, 0), (1, 2)));
        first[0].verified();
        assert_eq!(progress.all()[1].verified(), 4);
        drop(one);
        let left: Vec<_> = progress.all().into_iter().map(|p| p.reference).collect();
        assert_eq!(left, ["two"]);
    }
}
