//! WebSocket (RFC 6455), server's side, without input or output: messages are handed on as they
//! arrive, so that their length costs no memory.
//!
//! Two protocols run in it: [`channels`], where the first byte of a message names a stream, and
//! [`tunnel`], where messages carry a SPDY connection.

pub(crate) mod channels;
mod frame;
pub(crate) mod tunnel;

use bytes::Bytes;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use self::frame::{Decoder, Frame};
use crate::wire::WireError;

/// A part of a message, or the end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of a message.
    Message {
        /// The first part of it.
        first: bool,
        /// The last part of it.
        last: bool,
        /// May be empty.
        bytes: Bytes,
    },
    /// The client says goodbye.
    Closed,
}

/// The connection below the messages.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    decoder: Decoder,
    closed: bool,
}

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
}

impl Socket {
    /// The next part of `input`, which is moved past what was used; none if it needs more.
    /// Pings are answered.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Piece>, WireError> {
        while let Some(frame) = self.decoder.next(input)? {
            match frame {
                Frame::Part { first, last, bytes } => {
                    return Ok(Some(Piece::Message { first, last, bytes }));
                }
                Frame::Ping(payload) => {
                    frame::write(OpCode::Control(Control::Pong), &[&payload], out);
                }
                Frame::Pong => {}
                Frame::Close => return Ok(Some(Piece::Closed)),
            }
        }
        Ok(None)
    }

    /// Writes a message of several parts.
    pub(crate) fn message(&self, kind: Kind, parts: &[&[u8]], out: &mut Vec<u8>) {
        let data = match kind {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        };
        if !self.closed {
            frame::write(OpCode::Data(data), parts, out);
        }
    }

    /// Says goodbye, once. The code matters: clients take any other than 1000 for a failure.
    pub(crate) fn close(&mut self, well: bool, out: &mut Vec<u8>) {
        let code = if well {
            CloseCode::Normal
        } else {
            CloseCode::Protocol
        };
        if !std::mem::replace(&mut self.closed, true) {
            let code = u16::from(code).to_be_bytes();
            frame::write(OpCode::Control(Control::Close), &[&code], out);
        }
    }
}

#[cfg(test)]
mod tests;
