//! From a layer as it is sent to a folder that can be mounted: one pass, bounded memory.
//!
//! ```text
//! source -> sha256, length -> inflate | 4 buffers | sha256 -> tar -> files in a staging folder
//! ```
//!
//! Two threads a layer: what is left of the bar runs beside what is right of it. Nothing is shown
//! to anybody before both digests and the length are what was promised; see `store::layers`.

pub(crate) mod decode;
mod names;
pub(crate) mod tar;
mod tree;
mod unpack;

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Error;
use crate::digest::{Digest, Hasher};
use decode::Decoder;
use tree::Tree;
pub(crate) use unpack::Contents;
use unpack::{UnpackError, unpack};

/// Size of the buffers between the two threads of a layer, in bytes.
const BUFFER: usize = 256 << 10;
/// How many of them there are.
const BUFFERS: usize = 4;
/// How much a layer may grow when inflated (gzip's own bound is near 1030), and how much in any case.
const MAX_RATIO: u64 = 1100;
const MAX_RATIO_FROM: u64 = 1 << 30;

/// What a layer was promised to be.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// Digest and length as sent; archives of Docker do not tell.
    pub(crate) sent: Option<(Digest, u64)>,
    /// Digest of the tar.
    pub(crate) diff_id: Digest,
}

/// A folder to unpack into, and where to move what gets in the way.
#[derive(Debug)]
pub(crate) struct Target {
    /// The folder; empty.
    pub(crate) folder: OwnedFd,
    /// Another one on the same file system.
    pub(crate) trash: PathBuf,
}

/// Unpacks a layer, and answers with what it holds if it is what was promised.
pub(crate) fn build(
    source: impl Read,
    promise: &Promise,
    target: Target,
) -> Result<Contents, Error> {
    let (sender, receiver) = sync_channel(BUFFERS);
    let hopeless = AtomicBool::new(false);
    let (inflated, unpacked) = std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| unpack_stream(receiver, promise, target, &hopeless));
        let inflated = inflate(Meter::new(source, promise), promise, &sender, &hopeless);
        drop(sender);
        (
            inflated,
            unpacking.join().expect("unpacking does not panic"),
        )
    });
    // What went wrong first decides: a lying source makes the tar look damaged.
    let name = promise
        .sent
        .as_ref()
        .map_or(&promise.diff_id, |(digest, _)| digest);
    inflated.map_err(|error| error.within(format!("layer {name}")))?;
    unpacked.map_err(|error| error.within(format!("layer {}", promise.diff_id)))
}

/// Counts and hashes what comes from the source; too much is an error at once.
struct Meter<R> {
    source: R,
    hasher: Hasher,
    count: u64,
    most: u64,
}

