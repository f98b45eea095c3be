//! Turns a layer as it is sent into the tar that it holds, whatever compresses it.
//!
//! The first bytes decide, not the media type: some builders state the wrong one. It checks no
//! digest; see `layer`.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Size of the buffer in front of a decoder, in bytes.
const INPUT_BUFFER: usize = 128 << 10;
/// Largest zstd window, as a power of two: 128 MiB, what `zstd --ultra` needs.
const MAX_ZSTD_WINDOW: u32 = 27;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Skippable zstd frames, with which some compressors begin: the low half of the first byte varies.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// A layer's tar.
pub(crate) enum Decoder<R: Read> {
    /// Was not compressed.
    Plain(BufReader<R>),
    /// Was compressed with gzip, in one or more members.
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    /// Was compressed with zstd.
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes and takes the fitting form.
    pub(crate) fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(INPUT_BUFFER, input);
        let start = input.fill_buf()?;
        if start.starts_with(GZIP) {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(input))));
        }
        let skippable = start.get(1..4) == Some(ZSTD_SKIPPABLE) && start[0] & 0xf0 == 0x50;
        if start.starts_with(ZSTD) || skippable {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW)?;
            return Ok(Self::Zstd(decoder));
        }
        Ok(Self::Plain(input))
    }

    /// What is behind the decoder.
    pub(crate) fn into_inner(self) -> R {
        match self {
            Self::Plain(input) => input.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn check(sent: &[u8], expect: &[u8]) {
        let mut got = Vec::new();
        Decoder::new(sent).unwrap().read_to_end(&mut got).unwrap();
        assert_eq!(got, expect);
    }

    #[test]
    fn every_form_is_known_by_its_first_bytes() {
        check(b"", b"");
        check(b"plain", b"plain");
        check(&gzip(b"one"), b"one");
        check(&[gzip(b"one"), gzip(b"two")].concat(), b"onetwo");
        let (one, two) = (
            zstd::encode_all(&b"one"[..], 1).unwrap(),
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        );
        check(&[&one[..], &two[..]].concat(), b"onetwo");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        check(&[&skippable[..], &one[..]].concat(), b"one");
    }

    #[test]
    fn half_a_stream_is_an_error() {
        let whole = gzip(&[7; 1000]);
        let mut got = Vec::new();
        assert!(
            Decoder::new(&whole[..whole.len() - 3])
                .unwrap()
                .read_to_end(&mut got)
                .is_err()
        );
    }
}
