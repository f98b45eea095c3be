//! A layer as one file: the image of an EROFS file system, which the kernel mounts from the file.
//!
//! ```text
//! tar -> names, in memory ----------------------------------------------\
//!     `-> contents, inodes -> | first block | contents and inodes | folders |
//!              (as they come)       (last)                           (at the end)
//! ```
//!
//! It is not compressed. What an entry becomes is the same as in the `dir` form, marks of overlayfs
//! included, so that layers of both forms go into one stack. [`Contents::sum`] is the CRC-32 of the
//! whole file, the first block coming last. Names are held in memory until all are known; a layer
//! with too many of them is not for this form, and is told apart by [`ErofsBuilder::new`]'s flag.

mod attributes;
mod folders;
mod format;
mod image;
mod names;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;

use self::format::{BLOCK, Data, INODE, Inode, xattrs_inline};
use self::image::Image;
pub(crate) use self::image::sum;
use self::names::{FolderId, Leaf, Names, Node};
use super::names::Spot;
use super::tar::{Archive, Entry, MAX_PATH};
use super::unpack::{Builder, Contents, Fault, There, UnpackError};

/// Most names of a layer; each takes some hundred bytes of memory.
const MAX_NAMES: usize = 1_000_000;
/// The end of a longer file has a block of its own, in bytes: it is mapped, not copied.
const MAX_WITH_TAIL: u64 = 64 << 10;

/// An image being filled.
#[derive(Debug)]
pub(crate) struct ErofsBuilder {
    image: Image,
    names: Names,
    max_names: usize,
    too_many: Arc<AtomicBool>,
}

impl ErofsBuilder {
    /// Takes over an empty file. `too_many` is set if the layer fails for having more names than
    /// are held in memory.
    pub(crate) fn new(file: File, too_many: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self {
            image: Image::new(file)?,
            names: Names::new(),
            max_names: MAX_NAMES,
            too_many,
        })
    }

    fn describe(&mut self, folder: FolderId, entry: &Entry) -> Result<(), Fault> {
        let (new, mode) =
            attributes::kept(&entry.xattrs, entry.mode, true).map_err(Fault::Refused)?;
        let look = &mut self.names.folder_mut(folder).look;
        look.xattrs
            .retain(|old| !new.iter().any(|xattr| xattr.same_name(old)));
        look.xattrs.extend(new);
        if xattrs_inline(&look.xattrs).is_none() {
            return Err(too_many_xattrs());
        }
        (look.mode, look.uid, look.gid) = (mode, entry.uid, entry.gid);
        look.mtime = entry.mtime;
        Ok(())
    }

    /// Names what was written.
    fn put(&mut self, spot: &Spot, leaf: Leaf) -> Result<(), Fault> {
        self.names.put(spot, leaf)?;
        self.check_count()
    }

    fn check_count(&self) -> Result<(), Fault> {
        if self.names.len() <= self.max_names {
            return Ok(());
        }
        self.too_many.store(true, Ordering::SeqCst);
        let text = format!("more than {} names for an image", self.max_names);
        Err(Fault::Disk(io::Error::other(text)))
    }

    /// Writes a symbolic link whose target has a block of its own.
    fn long_symlink(&mut self, spot: &Spot, entry: &Entry) -> Result<Leaf, Fault> {
        let block = self.image.next_block().map_err(Fault::Disk)?;
        self.image.content(&entry.link).map_err(Fault::Disk)?;
        self.image.end_content().map_err(Fault::Disk)?;
        let like = (FileType::Symlink, 0o777, Data::Blocks(block));
        self.simple(spot, entry, like, &entry.link)
    }

    /// Writes the inode of an entry that has no attributes of its own but owner and time.
    fn simple(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        (kind, mode, data): (FileType, u32, Data),
        content: &[u8],
    ) -> Result<Leaf, Fault> {
        // What is wrong with the way to it is found before anything is written.
        self.names.folder(&spot.parent)?;
        let inode = Inode {
            kind,
            mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size: content.len() as u64,
            links: 1,
            data,
            serial: self.image.next_serial(),
        };
        let tail = if matches!(data, Data::Tail(_)) {
            content
        } else {
            &[]
        };
        let number = self.image.inode(&inode, &[], tail);
        Ok(leaf(kind, number.map_err(Fault::Disk)?))
    }

    /// Writes the content, but for what is to follow the inode: where it begins, and that end.
    fn content(
        &mut self,
        content: &mut Archive<impl BufRead>,
        size: u64,
        has_tail: bool,
    ) -> Result<(u32, Vec<u8>), Fault> {
        let block = self.image.next_block().map_err(Fault::Disk)?;
        let mut tail = Vec::new();
        let in_tail = if has_tail { size % BLOCK as u64 } else { 0 };
        let mut left = size;
        while left > 0 {
            let bytes = content.peek().map_err(Fault::Source)?;
            if bytes.is_empty() {
                return Err(Fault::cut());
            }
            let count = bytes.len();
            let in_blocks = (left - in_tail.min(left)).min(count as u64);
            let (in_blocks, rest) = bytes.split_at(usize::try_from(in_blocks).unwrap_or(count));
            self.image.content(in_blocks).map_err(Fault::Disk)?;
            tail.extend_from_slice(rest);
            content.take_peeked(count);
            left -= count as u64;
        }
        self.image.end_content().map_err(Fault::Disk)?;
        Ok((block, tail))
    }

    /// Inodes with several names are written anew, now that their number is known.
    fn relink(&mut self) -> io::Result<()> {
        self.image.flush()?;
        for leaf in self.names.leaves_mut().filter(|leaf| leaf.links > 1) {
            leaf.number = self.image.inode_again(leaf.number, leaf.links)?;
        }
        Ok(())
    }
}

