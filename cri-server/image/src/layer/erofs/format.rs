//! The bytes of EROFS: superblock, inodes, folders, extended attributes.
//!
//! Pure. Only what is written here is described: blocks of 4096 bytes, extended inodes, content in
//! one run of blocks, with its end behind the inode where that saves a block. Names and numbers are
//! those of the format (EROFS documentation, "Core on-disk format"; linux/fs/erofs/erofs_fs.h).

use rustix::fs::{FileType, major, minor};

/// Size of a block, in bytes.
pub(super) const BLOCK: usize = 4096;
/// What inodes are aligned to and numbered by, in bytes: that of number n lies at `n * SLOT`.
pub(super) const SLOT: usize = 32;
/// Size of an inode without what follows it, in bytes.
pub(super) const INODE: usize = 64;
/// Where the inode of the root lies: behind the superblock, since its number has 16 bits only.
pub(super) const ROOT_AT: usize = SUPER_AT + SUPER;

/// Where the superblock lies, and its size, in bytes.
const SUPER_AT: usize = 1024;
const SUPER: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Inodes have a time of last change of their own.
const COMPAT_MTIME: u32 = 0x2;
/// Size of an entry of a folder without its name, in bytes.
const DIRENT: usize = 12;
/// Size of what stands before the extended attributes of an inode, in bytes.
const XATTR_HEADER: usize = 12;
/// What extended attributes are aligned to, in bytes.
const XATTR_ALIGN: usize = 4;
/// Most bytes of extended attributes behind one inode.
const MAX_XATTRS: usize = XATTR_HEADER + XATTR_ALIGN * (u16::MAX as usize - 1);
/// Most extended attributes that an inode may have elsewhere.
const MAX_SHARED: usize = u8::MAX as usize;

/// Where the content of an inode lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// In blocks from this one on.
    Blocks(u32),
    /// The same, but that the last part of a block follows the inode.
    Tail(u32),
    /// It is a device and has a number instead.
    Device(u64),
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) kind: FileType,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) data: Data,
    /// For those to whom the number of the slot is too long.
    pub(super) serial: u32,
}

