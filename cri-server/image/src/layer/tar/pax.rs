//! What extension headers say about the entry that follows them.
//!
//! Pure. Values overrule the header of that one entry, never those of other extension headers:
//! confusing the two is how readers were made to see different archives.

use super::header::{Header, Kind};
use super::{Entry, MAX_PATH, TarError, bad};

/// Most extended attributes of one entry.
const MAX_XATTRS: usize = 256;

/// Collected values.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    seen: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    /// Whether there was none.
    pub(crate) fn is_empty(&self) -> bool {
        !self.seen
    }

    /// Takes a GNU long name.
    pub(crate) fn set_path(&mut self, bytes: Vec<u8>) {
        self.seen = true;
        self.path = Some(until_nul(bytes));
    }

    /// Takes a GNU long link target.
    pub(crate) fn set_link(&mut self, bytes: Vec<u8>) {
        self.seen = true;
        self.link = Some(until_nul(bytes));
    }

    /// Takes pax records: `length key=value\n`, the length counting all of the record.
    pub(crate) fn read_pax(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        self.seen = true;
        while !bytes.is_empty() {
            let (key, value, rest) =
                record(bytes).map_or_else(|| bad("a pax record is malformed"), Ok)?;
            self.set(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return bad("the archive holds a sparse file, which is not supported");
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        if self.xattrs.len() == MAX_XATTRS {
            return bad(format!(
                "an entry has more than {MAX_XATTRS} extended attributes"
            ));
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    /// Combines the values with the header of the entry itself.
    pub(crate) fn apply(self, header: &Header, kind: Kind) -> Result<Entry, TarError> {
        let path = self.path.unwrap_or_else(|| header.path.clone());
        // Before ustar, a folder was a file whose name ends with a slash. Its whole name decides:
        // what stands in the header of a long one is cut off anywhere.
        let kind = match kind {
            Kind::File if path.ends_with(b"/") => Kind::Dir,
            kind => kind,
        };
        let is_link = matches!(kind, Kind::HardLink | Kind::Symlink);
        let link = self.link.unwrap_or_else(|| header.link.clone());
        let size = self.size.unwrap_or(header.size);
        let entry = Entry {
            path,
            kind,
            mode: header.mode,
            uid: id(self.uid.unwrap_or(header.uid))?,
            gid: id(self.gid.unwrap_or(header.gid))?,
            mtime: self.mtime.unwrap_or((header.mtime, 0)),
            // Only files have content, whatever the field says (as Go's archive/tar reads it).
            size: if kind == Kind::File { size } else { 0 },
            link: if is_link { link } else { Vec::new() },
            xattrs: self.xattrs,
        };
        check_name(&entry.path, "name")?;
        check_name(&entry.link, "link target")?;
        Ok(entry)
    }
}

fn check_name(name: &[u8], what: &str) -> Result<(), TarError> {
    if name.contains(&0) {
        return bad(format!("an entry's {what} holds a NUL byte"));
    }
    if name.len() > MAX_PATH {
        return bad(format!("an entry's {what} is longer than {MAX_PATH} bytes"));
    }
    Ok(())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Splits off the first record: key, value, rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

fn decimal(value: &[u8]) -> Result<u64, TarError> {
    let parsed = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    parsed.map_or_else(|| bad("a number in a pax record is malformed"), Ok)
}

/// Seconds, with an optional fraction of which nine digits count.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let parse = |value| -> Option<(i64, u32)> {
        let text = std::str::from_utf8(value).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        let nanos: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
        // A fraction adds to the magnitude, so before 1970 it takes away.
        if text.starts_with('-') && nanos > 0 {
            return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
        }
        Some((seconds, nanos))
    };
    parse(value).map_or_else(|| bad("a time in a pax record is malformed"), Ok)
}

fn id(value: u64) -> Result<u32, TarError> {
    // The largest number means "unchanged" to chown.
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .map_or_else(|| bad("an owner is out of range"), Ok)
}
