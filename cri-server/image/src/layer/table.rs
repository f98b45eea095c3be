//! What a layer holds, file by file: written while it is unpacked, compared with the disk later.
//!
//! The table is how a layer is known to be whole after a power cut, and how damage is found. It
//! holds names, types, owners, permissions, lengths and CRC-32 sums: they find what a disk spoils,
//! not what a forger does (who would have to be root). Times, extended attributes and folders that
//! no entry of the tar describes are not compared.
//!
//! A table is a sequence of fields that each end with a NUL byte, seven a row: kind, mode (octal),
//! owner, group, length or device, sum (hexadecimal), name; links have their target as an eighth.
//! Rows stand in the order of the tar, so a later one replaces an earlier one of the same name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Size of the buffers for reading and writing, in bytes.
const BUFFER: usize = 128 << 10;
/// Most symbolic links on the way to an entry, as the kernel bounds them (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What a look at an entry counts as, in bytes read.
const LOOK: u64 = 4096;

/// The permissions of an entry whose bits are not compared.
pub(crate) const ANY_MODE: u32 = 0o17_7777;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    File,
    Dir,
    Symlink,
    HardLink,
    Node,
    Whiteout,
}

impl RowKind {
    const ALL: [(Self, u8); 6] = [
        (Self::File, b'f'),
        (Self::Dir, b'd'),
        (Self::Symlink, b'l'),
        (Self::HardLink, b'h'),
        (Self::Node, b'n'),
        (Self::Whiteout, b'w'),
    ];

    fn letter(self) -> u8 {
        let found = Self::ALL.iter().find(|(kind, _)| *kind == self);
        found.expect("all kinds are listed").1
    }

    fn of(letter: &[u8]) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| [*known] == *letter);
        found.map(|(kind, _)| *kind)
    }

    fn has_target(self) -> bool {
        matches!(self, Self::Symlink | Self::HardLink)
    }
}

/// One entry as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: RowKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Length of a file, or number of a device.
    pub(crate) size: u64,
    /// CRC-32 of a file's content.
    pub(crate) sum: u32,
    /// Of links.
    pub(crate) target: Vec<u8>,
}

impl Row {
    /// The row of a mark that hides a name; also what others begin from.
    pub(crate) const WHITEOUT: Self = Self {
        kind: RowKind::Whiteout,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        sum: 0,
        target: Vec::new(),
    };
}

/// A table being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: BufWriter<File>,
    sum: crc32fast::Hasher,
}

impl Writer {
    /// Writes to an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER, file),
            sum: crc32fast::Hasher::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, path: &[u8], row: &Row) -> io::Result<()> {
        let mut bytes = vec![row.kind.letter(), 0];
        let numbers = format!(
            "{:o}\0{}\0{}\0{}\0{:x}\0",
            row.mode, row.uid, row.gid, row.size, row.sum
        );
        bytes.extend_from_slice(numbers.as_bytes());
        bytes.extend_from_slice(path);
        bytes.push(0);
        if row.kind.has_target() {
            bytes.extend_from_slice(&row.target);
            bytes.push(0);
        }
        self.sum.update(&bytes);
        self.file.write_all(&bytes)
    }

    /// The sum of the whole table, by which it is known to be whole itself.
    pub(crate) fn finish(mut self) -> io::Result<u32> {
        self.file.flush()?;
        Ok(self.sum.finalize())
    }
}

/// How fast a layer is read while it is compared.
pub(crate) trait Pace {
    /// Waits after so many bytes were read; `false` if nobody wants to know the end any more.
    fn go_on(&self, bytes: u64) -> bool;
}

/// As fast as it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpaced;

impl Pace for Unpaced {
    fn go_on(&self, _: u64) -> bool {
        true
    }
}

/// Why a layer was not found to be as it was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Difference {
    /// The first difference.
    #[error("{0}")]
    Damage(String),
    /// The comparison was broken off.
    #[error("the comparison was broken off")]
    Stopped,
}

impl From<String> for Difference {
    fn from(reason: String) -> Self {
        Self::Damage(reason)
    }
}

type Same = Result<(), Difference>;

/// Compares an unpacked layer with its table; says the first difference.
pub(crate) fn compare(tree: &Path, table: &Path, sum: u32, pace: &dyn Pace) -> Same {
    let bytes = std::fs::read(table).map_err(|cause| format!("its table: {cause}"))?;
    if crc32fast::hash(&bytes) != sum {
        return Err("its table is damaged".to_owned().into());
    }
    let rows = Rows::parse(&bytes).ok_or_else(|| "its table cannot be read".to_owned());
    let mut rows = rows?;
    walk(tree, &mut Vec::new(), &mut rows, pace)?;
    match rows.0.into_iter().next() {
        Some((path, _)) => Err(format!("{} is missing", shown(&path)).into()),
        None => Ok(()),
    }
}

