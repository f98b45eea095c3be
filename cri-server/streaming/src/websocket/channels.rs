//! `channel.k8s.io`: the first byte of every message names the stream that the rest belongs to.
//!
//! In the base64 variants messages are text: a digit, then the rest in base64. From version 5 on
//! a client ends one of its streams with the message 255, channel.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{Kind, Piece, Socket};
use crate::wire::{Event, Wire, WireError};

/// Longest message in base64, in bytes: it is decoded as a whole.
const MAX_TEXT: usize = 1024 * 1024;
/// First byte of the message that ends a stream.
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Raw,
    /// As text.
    Base64,
}

/// What the message that is arriving is for.
#[derive(Debug)]
enum Message {
    /// Its first byte is still to come.
    New,
    /// Data of a stream.
    Of(u32),
    /// The stream to end is still to come.
    Close,
    /// Text, decoded when it is whole.
    Text(Vec<u8>),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Channels {
    socket: Socket,
    encoding: Encoding,
    close_signal: bool,
    message: Message,
    finished: HashSet<u32>,
}

impl Channels {
    /// `close_signal`: whether the protocol has the message that ends a stream.
    pub(crate) fn new(encoding: Encoding, close_signal: bool) -> Self {
        let (socket, message, finished) = (Socket::default(), Message::New, HashSet::new());
        Self {
            socket,
            encoding,
            close_signal,
            message,
            finished,
        }
    }

    fn part(&mut self, bytes: Bytes, last: bool, events: &mut Vec<Event>) -> Result<(), WireError> {
        match self.encoding {
            Encoding::Raw => self.raw_part(bytes, last, events),
            Encoding::Base64 => self.text_part(&bytes, last, events),
        }
    }

    fn raw_part(
        &mut self,
        mut bytes: Bytes,
        last: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        if matches!(self.message, Message::New) && !bytes.is_empty() {
            self.message = match bytes.split_to(1)[0] {
                CLOSE if self.close_signal => Message::Close,
                channel => Message::Of(channel.into()),
            };
        }
        match self.message {
            _ if bytes.is_empty() => {}
            Message::Of(stream) => events.push(Event::Data { stream, bytes }),
            Message::Close if bytes.len() == 1 && last => {
                events.push(Event::Finished(bytes[0].into()));
            }
            _ => return Err(WireError::Protocol("a close signal that is not two bytes")),
        }
        if last {
            self.message = Message::New;
        }
        Ok(())
    }

    fn text_part(
        &mut self,
        bytes: &[u8],
        last: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        let mut text = match std::mem::replace(&mut self.message, Message::New) {
            Message::Text(text) => text,
            _ => Vec::new(),
        };
        if text.len() + bytes.len() > MAX_TEXT {
            return Err(WireError::Limit("a text message's length"));
        }
        text.extend_from_slice(bytes);
        if last {
            events.extend(decode(&text)?);
        } else {
            self.message = Message::Text(text);
        }
        Ok(())
    }
}

/// What a whole message says; nothing when it is empty.
fn decode(text: &[u8]) -> Result<Option<Event>, WireError> {
    let Some((channel, text)) = text.split_first() else {
        return Ok(None);
    };
    let stream = channel.wrapping_sub(b'0').into();
    let Ok(bytes) = STANDARD.decode(text) else {
        return Err(WireError::Protocol("a message that is not base64"));
    };
    Ok((!bytes.is_empty()).then(|| Event::Data {
        stream,
        bytes: bytes.into(),
    }))
}

impl Wire for Channels {
    fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        while let Some(piece) = self.socket.next(&mut input, out)? {
            match piece {
                Piece::Message { last, bytes, .. } => self.part(bytes, last, events)?,
                Piece::Closed => events.push(Event::Left),
            }
        }
        Ok(())
    }

    fn accept(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.data(stream, &[], out);
    }

    fn is_writable(&self, stream: u32) -> bool {
        !self.finished.contains(&stream)
    }

    fn data(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
        let Ok(channel) = u8::try_from(stream) else {
            return;
        };
        if !self.is_writable(stream) {
            return;
        }
        match self.encoding {
            Encoding::Raw => self
                .socket
                .message(Kind::Binary, &[&[channel], payload], out),
            Encoding::Base64 => {
                let text = STANDARD.encode(payload);
                let digit = channel.wrapping_add(b'0');
                self.socket
                    .message(Kind::Text, &[&[digit], text.as_bytes()], out);
            }
        }
    }

    /// There is no message for it: clients learn of the end of all streams at once.
    fn finish(&mut self, stream: u32, _: &mut Vec<u8>) {
        self.finished.insert(stream);
    }

    fn reset(&mut self, stream: u32, _: bool, out: &mut Vec<u8>) {
        self.finish(stream, out);
    }

    fn goodbye(&mut self, well: bool, out: &mut Vec<u8>) {
        self.socket.close(well, out);
    }
}
