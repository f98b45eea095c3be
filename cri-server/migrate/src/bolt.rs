//! A file of bbolt, read: the key-value store in which containerd notes what it has.
//!
//! Only what reading wants. The format is that of bbolt's version 2: pages, of which the first two
//! are meta pages by turns, and buckets that are trees of pages or lie within a value. The file is
//! read whole, so that a containerd that runs may go on writing; bbolt never changes a page that the
//! newest meta page reaches, and [`Bolt::open`] reads again if a newer one came meanwhile. (The format
//! is described in bbolt's own sources only. There is no crate of it that is kept.)

use std::path::Path;

use crate::Error;

/// What a meta page begins with.
const MAGIC: u32 = 0xED0C_DAED;
/// The version of the format.
const VERSION: u32 = 2;
/// Length of a page's header, bytes: id, kind, count, overflow.
const HEADER: usize = 16;
/// Length of an element of a page, bytes.
const ELEMENT: usize = 16;
/// Kinds of pages.
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
/// The mark of an element that is a bucket.
const BUCKET: u32 = 1;
/// Largest file that is read, bytes: a node's is some MiB.
const MAX_FILE: u64 = 1 << 30;
/// How deep trees of pages may be.
const MAX_DEPTH: usize = 64;
/// How often a file is read anew because it was written meanwhile.
const MAX_READS: usize = 10;

/// An open file.
#[derive(Debug)]
pub(crate) struct Bolt {
    bytes: Vec<u8>,
    page_size: usize,
    root: u64,
}

/// A bucket: keys with values, and further buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket<'a> {
    file: &'a Bolt,
    place: Place<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    /// A tree of pages.
    Page(u64),
    /// A page within the value of the parent.
    Inline(&'a [u8]),
}

/// An entry of a bucket.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    key: &'a [u8],
    value: &'a [u8],
    is_bucket: bool,
}

/// What the newest meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    transaction: u64,
    page_size: usize,
    root: u64,
}

impl Bolt {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no such file.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let reading = || Error::io("reading", path);
        for _ in 0..MAX_READS {
            let length = std::fs::metadata(path).map_err(reading())?.len();
            if length > MAX_FILE {
                let reason = format!("it has {length} bytes, at most {MAX_FILE} are read");
                return Err(Error::unreadable(path, reason));
            }
            let bytes = std::fs::read(path).map_err(reading())?;
            let meta =
                meta(&bytes).ok_or_else(|| Error::unreadable(path, "it is no file of bbolt"))?;
            let again = std::fs::read(path).map_err(reading())?;
            if self::meta(&again) == Some(meta) {
                return Ok(Self {
                    bytes,
                    page_size: meta.page_size,
                    root: meta.root,
                });
            }
        }
        Err(Error::unreadable(
            path,
            "it is written all the time; stop the engine first",
        ))
    }

    /// The bucket of all buckets.
    pub(crate) fn root(&self) -> Bucket<'_> {
        Bucket {
            file: self,
            place: Place::Page(self.root),
        }
    }

    fn page(&self, id: u64) -> Option<&[u8]> {
        let at = usize::try_from(id).ok()?.checked_mul(self.page_size)?;
        let overflow = number32(self.bytes.get(at..)?, 12)?;
        let pages = usize::try_from(overflow).ok()?.checked_add(1)?;
        let end = at.checked_add(pages.checked_mul(self.page_size)?)?;
        self.bytes.get(at..end)
    }

    /// All entries below a page; nothing if the file is broken.
    fn entries<'a>(
        &'a self,
        page: &'a [u8],
        depth: usize,
        found: &mut Vec<Entry<'a>>,
    ) -> Option<()> {
        let kind = number16(page, 8)?;
        let count = usize::from(number16(page, 10)?);
        let depth = depth.checked_sub(1)?;
        for index in 0..count {
            let at = HEADER + index * ELEMENT;
            match kind {
                BRANCH => {
                    let child = self.page(number64(page, at + 8)?)?;
                    self.entries(child, depth, found)?;
                }
                LEAF => {
                    let size = |offset| usize::try_from(number32(page, at + offset)?).ok();
                    let (start, key, value) = (at + size(4)?, size(8)?, size(12)?);
                    let middle = start.checked_add(key)?;
                    found.push(Entry {
                        key: page.get(start..middle)?,
                        value: page.get(middle..middle.checked_add(value)?)?,
                        is_bucket: number32(page, at)? & BUCKET != 0,
                    });
                }
                _ => return None,
            }
        }
        Some(())
    }
}

