//! A layer as files in a folder: works on every kernel and every file system that overlayfs takes.
//!
//! Beside the folder goes a table of what is in it; [`Contents::sum`] is that of the table.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::fs::{chownat, futimens, linkat, mknodat, openat, statat, symlinkat, utimensat};
use rustix::io::Errno;

use super::names::Spot;
use super::table::{ANY_MODE, Row, RowKind, Writer};
use super::tar::{Archive, Entry};
use super::tree::{
    Attributes, Tree, TreeError, file_type, is_whiteout, set_attributes, set_xattrs, times,
};
use super::unpack::{Builder, Contents, Fault, There, UnpackError};

/// What a file's length is rounded up to when sizes are added up, in bytes.
const DISK_BLOCK: u64 = 4096;

/// A folder being filled.
#[derive(Debug)]
pub(crate) struct DirBuilder {
    tree: Tree,
    contents: Contents,
    /// Set at the end: making something in a folder changes its time.
    folder_times: BTreeMap<Vec<u8>, (i64, u32)>,
    table: Writer,
}

impl DirBuilder {
    /// Fills `tree` and tells in `table` with what.
    pub(crate) fn new(tree: Tree, table: Writer) -> Self {
        Self {
            tree,
            contents: Contents {
                inodes: 1,
                bytes: DISK_BLOCK,
                ..Contents::default()
            },
            folder_times: BTreeMap::new(),
            table,
        }
    }

    fn describe_folder(
        &mut self,
        folder: &OwnedFd,
        entry: &Entry,
        path: Vec<u8>,
    ) -> Result<(), Fault> {
        set_attributes(folder, &attributes(entry))?;
        set_xattrs(folder, &entry.xattrs)?;
        self.note(&path, &row(entry, RowKind::Dir))?;
        self.folder_times.insert(path, entry.mtime);
        Ok(())
    }

    /// Owner and time of what was made by name.
    fn own(&mut self, entry: &Entry, spot: &Spot) -> Result<(), Fault> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let parent = self.tree.folder(&spot.parent)?;
        chownat(
            parent,
            &spot.name[..],
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .and_then(|()| {
            utimensat(
                parent,
                &spot.name[..],
                &times(entry.mtime),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })
        .map_err(|errno| Fault::Disk(errno.into()))
    }

    fn note(&mut self, path: &[u8], row: &Row) -> Result<(), Fault> {
        self.table.add(path, row).map_err(Fault::Disk)
    }

    fn count(&mut self, bytes: u64) {
        self.contents.inodes += 1;
        self.contents.bytes += bytes;
    }
}

impl Builder for DirBuilder {
    fn root(&mut self, entry: &Entry) -> Result<(), Fault> {
        let root = self.tree.describe_root()?;
        self.describe_folder(&root, entry, Vec::new())
    }