impl Inode {
    /// Its bytes, with as many of extended attributes to follow.
    pub(super) fn encode(&self, xattrs: usize) -> [u8; INODE] {
        let (layout, data) = match self.data {
            Data::Blocks(block) => (0, block),
            Data::Tail(block) => (2, block),
            Data::Device(number) => (0, encode_device(number)),
        };
        let units = xattrs.saturating_sub(XATTR_HEADER) / XATTR_ALIGN + usize::from(xattrs > 0);
        let units = u16::try_from(units).expect("attributes that are too many were refused");
        let type_bits = self.kind.as_raw_mode() & 0o17_0000;
        let mode = u16::try_from(type_bits | (self.mode & 0o7777)).expect("has sixteen bits");
        let mut bytes = [0; INODE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        // Bit 0: an inode of 64 bytes.
        put(0x00, &(1_u16 | layout << 1).to_le_bytes());
        put(0x02, &units.to_le_bytes());
        put(0x04, &mode.to_le_bytes());
        put(0x08, &self.size.to_le_bytes());
        put(0x10, &data.to_le_bytes());
        put(0x14, &self.serial.to_le_bytes());
        put(0x18, &self.uid.to_le_bytes());
        put(0x1c, &self.gid.to_le_bytes());
        put(0x20, &self.mtime.0.to_le_bytes());
        put(0x28, &self.mtime.1.to_le_bytes());
        put(0x2c, &self.links.to_le_bytes());
        bytes
    }
}

/// How many bytes an inode takes, all that follows it included.
pub(super) fn whole_length(inode: &[u8; INODE]) -> usize {
    let field = |at: usize| u16::from_le_bytes([inode[at], inode[at + 1]]);
    let xattrs = match usize::from(field(0x02)) {
        0 => 0,
        units => XATTR_HEADER + XATTR_ALIGN * (units - 1),
    };
    let has_tail = field(0x00) >> 1 == 2;
    let tail = usize::from(field(0x08)) % BLOCK;
    INODE + xattrs + if has_tail { tail } else { 0 }
}

/// Gives an inode another count of names.
pub(super) fn set_links(inode: &mut [u8], links: u32) {
    inode[0x2c..0x30].copy_from_slice(&links.to_le_bytes());
}

/// As the kernel keeps the number of a device in 32 bits (`new_encode_dev`).
fn encode_device(number: u64) -> u32 {
    let (major, minor) = (major(number), minor(number));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// What the superblock says that is not always the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Super {
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// The block from which on attributes are numbered.
    pub(super) xattrs: u32,
}

impl Super {
    /// The first block, without the inode of the root.
    pub(super) fn encode(self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        let mut put = |at: usize, field: &[u8]| {
            bytes[SUPER_AT + at..SUPER_AT + at + field.len()].copy_from_slice(field);
        };
        let root = u16::try_from(ROOT_AT / SLOT).expect("lies in the first block");
        put(0x00, &MAGIC.to_le_bytes());
        put(0x08, &COMPAT_MTIME.to_le_bytes());
        // Blocks have 2 to the power of this many bytes.
        put(0x0c, &[12]);
        put(0x0e, &root.to_le_bytes());
        put(0x10, &self.inodes.to_le_bytes());
        put(0x24, &self.blocks.to_le_bytes());
        put(0x2c, &self.xattrs.to_le_bytes());
        bytes
    }
}

/// The number by which an entry of a folder tells what it names (`FT_*`, linux/fs_types.h).
fn type_number(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

/// An entry of a folder: name, number of the inode, what it is.
pub(super) type Member<'a> = (&'a [u8], u64, FileType);

/// How many bytes a folder's content takes; its names come sorted, "." and ".." among them.
pub(super) fn folder_size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for name in names {
        let more = DIRENT + name.len();
        if used + more > BLOCK {
            full += BLOCK as u64;
            used = 0;
        }
        used += more;
    }
    full + used as u64
}

/// The content of a folder: in each block first the entries, then their names.
pub(super) fn folder_content<'a>(members: impl Iterator<Item = Member<'a>>) -> Vec<u8> {
    let mut content = Vec::new();
    let (mut block, mut used) = (Vec::new(), 0);
    for member in members {
        let more = DIRENT + member.0.len();
        if used + more > BLOCK {
            append_block(&mut content, &block);
            content.resize(content.len().next_multiple_of(BLOCK), 0);
            block.clear();
            used = 0;
        }
        block.push(member);
        used += more;
    }
    append_block(&mut content, &block);
    content
}

