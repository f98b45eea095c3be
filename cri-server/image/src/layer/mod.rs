//! From a layer as it is sent to what can be mounted: one pass, bounded memory.
//!
//! ```text
//! source -> sha256, length -> inflate | 4 buffers | sha256 -> tar -> files, or an image, in staging
//! ```
//!
//! Two threads a layer: what is left of the bar runs beside what is right of it. Nothing is shown
//! to anybody before both digests and the length are what was promised; see `store::layers`.

pub(crate) mod decode;
pub(crate) mod dir;
pub(crate) mod erofs;
pub(crate) mod names;
pub(crate) mod recipe;
pub(crate) mod table;
pub(crate) mod tar;
pub(crate) mod tree;
pub(crate) mod unpack;

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Error;
use crate::error::During;
use registry::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use decode::Decoder;
use dir::DirBuilder;
use erofs::ErofsBuilder;
use tree::Tree;
pub(crate) use unpack::Contents;
use unpack::{Notes, UnpackError, unpack};

/// Size of the buffers between the two threads of a layer, in bytes.
const BUFFER: usize = 256 << 10;
/// How many of them there are.
const BUFFERS: usize = 4;
/// How much a layer may grow when inflated (gzip's own bound is near 1030), and how much in any case.
const MAX_RATIO: u64 = 1100;
const MAX_RATIO_FROM: u64 = 1 << 30;

/// What a layer was promised to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Promise {
    /// Digest and length as sent; archives of Docker do not tell.
    pub(crate) sent: Option<(Digest, u64)>,
    /// Digest of the tar.
    pub(crate) diff_id: Digest,
}

impl Promise {
    /// What the layer is called in messages about what was sent.
    pub(crate) fn name(&self) -> &Digest {
        let sent = self.sent.as_ref();
        sent.map_or(&self.diff_id, |(digest, _)| digest)
    }
}

/// What a layer becomes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// Files in a folder.
    #[default]
    Dir,
    /// The image of a file system.
    Erofs,
}

impl Form {
    /// Whether it is the one that a record need not name.
    pub(crate) fn is_dir(&self) -> bool {
        *self == Self::Dir
    }
}

/// What to unpack into: there is one for each [`Form`].
#[derive(Debug)]
pub(crate) enum Target {
    /// Files in a folder.
    Dir {
        /// The folder; empty.
        folder: OwnedFd,
        /// Where to move what gets in the way: another one on the same file system.
        trash: OwnedFd,
        /// Where it is written what the layer holds.
        table: File,
    },
    /// The image of a file system.
    Erofs {
        /// The file; empty.
        file: File,
        /// Set if the layer fails for having more names than go into one.
        too_many: Arc<AtomicBool>,
    },
}

/// Unpacks a layer in this process, and answers with what it holds if it is what was promised.
pub(crate) fn build(
    source: impl Read,
    promise: &Promise,
    target: Target,
    notes: Notes,
) -> Result<Contents, Error> {
    build_metered(Meter::new(source, promise), promise, target, notes)
}

/// The same of a source that has its meter.
pub(crate) fn build_metered(
    meter: Meter<impl Read>,
    promise: &Promise,
    target: Target,
    notes: Notes,
) -> Result<Contents, Error> {
    let (pipe, receiver, empty) = Pipe::new();
    let hopeless = AtomicBool::new(false);
    let (inflated, unpacked) = std::thread::scope(|scope| {
        let unpacking =
            scope.spawn(|| unpack_stream(receiver, empty, promise, (target, notes), &hopeless));
        let inflated = inflate(meter, promise, &pipe, &hopeless);
        drop(pipe);
        (
            inflated,
            unpacking.join().expect("unpacking does not panic"),
        )
    });
    // What went wrong first decides: a lying source makes the tar look damaged.
    inflated.map_err(|error| error.within(format!("layer {}", promise.name())))?;
    unpacked.map_err(|error| error.within(format!("layer {}", promise.diff_id)))
}

/// Counts and hashes what comes from the source; too much is an error at once.
pub(crate) struct Meter<R> {
    source: R,
    count: u64,
    /// What it should come to.
    promised: Option<(Digest, u64)>,
    hasher: Option<Hasher>,
}

impl<R: Read> Meter<R> {
    /// Compares the source with what was promised.
    pub(crate) fn new(source: R, promise: &Promise) -> Self {
        Self {
            source,
            count: 0,
            promised: promise.sent.clone(),
            hasher: promise.sent.as_ref().map(|(digest, _)| digest.hasher()),
        }
    }

    /// Of a source that somebody else compares.
    pub(crate) fn trusting(source: R) -> Self {
        Self {
            source,
            count: 0,
            promised: None,
            hasher: None,
        }
    }

