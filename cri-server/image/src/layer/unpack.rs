//! Reads the tar of one layer and has made what it describes, as an overlay layer.
//!
//! What an entry means is decided here; a [`Builder`] makes it, as files in a folder (`dir`) or in
//! the image of a file system (`erofs`). The result is a function of the tar alone: it does not
//! depend on other layers, nor on the order of whiteouts among the entries. Marks of the image
//! format become those of overlayfs: a whiteout is a character device 0:0, an opaque folder carries
//! an extended attribute (image-spec, layer.md; kernel documentation, overlayfs.rst).

use std::fs::File;
use std::io::{self, BufRead};
use std::sync::Arc;

use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

use super::names::{Place, Spot, link_target, place};
use super::recipe::Tap;
use super::tar::{Archive, Entry, Kind, TarError};
use super::tree::TreeError;
use crate::store::held::Used;

/// Most entries of a layer.
const MAX_ENTRIES: u64 = 10_000_000;

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
    /// By which it is known to be whole; of what, each form says.
    pub(crate) sum: u32,
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

/// What is at a spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// A folder.
    Folder,
    /// Anything else.
    Other,
}

/// Makes what entries describe. Folders on the way that no entry described yet are made up; what is
/// in the way is replaced, but for folders where a folder is wanted.
pub(crate) trait Builder {
    /// The root, as an entry describes it.
    fn root(&mut self, entry: &Entry) -> Result<(), Fault>;

    /// A folder, or the looks of the one that is there.
    fn folder(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault>;

    /// A file with the content that the archive stands at.
    fn file(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        content: &mut Archive<impl BufRead>,
    ) -> Result<(), Fault>;

    /// A symbolic link to [`Entry::link`].
    fn symlink(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault>;

    /// A device, with its number, or a pipe.
    fn node(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), Fault>;

    /// One more name of what this layer has at `target`; `false` if that is nothing or a folder.
    fn hard_link(&mut self, spot: &Spot, target: &Spot, entry: &Entry) -> Result<bool, Fault>;

    /// What is at a spot, if anything; symbolic links are not followed.
    fn look(&mut self, spot: &Spot) -> Result<Option<There>, Fault>;

    /// The mark that hides a name of the layers below.
    fn whiteout(&mut self, spot: &Spot) -> Result<(), Fault>;

    /// Marks a folder as hiding what the layers below have in it; the empty path is the root.
    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault>;

    /// After the last entry; [`Contents::opaque`] is not its business.
    fn finish(self) -> Result<Contents, UnpackError>;
}

/// What is written down while a layer is unpacked.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// How its tar was made up, if anybody will want to know; an empty file.
    pub(crate) recipe: Option<File>,
    /// About how much it uses so far.
    pub(crate) used: Arc<Used>,
}

/// A tar whose recipe is written while it is read.
type Taped<R> = Archive<Tap<R>>;

/// Unpacks `input` to its end by way of `builder`.
pub(crate) fn unpack(
    input: impl BufRead,
    builder: impl Builder,
    notes: Notes,
) -> Result<Contents, UnpackError> {
    let recipe = |cause| UnpackError::Disk("the recipe".to_owned(), cause);
    let tap = Tap::new(input, notes.recipe).map_err(recipe)?;
    let mut archive = Archive::new(tap);
    let mut unpacker = Unpacker {
        builder,
        opaque: false,
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
        notes.used.add(entry.size);
    }
    archive.finish()?.finish().map_err(recipe)?;
    Ok(Contents {
        opaque: unpacker.opaque,
        ..unpacker.builder.finish()?
    })
}

/// Why one entry failed, before it is said which.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not to be had anywhere.
    Refused(String),
    /// The local file system failed.
    Disk(io::Error),
    /// What the archive is read from failed.
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

    /// The archive has less content than it promised.
    pub(crate) fn cut() -> Self {
        Self::Refused("the archive ends within it".into())
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

struct Unpacker<B> {
    builder: B,
    opaque: bool,
}

impl<B: Builder> Unpacker<B> {
    fn entry(&mut self, entry: &Entry, content: &mut Taped<impl BufRead>) -> Result<(), Fault> {
        match place(&entry.path).map_err(Fault::Refused)? {
            Place::Ignored => Ok(()),
            Place::Root if entry.kind == Kind::Dir => self.builder.root(entry),
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
        content: &mut Taped<impl BufRead>,
    ) -> Result<(), Fault> {
        let builder = &mut self.builder;
        match entry.kind {
            Kind::Dir => builder.folder(spot, entry),
            Kind::File => {
                content.source_mut().content(&spot.path(), entry.size);
                builder.file(spot, entry, content)
            }
            Kind::Symlink if entry.link.is_empty() => {
                Err(Fault::Refused("a symbolic link without a target".into()))
            }
            Kind::Symlink => builder.symlink(spot, entry),
            Kind::HardLink => self.hard_link(entry, spot),
            Kind::Char(major, minor) => {
                let device = makedev(major, minor);
                builder.node(spot, entry, FileType::CharacterDevice, device)
            }
            Kind::Block(major, minor) => {
                let device = makedev(major, minor);
                builder.node(spot, entry, FileType::BlockDevice, device)
            }
            Kind::Fifo => builder.node(spot, entry, FileType::Fifo, 0),
        }
    }

    /// Links only to what this layer has already: nothing else can be reached from here.
    fn hard_link(&mut self, entry: &Entry, spot: &Spot) -> Result<(), Fault> {
        let target = link_target(&entry.link).map_err(Fault::Refused)?;
        if self.builder.hard_link(spot, &target, entry)? {
            return Ok(());
        }
        Err(Fault::Refused(format!(
            "hard link to {:?}, which this layer does not have",
            String::from_utf8_lossy(&entry.link)
        )))
    }

    /// An entry of this layer wins over a whiteout of the same name; a folder then hides what is below.
    fn whiteout(&mut self, spot: &Spot) -> Result<(), Fault> {
        match self.builder.look(spot)? {
            Some(There::Folder) => self.opaque(&spot.path()),
            Some(There::Other) => Ok(()),
            None => self.builder.whiteout(spot),
        }
    }

    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault> {
        // Overlayfs merges the roots of all layers, marked or not; the mount has to leave them out.
        self.opaque |= folder.is_empty();
        self.builder.opaque(folder)
    }
}