fn append_block(content: &mut Vec<u8>, members: &[Member<'_>]) {
    let mut name_at = DIRENT * members.len();
    for (name, number, kind) in members {
        let offset = u16::try_from(name_at).expect("lies within a block");
        content.extend_from_slice(&number.to_le_bytes());
        content.extend_from_slice(&offset.to_le_bytes());
        content.extend_from_slice(&[type_number(*kind), 0]);
        name_at += name.len();
    }
    for (name, ..) in members {
        content.extend_from_slice(name);
    }
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Xattr {
    /// Which prefix the name has.
    prefix: u8,
    /// The rest of the name.
    suffix: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattr {
    /// `None` if the format cannot hold it.
    pub(super) fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        const PREFIXES: [(&[u8], u8); 5] = [
            (b"user.", 1),
            (b"system.posix_acl_access", 2),
            (b"system.posix_acl_default", 3),
            (b"trusted.", 4),
            (b"security.", 6),
        ];
        let (prefix, suffix) = PREFIXES
            .iter()
            .find_map(|(text, number)| name.strip_prefix(*text).map(|rest| (*number, rest)))?;
        let whole_name = matches!(prefix, 2 | 3);
        let fits = suffix.is_empty() == whole_name
            && suffix.len() <= usize::from(u8::MAX)
            && value.len() <= usize::from(u16::MAX);
        fits.then(|| Self {
            prefix,
            suffix: suffix.into(),
            value: value.into(),
        })
    }

    /// Whether both have one name.
    pub(super) fn same_name(&self, other: &Self) -> bool {
        (self.prefix, &self.suffix) == (other.prefix, &other.suffix)
    }

    fn append(&self, bytes: &mut Vec<u8>) {
        let suffix = u8::try_from(self.suffix.len()).expect("checked when made");
        let value = u16::try_from(self.value.len()).expect("checked when made");
        bytes.extend_from_slice(&[suffix, self.prefix]);
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes.extend_from_slice(&self.suffix);
        bytes.extend_from_slice(&self.value);
        bytes.resize(bytes.len().next_multiple_of(XATTR_ALIGN), 0);
    }
}

/// Extended attributes as they follow an inode; `None` if they are too many.
pub(super) fn xattrs_inline(xattrs: &[Xattr]) -> Option<Vec<u8>> {
    if xattrs.is_empty() {
        return Some(Vec::new());
    }
    let mut bytes = vec![0; XATTR_HEADER];
    xattrs.iter().for_each(|xattr| xattr.append(&mut bytes));
    (bytes.len() <= MAX_XATTRS).then_some(bytes)
}

/// Extended attributes that lie elsewhere: what follows the inode, and what lies there. `None` if
/// they are too many.
pub(super) fn xattrs_shared(xattrs: &[Xattr]) -> Option<(Vec<u8>, Vec<u8>)> {
    let count = u8::try_from(xattrs.len()).ok()?;
    debug_assert!(xattrs.len() <= MAX_SHARED, "a count of one byte");
    if count == 0 {
        return Some((Vec::new(), Vec::new()));
    }
    let (mut behind, mut there) = (vec![0; XATTR_HEADER], Vec::new());
    behind[4] = count;
    for xattr in xattrs {
        let number = u32::try_from(there.len() / XATTR_ALIGN).ok()?;
        behind.extend_from_slice(&number.to_le_bytes());
        xattr.append(&mut there);
    }
    Some((behind, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_the_size_that_was_foretold() {
        for count in [1_usize, 2, 150, 151, 5000] {
            let names: Vec<Vec<u8>> = (0..count).map(|n| format!("{n:020}").into()).collect();
            let members = names
                .iter()
                .map(|name| (&name[..], 7, FileType::RegularFile));
            let content = folder_content(members);
            let size = folder_size(names.iter().map(|name| &name[..]));
            assert_eq!(content.len() as u64, size, "{count}");
        }
    }

    #[test]
    fn the_length_of_an_inode_is_read_back() {
        let xattr = Xattr::new(b"user.a", b"12345").unwrap();
        let xattrs = xattrs_inline(&[xattr]).unwrap();
        let check = |size, data, xattrs: usize, expect| {
            let inode = Inode {
                kind: FileType::RegularFile,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                size,
                links: 1,
                data,
                serial: 1,
            };
            assert_eq!(whole_length(&inode.encode(xattrs)), expect);
        };
        check(5000, Data::Blocks(1), 0, 64);
        check(5000, Data::Tail(1), 0, 64 + 904);
        check((1 << 33) + 1, Data::Tail(1), xattrs.len(), 64 + 24 + 1);
    }

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused() {
        for bad in ["user.", "security.", "other.x", "system.posix_acl_access2"] {
            assert_eq!(Xattr::new(bad.as_bytes(), b""), None, "{bad}");
        }
        let long = format!("user.{}", "x".repeat(256));
        assert_eq!(Xattr::new(long.as_bytes(), b""), None);
        assert_eq!(Xattr::new(b"user.x", &[0; 1 << 16]), None);
        assert!(Xattr::new(b"system.posix_acl_access", b"").is_some());
    }
}
