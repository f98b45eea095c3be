//! One 512-byte header block of a tar archive, decoded.
//!
//! Pure. It knows nothing of the extension headers that may overrule its fields.

use super::{TarError, bad};

/// Size of a block in bytes.
pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A folder.
    Dir,
    /// A named pipe.
    Fifo,
}

/// What a header introduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeFlag {
    /// A member of the archive.
    Member(Kind),
    /// Pax records for the next member.
    Pax,
    /// Pax records for all that follow.
    GlobalPax,
    /// The name of the next member (GNU).
    LongName,
    /// The link target of the next member (GNU).
    LongLink,
}

/// A decoded header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// What it introduces.
    pub(crate) flag: TypeFlag,
    /// Name, with the prefix of the ustar form.
    pub(crate) path: Vec<u8>,
    /// Link target.
    pub(crate) link: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u64,
    /// Group.
    pub(crate) gid: u64,
    /// Length of what follows, in bytes.
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
}

impl Header {
    /// Decodes a block.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        check_sum(block)?;
        Ok(Self {
            flag: flag(block)?,
            link: text(&block[157..257]).to_vec(),
            mode: narrow(number(&block[100..108])?, "mode")? & 0o7777,
            uid: positive(number(&block[108..116])?, "owner")?,
            gid: positive(number(&block[116..124])?, "group")?,
            size: positive(number(&block[124..136])?, "size")?,
            mtime: number(&block[136..148])?,
            path: path(block),
        })
    }
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), TarError> {
    let stated = number(&block[148..156])?;
    // The checksum field itself counts as spaces; some old writers summed signed bytes.
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(n, b)| if (148..156).contains(&n) { b' ' } else { *b })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    if stated == unsigned || stated == signed {
        Ok(())
    } else {
        bad("the archive is damaged: a header's checksum is wrong")
    }
}

fn flag(block: &[u8; BLOCK]) -> Result<TypeFlag, TarError> {
    let device = || -> Result<(u32, u32), TarError> {
        Ok((
            narrow(number(&block[329..337])?, "device")?,
            narrow(number(&block[337..345])?, "device")?,
        ))
    };
    Ok(match block[156] {
        0 | b'0' | b'7' => TypeFlag::Member(Kind::File),
        b'1' => TypeFlag::Member(Kind::HardLink),
        b'2' => TypeFlag::Member(Kind::Symlink),
        b'3' => device().map(|(major, minor)| TypeFlag::Member(Kind::Char(major, minor)))?,
        b'4' => device().map(|(major, minor)| TypeFlag::Member(Kind::Block(major, minor)))?,
        b'5' => TypeFlag::Member(Kind::Dir),
        b'6' => TypeFlag::Member(Kind::Fifo),
        b'x' => TypeFlag::Pax,
        b'g' => TypeFlag::GlobalPax,
        b'L' => TypeFlag::LongName,
        b'K' => TypeFlag::LongLink,
        b'S' => return bad("the archive holds a sparse file, which is not supported"),
        other => {
            return bad(format!(
                "the archive holds an entry of unknown type {:?}",
                char::from(other)
            ));
        }
    })
}

fn path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&block[..100]);
    // Only the POSIX form has a prefix; GNU keeps other things there.
    let prefix = if &block[257..263] == b"ustar\0" {
        text(&block[345..500])
    } else {
        b""
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, name].join(&b'/')
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    &field[..end]
}

/// Octal digits among spaces and NULs, or a big-endian number whose first bit is set.
fn number(field: &[u8]) -> Result<i64, TarError> {
    if field[0] & 0x80 != 0 {
        return binary(field);
    }
    let digits: &[u8] = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|b| matches!(b, 0 | b' '))
        .unwrap_or(digits.len());
    digits[..end]
        .iter()
        .try_fold(0_i64, |sum, digit| match digit {
            b'0'..=b'7' => Ok(sum * 8 + i64::from(digit - b'0')),
            _ => bad("the archive is damaged: a number in a header is not octal"),
        })
}

fn binary(field: &[u8]) -> Result<i64, TarError> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative {
        i128::from(field[0]) - 0x100
    } else {
        i128::from(field[0] & 0x7f)
    };
    let sum = field[1..]
        .iter()
        .fold(first, |sum, byte| (sum << 8) | i128::from(*byte));
    i64::try_from(sum).or_else(|_| bad("a number in a header is too large"))
}

fn positive(value: i64, what: &str) -> Result<u64, TarError> {
    u64::try_from(value).or_else(|_| bad(format!("a header's {what} is negative")))
}

fn narrow(value: i64, what: &str) -> Result<u32, TarError> {
    u32::try_from(value).or_else(|_| bad(format!("a header's {what} is out of range")))
}
