//! Unpacks the tar of one layer into a folder, as an overlay layer.
//!
//! The result is a function of the tar alone: it does not depend on other layers, nor on the order
//! of whiteouts among the entries. Marks of the image format become those of overlayfs: a whiteout
//! is a character device 0:0, an opaque folder carries an extended attribute (image-spec, layer.md;
//! kernel documentation, overlayfs.rst).

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::fs::{chownat, futimens, linkat, makedev, mknodat, openat, symlinkat, utimensat};
use rustix::io::Errno;

use super::names::{Place, Spot, link_target, place};
use super::table::{ANY_MODE, Row, RowKind, Writer};
use super::tar::{Archive, Entry, Kind, TarError};
use super::tree::{
    Attributes, Tree, TreeError, file_type, is_whiteout, set_attributes, set_xattrs, times,
};

/// Most entries of a layer.
const MAX_ENTRIES: u64 = 10_000_000;
/// What a file's length is rounded up to when sizes are added up, in bytes.
const DISK_BLOCK: u64 = 4096;

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
    /// Folders that no entry described; empty path: the root.
    pub(crate) implicit: Vec<Vec<u8>>,
    /// Whether nothing of the layers below is to be seen.
    pub(crate) opaque: bool,
    /// Sum of its table.
    pub(crate) table: u32,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive as such.
    #[error("{0}")]
    Tar(#[from] TarError),
    /// One entry of it is refused.
    #[error("entry {0:?}: {1}")]
    Entry(String, String),
    /// The local file system failed.
    #[error("entry {0:?}: {1}")]
    Disk(String, io::Error),
    /// There are too many.
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// Unpacks `input` to its end into `tree`.
pub(crate) fn unpack(
    input: impl BufRead,
    tree: Tree,
    table: Writer,
) -> Result<Contents, UnpackError> {
    let mut archive = Archive::new(input);
    let mut unpacker = Unpacker {
        tree,
        contents: Contents {
            inodes: 1,
            bytes: DISK_BLOCK,
            ..Contents::default()
        },
        folder_times: BTreeMap::new(),
        table,
    };
    let mut count = 0;
    while let Some(entry) = archive.next_entry()? {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(UnpackError::TooMany);
        }
        unpacker
            .entry(&entry, &mut archive)
            .map_err(|fault| fault.of(&entry))?;
    }
    archive.finish()?;
    unpacker.finish()
}

/// Why one entry failed, before it is said which.
enum Fault {
    Refused(String),
    Disk(io::Error),
    Source(io::Error),
}

impl Fault {
    fn of(self, entry: &Entry) -> UnpackError {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        match self {
            Self::Refused(reason) => UnpackError::Entry(name, reason),
            Self::Disk(cause) => UnpackError::Disk(name, cause),
            Self::Source(cause) => UnpackError::Tar(TarError::Read(cause)),
        }
    }
}

impl From<TreeError> for Fault {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Escape | TreeError::NotFolder => Self::Refused(error.to_string()),
            // What only an entry itself can cause is the entry's fault, not the disk's.
            TreeError::Call(_, Errno::NAMETOOLONG | Errno::INVAL | Errno::NOTDIR) => {
                Self::Refused(error.to_string())
            }
            TreeError::Call(what, errno) => {
                let cause = io::Error::from(errno);
                Self::Disk(io::Error::new(cause.kind(), format!("{what}: {cause}")))
            }
        }
    }
}

struct Unpacker {
    tree: Tree,
    contents: Contents,
    /// Set at the end: making something in a folder changes its time.
    folder_times: BTreeMap<Vec<u8>, (i64, u32)>,
    table: Writer,
}

impl Unpacker {
    fn entry(&mut self, entry: &Entry, content: &mut Archive<impl BufRead>) -> Result<(), Fault> {
        match place(&entry.path).map_err(Fault::Refused)? {
            Place::Ignored => Ok(()),
            Place::Root if entry.kind == Kind::Dir => {
                let root = self.tree.describe_root()?;
                self.describe_folder(&root, entry, Vec::new())
            }
            Place::Root => Err(Fault::Refused(
                "the root of a layer can only be a folder".into(),
            )),
            Place::Opaque(folder) => self.opaque(&folder),
            Place::Whiteout(spot) => self.whiteout(&spot),
            Place::In(spot) => self.member(entry, &spot, content),
        }
    }

