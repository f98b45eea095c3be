//! What writable layers use, measured now and then in the background.
//!
//! A look at the figures never waits: it gets the last ones, and starts a new measurement if they
//! are old. Layers of images are not measured; their sizes are known from unpacking.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Usage;

/// Figures older than this are measured anew.
const MAX_AGE: Duration = Duration::from_secs(10);
/// Most entries of one writable layer that are counted in one go.
const MAX_ENTRIES: u64 = 2_000_000;
/// What a container uses that was never measured: its folder.
const FIRST: Usage = Usage {
    bytes: 4096,
    inodes: 1,
};

#[derive(Debug, Default)]
struct Figures {
    of: HashMap<String, Usage>,
    /// When they were measured; nothing while nobody has.
    at: Option<Instant>,
    measuring: bool,
}

/// The last figures.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    figures: Arc<Mutex<Figures>>,
}

impl Measured {
    /// What one container uses.
    pub(crate) fn one(
        &self,
        container: &str,
        folders: impl FnOnce() -> Vec<(String, PathBuf)>,
    ) -> Usage {
        self.refresh(folders);
        lock(&self.figures)
            .of
            .get(container)
            .copied()
            .unwrap_or(FIRST)
    }

    /// What all of them use.
    pub(crate) fn all(&self, folders: impl FnOnce() -> Vec<(String, PathBuf)>) -> Usage {
        self.refresh(folders);
        let figures = lock(&self.figures);
        figures
            .of
            .values()
            .copied()
            .fold(Usage::default(), Usage::plus)
    }

    fn refresh(&self, folders: impl FnOnce() -> Vec<(String, PathBuf)>) {
        let mut figures = lock(&self.figures);
        if figures.measuring || figures.at.is_some_and(|at| at.elapsed() < MAX_AGE) {
            return;
        }
        figures.measuring = true;
        drop(figures);
        let (folders, shared) = (folders(), Arc::clone(&self.figures));
        let measure = move || {
            let of = folders
                .into_iter()
                .map(|(container, folder)| (container, measure(&folder)))
                .collect();
            *lock(&shared) = Figures {
                of,
                at: Some(Instant::now()),
                measuring: false,
            };
        };
        if let Err(cause) = std::thread::Builder::new()
            .name("image-usage".into())
            .spawn(measure)
        {
            tracing::warn!(%cause, "the use of writable layers could not be measured");
            lock(&self.figures).measuring = false;
        }
    }
}

fn lock(figures: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds up a folder. Files come and go meanwhile; what cannot be looked at is not there any more.
pub(crate) fn measure(folder: &Path) -> Usage {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut left = vec![folder.to_path_buf()];
    let count = |path: &Path, usage: &mut Usage, linked: &mut HashSet<u64>| {
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            return;
        };
        if meta.is_dir() || meta.nlink() == 1 || linked.insert(meta.ino()) {
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
        }
    };
    count(folder, &mut usage, &mut linked);
    while let Some(folder) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            count(&entry.path(), &mut usage, &mut linked);
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            if usage.inodes >= MAX_ENTRIES {
                return usage;
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("sub")).unwrap();
        std::fs::write(temp.path().join("sub/one"), vec![1; 10_000]).unwrap();
        std::fs::hard_link(temp.path().join("sub/one"), temp.path().join("two")).unwrap();
        let usage = measure(temp.path());
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 10_000, "{usage:?}");
        assert_eq!(measure(Path::new("/nonexistent")), Usage::default());
    }
}
