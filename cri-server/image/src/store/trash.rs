//! Deletion: renamed out of the way at once, unlinked later by a thread of its own.
//!
//! Unlinking many files takes seconds, and nobody should wait for it. What lies in the trash at a
//! start is deleted then.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::Error;
use crate::error::During;

/// How deep a tree is followed before a part of it is moved up: each level holds a descriptor, and
/// containers can nest folders deeper than a process may have descriptors.
const MAX_DEPTH: usize = 100;

/// The folder of what is to be deleted.
#[derive(Debug)]
pub(crate) struct Trash {
    folder: PathBuf,
    next: AtomicU64,
    wake: SyncSender<()>,
}

impl Trash {
    /// Opens it and starts its thread, which ends when this is dropped.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&folder).during(|| format!("making {}", folder.display()))?;
        let (wake, woken) = sync_channel(1);
        let swept = folder.clone();
        std::thread::Builder::new()
            .name("image-trash".into())
            .spawn(move || sweep_when_woken(&swept, &woken))
            .during(|| "starting the thread that empties the trash")?;
        let trash = Self {
            folder,
            next: AtomicU64::new(0),
            wake,
        };
        trash.wake();
        Ok(trash)
    }

    /// Where what is in the way can be moved to, under names that begin with `replaced-`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves something here; already gone is no error.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        loop {
            let name = format!("{}", self.next.fetch_add(1, Ordering::Relaxed));
            match renameat(CWD, path, CWD, self.folder.join(name)) {
                // Left over from an earlier run, and not deleted yet.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno.into()),
                Ok(()) => break,
            }
        }
        self.wake();
        Ok(())
    }

    /// A thread that is awake needs no second call.
    pub(crate) fn wake(&self) {
        let _ = self.wake.try_send(());
    }
}

fn sweep_when_woken(folder: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        if let Err(cause) = sweep(folder) {
            tracing::warn!(folder = %folder.display(), %cause, "the trash could not be emptied");
        }
    }
}

/// Deletes all that is in a folder. Parts that are too deep are moved up, to be met again.
fn sweep(folder: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, folder, flags, Mode::empty())?;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

/// Goes on after a failure, so that one stubborn file keeps only its own folders; tells the first.
fn empty(folder: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let mut first = Ok(());
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if let Err(cause) = delete(folder, name, top, depth, moved) {
            first = first.and(Err(cause));
        }
    }
    first
}

fn delete(
    folder: &OwnedFd,
    name: &CStr,
    top: &OwnedFd,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if depth == MAX_DEPTH {
        *moved += 1;
        let up = format!("deep-{}-{moved}", rustix::process::getpid());
        renameat(folder, name, top, up)?;
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(folder, name, flags, Mode::empty())?;
    empty(&inner, top, depth + 1, moved)?;
    unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_tree_is_deleted() {
        let temp = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, temp.path(), flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "some-folder", Mode::RWXU).unwrap();
            at = openat(&at, "some-folder", flags, Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("/", temp.path().join("link")).unwrap();
        sweep(temp.path()).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
