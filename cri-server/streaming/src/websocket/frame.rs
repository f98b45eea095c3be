//! Frames of WebSocket (RFC 6455, section 5), as a client sends them; and ours.

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::wire::WireError;

/// Longest header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// Longest payload of a control frame (5.5).
const MAX_CONTROL: u64 = 125;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of a message; `first` and `last` are of the message, not of the frame.
    Part {
        first: bool,
        last: bool,
        bytes: Bytes,
    },
    /// To be answered with the same bytes.
    Ping(Vec<u8>),
    /// An answer to nothing.
    Pong,
    /// The goodbye, whatever its code.
    Close,
}

#[derive(Debug)]
enum State {
    Header {
        gathered: Vec<u8>,
    },
    Control {
        kind: Control,
        mask: Mask,
        left: u64,
        gathered: Vec<u8>,
    },
    Data {
        first: bool,
        last: bool,
        mask: Mask,
        left: u64,
    },
}

/// The four bytes that a payload is mixed with, and how many of it were.
#[derive(Debug)]
struct Mask {
    key: [u8; 4],
    position: usize,
}

/// Cuts frames out of bytes.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Between the first and the last frame of a message.
    in_message: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::start(),
            in_message: false,
        }
    }
}

impl State {
    fn start() -> Self {
        Self::Header {
            gathered: Vec::with_capacity(MAX_HEADER),
        }
    }
}

impl Mask {
    fn remove(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut key = self.key;
        key.rotate_left(self.position % self.key.len());
        self.position += bytes.len();
        let mut plain = bytes.to_vec();
        for word in plain.chunks_mut(key.len()) {
            word.iter_mut()
                .zip(key)
                .for_each(|(byte, key)| *byte ^= key);
        }
        plain
    }
}

impl Decoder {
    /// The next frame of `input`, which is moved past what was used; none if it needs more.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, WireError> {
        loop {
            match &mut self.state {
                State::Header { gathered } => match gather_header(gathered, input)? {
                    Some((header, length)) => self.state = self.begin(&header, length)?,
                    None => return Ok(None),
                },
                State::Control {
                    kind,
                    mask,
                    left,
                    gathered,
                } => {
                    gathered.extend(mask.remove(take(input, left)));
                    if *left > 0 {
                        return Ok(None);
                    }
                    let frame = control(*kind, std::mem::take(gathered));
                    self.state = State::start();
                    return Ok(Some(frame));
                }
                State::Data {
                    first,
                    last,
                    mask,
                    left,
                } => {
                    if input.is_empty() && *left > 0 {
                        return Ok(None);
                    }
                    let bytes = mask.remove(take(input, left)).into();
                    let ended = *left == 0;
                    let frame = Frame::Part {
                        first: *first,
                        last: *last && ended,
                        bytes,
                    };
                    *first = false;
                    if ended {
                        self.state = State::start();
                    }
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// Judges a header, and says what follows.
    fn begin(&mut self, header: &FrameHeader, left: u64) -> Result<State, WireError> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(WireError::Protocol("an extension that was not agreed on"));
        }
        let key = header
            .mask
            .ok_or(WireError::Protocol("a frame without mask"))?;
        let mask = Mask { key, position: 0 };
        let last = header.is_final;
        let first = match header.opcode {
            OpCode::Control(_) if left > MAX_CONTROL || !last => {
                return Err(WireError::Protocol("a long or fragmented control frame"));
            }
            OpCode::Control(kind) => {
                return Ok(State::Control {
                    kind,
                    mask,
                    left,
                    gathered: Vec::new(),
                });
            }
            OpCode::Data(Data::Continue) => false,
            OpCode::Data(_) => true,
        };
        if first == self.in_message {
            return Err(WireError::Protocol("a fragment out of order"));
        }
        self.in_message = !last;
        Ok(State::Data {
            first,
            last,
            mask,
            left,
        })
    }
}

/// Reads a header byte by byte, for its length shows only on the way.
fn gather_header(
    gathered: &mut Vec<u8>,
    input: &mut &[u8],
) -> Result<Option<(FrameHeader, u64)>, WireError> {
    while let Some((byte, rest)) = input.split_first() {
        gathered.push(*byte);
        *input = rest;
        let Ok(header) = FrameHeader::parse(&mut Cursor::new(&gathered)) else {
            return Err(WireError::Protocol("an unknown kind of frame"));
        };
        if header.is_some() {
            return Ok(header);
        }
    }
    Ok(None)
}

/// Takes off the front of `input` what is `left` of a payload.
fn take<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let length = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(input.len());
    let (taken, rest) = input.split_at(length);
    *input = rest;
    *left -= length as u64;
    taken
}

fn control(kind: Control, payload: Vec<u8>) -> Frame {
    match kind {
        Control::Ping => Frame::Ping(payload),
        Control::Close => Frame::Close,
        Control::Pong | Control::Reserved(_) => Frame::Pong,
    }
}

/// Writes one whole frame.
pub(super) fn write(opcode: OpCode, payload: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    header
        .format(length as u64, out)
        .expect("writing to memory does not fail");
    for part in payload {
        out.extend_from_slice(part);
    }
}
