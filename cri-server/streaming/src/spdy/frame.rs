//! Frames of SPDY/3.1 (specification 2.2): cut out of a stream of bytes, and written.
//!
//! A data frame's payload is handed on as it arrives, so that its length (up to 16 MiB) costs no
//! memory. A control frame is gathered first and is therefore bounded.

use bytes::Bytes;

use super::headers::HeaderReader;
use crate::wire::{Headers, WireError};

/// Longest payload of a control frame, in bytes. Clients send some tens.
const MAX_CONTROL: usize = 16 * 1024;

const HEADER: usize = 8;
const VERSION: u16 = 3;
const CONTROL_BIT: u32 = 0x8000_0000;
const ID_MASK: u32 = 0x7fff_ffff;
const FLAG_FIN: u8 = 1;
const FLAG_ONE_WAY: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Opens a stream.
    SynStream {
        stream: u32,
        finished: bool,
        one_way: bool,
        headers: Headers,
    },
    /// A piece of a data frame; not empty.
    Data { stream: u32, bytes: Bytes },
    /// The data frame that just ended was the stream's last.
    Finished { stream: u32 },
    /// RST_STREAM, whatever its status.
    Reset { stream: u32 },
    /// To be echoed.
    Ping { id: u32 },
    /// No new streams will come.
    GoAway,
    /// Of no use to a server like this.
    Ignored,
}

/// Where in a frame the bytes stand.
#[derive(Debug)]
enum State {
    Header {
        gathered: Vec<u8>,
    },
    Control {
        kind: u16,
        flags: u8,
        length: usize,
        gathered: Vec<u8>,
    },
    Data {
        stream: u32,
        left: usize,
        finished: bool,
    },
}

/// Cuts frames out of bytes.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    headers: HeaderReader,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::start(),
            headers: HeaderReader::default(),
        }
    }
}

impl State {
    fn start() -> Self {
        Self::Header {
            gathered: Vec::with_capacity(HEADER),
        }
    }
}

impl Decoder {
    /// The next frame of `input`, which is moved past what was used; none if it needs more.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, WireError> {
        loop {
            match &mut self.state {
                State::Header { gathered } => {
                    if !gather(gathered, HEADER, input) {
                        return Ok(None);
                    }
                    self.state = read_header(gathered)?;
                }
                State::Control {
                    kind,
                    flags,
                    length,
                    gathered,
                } => {
                    if !gather(gathered, *length, input) {
                        return Ok(None);
                    }
                    let (kind, flags, payload) = (*kind, *flags, std::mem::take(gathered));
                    self.state = State::start();
                    return self.read_control(kind, flags, &payload).map(Some);
                }
                State::Data {
                    stream,
                    left: 0,
                    finished,
                } => {
                    let (stream, finished) = (*stream, *finished);
                    self.state = State::start();
                    if finished {
                        return Ok(Some(Frame::Finished { stream }));
                    }
                }
                State::Data { stream, left, .. } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let bytes = take(input, *left);
                    *left -= bytes.len();
                    let bytes = Bytes::copy_from_slice(bytes);
                    return Ok(Some(Frame::Data {
                        stream: *stream,
                        bytes,
                    }));
                }
            }
        }
    }

    fn read_control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, WireError> {
        match kind {
            SYN_STREAM => {
                let (stream, rest) = stream_id(payload)?;
                // Associated stream, priority and slot say nothing to us.
                let block = rest
                    .get(6..)
                    .ok_or(WireError::Protocol("a short SYN_STREAM"))?;
                let headers = self.headers.read(block)?;
                let finished = flags & FLAG_FIN != 0;
                let one_way = flags & FLAG_ONE_WAY != 0;
                Ok(Frame::SynStream {
                    stream,
                    finished,
                    one_way,
                    headers,
                })
            }
            SYN_REPLY | HEADERS => {
                // Of no interest, but the context of the compression goes through it.
                let (_, block) = stream_id(payload)?;
                self.headers.read(block)?;
                Ok(Frame::Ignored)
            }
            RST_STREAM => stream_id(payload).map(|(stream, _)| Frame::Reset { stream }),
            PING => word(payload).map(|(id, _)| Frame::Ping { id }),
            GO_AWAY => Ok(Frame::GoAway),
            // SETTINGS, WINDOW_UPDATE, CREDENTIAL, and unknown ones, which 2.2.1 says to ignore.
            _ => Ok(Frame::Ignored),
        }
    }
}

