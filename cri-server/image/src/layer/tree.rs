//! A folder that a layer is unpacked into, held by a descriptor.
//!
//! Every name below it is resolved from that descriptor and may not leave it: `openat2` with
//! `RESOLVE_BENEATH` refuses `..`, absolute symbolic links and all that lead out (openat2(2)).
//! It creates and replaces; which entries there are, and what they mean, is decided elsewhere.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::fs::{Gid, Uid};
use rustix::fs::{
    fchmod, fchown, fsetxattr, futimens, mkdirat, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::names::Spot;

/// The mark of a folder that hides what is below it (kernel documentation, overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";

/// Why something could not be made in the tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The way to it leads out of the tree.
    #[error("its folder leads out of the layer through a symbolic link")]
    Escape,
    /// A part of the way is no folder.
    #[error("its folder is not a folder")]
    NotFolder,
    /// A call failed.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
}

type Result<T> = std::result::Result<T, TreeError>;

fn call<T>(what: &'static str, result: rustix::io::Result<T>) -> Result<T> {
    result.map_err(|errno| TreeError::Call(what, errno))
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Where what gets replaced is moved to; on the same file system.
    trash: OwnedFd,
    /// The folder used last: most entries follow their neighbours.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Folders that no entry described yet.
    implicit: BTreeSet<Vec<u8>>,
}

/// Owner and permissions of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

impl Tree {
    /// Takes over an empty folder.
    pub(crate) fn new(root: OwnedFd, trash: OwnedFd) -> Self {
        Self {
            root,
            trash,
            last: None,
            implicit: BTreeSet::from([Vec::new()]),
        }
    }

    /// Folders that had to be made though no entry described them; the root is the empty path.
    pub(crate) fn implicit(&self) -> &BTreeSet<Vec<u8>> {
        &self.implicit
    }

    /// Opens a folder, making it and those on the way if they are missing.
    pub(crate) fn folder(&mut self, path: &[u8]) -> Result<&OwnedFd> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let opened = match self.open(path) {
                Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => {
                    self.make_folders(path)?
                }
                other => other?,
            };
            self.last = Some((path.to_vec(), opened));
        }
        let (_, folder) = self.last.as_ref().expect("set just above");
        Ok(folder)
    }

    /// Opens a folder that exists.
    pub(crate) fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags, Mode::empty(), inside).map_err(|errno| match errno {
            Errno::XDEV | Errno::LOOP => TreeError::Escape,
            Errno::NOTDIR => TreeError::NotFolder,
            other => TreeError::Call("open its folder", other),
        })
    }

    fn make_folders(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut parent = self.open(b"")?;
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        let ends: Vec<usize> = ends.chain([path.len()]).collect();
        let mut start = 0;
        for end in ends {
            let (name, so_far) = (&path[start..end], &path[..end]);
            parent = match self.open(so_far) {
                Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => {
                    refuse_link(&parent, name)?;
                    Self::make_folder_in(&parent, name)?;
                    let made = open_child(&parent, name)?;
                    call(
                        "set the permissions",
                        fchmod(&made, Mode::from_raw_mode(0o755)),
                    )?;
                    self.implicit.insert(so_far.to_vec());
                    self.open(so_far)?
                }
                other => other?,
            };
            start = end + 1;
        }
        Ok(parent)
    }

    /// Makes a folder, or keeps the one that is there. A mark that hides what is below becomes a
    /// folder that does the same; anything else in the way was replaced by this later entry.
    fn make_folder_in(parent: &OwnedFd, name: &[u8]) -> Result<()> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            result => return call("make the folder", result),
        }
        let there = call(
            "look at it",
            statat(parent, name, AtFlags::SYMLINK_NOFOLLOW),
        )?;
        if file_type(&there) == FileType::Directory {
            return Ok(());
        }
        call(
            "replace what was there",
            unlinkat(parent, name, AtFlags::empty()),
        )?;
        call(
            "make the folder",
            mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        )?;
        if is_whiteout(&there) {
            set_opaque(&open_child(parent, name)?)?;
        }
        Ok(())
    }

    /// Makes a folder that an entry describes, or takes the one that is there.
    pub(crate) fn make_dir(&mut self, spot: &Spot) -> Result<OwnedFd> {
        let parent = self.folder(&spot.parent)?;
        Self::make_folder_in(parent, &spot.name)?;
        let folder = open_child(parent, &spot.name)?;
        self.implicit.remove(&spot.path());
        // What was there may have been a link on the way to the folder used last.
        self.last = self.last.take().filter(|(last, _)| *last == spot.parent);
        Ok(folder)
    }

    /// The root, which an entry describes.
    pub(crate) fn describe_root(&mut self) -> Result<OwnedFd> {
        self.implicit.remove(&b""[..]);
        self.open(b"")
    }

    /// Makes something that is not a folder, in place of what may be there.
    pub(crate) fn make<T>(
        &mut self,
        spot: &Spot,
        what: &'static str,
        make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let parent = self.folder(&spot.parent)?;
        match make(parent, &spot.name) {
            Err(Errno::EXIST) => {}
            result => return call(what, result),
        }
        self.clear(spot)?;
        let parent = self.folder(&spot.parent)?;
        call(what, make(parent, &spot.name))
    }

    /// Takes away what is at a spot. A folder is moved out whole, whatever it holds.
    fn clear(&mut self, spot: &Spot) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = self.folder(&spot.parent)?;
        match unlinkat(parent, &spot.name[..], AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            result => {
                self.last = None;
                return call("replace what was there", result);
            }
        }
        let moved = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let unique = format!("replaced-{}-{number}", std::process::id());
            self.folder(&spot.parent)?;
            let (_, parent) = self.last.as_ref().expect("opened just above");
            match renameat(parent, &spot.name[..], &self.trash, &unique) {
                // Left over from an earlier run, and not deleted yet.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                result => break result,
            }
        };
        call("replace what was there", moved)?;
        let gone = spot.path();
        self.last = None;
        self.implicit
            .retain(|path| *path != gone && !is_below(path, &gone));
        Ok(())
    }

    /// What is at a spot, if anything; symbolic links are not followed.
    pub(crate) fn look(&mut self, spot: &Spot) -> Result<Option<Stat>> {
        let parent = self.folder(&spot.parent)?;
        match statat(parent, &spot.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            result => call("look at it", result).map(Some),
        }
    }

    /// Marks a folder as hiding what layers below have in it.
    pub(crate) fn make_opaque(&mut self, path: &[u8]) -> Result<()> {
        set_opaque(self.folder(path)?)
    }

    /// Sets the time of a folder; if it is not there any more, nothing is to be done.
    pub(crate) fn set_folder_time(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<()> {
        match self.open(path) {
            Ok(folder) => call("set the time", futimens(&folder, &times(mtime))),
            Err(TreeError::NotFolder | TreeError::Escape | TreeError::Call(_, Errno::NOENT)) => {
                Ok(())
            }
            Err(other) => Err(other),
        }
    }
}

