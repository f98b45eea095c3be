//! Header blocks: pairs of names and values, compressed in one zlib stream for each direction
//! of a connection (specification 2.6.10).

use flate2::{Decompress, DecompressError, FlushDecompress, Status};

use super::dictionary::dictionary;
use crate::wire::{Headers, WireError};

/// Longest header block after inflating, in bytes.
const MAX_BLOCK: usize = 16 * 1024;
/// Most pairs in a block. Clients send up to three.
const MAX_PAIRS: u32 = 64;

/// Reads the client's blocks, in the order in which they came.
#[derive(Debug)]
pub(super) struct HeaderReader {
    zlib: Decompress,
}

impl Default for HeaderReader {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }
}

impl HeaderReader {
    /// The pairs of a compressed block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, WireError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut plain = Vec::with_capacity(MAX_BLOCK);
        while !block.is_empty() {
            let before = self.zlib.total_in();
            let status = self
                .zlib
                .decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let used = usize::try_from(self.zlib.total_in() - before).unwrap_or(block.len());
            block = &block[used..];
            match status {
                // With room left everything that the input held has come out.
                Ok(Status::Ok | Status::BufError) if plain.len() == plain.capacity() => {
                    return Err(WireError::Limit("a header block's length"));
                }
                Ok(Status::Ok) => {}
                Ok(Status::BufError) if used > 0 => {}
                Ok(Status::BufError | Status::StreamEnd) => return Err(BROKEN),
                Err(error) => self.give_dictionary(&error)?,
            }
        }
        Ok(plain)
    }

    /// zlib asks for the dictionary once, after its first bytes.
    fn give_dictionary(&mut self, error: &DecompressError) -> Result<(), WireError> {
        if error.needs_dictionary().is_none() {
            return Err(BROKEN);
        }
        // It compares checksums: a client with another dictionary ends here.
        if self.zlib.set_dictionary(&dictionary()).is_err() {
            return Err(BROKEN);
        }
        Ok(())
    }
}

const BROKEN: WireError = WireError::Protocol("a header block that cannot be inflated");
const SHORT: WireError = WireError::Protocol("a header block that ends too early");

fn parse(mut plain: &[u8]) -> Result<Headers, WireError> {
    let count = number(&mut plain)?;
    if count > MAX_PAIRS {
        return Err(WireError::Limit("the number of headers"));
    }
    let mut pairs = Vec::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        // Several values of one name are separated by a zero byte; nobody sends more than one.
        let values = text(&mut plain)?;
        let value = values.split('\0').next().unwrap_or_default();
        pairs.push((name, value.to_owned()));
    }
    Ok(Headers(pairs))
}

fn number(plain: &mut &[u8]) -> Result<u32, WireError> {
    let (number, rest) = plain.split_first_chunk().ok_or(SHORT)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(plain: &mut &[u8]) -> Result<String, WireError> {
    let length = usize::try_from(number(plain)?).unwrap_or(usize::MAX);
    let (text, rest) = plain.split_at_checked(length).ok_or(SHORT)?;
    *plain = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Writes our blocks, which are all empty: a server has nothing to say of a stream.
///
/// They are stored, not compressed, so that a connection needs no compressor (256 KiB).
#[derive(Debug, Default)]
pub(super) struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// Deflate, 32 KiB window, a dictionary was set, check bits; then the checksum of the
    /// dictionary (RFC 1950, section 2.2).
    const ZLIB_HEADER: [u8; 6] = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2];
    /// A stored block of four zero bytes ("no pairs"), and an empty one, which makes the
    /// reader give out what it has (RFC 1951, section 3.2.4).
    const NO_PAIRS: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// The next block of the direction, without pairs.
    pub(super) fn empty_block(&mut self) -> Vec<u8> {
        let header: &[u8] = if self.begun { &[] } else { &Self::ZLIB_HEADER };
        self.begun = true;
        [header, &Self::NO_PAIRS].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_empty_blocks_that_we_write() {
        let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::default());
        for _ in 0..3 {
            assert_eq!(reader.read(&writer.empty_block()), Ok(Headers::default()));
        }
    }

    #[test]
    fn a_block_of_lies_is_refused() {
        let check = |plain: &[u8], expect| assert_eq!(parse(plain), Err(expect), "{plain:?}");
        check(&[], SHORT);
        check(&[0, 0, 0, 1], SHORT);
        check(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'], SHORT);
        check(&[0, 1, 0, 0], WireError::Limit("the number of headers"));
    }
}
