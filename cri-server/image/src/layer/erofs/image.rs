//! The file that an EROFS image is: written from front to back while the layer comes in.
//!
//! Small things lie close together: an inode, its attributes and the end of its content share a
//! block with others, long content has blocks of its own in between. Nothing is changed once it is
//! written, but for the first block, which is written last: without it the file is no image.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::format::{BLOCK, INODE, Inode, SLOT, set_links, whole_length};
use crate::layer::table::Pace;

/// How much is gathered before it is written, in bytes.
const GATHERED: usize = 1 << 20;
/// Content in pieces of at least this size is written from where it lies, in bytes.
const DIRECT: usize = 64 << 10;

/// An image being written.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    /// What was not written yet.
    gathered: Vec<u8>,
    /// Where in the file that belongs.
    start: u64,
    /// What is free for inodes in the block begun last: places in `gathered`.
    room: std::ops::Range<usize>,
    /// Of all that was written.
    sum: crc32fast::Hasher,
    serial: u32,
}

impl Image {
    /// Takes over an empty file.
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        io::Seek::seek(&mut file, io::SeekFrom::Start(BLOCK as u64))?;
        Ok(Self {
            file,
            gathered: Vec::with_capacity(GATHERED + BLOCK),
            start: BLOCK as u64,
            room: 0..0,
            sum: crc32fast::Hasher::new(),
            serial: 0,
        })
    }

    fn end(&self) -> u64 {
        self.start + self.gathered.len() as u64
    }

    /// The number of the next inode for those to whom its place is too long.
    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// How many inodes have got one.
    pub(super) fn inodes(&self) -> u64 {
        self.serial.into()
    }

    /// The block at which the next content begins.
    pub(super) fn next_block(&self) -> io::Result<u32> {
        debug_assert!(
            self.end().is_multiple_of(BLOCK as u64),
            "the content before was ended"
        );
        block_number(self.end())
    }

    /// Adds to the content that was begun last.
    pub(super) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < DIRECT {
            self.gathered.extend_from_slice(bytes);
            return self.flush_if_much();
        }
        self.flush()?;
        self.file.write_all(bytes)?;
        self.sum.update(bytes);
        self.start += bytes.len() as u64;
        Ok(())
    }

    /// Ends the content that was begun last.
    pub(super) fn end_content(&mut self) -> io::Result<()> {
        let padding =
            usize::try_from(self.end().wrapping_neg() % BLOCK as u64).expect("less than a block");
        self.gathered.resize(self.gathered.len() + padding, 0);
        self.flush_if_much()
    }

    /// Writes an inode and what follows it; answers with its number.
    pub(super) fn inode(&mut self, inode: &Inode, xattrs: &[u8], tail: &[u8]) -> io::Result<u64> {
        let bytes = [&inode.encode(xattrs.len())[..], xattrs, tail].concat();
        self.flush_if_much()?;
        let place = self.reserve(bytes.len());
        self.fill(place, &bytes);
        Ok(place / SLOT as u64)
    }

    /// Writes an inode once more that has got more names; answers with its new number. All has to
    /// be [flushed](Image::flush).
    pub(super) fn inode_again(&mut self, number: u64, links: u32) -> io::Result<u64> {
        let place = number * SLOT as u64;
        let mut head = [0; INODE];
        self.file.read_exact_at(&mut head, place)?;
        let mut bytes = vec![0; whole_length(&head)];
        self.file.read_exact_at(&mut bytes, place)?;
        set_links(&mut bytes, links);
        let place = self.reserve(bytes.len());
        self.fill(place, &bytes);
        Ok(place / SLOT as u64)
    }

    /// A place for an inode and what follows it. It lies within one block if it fits into one.
    pub(super) fn reserve(&mut self, length: usize) -> u64 {
        let length = length.next_multiple_of(SLOT);
        if self.room.len() < length {
            let begin = self.gathered.len();
            let end = begin + length.next_multiple_of(BLOCK);
            self.gathered.resize(end, 0);
            self.room = begin..end;
        }
        let place = self.start + self.room.start as u64;
        self.room.start += length;
        place
    }

    /// Blocks of their own for some bytes: where they begin.
    pub(super) fn reserve_blocks(&mut self, length: usize) -> u64 {
        let place = self.end();
        let length = length.next_multiple_of(BLOCK);
        self.gathered.resize(self.gathered.len() + length, 0);
        place
    }

    /// Writes into a place that was reserved since the last flush.
    pub(super) fn fill(&mut self, place: u64, bytes: &[u8]) {
        let at = place - self.start;
        let at = usize::try_from(at).expect("what is gathered fits into memory");
        self.gathered[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn flush_if_much(&mut self) -> io::Result<()> {
        if self.gathered.len() < GATHERED {
            return Ok(());
        }
        self.flush()
    }

    /// Writes what was gathered. Room that is left in the block begun last is given up.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.gathered)?;
        self.sum.update(&self.gathered);
        self.start += self.gathered.len() as u64;
        self.gathered.clear();
        self.room = 0..0;
        Ok(())
    }

    /// Writes all, and then the first block, which is told how many there are; answers with the
    /// length of the image and the sum of all blocks, the first as the last.
    pub(super) fn finish(
        mut self,
        first: impl FnOnce(u32) -> [u8; BLOCK],
    ) -> io::Result<(u64, u32)> {
        self.flush()?;
        let first = first(block_number(self.start)?);
        self.file.write_all_at(&first, 0)?;
        self.sum.update(&first);
        Ok((self.start, self.sum.finalize()))
    }
}

/// The block that begins at a place.
pub(super) fn block_number(place: u64) -> io::Result<u32> {
    let number = u32::try_from(place / BLOCK as u64).ok();
    number.ok_or_else(|| io::Error::other("the layer is too large for one image"))
}

/// The sum of an image as it was written, read from a file; nothing if `pace` says so.
pub(crate) fn sum(file: &File, pace: &dyn Pace) -> io::Result<Option<u32>> {
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; GATHERED];
    let mut place = BLOCK as u64;
    loop {
        let count = match file.read_at(&mut buffer, place) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            break;
        }
        sum.update(&buffer[..count]);
        place += count as u64;
        if !pace.go_on(count as u64) {
            return Ok(None);
        }
    }
    file.read_exact_at(&mut buffer[..BLOCK], 0)?;
    sum.update(&buffer[..BLOCK]);
    Ok(Some(sum.finalize()))
}