/// Fills `gathered` up to `length` from `input`; whether that is reached.
fn gather(gathered: &mut Vec<u8>, length: usize, input: &mut &[u8]) -> bool {
    gathered.extend_from_slice(take(input, length - gathered.len()));
    gathered.len() == length
}

/// Takes up to `most` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

fn word(bytes: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let (word, rest) = bytes
        .split_first_chunk()
        .ok_or(WireError::Protocol("a short frame"))?;
    Ok((u32::from_be_bytes(*word), rest))
}

fn stream_id(payload: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let (id, rest) = word(payload)?;
    match id & ID_MASK {
        0 => Err(WireError::Protocol("stream 0")),
        id => Ok((id, rest)),
    }
}

fn read_header(header: &[u8]) -> Result<State, WireError> {
    let (first, rest) = word(header)?;
    let (second, _) = word(rest)?;
    let [flags, length @ ..] = second.to_be_bytes();
    let length =
        usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if first & CONTROL_BIT == 0 {
        let (stream, _) = stream_id(header)?;
        return Ok(State::Data {
            stream,
            left: length,
            finished: flags & FLAG_FIN != 0,
        });
    }
    let [version_high, version_low, kind_high, kind_low] = (first & ID_MASK).to_be_bytes();
    if u16::from_be_bytes([version_high, version_low]) != VERSION {
        return Err(WireError::Protocol("not version 3"));
    }
    if length > MAX_CONTROL {
        return Err(WireError::Limit("a control frame's length"));
    }
    let kind = u16::from_be_bytes([kind_high, kind_low]);
    Ok(State::Control {
        kind,
        flags,
        length,
        gathered: Vec::new(),
    })
}

/// Writes a control frame without flags.
fn write_control(kind: u16, payload: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("our control frames are short");
    out.extend_from_slice(
        &(CONTROL_BIT | u32::from(VERSION) << 16 | u32::from(kind)).to_be_bytes(),
    );
    out.extend_from_slice(&length.to_be_bytes());
    for part in payload {
        out.extend_from_slice(part);
    }
}

/// SYN_REPLY; `block` is compressed.
pub(super) fn write_reply(stream: u32, block: &[u8], out: &mut Vec<u8>) {
    write_control(SYN_REPLY, &[&stream.to_be_bytes(), block], out);
}

/// RST_STREAM.
pub(super) fn write_reset(stream: u32, status: u32, out: &mut Vec<u8>) {
    write_control(
        RST_STREAM,
        &[&stream.to_be_bytes(), &status.to_be_bytes()],
        out,
    );
}

/// PING.
pub(super) fn write_ping(id: u32, out: &mut Vec<u8>) {
    write_control(PING, &[&id.to_be_bytes()], out);
}

/// GOAWAY; status 0 is "ok", 1 "protocol error".
pub(super) fn write_go_away(last_stream: u32, status: u32, out: &mut Vec<u8>) {
    write_control(
        GO_AWAY,
        &[&last_stream.to_be_bytes(), &status.to_be_bytes()],
        out,
    );
}

/// A data frame; the payload is below 16 MiB by [`crate::wire::MAX_PAYLOAD`].
pub(super) fn write_data(stream: u32, finished: bool, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("payloads are at most MAX_PAYLOAD");
    let flags = if finished {
        u32::from(FLAG_FIN) << 24
    } else {
        0
    };
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&(flags | length).to_be_bytes());
    out.extend_from_slice(payload);
}
