//! The bytes between engine and plugin: two ttrpc connections over one socket.
//!
//! ```text
//! socket   [connection u32][length u32][bytes]...          both big-endian
//! bytes    [length u32][stream u32][type u8][flags u8][data]...
//! ```
//!
//! What the bytes of one connection are cut into means nothing; a message may take several frames.
//! Nothing here reads or writes: bytes come in, messages come out.

use std::collections::BTreeMap;

/// The connection on which the plugin answers.
pub(crate) const PLUGIN: u32 = 1;
/// The connection on which the engine answers.
pub(crate) const RUNTIME: u32 = 2;

/// Most data of a message, bytes (ttrpc's protocol, "Message Frame").
pub(crate) const MAX_DATA: usize = 4 << 20;

const HEADER: usize = 10;
const FRAME_HEADER: usize = 8;
/// Most bytes of a frame.
const MAX_FRAME: usize = HEADER + MAX_DATA;
/// How long the first frame of a message is. The library of most plugins reads through a buffer of
/// this size, and ends a connection whose first frame does not fit; it takes the rest as it comes.
const FIRST_FRAME: usize = 4096;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

/// A message of one of the connections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) connection: u32,
    pub(crate) stream: u32,
    pub(crate) kind: Kind,
    pub(crate) data: Vec<u8>,
}

/// Bytes that are no messages.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Nonsense(String);

/// A message as it is sent.
///
/// # Panics
///
/// If `data` is longer than [`MAX_DATA`], which the caller has to look at.
pub(crate) fn encode(connection: u32, stream: u32, kind: Kind, data: &[u8]) -> Vec<u8> {
    assert!(data.len() <= MAX_DATA, "the caller has looked at it");
    let mut message = Vec::with_capacity(HEADER + data.len());
    message.extend(number(data.len()));
    message.extend(stream.to_be_bytes());
    message.extend([if kind == Kind::Request { 1 } else { 2 }, 0]);
    message.extend(data);
    let (first, rest) = message.split_at(message.len().min(FIRST_FRAME));
    let mut bytes = Vec::with_capacity(message.len() + 2 * FRAME_HEADER);
    for part in [first, rest] {
        if !part.is_empty() {
            bytes.extend(connection.to_be_bytes());
            bytes.extend(number(part.len()));
            bytes.extend(part);
        }
    }
    bytes
}

fn number(length: usize) -> [u8; 4] {
    let length = u32::try_from(length).expect("no message is longer than 4 MiB");
    length.to_be_bytes()
}

fn be(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes were cut off"))
}

/// Puts messages together.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    socket: Vec<u8>,
    connections: BTreeMap<u32, Vec<u8>>,
}

impl Decoder {
    /// Takes what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.socket.extend(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    ///
    /// Nothing that follows can be made sense of.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Nonsense> {
        loop {
            for (connection, bytes) in &mut self.connections {
                if let Some(message) = take(*connection, bytes)? {
                    return Ok(Some(message));
                }
            }
            if !self.take_frame()? {
                return Ok(None);
            }
        }
    }

    /// Moves a frame to its connection; false if there is no whole one.
    fn take_frame(&mut self) -> Result<bool, Nonsense> {
        if self.socket.len() < FRAME_HEADER {
            return Ok(false);
        }
        let connection = be(&self.socket[..4]);
        let length = be(&self.socket[4..FRAME_HEADER]) as usize;
        if length > MAX_FRAME {
            return Err(Nonsense(format!("a frame of {length} bytes")));
        }
        let end = FRAME_HEADER + length;
        if self.socket.len() < end {
            return Ok(false);
        }
        // Others than ours may come one day; nobody reads them.
        if matches!(connection, PLUGIN | RUNTIME) {
            let bytes = self.connections.entry(connection).or_default();
            bytes.extend(&self.socket[FRAME_HEADER..end]);
        }
        self.socket.drain(..end);
        Ok(true)
    }
}

fn take(connection: u32, bytes: &mut Vec<u8>) -> Result<Option<Message>, Nonsense> {
    if bytes.len() < HEADER {
        return Ok(None);
    }
    let length = be(&bytes[..4]) as usize;
    if length > MAX_DATA {
        return Err(Nonsense(format!("a message of {length} bytes")));
    }
    let kind = match bytes[8] {
        1 => Kind::Request,
        2 => Kind::Response,
        other => return Err(Nonsense(format!("a message of type {other}"))),
    };
    if bytes.len() < HEADER + length {
        return Ok(None);
    }
    let stream = be(&bytes[4..8]);
    let rest = bytes.split_off(HEADER + length);
    let data = bytes.split_off(HEADER);
    *bytes = rest;
    Ok(Some(Message {
        connection,
        stream,
        kind,
        data,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(connection: u32, stream: u32, kind: Kind, data: Vec<u8>) -> Message {
        Message {
            connection,
            stream,
            kind,
            data,
        }
    }

    #[test]
    fn what_was_sent_comes_out_however_it_is_cut() {
        let sent = [
            message(PLUGIN, 1, Kind::Request, b"one".to_vec()),
            message(RUNTIME, 2, Kind::Response, vec![7; 10_000]),
            message(PLUGIN, 3, Kind::Request, Vec::new()),
            message(PLUGIN, 5, Kind::Response, vec![1; FIRST_FRAME - HEADER]),
        ];
        let bytes: Vec<u8> = sent
            .iter()
            .flat_map(|m| encode(m.connection, m.stream, m.kind, &m.data))
            .collect();
        for step in [1, 3, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(message) = decoder.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, sent, "{step}");
        }
    }

    #[test]
    fn the_first_frame_fits_a_small_buffer() {
        let lengths = |data: usize| {
            let bytes = encode(1, 1, Kind::Request, &vec![0; data]);
            let first = be(&bytes[4..8]) as usize;
            (first, bytes.len() - FRAME_HEADER - first)
        };
        assert_eq!(lengths(10), (20, 0));
        assert_eq!(lengths(4086), (4096, 0));
        assert_eq!(lengths(4087), (4096, FRAME_HEADER + 1));
        assert_eq!(
            lengths(MAX_DATA),
            (4096, FRAME_HEADER + MAX_FRAME - FIRST_FRAME)
        );
    }

    #[test]
    fn nonsense_is_told() {
        let check = |bytes: &[u8], part: &str| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            let error = decoder.next().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(b"GET / HTTP/1.1\r\n", "a frame of");
        check(
            &[0, 0, 0, 1, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0],
            "a message of",
        );
        check(
            &[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0],
            "type 9",
        );
    }

    #[test]
    fn other_connections_are_passed_over() {
        let mut decoder = Decoder::default();
        decoder.push(&encode(77, 1, Kind::Request, b"x"));
        decoder.push(&encode(PLUGIN, 1, Kind::Request, b"y"));
        assert_eq!(decoder.next().unwrap().unwrap().data, b"y");
        assert_eq!(decoder.next(), Ok(None));
    }
}
