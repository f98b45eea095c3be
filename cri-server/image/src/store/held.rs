//! What is known in memory of layers: who holds them, what they use, which are being moved.
//!
//! Pure. The folders are `layers`' business.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry::Digest;

use super::layers::{DISK_BLOCK, Facts};
use crate::Usage;

/// A layer that is there.
#[derive(Debug)]
pub(super) struct Held {
    /// How many hold it.
    pub(super) count: usize,
    /// What is known of it.
    pub(super) facts: Arc<Facts>,
    /// What lies beside its tree.
    pub(super) beside: Usage,
    /// Why it must not be used.
    pub(super) damaged: Option<String>,
    /// Its damaged forerunners, which containers may have mounted.
    pub(super) replaced: Vec<PathBuf>,
}

impl Held {
    /// A layer that so many hold.
    pub(super) fn new(count: usize, facts: Facts, beside: Usage) -> Self {
        Self {
            count,
            facts: Arc::new(facts),
            beside,
            damaged: None,
            replaced: Vec::new(),
        }
    }

    /// What it and its forerunners use.
    pub(super) fn usage(&self) -> Usage {
        let copies = 1 + self.replaced.len() as u64;
        Usage {
            bytes: copies * (self.facts.bytes + self.beside.bytes),
            inodes: copies * (self.facts.inodes + self.beside.inodes),
        }
    }
}

/// What is known of layers at one moment.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The layers that are there.
    pub(super) held: HashMap<Digest, Held>,
    /// Layers whose folders are being moved: to their place, or away from it.
    pub(super) moving: HashSet<Digest>,
    /// What is being unpacked.
    pub(super) staged: HashMap<u64, Arc<Used>>,
}

/// What a layer that is being unpacked uses so far.
#[derive(Debug, Default)]
pub(crate) struct Used {
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Used {
    /// Counts one more file of that length.
    pub(crate) fn add(&self, length: u64) {
        let bytes = length.div_ceil(DISK_BLOCK) * DISK_BLOCK;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inodes.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what another process has counted.
    pub(crate) fn set(&self, usage: Usage) {
        self.bytes.store(usage.bytes, Ordering::Relaxed);
        self.inodes.store(usage.inodes, Ordering::Relaxed);
    }

    /// How much it is now.
    pub(crate) fn now(&self) -> Usage {
        Usage {
            bytes: self.bytes.load(Ordering::Relaxed),
            inodes: self.inodes.load(Ordering::Relaxed),
        }
    }
}

impl Known {
    /// Of these, those that nobody holds; they count as being moved from now on.
    pub(super) fn take_released(&mut self, ids: &[Digest]) -> Vec<(Digest, Held)> {
        let mut gone = Vec::new();
        for id in ids {
            let unheld = self.held.get(id).is_some_and(|held| held.count == 0);
            // One that is being replaced is waited for by who replaces it, and dropped by him.
            if unheld && !self.moving.contains(id) {
                self.moving.insert(id.clone());
                gone.extend(self.held.remove_entry(id));
            }
        }
        gone
    }

    /// Of all, those that nobody holds.
    pub(super) fn take_unheld(&mut self) -> Vec<(Digest, Held)> {
        let all: Vec<_> = self.held.keys().cloned().collect();
        self.take_released(&all)
    }
}