impl<'a> Bucket<'a> {
    /// The bucket of that name within it.
    pub(crate) fn bucket(&self, name: &str) -> Option<Bucket<'a>> {
        let entries = self.entries();
        let entry = entries
            .iter()
            .find(|entry| entry.is_bucket && entry.key == name.as_bytes())?;
        self.at(entry)
    }

    /// All buckets within it, by name.
    pub(crate) fn buckets(&self) -> Vec<(String, Bucket<'a>)> {
        let entries = self.entries();
        let buckets = entries.iter().filter(|entry| entry.is_bucket);
        buckets
            .filter_map(|entry| {
                let name = String::from_utf8(entry.key.to_vec()).ok()?;
                Some((name, self.at(entry)?))
            })
            .collect()
    }

    /// The text under a key.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let entries = self.entries();
        let entry = entries
            .iter()
            .find(|entry| !entry.is_bucket && entry.key == name.as_bytes())?;
        String::from_utf8(entry.value.to_vec()).ok()
    }

    fn entries(&self) -> Vec<Entry<'a>> {
        let page = match self.place {
            Place::Page(id) => self.file.page(id),
            Place::Inline(page) => Some(page),
        };
        let mut found = Vec::new();
        // A broken part has no entries: what it held is not found, and that is said of it.
        let _whole = page.and_then(|page| self.file.entries(page, MAX_DEPTH, &mut found));
        found
    }

    fn at(&self, entry: &Entry<'a>) -> Option<Bucket<'a>> {
        // The first page, or 0 where the bucket's one page follows; then a counter.
        let place = match number64(entry.value, 0)? {
            0 => Place::Inline(entry.value.get(16..)?),
            page => Place::Page(page),
        };
        Some(Bucket {
            file: self.file,
            place,
        })
    }
}

/// The newest of the two meta pages. The second one lies at the size of a page, which the first has.
fn meta(bytes: &[u8]) -> Option<Meta> {
    let sizes = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
    let seconds = sizes
        .into_iter()
        .filter_map(|at| meta_at(bytes.get(at..)?).filter(|meta| meta.page_size == at));
    meta_at(bytes)
        .into_iter()
        .chain(seconds)
        .max_by_key(|meta| meta.transaction)
}

/// A page: header, magic, version, size of pages, flags, root with its counter, list of free pages,
/// number of pages, transaction, sum (FNV-1a over what comes before it).
fn meta_at(page: &[u8]) -> Option<Meta> {
    let body = page.get(HEADER..)?;
    let known = number32(body, 0)? == MAGIC && number32(body, 4)? == VERSION;
    let sum = fnv(body.get(..56)?) == number64(body, 56)?;
    let page_size = usize::try_from(number32(body, 8)?).ok()?;
    (known && sum && page_size >= 512).then_some(Meta {
        transaction: number64(body, 48)?,
        page_size,
        root: number64(body, 16)?,
    })
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bolt_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meta.db");
        for bytes in [vec![], vec![0; 8192], vec![0xff; 65536]] {
            std::fs::write(&file, bytes).unwrap();
            let error = Bolt::open(&file).unwrap_err().to_string();
            assert!(error.contains("no file of bbolt"), "{error}");
        }
    }

    #[test]
    fn a_tree_that_leads_back_to_itself_ends() {
        let mut page = vec![0_u8; 512];
        page[8] = 1;
        page[10] = 1;
        let file = Bolt {
            bytes: page,
            page_size: 512,
            root: 0,
        };
        assert!(file.root().buckets().is_empty());
    }
}
