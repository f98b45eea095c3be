//! What a session holds of a stream: a reader and a writer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Core, Mux, OUTBOX, Phase, StreamEnd, wake};
use crate::wire::MAX_PAYLOAD;

/// What a client sends on a stream.
///
/// It ends when the client says so. It fails with `ConnectionReset` when the client gives the
/// stream up, and with `ConnectionAborted` when the whole connection is over. When it is dropped,
/// what still arrives is thrown away.
#[derive(Debug)]
pub struct Reader {
    mux: Mux,
    stream: u32,
}

impl Reader {
    pub(super) fn new(mux: Mux, stream: u32) -> Self {
        Self { mux, stream }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.mux.lock().poll_read(self.stream, context, buffer)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.mux.lock().forget(self.stream);
    }
}

/// What a client receives on a stream.
///
/// Writing waits while the client is slower, and fails with `BrokenPipe` when it no longer wants
/// the stream. A shutdown, or dropping it, tells the client that it is over. A flush does
/// nothing: what is written is on its way.
#[derive(Debug)]
pub struct Writer {
    mux: Mux,
    stream: u32,
}

impl Writer {
    pub(super) fn new(mux: Mux, stream: u32) -> Self {
        Self { mux, stream }
    }

    fn finish(&self) {
        self.mux
            .lock()
            .say(|wire, out| wire.finish(self.stream, out));
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.mux.lock().poll_write(self.stream, context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Core {
    fn poll_read(
        &mut self,
        stream: u32,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(inbox) = self.inboxes.get_mut(&stream) else {
            return Poll::Ready(Ok(()));
        };
        let mut taken = 0;
        while let Some(chunk) = inbox.chunks.front_mut() {
            let part = chunk.len().min(buffer.remaining());
            buffer.put_slice(&chunk[..part]);
            chunk.advance(part);
            taken += part;
            if !chunk.is_empty() {
                break;
            }
            inbox.chunks.pop_front();
        }
        if taken > 0 {
            inbox.bytes -= taken;
            self.waiting -= taken;
            wake(&mut self.driver);
            return Poll::Ready(Ok(()));
        }
        match (inbox.end, self.phase) {
            _ if buffer.remaining() == 0 => Poll::Ready(Ok(())),
            (Some(StreamEnd::Finished), _) => Poll::Ready(Ok(())),
            (Some(StreamEnd::Reset), _) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (None, Phase::Open) => {
                inbox.reader = Some(context.waker().clone());
                Poll::Pending
            }
            (None, _) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_write(
        &mut self,
        stream: u32,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.phase != Phase::Open || !self.wire.is_writable(stream) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.outbox.len() >= OUTBOX {
            self.writers.insert(stream, context.waker().clone());
            return Poll::Pending;
        }
        let part = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.say(|wire, out| wire.data(stream, part, out));
        Poll::Ready(Ok(part.len()))
    }
}
