//! SPDY/3.1 as Kubernetes' clients speak it, server's side, without input or output.
//!
//! Not the whole protocol: streams are opened by the client only, and there is no flow control
//! (the one client implementation in use neither sends nor honours WINDOW_UPDATE), so that back
//! pressure is to stop reading the socket. A stream:
//!
//! ```text
//!   SYN_STREAM ->  open  -- FIN from client -->  we may send    --+
//!                   |                                             |-- both --> forgotten
//!                   +----- FIN from us ------->  client may send --+
//!                   +----- RST_STREAM, either side ----------------------> forgotten
//! ```

mod dictionary;
mod frame;
mod headers;

use std::collections::HashMap;

use self::frame::{Decoder, Frame};
use self::headers::HeaderWriter;
use crate::wire::{Event, Wire, WireError};

/// Most streams that a client may have open at once: port-forward uses two for a connection.
pub(crate) const MAX_STREAMS: usize = 256;

/// Which directions of a stream are open.
#[derive(Clone, Copy, Debug)]
struct Halves {
    /// The client may send.
    inward: bool,
    /// We may send.
    outward: bool,
}

/// Statuses of RST_STREAM; specification 2.6.3.
#[derive(Clone, Copy, Debug)]
enum ResetStatus {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Spdy {
    decoder: Decoder,
    headers: HeaderWriter,
    streams: HashMap<u32, Halves>,
    last_stream: u32,
    client_goes: bool,
}

impl Spdy {
    fn handle(&mut self, frame: Frame, out: &mut Vec<u8>, events: &mut Vec<Event>) {
        match frame {
            Frame::SynStream {
                stream,
                finished,
                one_way,
                headers,
            } => {
                self.open(
                    stream,
                    Halves {
                        inward: !finished,
                        outward: !one_way,
                    },
                    out,
                    || {
                        events.push(Event::Opened { stream, headers });
                        if finished {
                            events.push(Event::Finished(stream));
                        }
                    },
                );
            }
            Frame::Data { stream, bytes } => {
                // Data of a stream that we gave up may be on its way still: no error.
                if self
                    .streams
                    .get(&stream)
                    .is_some_and(|halves| halves.inward)
                {
                    events.push(Event::Data { stream, bytes });
                }
            }
            Frame::Finished { stream } => {
                if self.close(stream, |halves| std::mem::take(&mut halves.inward)) {
                    events.push(Event::Finished(stream));
                }
            }
            Frame::Reset { stream } => {
                if self.streams.remove(&stream).is_some() {
                    events.push(Event::Reset(stream));
                }
            }
            // Only the client's own pings, which have odd ids, are answered: ours would be even.
            Frame::Ping { id } if id % 2 == 1 => frame::write_ping(id, out),
            Frame::GoAway => self.client_goes = true,
            Frame::Ping { .. } | Frame::Ignored => {}
        }
    }

    /// Takes a new stream in, or answers why not. A client that said goodbye opens none.
    fn open(&mut self, stream: u32, halves: Halves, out: &mut Vec<u8>, welcome: impl FnOnce()) {
        if self.client_goes {
            return;
        }
        if stream.is_multiple_of(2) || stream <= self.last_stream {
            return frame::write_reset(stream, ResetStatus::ProtocolError as u32, out);
        }
        self.last_stream = stream;
        if self.streams.len() >= MAX_STREAMS {
            return frame::write_reset(stream, ResetStatus::RefusedStream as u32, out);
        }
        self.streams.insert(stream, halves);
        welcome();
    }

    /// Closes one direction; whether it was open.
    fn close(&mut self, stream: u32, take: impl FnOnce(&mut Halves) -> bool) -> bool {
        let Some(halves) = self.streams.get_mut(&stream) else {
            return false;
        };
        let was_open = take(halves);
        if !halves.inward && !halves.outward {
            self.streams.remove(&stream);
        }
        was_open
    }
}

impl Wire for Spdy {
    fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        while let Some(frame) = self.decoder.next(&mut input)? {
            self.handle(frame, out, events);
        }
        Ok(())
    }

    fn accept(&mut self, stream: u32, out: &mut Vec<u8>) {
        if self.streams.contains_key(&stream) {
            frame::write_reply(stream, &self.headers.empty_block(), out);
        }
    }

    fn is_writable(&self, stream: u32) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|halves| halves.outward)
    }

    fn data(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
        if self.is_writable(stream) {
            frame::write_data(stream, false, payload, out);
        }
    }

    fn finish(&mut self, stream: u32, out: &mut Vec<u8>) {
        if self.close(stream, |halves| std::mem::take(&mut halves.outward)) {
            frame::write_data(stream, true, &[], out);
        }
    }

    fn reset(&mut self, stream: u32, refused: bool, out: &mut Vec<u8>) {
        if self.streams.remove(&stream).is_some() {
            let status = if refused {
                ResetStatus::RefusedStream
            } else {
                ResetStatus::Cancel
            };
            frame::write_reset(stream, status as u32, out);
        }
    }

    fn goodbye(&mut self, well: bool, out: &mut Vec<u8>) {
        frame::write_go_away(self.last_stream, u32::from(!well), out);
    }
}

#[cfg(test)]
mod tests;
