//! What every protocol of a connection looks like to the multiplexer: bytes in, events out;
//! commands in, bytes out. No sockets, no clocks.

use std::fmt::Debug;

use bytes::Bytes;

/// Names and values that a client gave to a stream, in its order; names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// First value of `name` (lower case).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What happened on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The client opened it.
    Opened {
        /// Its number.
        stream: u32,
        /// What the client says of it.
        headers: Headers,
    },
    /// Bytes of it arrived.
    Data {
        /// Its number.
        stream: u32,
        /// Never empty.
        bytes: Bytes,
    },
    /// The client sends no more on it; it may still receive.
    Finished(u32),
    /// The client wants nothing more to do with it.
    Reset(u32),
    /// The client takes its leave of the whole connection.
    Left,
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The peer broke a rule of the protocol after which its bytes cannot be followed.
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer asked for more than a limit allows.
    #[error("the client went over a limit: {0}")]
    Limit(&'static str),
}

/// A protocol that carries several streams over one connection, server's side.
///
/// Answers that it owes by itself (to a ping, say) go to `out` with everything else.
pub(crate) trait Wire: Debug + Send {
    /// Takes what arrived.
    ///
    /// # Errors
    /// [`WireError`]: nothing more may be given to it.
    fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        events: &mut Vec<Event>,
    ) -> Result<(), WireError>;

    /// Tells the client that its stream is welcome.
    fn accept(&mut self, stream: u32, out: &mut Vec<u8>);

    /// Whether `data` may still be sent on `stream`.
    fn is_writable(&self, stream: u32) -> bool;

    /// Sends `payload`, which is not over [`MAX_PAYLOAD`]; nothing if the stream is not writable.
    fn data(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>);

    /// Says that nothing more will be sent on `stream`.
    fn finish(&mut self, stream: u32, out: &mut Vec<u8>);

    /// Ends both directions of `stream` at once: `refused` before it was accepted, else given up.
    fn reset(&mut self, stream: u32, refused: bool, out: &mut Vec<u8>);

    /// The last words: everything went well, or the client broke a rule.
    fn goodbye(&mut self, well: bool, out: &mut Vec<u8>);
}

/// Most bytes that one frame carries to a client: the size that clients read with.
pub(crate) const MAX_PAYLOAD: usize = 32 * 1024;
