//! The hosts that have a repository, and what a pull has learnt of them.
//!
//! A host that cannot be reached or whose connections break is asked after the others, one that sent something else than was
//! promised is not asked for blobs any more: with a second host, neither spoils a pull.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::auth::Identity;
use crate::digest::Digest;
use crate::hosts::Host;

/// A host, and who we are there.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) host: Host,
    pub(crate) identity: Identity,
}

/// All of them, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct Sources {
    all: Vec<Source>,
    learnt: Mutex<Vec<Learnt>>,
    /// Who sent a blob, or parts of it.
    senders: Mutex<HashMap<Digest, BTreeSet<usize>>>,
}

/// What is known of one host.
#[derive(Clone, Copy, Debug, Default)]
struct Learnt {
    broke: u32,
    lied: bool,
}

impl Sources {
    pub(crate) fn new(all: Vec<Source>) -> Self {
        let learnt = vec![Learnt::default(); all.len()];
        Self {
            all,
            learnt: Mutex::new(learnt),
            senders: Mutex::default(),
        }
    }

    /// Those that may be asked for something, those last that are away.
    pub(crate) fn all(
        &self,
        may: impl Fn(&Host) -> bool,
        away: impl Fn(&Host) -> bool,
    ) -> Vec<&Source> {
        let mut all: Vec<_> = self.all.iter().filter(|s| may(&s.host)).collect();
        all.sort_by_key(|source| away(&source.host));
        all
    }

    /// Those that may be asked for blobs, the best first, with their numbers.
    pub(crate) fn in_order(&self, away: impl Fn(&Host) -> bool) -> Vec<(usize, &Source)> {
        let learnt = lock(&self.learnt);
        let mut order: Vec<_> = self.all.iter().enumerate().collect();
        order.retain(|(index, source)| source.host.pull && !learnt[*index].lied);
        order.sort_by_key(|(index, source)| (away(&source.host), learnt[*index].broke));
        order
    }

    /// Remembers who sends a blob.
    pub(crate) fn note(&self, digest: &Digest, index: usize) {
        let mut senders = lock(&self.senders);
        senders.entry(digest.clone()).or_default().insert(index);
    }

    /// A connection of that host broke.
    pub(crate) fn broke(&self, index: usize) {
        if let Some(learnt) = lock(&self.learnt).get_mut(index) {
            learnt.broke += 1;
        }
    }

    /// A blob was wrong; whether others are left who may have a right one. If mirrors sent parts of
    /// it, the registry itself is not suspected.
    pub(crate) fn blame(&self, digest: &Digest) -> bool {
        let senders = lock(&self.senders).remove(digest).unwrap_or_default();
        let is_mirror = |index: &usize| !self.all[*index].host.upstream;
        let suspects: BTreeSet<_> = match senders.iter().any(is_mirror) {
            true => senders.into_iter().filter(is_mirror).collect(),
            false => senders,
        };
        let order = self.in_order(|_| false);
        let others = order.iter().any(|(index, _)| !suspects.contains(index));
        let mut learnt = lock(&self.learnt);
        for index in suspects.iter().filter(|_| others) {
            learnt[*index].lied = true;
        }
        others && !suspects.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::default_server;

    #[test]
    fn who_broke_comes_last_and_who_lied_not_at_all() {
        let names = ["a.io", "b.io", "c.io"];
        let source = |name: &&str| {
            let host = default_server(name).unwrap();
            let upstream = *name == "c.io";
            Source {
                host: Host { upstream, ..host },
                identity: Identity::Anonymous,
            }
        };
        let sources = Sources::new(names.iter().map(source).collect());
        let order = || -> Vec<_> {
            let order = sources.in_order(|_| false);
            order.iter().map(|(index, _)| *index).collect()
        };
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert!(!sources.blame(&one));
        sources.broke(0);
        assert_eq!(order(), [1, 2, 0]);
        let all = sources.all(|_| true, |host| host.authority() == "a.io");
        assert_eq!(all[2].host.authority(), "a.io");
        // Parts came from a mirror and from the registry itself.
        sources.note(&one, 1);
        sources.note(&one, 2);
        assert!(sources.blame(&one));
        assert_eq!(order(), [2, 0]);
        sources.note(&one, 2);
        sources.note(&two, 0);
        assert!(sources.blame(&one));
        assert!(!sources.blame(&two));
        assert_eq!(order(), [0]);
    }
}
