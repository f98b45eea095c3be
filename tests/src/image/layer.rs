//! One layer of an image, written entry by entry into memory.

use std::collections::BTreeSet;

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// Modification time of every entry, so that equal content has an equal digest.
const MTIME: u64 = 1_767_225_600;

/// A layer in the making. Paths are absolute inside the image; folders above an entry are made.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    seen: BTreeSet<String>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("paths", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Default for Layer {
    fn default() -> Layer {
        Layer {
            tar: Builder::new(Vec::new()),
            seen: BTreeSet::new(),
        }
    }
}

impl Layer {
    /// Adds a folder, unless it is there.
    ///
    /// # Errors
    ///
    /// If the path does not fit a tar header.
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.seen.contains(path) {
            return Ok(());
        }
        self.add(path, EntryType::Directory, mode, &[], None)
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// If the path does not fit a tar header.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.add(
            path.trim_matches('/'),
            EntryType::Regular,
            mode,
            content,
            None,
        )
    }

    /// Adds a file, unless it is there.
    ///
    /// # Errors
    ///
    /// If the path does not fit a tar header.
    pub fn file_once(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if self.seen.contains(path.trim_matches('/')) {
            return Ok(());
        }
        self.file(path, mode, content)
    }

    /// Adds another name of a file that is in the layer.
    ///
    /// # Errors
    ///
    /// If a path does not fit a tar header.
    pub fn hardlink(&mut self, path: &str, to: &str) -> Result<()> {
        let to = to.trim_matches('/');
        self.add(
            path.trim_matches('/'),
            EntryType::Link,
            0o755,
            &[],
            Some(to),
        )
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// If a path does not fit a tar header.
    pub fn symlink(&mut self, path: &str, to: &str) -> Result<()> {
        self.add(
            path.trim_matches('/'),
            EntryType::Symlink,
            0o777,
            &[],
            Some(to),
        )
    }

    /// The layer as an uncompressed archive.
    ///
    /// # Errors
    ///
    /// Never in practice: it writes to memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn add(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        content: &[u8],
        link: Option<&str>,
    ) -> Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.dir(above, 0o755)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(MTIME);
        header.set_size(content.len() as u64);
        self.seen.insert(path.to_owned());
        match link {
            Some(to) => self.tar.append_link(&mut header, path, to)?,
            None => self.tar.append_data(&mut header, path, content)?,
        }
        Ok(())
    }
}
