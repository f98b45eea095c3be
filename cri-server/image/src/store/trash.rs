//! Deletion: renamed out of the way at once, unlinked later by a thread of its own.
//!
//! Unlinking many files takes seconds, and nobody should wait for it, nor have the disk taken away
//! by it: the thread has the lowest priority. What lies in the trash at a start is deleted then.

use std::collections::HashMap;
use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::During;
use crate::usage::measure;
use crate::{Error, Usage};

/// How deep a tree is followed before a part of it is moved up: each level holds a descriptor, and
/// containers can nest folders deeper than a process may have descriptors.
const MAX_DEPTH: usize = 100;

/// The folder of what is to be deleted.
#[derive(Debug)]
pub(crate) struct Trash {
    folder: PathBuf,
    next: AtomicU64,
    wake: SyncSender<()>,
    pending: Pending,
}

/// What is not deleted yet, and what it uses.
type Pending = Arc<Mutex<HashMap<OsString, Usage>>>;

fn lock(pending: &Pending) -> MutexGuard<'_, HashMap<OsString, Usage>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trash {
    /// Opens it and starts its thread, which ends when this is dropped.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&folder).during(|| format!("making {}", folder.display()))?;
        let (wake, woken) = sync_channel(1);
        let pending = Pending::default();
        let (swept, left) = (folder.clone(), Arc::clone(&pending));
        std::thread::Builder::new()
            .name("image-trash".into())
            .spawn(move || sweep_when_woken(&swept, &woken, &left))
            .during(|| "starting the thread that empties the trash")?;
        let trash = Self {
            folder,
            next: AtomicU64::new(0),
            wake,
            pending,
        };
        trash.wake();
        Ok(trash)
    }
    /// Opens it, for whoever moves things here by descriptor.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &self.folder, flags, Mode::empty())
            .during(|| format!("opening {}", self.folder.display()))
    }

    /// Moves something here; already gone is no error. What it uses is measured by the thread.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        self.take_sized(path, Usage::default())
    }

    /// The same for what is known to use so much.
    pub(crate) fn take_sized(&self, path: &Path, usage: Usage) -> io::Result<()> {
        loop {
            let name = format!("{}", self.next.fetch_add(1, Ordering::Relaxed));
            match renameat(CWD, path, CWD, self.folder.join(&name)) {
                // Left over from an earlier run, and not deleted yet.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno.into()),
                Ok(()) => {
                    if usage != Usage::default() {
                        lock(&self.pending).insert(name.into(), usage);
                    }
                    break;
                }
            }
        }
        self.wake();
        Ok(())
    }

    /// What is not deleted yet.
    pub(crate) fn usage(&self) -> Usage {
        let pending = lock(&self.pending);
        pending
            .values()
            .copied()
            .fold(Usage::default(), Usage::plus)
    }

    /// A thread that is awake needs no second call.
    pub(crate) fn wake(&self) {
        let _ = self.wake.try_send(());
    }
}

fn sweep_when_woken(folder: &Path, woken: &Receiver<()>, pending: &Pending) {
    be_idle();
    while woken.recv().is_ok() {
        note(folder, pending);
        let swept = sweep(folder);
        // A reset removes the store with this folder.
        let gone = |cause: &io::Error| cause.kind() == io::ErrorKind::NotFound;
        if let Err(cause) = swept.as_ref()
            && (!gone(cause) || folder.exists())
        {
            tracing::warn!(folder = %folder.display(), %cause, "the trash could not be emptied");
        }
        // What came meanwhile is met again: it has woken the thread.
        lock(pending).retain(|name, _| folder.join(name).symlink_metadata().is_ok());
    }
}

/// Lets everybody else go first, at the disk and at the processors. What cannot be had is done
/// without.
pub(crate) fn be_idle() {
    /// `IOPRIO_CLASS_IDLE`, above the thirteen bits of the level (linux/ioprio.h).
    const IDLE_IO: u32 = 3 << 13;
    /// `SCHED_IDLE` (linux/sched.h).
    const IDLE: u32 = 5;
    let scheduler = sys::schedule::Scheduler {
        policy: IDLE,
        ..sys::schedule::Scheduler::default()
    };
    let set = sys::schedule::set_io_priority(IDLE_IO)
        .and_then(|()| sys::schedule::set_scheduler(scheduler));
    if let Err(cause) = set {
        tracing::debug!(%cause, "a thread in the background has the usual priority");
    }
}

/// Measures what nobody has told the size of.
fn note(folder: &Path, pending: &Pending) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if lock(pending).contains_key(&entry.file_name()) {
            continue;
        }
        let usage = measure(&entry.path());
        lock(pending).insert(entry.file_name(), usage);
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
    fn what_is_not_deleted_yet_is_counted() {
        let temp = tempfile::tempdir().unwrap();
        let (folder, pending) = (temp.path().join("trash"), Pending::default());
        std::fs::create_dir_all(folder.join("left")).unwrap();
        std::fs::write(folder.join("left/file"), [1; 10_000]).unwrap();
        note(&folder, &pending);
        assert_eq!(lock(&pending)[&OsString::from("left")].inodes, 2);
        let trash = Trash::open(folder).unwrap();
        let known = Usage {
            bytes: 7,
            inodes: 3,
        };
        std::fs::write(temp.path().join("one"), "").unwrap();
        trash.take_sized(&temp.path().join("one"), known).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while trash.usage() != Usage::default() {
            assert!(std::time::Instant::now() < deadline, "{:?}", trash.usage());
            std::thread::yield_now();
        }
    }

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