impl Builder for ErofsBuilder {
    fn root(&mut self, entry: &Entry) -> Result<(), Fault> {
        let root = self.names.described_root();
        self.describe(root, entry)
    }

    fn folder(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault> {
        let folder = self.names.described(spot)?;
        self.describe(folder, entry)?;
        self.check_count()
    }

    fn file(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        content: &mut Archive<impl BufRead>,
    ) -> Result<(), Fault> {
        self.names.folder(&spot.parent)?;
        let (xattrs, mode) =
            attributes::kept(&entry.xattrs, entry.mode, false).map_err(Fault::Refused)?;
        let xattrs = xattrs_inline(&xattrs).ok_or_else(too_many_xattrs)?;
        let size = entry.size;
        let tail = usize::try_from(size % BLOCK as u64).expect("less than a block");
        let has_tail = tail > 0 && size <= MAX_WITH_TAIL && INODE + xattrs.len() + tail <= BLOCK;
        let (block, tail) = self.content(content, size, has_tail)?;
        let inode = Inode {
            kind: FileType::RegularFile,
            mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            size,
            links: 1,
            data: if has_tail {
                Data::Tail(block)
            } else {
                Data::Blocks(block)
            },
            serial: self.image.next_serial(),
        };
        let number = self.image.inode(&inode, &xattrs, &tail);
        let leaf = leaf(FileType::RegularFile, number.map_err(Fault::Disk)?);
        self.put(spot, leaf)
    }

    fn symlink(&mut self, spot: &Spot, entry: &Entry) -> Result<(), Fault> {
        // Longer ones cannot be followed (symlink(7)).
        if entry.link.len() >= MAX_PATH || entry.link.contains(&0) {
            return Err(Fault::Refused("its target is no path".into()));
        }
        // One that does not fit behind an inode has a block of its own.
        let fits = INODE + entry.link.len() <= BLOCK;
        let written = if fits {
            let like = (FileType::Symlink, 0o777, Data::Tail(0));
            self.simple(spot, entry, like, &entry.link)?
        } else {
            self.long_symlink(spot, entry)?
        };
        let target = Some(entry.link[..].into());
        self.put(spot, Leaf { target, ..written })
    }

    fn node(
        &mut self,
        spot: &Spot,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), Fault> {
        let data = match kind {
            FileType::Fifo => Data::Blocks(0),
            _ => Data::Device(device),
        };
        let whiteout = kind == FileType::CharacterDevice && device == 0;
        let written = self.simple(spot, entry, (kind, entry.mode, data), &[])?;
        self.put(
            spot,
            Leaf {
                whiteout,
                ..written
            },
        )
    }

    fn hard_link(&mut self, spot: &Spot, target: &Spot, _: &Entry) -> Result<bool, Fault> {
        // First of all: the target may be a file in the place of one of these folders.
        self.names.folder(&spot.parent)?;
        let Some(target) = self.names.linkable(target)? else {
            return Ok(false);
        };
        if self.names.look(spot)? != Some(Node::Leaf(target)) {
            self.names.link(spot, target)?;
        }
        Ok(true)
    }

    fn look(&mut self, spot: &Spot) -> Result<Option<There>, Fault> {
        Ok(self.names.look(spot)?.map(|node| match node {
            Node::Folder(_) => There::Folder,
            Node::Leaf(_) => There::Other,
        }))
    }

    fn whiteout(&mut self, spot: &Spot) -> Result<(), Fault> {
        self.names.folder(&spot.parent)?;
        let inode = Inode {
            kind: FileType::CharacterDevice,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            links: 1,
            data: Data::Device(0),
            serial: self.image.next_serial(),
        };
        let number = self.image.inode(&inode, &[], &[]).map_err(Fault::Disk)?;
        let leaf = leaf(FileType::CharacterDevice, number);
        self.put(
            spot,
            Leaf {
                whiteout: true,
                ..leaf
            },
        )
    }

    fn opaque(&mut self, folder: &[u8]) -> Result<(), Fault> {
        let folder = self.names.folder(folder)?;
        self.names.folder_mut(folder).opaque = true;
        self.check_count()
    }

    fn finish(mut self) -> Result<Contents, UnpackError> {
        let failed = |cause| UnpackError::Disk("the folders".to_owned(), cause);
        self.relink().map_err(failed)?;
        let (bytes, sum) = folders::write(&self.names, self.image).map_err(failed)?;
        Ok(Contents {
            bytes,
            inodes: 1,
            implicit: self.names.implicit().iter().cloned().collect(),
            opaque: false,
            sum,
        })
    }
}

fn leaf(kind: FileType, number: u64) -> Leaf {
    Leaf {
        number,
        kind,
        whiteout: false,
        links: 0,
        target: None,
    }
}

fn too_many_xattrs() -> Fault {
    Fault::Refused("it has too many extended attributes".into())
}