    /// Whether all that was read is what was promised.
    pub(crate) fn check(self) -> Result<(), Error> {
        let (Some((digest, size)), Some(hasher)) = (self.promised, self.hasher) else {
            return Ok(());
        };
        if self.count != size {
            return Err(Error::Corrupt(format!(
                "{} bytes were sent instead of the promised {size}",
                self.count
            )));
        }
        let found = hasher.finish();
        if found != digest {
            return Err(Error::Corrupt(format!(
                "what was sent has the digest {found}"
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count += count as u64;
        if let Some((_, most)) = &self.promised
            && self.count > *most
        {
            let text = format!("more than the promised {most} bytes were sent");
            return Err(io::Error::other(Error::Corrupt(text)));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// A piece of the tar, or the end of it. Without that end, the stream was cut.
enum Piece {
    Bytes(Filled),
    End,
}

/// A buffer, all of it initialised, and how much of it is content.
struct Filled {
    buffer: Box<[u8]>,
    length: usize,
}

/// The inflating end: full buffers go out, emptied ones come back.
struct Pipe {
    full: SyncSender<Piece>,
    empty: Receiver<Box<[u8]>>,
}

impl Pipe {
    /// With the other end of both ways.
    fn new() -> (Self, Receiver<Piece>, SyncSender<Box<[u8]>>) {
        let (full, receiver) = sync_channel(BUFFERS);
        // There are no more than these: giving one back never waits.
        let (giving, empty) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            giving
                .send(vec![0; BUFFER].into_boxed_slice())
                .expect("the channel has room and both ends");
        }
        (Self { full, empty }, receiver, giving)
    }
}

fn inflate(
    meter: Meter<impl Read>,
    promise: &Promise,
    pipe: &Pipe,
    hopeless: &AtomicBool,
) -> Result<(), Error> {
    let mut decoder = Decoder::new(meter).map_err(source_error)?;
    let pumped = pump(&mut decoder, promise, pipe);
    let mut meter = decoder.into_inner();
    match pumped {
        // The disk failed; the other thread tells how.
        Ok(Pumped::Refused) if hopeless.load(Ordering::SeqCst) => return Ok(()),
        Ok(_) | Err(Error::Corrupt(_)) => {}
        Err(failed) => return Err(failed),
    }
    // Is the content bad, or was it spoilt on its way? The digest of all that was sent tells.
    io::copy(&mut meter, &mut io::sink()).map_err(source_error)?;
    meter.check()?;
    if matches!(pumped?, Pumped::All) {
        // If nobody takes it, unpacking has failed and says so itself.
        drop(pipe.full.send(Piece::End));
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

fn pump(decoder: &mut impl Read, promise: &Promise, pipe: &Pipe) -> Result<Pumped, Error> {
    let most = promise.sent.as_ref().map_or(u64::MAX, |(_, size)| {
        size.saturating_mul(MAX_RATIO).max(MAX_RATIO_FROM)
    });
    let mut total = 0;
    // Nothing comes back once the other thread has ended.
    while let Ok(mut buffer) = pipe.empty.recv() {
        let length = fill(decoder, &mut buffer).map_err(source_error)?;
        total += length as u64;
        if total > most {
            return Err(Error::Corrupt(format!(
                "it unpacks to more than {MAX_RATIO} times its length"
            )));
        }
        if length == 0 {
            return Ok(Pumped::All);
        }
        let piece = Piece::Bytes(Filled { buffer, length });
        if pipe.full.send(piece).is_err() {
            break;
        }
    }
    Ok(Pumped::Refused)
}

/// Fills a buffer, or as much of it as the source still has.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(length)
}

/// An error of ours or of the registry comes back as it went in; any other is the decoder's.
pub(crate) fn source_error(cause: io::Error) -> Error {
    let ours = cause.downcast::<Error>();
    ours.or_else(|cause| cause.downcast::<registry::Error>().map(Error::from))
        .unwrap_or_else(|cause| Error::Corrupt(format!("cannot be decompressed: {cause}")))
}

/// The tar, as it comes from the other thread. It is hashed piece by piece, as it arrives.
struct Stream {
    receiver: Receiver<Piece>,
    empty: SyncSender<Box<[u8]>>,
    piece: Option<Filled>,
    /// How much of the piece was taken.
    taken: usize,
    hasher: Hasher,
    ended: bool,
}

impl Stream {
    fn next_piece(&mut self) -> io::Result<()> {
        if let Some(used) = self.piece.take() {
            // Nobody fills it any more once the other thread has ended.
            drop(self.empty.send(used.buffer));
        }
        self.taken = 0;
        match self.receiver.recv() {
            Ok(Piece::Bytes(piece)) => {
                self.hasher.update(&piece.buffer[..piece.length]);
                self.piece = Some(piece);
            }
            Ok(Piece::End) => self.ended = true,
            Err(_) => {
                let cut = Error::Corrupt("the stream was cut".into());
                return Err(io::Error::other(cut));
            }
        }
        Ok(())
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let length = self.piece.as_ref().map_or(0, |piece| piece.length);
        if self.taken == length && !self.ended {
            self.next_piece()?;
        }
        let piece = self.piece.as_ref();
        Ok(piece.map_or(&[], |piece| &piece.buffer[self.taken..piece.length]))
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

fn unpack_stream(
    receiver: Receiver<Piece>,
    empty: SyncSender<Box<[u8]>>,
    promise: &Promise,
    (target, notes): (Target, Notes),
    hopeless: &AtomicBool,
) -> Result<Contents, Error> {
    let hasher = promise.diff_id.hasher();
    let mut stream = Stream {
        receiver,
        empty,
        piece: None,
        taken: 0,
        hasher,
        ended: false,
    };
    let contents = unpack_into(&mut stream, target, notes).inspect_err(|error| {
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

fn unpack_into(stream: &mut Stream, target: Target, notes: Notes) -> Result<Contents, Error> {
    let unpacked = match target {
        Target::Dir {
            folder,
            trash,
            table,
        } => {
            let tree = Tree::new(folder, trash);
            unpack(
                stream,
                DirBuilder::new(tree, table::Writer::new(table)),
                notes,
            )
        }
        Target::Erofs { file, too_many } => {
            let builder = ErofsBuilder::new(file, too_many);
            unpack(stream, builder.during(|| "beginning an image")?, notes)
        }
    };
    unpacked.map_err(unpack_error)
}

fn unpack_error(error: UnpackError) -> Error {
    match error {
        UnpackError::Disk(name, cause) => Error::io(format!("unpacking entry {name:?}"), &cause),
        refused => Error::Corrupt(refused.to_string()),
    }
}

#[cfg(test)]
mod tests;