/// What must be there, by name.
#[derive(Debug, Default)]
struct Rows(BTreeMap<Vec<u8>, Row>);

impl Rows {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rows = Self::default();
        let mut fields = bytes.split(|byte| *byte == 0).peekable();
        // What follows the last NUL is an empty field.
        while fields.peek().is_some_and(|field| !field.is_empty()) {
            let kind = RowKind::of(fields.next()?)?;
            let mut number = |radix| {
                let text = std::str::from_utf8(fields.next()?).ok()?;
                u64::from_str_radix(text, radix).ok()
            };
            let mut row = Row {
                kind,
                mode: u32::try_from(number(8)?).ok()?,
                uid: u32::try_from(number(10)?).ok()?,
                gid: u32::try_from(number(10)?).ok()?,
                size: number(10)?,
                sum: u32::try_from(number(16)?).ok()?,
                target: Vec::new(),
            };
            let path = fields.next()?;
            if kind.has_target() {
                row.target = fields.next()?.to_vec();
            }
            rows.insert(path, row)?;
        }
        Some(rows)
    }

    /// Does to the table what making the entry did to the tree.
    fn insert(&mut self, path: &[u8], row: Row) -> Option<()> {
        let path = self.canonical(path);
        let row = match row.kind {
            RowKind::HardLink => self.0.get(&self.canonical(&row.target))?.clone(),
            _ => row,
        };
        for end in ends(&path) {
            // A folder had to be made where something else was.
            if self
                .0
                .get(&path[..end])
                .is_some_and(|above| above.kind != RowKind::Dir)
            {
                self.0.remove(&path[..end]);
            }
        }
        if row.kind != RowKind::Dir {
            let below = [&path[..], b"/"].concat();
            self.0.retain(|other, _| !other.starts_with(&below));
        }
        self.0.insert(path, row);
        Some(())
    }

    /// Where an entry lies whose name leads through symbolic links of the layer.
    fn canonical(&self, path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let is_link = |end: &usize| {
                let above = self.0.get(&path[..*end]);
                above.is_some_and(|row| row.kind == RowKind::Symlink)
            };
            let Some(end) = ends(&path).find(is_link) else {
                break;
            };
            let target = &self.0[&path[..end]].target;
            let parent = path[..end]
                .iter()
                .rposition(|byte| *byte == b'/')
                .unwrap_or(0);
            path = clean(&[&path[..parent], b"/", target, &path[end..]].concat());
        }
        path
    }
}

/// Where the folders on the way end.
fn ends(path: &[u8]) -> impl Iterator<Item = usize> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| at)
}

fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Takes each thing that is there from the rows; `path` is where `folder` is in the layer.
fn walk(folder: &Path, path: &mut Vec<u8>, rows: &mut Rows, pace: &dyn Pace) -> Same {
    let meta = std::fs::symlink_metadata(folder).map_err(|cause| told(path, &cause))?;
    // A folder without a row is one that no entry describes.
    if let Some(row) = rows.0.remove(path) {
        check(folder, path, (&meta, &row), pace)?;
    }
    if !meta.is_dir() {
        return Err(format!("{} is no folder", shown(path)).into());
    }
    for entry in std::fs::read_dir(folder).map_err(|cause| told(path, &cause))? {
        let entry = entry.map_err(|cause| told(path, &cause))?;
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend(entry.file_name().into_vec());
        let is_dir = entry
            .file_type()
            .map_err(|cause| told(path, &cause))?
            .is_dir();
        if is_dir {
            walk(&entry.path(), path, rows, pace)?;
        } else {
            let row = rows.0.remove(path);
            let row = row.ok_or_else(|| format!("{} does not belong here", shown(path)))?;
            let meta = entry.metadata().map_err(|cause| told(path, &cause))?;
            check(&entry.path(), path, (&meta, &row), pace)?;
        }
        path.truncate(length);
    }
    Ok(())
}

