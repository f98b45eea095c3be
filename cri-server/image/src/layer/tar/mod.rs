//! A strict reader of tar archives.
//!
//! It yields one [`Entry`] after another and lets its content be read; it creates nothing and
//! judges no names (see `layer::names`). Understood: the old, ustar, GNU and pax forms (POSIX.1-2017
//! pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format").
//! Sparse files are refused, and so is every type that it does not know: skipping what might matter
//! would make two readers see two different layers.

mod header;
mod pax;

use std::io::{self, BufRead, Read};

pub(crate) use header::Kind;
use header::{BLOCK, Header, TypeFlag};
use pax::Extended;

/// Longest name or link target, in bytes (`PATH_MAX`).
pub(crate) const MAX_PATH: usize = 4096;
/// Largest extension header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most extension headers before one entry.
const MAX_EXTENSIONS: usize = 8;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name as it stands in the archive.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) kind: Kind,
    /// Permission bits, including set-user-ID, set-group-ID and sticky.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Time of last change: seconds since 1970, and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Length of its content in bytes.
    pub(crate) size: u64,
    /// Target of a link; empty for others.
    pub(crate) link: Vec<u8>,
    /// Extended attributes: names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    /// Its source failed.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is not a tar, or not one that is understood.
    #[error("{0}")]
    Bad(String),
}

fn bad<T>(text: impl Into<String>) -> Result<T, TarError> {
    Err(TarError::Bad(text.into()))
}

/// An archive being read.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    input: R,
    /// Content of the current entry that was not read yet.
    left: u64,
    /// Padding after that content.
    padding: u64,
}

impl<R: Read> Archive<R> {
    /// Begins at the first header.
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// What it is read from; right after an entry, it stands at the entry's content.
    pub(crate) fn source(&self) -> &R {
        &self.input
    }

    /// The same, to be told what its reader learns.
    pub(crate) fn source_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The next entry; what was not read of the one before is skipped.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        for _ in 0..=MAX_EXTENSIONS {
            let Some(header) = self.next_header()? else {
                return if extended.is_empty() {
                    Ok(None)
                } else {
                    bad("the archive ends after an extension header")
                };
            };
            match header.flag {
                TypeFlag::Member(kind) => return self.member(&header, kind, extended).map(Some),
                TypeFlag::GlobalPax => drop(self.extension(&header)?),
                TypeFlag::Pax => extended.read_pax(&self.extension(&header)?)?,
                TypeFlag::LongName => extended.set_path(self.extension(&header)?),
                TypeFlag::LongLink => extended.set_link(self.extension(&header)?),
            }
        }
        bad(format!(
            "more than {MAX_EXTENSIONS} extension headers before one entry"
        ))
    }

    /// Reads all that is left, so that the source's end is reached; gives the source back.
    pub(crate) fn finish(mut self) -> Result<R, TarError> {
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(self.input)
    }

    fn member(
        &mut self,
        header: &Header,
        kind: Kind,
        extended: Extended,
    ) -> Result<Entry, TarError> {
        let entry = extended.apply(header, kind)?;
        self.expect_content(entry.size);
        Ok(entry)
    }

    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        self.skip_rest()?;
        let mut block = [0; BLOCK];
        if !self.fill_block(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Header::parse(&block).map(Some)
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        if header.size > MAX_EXTENSION {
            return bad(format!(
                "an extension header of {} bytes; at most {MAX_EXTENSION} are read",
                header.size
            ));
        }
        self.expect_content(header.size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != header.size {
            return bad("the archive ends within an extension header");
        }
        Ok(bytes)
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.input.by_ref().take(rest), &mut io::sink())?;
        if skipped == rest {
            Ok(())
        } else {
            bad("the archive ends within an entry")
        }
    }

    /// Fills a block; `false` at a clean end.
    fn fill_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return bad("the archive ends within a header"),
                Ok(count) => filled += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(true)
    }
}

impl<R: BufRead> Archive<R> {
    /// Content of the current entry as it lies in the source's buffer; empty at its end.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffered = self.input.fill_buf()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(&buffered[..buffered.len().min(most)])
    }

    /// Takes what was peeked at, or a part of it.
    pub(crate) fn take_peeked(&mut self, count: usize) {
        self.input.consume(count);
        self.left -= count as u64;
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
pub(crate) mod tests;