impl<R: Read> Meter<R> {
    fn new(source: R, promise: &Promise) -> Self {
        let digest = promise
            .sent
            .as_ref()
            .map_or(&promise.diff_id, |(digest, _)| digest);
        let most = promise.sent.as_ref().map_or(u64::MAX, |(_, size)| *size);
        Self {
            source,
            hasher: digest.hasher(),
            count: 0,
            most,
        }
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count += count as u64;
        if self.count > self.most {
            let text = format!("more than the promised {} bytes were sent", self.most);
            return Err(io::Error::other(Error::Corrupt(text)));
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A piece of the tar, or the end of it. Without that end, the stream was cut.
enum Piece {
    Bytes(Vec<u8>),
    End,
}

fn inflate(
    meter: Meter<impl Read>,
    promise: &Promise,
    sender: &SyncSender<Piece>,
    hopeless: &AtomicBool,
) -> Result<(), Error> {
    let mut decoder = Decoder::new(meter).map_err(source_error)?;
    let pumped = pump(&mut decoder, promise, sender);
    let mut meter = decoder.into_inner();
    match pumped {
        // The disk failed; the other thread tells how.
        Ok(Pumped::Refused) if hopeless.load(Ordering::SeqCst) => return Ok(()),
        Ok(_) | Err(Error::Corrupt(_)) => {}
        Err(failed) => return Err(failed),
    }
    // Is the content bad, or was it spoilt on its way? The digest of all that was sent tells.
    io::copy(&mut meter, &mut io::sink()).map_err(source_error)?;
    check_sent(meter, promise)?;
    if matches!(pumped?, Pumped::All) {
        // If nobody takes it, unpacking has failed and says so itself.
        drop(sender.send(Piece::End));
    }
    Ok(())
}

/// How pumping ended, if the source did not fail.
enum Pumped {
    /// All was taken.
    All,
    /// The other thread takes no more.
    Refused,
}

fn pump(
    decoder: &mut impl Read,
    promise: &Promise,
    sender: &SyncSender<Piece>,
) -> Result<Pumped, Error> {
    let most = promise.sent.as_ref().map_or(u64::MAX, |(_, size)| {
        size.saturating_mul(MAX_RATIO).max(MAX_RATIO_FROM)
    });
    let mut total = 0;
    loop {
        let mut piece = Vec::with_capacity(BUFFER);
        decoder
            .by_ref()
            .take(BUFFER as u64)
            .read_to_end(&mut piece)
            .map_err(source_error)?;
        total += piece.len() as u64;
        if total > most {
            return Err(Error::Corrupt(format!(
                "it unpacks to more than {MAX_RATIO} times its length"
            )));
        }
        if piece.is_empty() {
            return Ok(Pumped::All);
        }
        if sender.send(Piece::Bytes(piece)).is_err() {
            return Ok(Pumped::Refused);
        }
    }
}

/// An error of ours comes back as it went in; any other is the decoder's.
fn source_error(cause: io::Error) -> Error {
    match cause.downcast::<Error>() {
        Ok(error) => error,
        Err(cause) => Error::Corrupt(format!("cannot be decompressed: {cause}")),
    }
}

fn check_sent(meter: Meter<impl Read>, promise: &Promise) -> Result<(), Error> {
    let Some((digest, size)) = &promise.sent else {
        return Ok(());
    };
    if meter.count != *size {
        return Err(Error::Corrupt(format!(
            "{} bytes were sent instead of the promised {size}",
            meter.count
        )));
    }
    let found = meter.hasher.finish();
    if found != *digest {
        return Err(Error::Corrupt(format!(
            "what was sent has the digest {found}"
        )));
    }
    Ok(())
}

/// The tar, as it comes from the other thread.
struct Stream {
    receiver: Receiver<Piece>,
    piece: io::Cursor<Vec<u8>>,
    hasher: Hasher,
    ended: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || self.ended {
                self.hasher.update(&buffer[..count]);
                return Ok(count);
            }
            match self.receiver.recv() {
                Ok(Piece::Bytes(bytes)) => self.piece = io::Cursor::new(bytes),
                Ok(Piece::End) => self.ended = true,
                Err(_) => {
                    return Err(io::Error::other(Error::Corrupt(
                        "the stream was cut".into(),
                    )));
                }
            }
        }
    }
}

fn unpack_stream(
    receiver: Receiver<Piece>,
    promise: &Promise,
    target: Target,
    hopeless: &AtomicBool,
) -> Result<Contents, Error> {
    let hasher = promise.diff_id.hasher();
    let mut stream = Stream {
        receiver,
        piece: io::Cursor::default(),
        hasher,
        ended: false,
    };
    let tree = Tree::new(target.folder, target.trash);
    let contents = unpack(&mut stream, tree)
        .map_err(unpack_error)
        .inspect_err(|error| {
            // To be said while the receiver is still there: its end is what the other thread sees.
            hopeless.store(!matches!(error, Error::Corrupt(_)), Ordering::SeqCst);
        })?;
    let found = stream.hasher.finish();
    if found != promise.diff_id {
        return Err(Error::Corrupt(format!(
            "its content has the digest {found}"
        )));
    }
    Ok(contents)
}

fn unpack_error(error: UnpackError) -> Error {
    match error {
        UnpackError::Disk(name, cause) => Error::io(format!("unpacking entry {name:?}"), &cause),
        refused => Error::Corrupt(refused.to_string()),
    }
}

#[cfg(test)]
mod tests;