fn check(place: &Path, path: &[u8], (meta, row): (&Metadata, &Row), pace: &dyn Pace) -> Same {
    if !pace.go_on(LOOK) {
        return Err(Difference::Stopped);
    }
    let kind = meta.file_type();
    let right_kind = match row.kind {
        RowKind::File | RowKind::HardLink => kind.is_file(),
        RowKind::Dir => kind.is_dir(),
        RowKind::Symlink => kind.is_symlink(),
        RowKind::Node => {
            (kind.is_char_device() || kind.is_block_device() || kind.is_fifo())
                && meta.rdev() == row.size
        }
        RowKind::Whiteout => kind.is_char_device() && meta.rdev() == 0,
    };
    if !right_kind {
        return Err(format!("{} is something else", shown(path)).into());
    }
    // Neither of them has permissions of its own.
    let has_mode = !matches!(row.kind, RowKind::Symlink | RowKind::Whiteout);
    if has_mode && row.mode != ANY_MODE && meta.mode() & 0o7777 != row.mode {
        return Err(format!("{} has other permissions", shown(path)).into());
    }
    if row.kind != RowKind::Whiteout && (meta.uid(), meta.gid()) != (row.uid, row.gid) {
        return Err(format!("{} has another owner", shown(path)).into());
    }
    check_content(place, path, (meta, row), pace)
}

fn check_content(
    place: &Path,
    path: &[u8],
    (meta, row): (&Metadata, &Row),
    pace: &dyn Pace,
) -> Same {
    match row.kind {
        RowKind::File if meta.len() != row.size => {
            Err(format!("{} has {} bytes, not {}", shown(path), meta.len(), row.size).into())
        }
        RowKind::File => {
            let sum = sum(place, pace).map_err(|cause| told(path, &cause))?;
            match sum.ok_or(Difference::Stopped)? {
                same if same == row.sum => Ok(()),
                _ => Err(format!("{} has another content", shown(path)).into()),
            }
        }
        RowKind::Symlink => {
            let target = std::fs::read_link(place).map_err(|cause| told(path, &cause))?;
            let same = target.as_os_str() == OsStr::from_bytes(&row.target);
            if same {
                return Ok(());
            }
            Err(format!("{} leads elsewhere", shown(path)).into())
        }
        _ => Ok(()),
    }
}

/// The sum of a file's content; nothing if nobody wants to know any more.
fn sum(place: &Path, pace: &dyn Pace) -> io::Result<Option<u32>> {
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(place)?;
    let (mut sum, mut buffer) = (crc32fast::Hasher::new(), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(sum.finalize())),
            Ok(count) => {
                sum.update(&buffer[..count]);
                if !pace.go_on(count as u64) {
                    return Ok(None);
                }
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

fn told(path: &[u8], cause: &io::Error) -> String {
    format!("{}: {cause}", shown(path))
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: RowKind, target: &str) -> Row {
        Row {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 2,
            size: 3,
            sum: 4,
            target: target.into(),
        }
    }

    /// Rows as kind, name and target; what is left of them.
    fn check(given: &[(RowKind, &str, &str)], expect: &[&str]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file.reopen().unwrap());
        for (kind, path, target) in given {
            writer.add(path.as_bytes(), &row(*kind, target)).unwrap();
        }
        let sum = writer.finish().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(crc32fast::hash(&bytes), sum);
        let rows = Rows::parse(&bytes).unwrap();
        let names: Vec<_> = rows
            .0
            .keys()
            .map(|path| String::from_utf8_lossy(path))
            .collect();
        assert_eq!(names, expect, "{given:?}");
    }

    #[test]
    fn later_rows_replace_earlier_ones() {
        use RowKind::{Dir, File, HardLink, Symlink, Whiteout};
        check(
            &[(File, "a", ""), (HardLink, "b", "a"), (File, "a", "")],
            &["a", "b"],
        );
        check(
            &[(Dir, "a", ""), (File, "a/b", ""), (File, "a", "")],
            &["a"],
        );
        check(&[(File, "a", ""), (File, "a/b", "")], &["a/b"]);
        check(&[(Whiteout, "a", ""), (Dir, "a", "")], &["a"]);
        check(
            &[(Symlink, "x/lib", "../usr/lib"), (File, "x/lib/f", "")],
            &["usr/lib/f", "x/lib"],
        );
        check(
            &[(Symlink, "lib", "usr/lib"), (File, "lib/f", "")],
            &["lib", "usr/lib/f"],
        );
    }

    #[test]
    fn half_a_table_is_no_table() {
        assert!(Rows::parse(b"f\x00644\x000").is_none());
        assert!(Rows::parse(b"").is_some_and(|rows| rows.0.is_empty()));
    }
}
