//! Sizes of a client's terminal, told as JSON objects one after another.

use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::mux::Reader;

/// Most bytes of one object. Clients send some thirty.
const MAX_OBJECT: usize = 1024;

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height")]
    pub height: u16,
}

/// The sizes that a client tells, in their order; the first one comes at once.
#[derive(Debug)]
pub struct Resizes {
    reader: Reader,
    gathered: Vec<u8>,
}

/// What the bytes gathered so far begin with.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// A size, and the bytes that it took.
    Size(Size, usize),
    /// Not enough.
    Part,
    /// Nothing that could become a size.
    Nonsense,
}

impl Resizes {
    pub(crate) fn new(reader: Reader) -> Self {
        Self {
            reader,
            gathered: Vec::new(),
        }
    }

    /// The next size; none when no more will come, be it that the client told nonsense.
    ///
    /// Nothing is lost when it is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            match parse(&self.gathered) {
                Next::Size(size, used) => {
                    self.gathered.drain(..used);
                    return Some(size);
                }
                Next::Part if self.gathered.len() < MAX_OBJECT => {}
                Next::Part | Next::Nonsense => return None,
            }
            let mut bytes = [0; MAX_OBJECT];
            match self.reader.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.gathered.extend_from_slice(&bytes[..count]),
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Next {
    let mut sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    match sizes.next() {
        Some(Ok(size)) => Next::Size(size, sizes.byte_offset()),
        Some(Err(error)) if !error.is_eof() => Next::Nonsense,
        Some(Err(_)) | None => Next::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_after_another() {
        let check = |text: &str, expect| assert_eq!(parse(text.as_bytes()), expect, "{text}");
        let size = Size {
            width: 80,
            height: 24,
        };
        check(r#"{"Width":80,"Height":24}"#, Next::Size(size, 24));
        check(r#" {"Height":24,"Width":80}{"Wid"#, Next::Size(size, 25));
        check(r#"{"Width":80,"#, Next::Part);
        check("\n", Next::Part);
        check("", Next::Part);
        check(r#"{"Width":80,"Height":65536}"#, Next::Nonsense);
        check("size 80 24", Next::Nonsense);
    }
}
