//! A worker: confined, then the layer, then the answer. Whoever starts it is on its standard input.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::confine::{self, Room};
use super::wire::{self, Request};
use crate::Error;
use crate::error::During;
use crate::layer::unpack::Notes;
use crate::layer::{Contents, Meter, Target, build_metered};
use crate::store::held::Used;

/// How much more has to be used until it is said, in bytes.
const SAY_EVERY: u64 = 1 << 20;

/// The whole of a process that was started to unpack one layer: see [`Worker`](super::Worker).
/// Standard input is its socket. To be called before there is any other thread.
#[must_use]
pub fn unpack_worker() -> ExitCode {
    match work(io::stdin().as_fd(), || Ok(())) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is left who could be told.
        Err(_) => ExitCode::FAILURE,
    }
}

/// The same, with something to be done between the confinement and the first byte.
pub(crate) fn work(
    socket: BorrowedFd<'_>,
    before: impl FnOnce() -> Result<(), Error>,
) -> io::Result<()> {
    let (request, fds) = wire::asked(socket)?;
    let mut too_many = None;
    let built = parts(&request, fds).and_then(|(parts, folder)| {
        let confined = confine::confine(request.parent, request.form, folder);
        let (room, lacks) = confined.map_err(|error| error.within("confining the process"))?;
        if let Some(lacks) = lacks {
            wire::say_lacks(socket, lacks).during(|| "talking to the daemon")?;
        }
        before()?;
        let job = parts.job(room);
        too_many = job.too_many();
        job.run(socket, &request)
    });
    let too_many = too_many.is_some_and(|flag| flag.load(Ordering::SeqCst));
    wire::say_end(socket, built, too_many)
}

/// What a request came with.
struct Parts {
    input: PipeReader,
    recipe: Option<OwnedFd>,
    /// The table, or the image.
    file: OwnedFd,
}

/// Tells the descriptors of a request apart; the second is the folder that all of the layer lies in.
fn parts(request: &Request, fds: Vec<OwnedFd>) -> Result<(Parts, OwnedFd), Error> {
    let mut fds = fds.into_iter();
    let mut next = || {
        let fd = fds.next();
        fd.ok_or_else(|| Error::Other("a descriptor is missing".into()))
    };
    let (input, folder) = (next()?.into(), next()?);
    let parts = Parts {
        input,
        recipe: request.recipe.then(&mut next).transpose()?,
        file: next()?,
    };
    Ok((parts, folder))
}

impl Parts {
    /// With the folders as they are reached from within.
    fn job(self, room: Option<Room>) -> Job {
        let target = match room {
            Some(Room { tree, replaced }) => Target::Dir {
                folder: tree,
                trash: replaced,
                table: self.file.into(),
            },
            None => Target::Erofs {
                file: self.file.into(),
                too_many: Arc::default(),
            },
        };
        Job {
            input: self.input,
            target,
            notes: Notes {
                recipe: self.recipe.map(Into::into),
                used: Arc::default(),
            },
        }
    }
}

/// What is to be done.
struct Job {
    input: PipeReader,
    target: Target,
    notes: Notes,
}

impl Job {
    fn too_many(&self) -> Option<Arc<AtomicBool>> {
        match &self.target {
            Target::Dir { .. } => None,
            Target::Erofs { too_many, .. } => Some(Arc::clone(too_many)),
        }
    }

    fn run(self, socket: BorrowedFd<'_>, request: &Request) -> Result<Contents, Error> {
        let used = Arc::clone(&self.notes.used);
        let input = Telling {
            input: self.input,
            socket,
            used: Arc::clone(&used),
            said: 0,
        };
        let built = build_metered(
            Meter::trusting(input),
            &request.promise,
            self.target,
            self.notes,
        );
        // What is left of a failure is counted by this until it is deleted.
        wire::say_used(socket, used.now());
        built
    }
}

/// The input; with what is read of it, how much is used is said from time to time.
struct Telling<'a> {
    input: PipeReader,
    socket: BorrowedFd<'a>,
    used: Arc<Used>,
    said: u64,
}

impl Read for Telling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let used = self.used.now();
        if used.bytes >= self.said + SAY_EVERY {
            self.said = used.bytes;
            wire::say_used(self.socket, used);
        }
        self.input.read(buffer)
    }
}
