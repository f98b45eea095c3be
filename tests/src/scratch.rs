//! What one test has to itself: a folder, a name for its control groups, a bridge, a subnet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tempfile::TempDir;

/// Where scratch folders lie: a real file system, since images get unpacked there.
const BASE: &str = "/var/tmp";

/// A place of one test's own, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    name: String,
    number: u32,
}

impl Scratch {
    /// A fresh place.
    ///
    /// # Errors
    ///
    /// If no folder can be made.
    pub fn new() -> Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(64) + COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wt{number:x}");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(BASE)?;
        Ok(Scratch {
            folder,
            name,
            number,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// A short name, fit for an interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A parent for the control groups of this test's pods.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// A range that no other test uses now, and few networks at all.
    pub fn subnet(&self) -> String {
        let number = self.number % (64 * 256);
        format!("10.{}.{}.0/24", 128 + number / 256, number % 256)
    }
}
