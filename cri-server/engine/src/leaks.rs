//! What was found that nobody has asked for: left by an earlier run, or not to be undone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A kind of what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// A container's bundle without a record.
    Bundle,
    /// A sandbox's files without a record.
    Sandbox,
    /// A record that cannot be read.
    Record,
    /// A checkpoint that was not finished.
    Checkpoint,
    /// A sandbox or a container that was announced and never finished.
    Unfinished,
    /// What could not be undone after a failure, and stays for its client to remove.
    Stuck,
}

impl Leak {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Bundle,
        Self::Sandbox,
        Self::Record,
        Self::Checkpoint,
        Self::Unfinished,
        Self::Stuck,
    ];

    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Sandbox => "sandbox",
            Self::Record => "record",
            Self::Checkpoint => "checkpoint",
            Self::Unfinished => "unfinished",
            Self::Stuck => "stuck",
        }
    }
}

/// How many of each kind, since the start.
#[derive(Debug, Default)]
pub struct Leaks([AtomicU64; Leak::ALL.len()]);

impl Leaks {
    /// Counts one.
    pub(crate) fn found(&self, leak: Leak) {
        self.0[leak as usize].fetch_add(1, Relaxed);
    }

    /// How many of a kind were found.
    #[must_use]
    pub fn of(&self, leak: Leak) -> u64 {
        self.0[leak as usize].load(Relaxed)
    }
}