    fn member(
        &mut self,
        entry: &Entry,
        spot: &Spot,
        content: &mut Archive<impl BufRead>,
    ) -> Result<(), Fault> {
        match entry.kind {
            Kind::Dir => {
                let folder = self.tree.make_dir(spot)?;
                self.count(DISK_BLOCK);
                self.describe_folder(&folder, entry, spot.path())
            }
            Kind::File => self.file(entry, spot, content),
            Kind::Symlink => self.symlink(entry, spot),
            Kind::HardLink => self.hard_link(entry, spot),
            Kind::Char(major, minor) => self.node(
                entry,
                spot,
                FileType::CharacterDevice,
                makedev(major, minor),
            ),
            Kind::Block(major, minor) => {
                self.node(entry, spot, FileType::BlockDevice, makedev(major, minor))
            }
            Kind::Fifo => self.node(entry, spot, FileType::Fifo, 0),
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

    fn file(
        &mut self,
        entry: &Entry,
        spot: &Spot,
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

    fn symlink(&mut self, entry: &Entry, spot: &Spot) -> Result<(), Fault> {
        if entry.link.is_empty() {
            return Err(Fault::Refused("a symbolic link without a target".into()));
        }
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
        entry: &Entry,
        spot: &Spot,
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

    /// Links only to what this layer has already: nothing else can be reached from here.
    fn hard_link(&mut self, entry: &Entry, spot: &Spot) -> Result<(), Fault> {
        let missing = || {
            Fault::Refused(format!(
                "hard link to {:?}, which this layer does not have",
                String::from_utf8_lossy(&entry.link)
            ))
        };
        let target = link_target(&entry.link).map_err(Fault::Refused)?;
        let from = match self.tree.open(&target.parent) {
            Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => return Err(missing()),
            other => other?,
        };
        let there = match rustix::fs::statat(&from, &target.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing()),
            result => result.map_err(|errno| Fault::Disk(errno.into()))?,
        };
        if file_type(&there) == FileType::Directory || is_whiteout(&there) {
            return Err(missing());
        }
        if let Some(present) = self.tree.look(spot)?
            && (present.st_dev, present.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
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
        )
    }

    /// An entry of this layer wins over a whiteout of the same name; a folder then hides what is below.
    fn whiteout(&mut self, spot: &Spot) -> Result<(), Fault> {
        match self.tree.look(spot)? {
            Some(there) if file_type(&there) == FileType::Directory => self.opaque(&spot.path()),
            Some(_) => Ok(()),
            None => {
                self.tree.make(spot, "make the whiteout", |parent, name| {
                    mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
                })?;
                self.count(0);
                self.note(&spot.path(), &Row::WHITEOUT)
            }
        }
    }

    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault> {
        // Overlayfs merges the roots of all layers, marked or not; the mount has to leave them out.
        self.contents.opaque |= folder.is_empty();
        Ok(self.tree.make_opaque(folder)?)
    }

    fn note(&mut self, path: &[u8], row: &Row) -> Result<(), Fault> {
        self.table.add(path, row).map_err(Fault::Disk)
    }

    fn count(&mut self, bytes: u64) {
        self.contents.inodes += 1;
        self.contents.bytes += bytes;
    }

    fn finish(mut self) -> Result<Contents, UnpackError> {
        let implicit: Vec<Vec<u8>> = self.tree.implicit().iter().cloned().collect();
        let made_up = implicit.iter().map(|path| (path.clone(), (0, 0)));
        for (path, mtime) in made_up.chain(std::mem::take(&mut self.folder_times)) {
            let name = || String::from_utf8_lossy(&path).into_owned();
            self.tree
                .set_folder_time(&path, mtime)
                .map_err(|cause| UnpackError::Disk(name(), io::Error::other(cause.to_string())))?;
        }
        let made_up = implicit.iter().filter(|path| !path.is_empty()).count() as u64;
        self.contents.inodes += made_up;
        self.contents.bytes += made_up * DISK_BLOCK;
        let table = self.table.finish();
        let table = table.map_err(|cause| UnpackError::Disk("the table".to_owned(), cause))?;
        Ok(Contents {
            implicit,
            table,
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
            return Err(Fault::Refused("the archive ends within it".into()));
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