/// Whether `path` is below `folder`.
fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// A link that leads to nothing in this layer leads elsewhere: to make a folder in its place would
/// change what the entries through it mean.
fn refuse_link(parent: &OwnedFd, name: &[u8]) -> Result<()> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if file_type(&there) == FileType::Symlink => Err(TreeError::Escape),
        _ => Ok(()),
    }
}

fn open_child(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    call(
        "open the folder",
        rustix::fs::openat(parent, name, flags, Mode::empty()),
    )
}

fn set_opaque(folder: &OwnedFd) -> Result<()> {
    call(
        "mark the folder as opaque",
        fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty()),
    )
}

/// The type of what was looked at.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether it is the mark that hides a name of the layers below: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The time as the kernel takes it, for both access and change.
pub(crate) fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: mtime.1.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Owner, then permissions (which a change of owner would take away again).
pub(crate) fn set_attributes(file: &OwnedFd, attributes: &Attributes) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    call("set the owner", fchown(file, Some(uid), Some(gid)))?;
    call(
        "set the permissions",
        fchmod(file, Mode::from_raw_mode(attributes.mode)),
    )
}

/// Whether an extended attribute is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It has to be.
    Yes,
    /// Where the file system can: nothing depends on it.
    Optional,
    /// It is not.
    No,
}

/// Only those are kept that images are meant to carry: marks of the overlay file system in
/// particular must never come from outside.
pub(crate) fn wanted(name: &[u8]) -> Wanted {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => {
            Wanted::Yes
        }
        _ if name.starts_with(b"user.overlay.") => Wanted::No,
        _ if name.starts_with(b"user.") => Wanted::Optional,
        _ => Wanted::No,
    }
}

/// Sets those extended attributes that are kept.
pub(crate) fn set_xattrs(file: &OwnedFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs {
        let wanted = wanted(name);
        if wanted == Wanted::No {
            continue;
        }
        let optional = wanted == Wanted::Optional;
        match fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            // Not every file system keeps these, and nothing depends on them.
            Err(Errno::NOTSUP | Errno::PERM) if optional => {}
            result => call("set an extended attribute", result)?,
        }
    }
    Ok(())
}
