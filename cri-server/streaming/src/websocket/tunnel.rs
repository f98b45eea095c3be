//! A SPDY connection whose bytes travel in the binary messages of a WebSocket (KEP-4006).
//! How the bytes are cut into messages means nothing.

use super::{Kind, Piece, Socket};
use crate::spdy::Spdy;
use crate::wire::{Event, Wire, WireError};

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Tunnel {
    socket: Socket,
    spdy: Spdy,
}

impl Tunnel {
    /// Lets SPDY write, into a message.
    fn wrap(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Spdy, &mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut self.spdy, &mut bytes);
        if !bytes.is_empty() {
            self.socket.message(Kind::Binary, &[&bytes], out);
        }
    }
}

impl Wire for Tunnel {
    fn receive(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError> {
        while let Some(piece) = self.socket.next(&mut input, out)? {
            match piece {
                Piece::Message { bytes, .. } => {
                    let mut result = Ok(());
                    self.wrap(out, |spdy, out| result = spdy.receive(&bytes, out, events));
                    result?;
                }
                Piece::Closed => events.push(Event::Left),
            }
        }
        Ok(())
    }

    fn accept(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.wrap(out, |spdy, out| spdy.accept(stream, out));
    }

    fn is_writable(&self, stream: u32) -> bool {
        self.spdy.is_writable(stream)
    }

    fn data(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
        self.wrap(out, |spdy, out| spdy.data(stream, payload, out));
    }

    fn finish(&mut self, stream: u32, out: &mut Vec<u8>) {
        self.wrap(out, |spdy, out| spdy.finish(stream, out));
    }

    fn reset(&mut self, stream: u32, refused: bool, out: &mut Vec<u8>) {
        self.wrap(out, |spdy, out| spdy.reset(stream, refused, out));
    }

    fn goodbye(&mut self, well: bool, out: &mut Vec<u8>) {
        self.wrap(out, |spdy, out| spdy.goodbye(well, out));
        self.socket.close(well, out);
    }
}