    fn folder(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault> {
        let folder = self.tree.make_dir(spot)?;
        self.count(DISK_BLOCK);
        self.describe_folder(&folder, entry, spot.path())
    }

    fn file(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        content: &mut Archive<impl BufRead>,
    ) -> Result<(), Fault> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.tree.make(spot, "create the file", |parent, name| {
            openat(parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        self.count(entry.size.div_ceil(DISK_BLOCK) * DISK_BLOCK);
        let sum = copy(content, entry.size, &file)?;
        let size = entry.size;
        self.note(
            &spot.path(),
            &Row {
                size,
                sum,
                ..row(entry, RowKind::File)
            },
        )?;
        set_attributes(&file, &attributes(entry))?;
        set_xattrs(&file, &entry.xattrs)?;
        futimens(&file, &times(entry.mtime)).map_err(|errno| Fault::Disk(errno.into()))
    }

    fn symlink(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault> {
        self.tree
            .make(spot, "make the symbolic link", |parent, name| {
                symlinkat(&entry.link[..], parent, name)
            })?;
        self.count(0);
        let target = entry.link.clone();
        self.note(
            &spot.path(),
            &Row {
                target,
                ..row(entry, RowKind::Symlink)
            },
        )?;
        self.own(entry, spot)
    }

    fn node(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), Fault> {
        let mode = Mode::from_raw_mode(entry.mode);
        self.tree.make(spot, "make the device", |parent, name| {
            mknodat(parent, name, kind, mode, device)
        })?;
        self.count(0);
        self.note(
            &spot.path(),
            &Row {
                size: device,
                ..row(entry, RowKind::Node)
            },
        )?;
        self.own(entry, spot)?;
        let parent = self.tree.folder(&spot.parent)?;
        let result = rustix::fs::chmodat(parent, &spot.name[..], mode, AtFlags::empty());
        result.map_err(|errno| Fault::Disk(errno.into()))
    }

    fn hard_link(&mut self, spot: &Spot, target: &Spot, entry: &Entry) -> Result<bool, Fault> {
        // First of all: the target may be a file in the place of one of these folders.
        self.tree.folder(&spot.parent)?;
        let from = match self.tree.open(&target.parent) {
            Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => return Ok(false),
            other => other?,
        };
        let there = match statat(&from, &target.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            result => result.map_err(|errno| Fault::Disk(errno.into()))?,
        };
        if file_type(&there) == FileType::Directory || is_whiteout(&there) {
            return Ok(false);
        }
        if let Some(present) = self.tree.look(spot)?
            && (present.st_dev, present.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(true);
        }
        self.tree.make(spot, "make the hard link", |parent, name| {
            linkat(&from, &target.name[..], parent, name, AtFlags::empty())
        })?;
        let target = target.path();
        self.note(
            &spot.path(),
            &Row {
                target,
                ..row(entry, RowKind::HardLink)
            },
        )?;
        Ok(true)
    }

    fn look(&mut self, spot: &Spot) -> Result<Option<There>, Fault> {
        let there = self.tree.look(spot)?;
        Ok(there.map(|there| match file_type(&there) {
            FileType::Directory => There::Folder,
            _ => There::Other,
        }))
    }

    fn whiteout(&mut self, spot: &Spot) -> Result<(), Fault> {
        self.tree.make(spot, "make the whiteout", |parent, name| {
            mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
        })?;
        self.count(0);
        self.note(&spot.path(), &Row::WHITEOUT)
    }

    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault> {
        Ok(self.tree.make_opaque(folder)?)
    }

    fn finish(mut self) -> Result<Contents, UnpackError> {
        let implicit: Vec<Vec<u8>> = self.tree.implicit().iter().cloned().collect();
        let made_up = implicit.iter().map(|path| (path.clone(), (0, 0)));
        let mut described = std::mem::take(&mut self.folder_times);
        // Of one that was replaced, and then made up anew.
        described.retain(|path, _| !self.tree.implicit().contains(path));
        for (path, mtime) in made_up.chain(described) {
            let name = || String::from_utf8_lossy(&path).into_owned();
            self.tree
                .set_folder_time(&path, mtime)
                .map_err(|cause| UnpackError::Disk(name(), io::Error::other(cause.to_string())))?;
        }
        let made_up = implicit.iter().filter(|path| !path.is_empty()).count() as u64;
        self.contents.inodes += made_up;
        self.contents.bytes += made_up * DISK_BLOCK;
        let sum = self.table.finish();
        let sum = sum.map_err(|cause| UnpackError::Disk("the table".to_owned(), cause))?;
        Ok(Contents {
            implicit,
            sum,
            ..self.contents
        })
    }
}

/// What all rows of an entry have in common.
fn row(entry: &Entry, kind: RowKind) -> Row {
    // An access control list has its own say about the permission bits.
    let has_acl = entry
        .xattrs
        .iter()
        .any(|(name, _)| name.starts_with(b"system.posix_acl"));
    Row {
        kind,
        mode: if has_acl { ANY_MODE } else { entry.mode },
        uid: entry.uid,
        gid: entry.gid,
        ..Row::WHITEOUT
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
    }
}

/// Writes the content from where it lies, not copying it on its way; answers with its sum.
fn copy(content: &mut Archive<impl BufRead>, size: u64, file: &OwnedFd) -> Result<u32, Fault> {
    let mut sum = crc32fast::Hasher::new();
    let mut left = size;
    while left > 0 {
        let bytes = content.peek().map_err(Fault::Source)?;
        if bytes.is_empty() {
            return Err(Fault::cut());
        }
        write_all(file, bytes).map_err(Fault::Disk)?;
        sum.update(bytes);
        let count = bytes.len();
        content.take_peeked(count);
        left -= count as u64;
    }
    Ok(sum.finalize())
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
