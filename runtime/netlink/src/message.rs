//! The bytes of netlink: a header, a fixed part, attributes that nest (netlink(7), rfc3549).
//!
//! Writing goes through [`Message`], reading through [`attributes`]. Nothing here knows what an
//! attribute means.

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Every header and attribute begins at a multiple of this.
const ALIGN: usize = 4;
/// `NLA_F_NESTED`: the attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's kind that are no flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;

/// Flags of a request (netlink(7)).
pub mod flag {
    /// A request to the kernel.
    pub const REQUEST: u16 = 0x1;
    /// An answer is wanted even on success.
    pub const ACK: u16 = 0x4;
    /// All there is, not one.
    pub const DUMP: u16 = 0x300;
    /// In an answer: things changed while they were listed, so some may be missing.
    pub const DUMP_INTR: u16 = 0x10;
    /// Fail if it exists.
    pub const EXCL: u16 = 0x200;
    /// Make it if it does not.
    pub const CREATE: u16 = 0x400;
    /// Put it behind those that exist.
    pub const APPEND: u16 = 0x800;
}

/// A message as it grows. Length and sequence number are filled in last.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message of the type, with [`flag`]s and the fixed part that the type demands.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | flag::REQUEST).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Adds [`flag`]s.
    pub fn or_flags(mut self, flags: u16) -> Self {
        let merged = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&merged.to_ne_bytes());
        self
    }

    /// Adds an attribute of raw bytes.
    ///
    /// # Panics
    ///
    /// If the value has 64 KiB: none of a name, an address or a number has.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE + value.len())
            .expect("values are names, addresses and numbers: far below 64 KiB");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a string, ended by a zero byte as the kernel wants its names.
    pub fn put_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds a number in the machine's byte order (rtnetlink).
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order (nfnetlink).
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds an attribute that holds what `fill` adds.
    ///
    /// # Panics
    ///
    /// As [`Message::put`].
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("a nest holds one link or one rule: far below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds raw bytes that are no attribute (the fixed part of a message inside an attribute).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// What was written so far, without the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The finished bytes, with this sequence number.
    ///
    /// # Panics
    ///
    /// Beyond 4 GiB.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length =
            u32::try_from(self.bytes.len()).expect("attributes are bounded, so is their sum");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

/// One message from the kernel, taken apart as far as its header goes.
#[derive(Debug)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Splits what one read gave into its messages; a torn one ends the list.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let payload = rest.get(HEADER..length)?;
        let message = Received {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            payload,
        };
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Walks attributes: kind without flags, and value; a torn one ends the walk.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & KIND;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The first attribute of the kind.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// A number in the machine's byte order at the offset.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

/// A number in the machine's byte order at the offset.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

/// A string up to its zero byte.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut message = Message::new(16, flag::ACK, &[1, 2, 3]);
        message.put_str(3, "eth0").nest(18, |inner| {
            inner.put_u32(1, 7).put(2, &[9]);
        });
        let bytes = message.finish(42);
        let got: Vec<_> = messages(&bytes).collect();
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].kind, got[0].sequence), (16, 42));
        let body = &got[0].payload[4..];
        assert_eq!(text(attribute(body, 3).unwrap()), "eth0");
        let nested = attribute(body, 18).unwrap();
        assert_eq!(u32_at(attribute(nested, 1).unwrap(), 0), Some(7));
        assert_eq!(attribute(nested, 2), Some(&[9][..]));
    }

    #[test]
    fn torn_bytes_end_the_walk_and_never_panic() {
        let mut message = Message::new(16, 0, &[]);
        message.put_str(3, "a-name");
        let bytes = message.finish(1);
        for cut in 0..bytes.len() {
            for part in messages(&bytes[..cut]) {
                attributes(part.payload).for_each(drop);
            }
            attributes(&bytes[..cut]).for_each(drop);
        }
        assert_eq!(
            attributes(&[1, 0, 0, 0]).count(),
            0,
            "shorter than its own header"
        );
    }
}
