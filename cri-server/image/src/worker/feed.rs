//! The daemon's end: a worker is started, fed, listened to, and ended whatever happens.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::Worker;
use super::wire::{self, MAX_PACKET, Request, Said};
use crate::layer::unpack::Notes;
use crate::layer::{Contents, Form, Meter, Promise, Target, source_error};
use crate::store::held::Used;
use crate::{Error, Usage};

/// How much is taken from the source at once, in bytes.
const BUFFER: usize = 128 << 10;
/// What may lie in the pipe to a worker, in bytes: as much as one may have without privileges.
const PIPE: usize = 1 << 20;
/// How much of a worker's last words is told, in bytes.
const MAX_WORDS: usize = 2 << 10;
/// How long one that has closed its socket may take to end by itself, so that it is known how.
const LAST_WORDS: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};
/// Most folders that no entry described, and most bytes of their names: they are held in memory.
const MAX_FOLDERS: usize = 10_000_000;
const MAX_FOLDER_BYTES: usize = 256 << 20;

/// A worker. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: OwnedFd,
    /// Where its input goes; closed once it has all, or takes no more.
    pipe: Option<OwnedFd>,
    /// What it says to people, such as where it panicked.
    words: OwnedFd,
    /// The packet that was received last.
    packet: Box<[u8]>,
    heard: Heard,
    used: Arc<Used>,
    too_many: Option<Arc<AtomicBool>>,
    patience: Duration,
}

/// What it has said so far.
#[derive(Debug, Default)]
struct Heard {
    lacks: Option<String>,
    folders: Vec<Vec<u8>>,
    folder_bytes: usize,
    end: Option<Result<Contents, Error>>,
}

impl Process {
    /// Starts one and tells it what to do.
    pub(super) fn start(
        worker: &Worker,
        promise: &Promise,
        (folder, target): (&OwnedFd, &Target),
        notes: &Notes,
    ) -> io::Result<Self> {
        let (socket, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let (input, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        // Without room for more the usual 64 KiB have to do.
        fcntl_setpipe_size(&pipe, PIPE).ok();
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        let (words, speaking) = pipe_with(PipeFlags::CLOEXEC)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that starts workers"
        )]
        let mut command = Command::new(&worker.program);
        command
            .args(&worker.arguments)
            .arg0(std::env::args_os().next().unwrap_or_default())
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(speaking);
        let child = command.spawn()?;
        // The other ends of its streams are held by the command.
        drop(command);
        let process = Self {
            child,
            socket,
            pipe: Some(pipe),
            words,
            packet: vec![0; MAX_PACKET].into_boxed_slice(),
            heard: Heard::default(),
            used: Arc::clone(&notes.used),
            too_many: match target {
                Target::Dir { .. } => None,
                Target::Erofs { too_many, .. } => Some(Arc::clone(too_many)),
            },
            patience: worker.patience,
        };
        process.ask(promise, &[input.as_fd(), folder.as_fd()], target, notes)?;
        Ok(process)
    }

    fn ask(
        &self,
        promise: &Promise,
        fds: &[BorrowedFd<'_>],
        target: &Target,
        notes: &Notes,
    ) -> io::Result<()> {
        let mut fds = fds.to_vec();
        fds.extend(notes.recipe.as_ref().map(AsFd::as_fd));
        let form = match target {
            // It opens the folders by itself, from where nothing leads out.
            Target::Dir { table, .. } => {
                fds.push(table.as_fd());
                Form::Dir
            }
            Target::Erofs { file, .. } => {
                fds.push(file.as_fd());
                Form::Erofs
            }
        };
        let request = Request {
            promise: promise.clone(),
            form,
            recipe: notes.recipe.is_some(),
            parent: std::process::id(),
        };
        wire::ask(&self.socket, &request, &fds)
    }

    /// Its number.
    pub(super) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// Feeds it, and answers with what it has made; also with what its confinement lacks. It has
    /// ended then.
    pub(super) fn build(
        mut self,
        mut meter: Meter<impl Read>,
        promise: &Promise,
    ) -> (Result<Contents, Error>, Option<String>) {
        let built = self.fed(&mut meter).and_then(|made| match made {
            // Is the content bad, or was it spoilt on its way? The digest of all that was sent tells.
            Ok(_) | Err(Error::Corrupt(_)) => io::copy(&mut meter, &mut io::sink())
                .map_err(source_error)
                .and_then(|_| meter.check())
                .map(|()| made),
            failed => Ok(failed),
        });
        // What went wrong first decides: a lying source makes the tar look damaged.
        let built = built.map_err(|error| error.within(format!("layer {}", promise.name())));
        (built.flatten(), self.heard.lacks.take())
    }

    /// Gives it what the source has. The outer error is the source's, the inner one the worker's.
    fn fed(&mut self, source: &mut impl Read) -> Result<Result<Contents, Error>, Error> {
        let mut buffer = vec![0; BUFFER];
        while self.heard.end.is_none() {
            let count = match source.read(&mut buffer) {
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(source_error(cause)),
            };
            if count == 0 {
                break;
            }
            if let Err(error) = self.give(&buffer[..count]) {
                return Ok(Err(error));
            }
        }
        self.pipe = None;
        Ok(self.end())
    }

    /// Writes all to it, unless it takes no more.
    fn give(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.listen()?;
        while !bytes.is_empty() && self.heard.end.is_none() {
            let Some(pipe) = &self.pipe else { break };
            match rustix::io::write(pipe, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait()?;
                    self.listen()?;
                }
                Err(Errno::PIPE) => {
                    self.pipe = None;
                    self.heard.end = Some(self.end());
                }
                Err(errno) => {
                    return Err(Error::io("feeding the process that unpacks", &errno.into()));
                }
            }
        }
        Ok(())
    }

    /// Waits until it has made something or has failed.
    fn end(&mut self) -> Result<Contents, Error> {
        loop {
            self.listen()?;
            if let Some(end) = self.heard.end.take() {
                return end;
            }
            self.wait()?;
        }
    }

    /// Waits until it takes more or says something.
    fn wait(&self) -> Result<(), Error> {
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(
            self.pipe
                .as_ref()
                .map(|pipe| PollFd::new(pipe, PollFlags::OUT)),
        );
        let patience = Timespec::try_from(self.patience).expect("the patience is no aeon");
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => Err(Error::Other(format!(
                "the process that unpacks has done nothing for {} s",
                self.patience.as_secs()
            ))),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::io(
                "waiting for the process that unpacks",
                &errno.into(),
            )),
        }
    }

    /// Takes in what it has said.
    fn listen(&mut self) -> Result<(), Error> {
        while self.heard.end.is_none() {
            match recv(&self.socket, &mut self.packet[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(self.lost()),
                Ok((count, _)) => self.hear(count)?,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::io("hearing the process that unpacks", &errno.into()));
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, count: usize) -> Result<(), Error> {
        let packet = &self.packet[..count];
        let wrong = |what: &str| Error::Other(format!("the process that unpacks said {what}"));
        let heard = &mut self.heard;
        match Said::parse(packet).ok_or_else(|| wrong("what makes no sense"))? {
            Said::Used(bytes, inodes) => self.used.set(Usage { bytes, inodes }),
            Said::Lacks(what) => heard.lacks = Some(what),
            Said::Folders(paths) => {
                heard.folder_bytes += count;
                heard.folders.extend(paths);
                if heard.folders.len() > MAX_FOLDERS || heard.folder_bytes > MAX_FOLDER_BYTES {
                    return Err(wrong("more than is held in memory"));
                }
            }
            Said::Done(contents) => {
                let implicit = std::mem::take(&mut heard.folders);
                heard.end = Some(Ok(Contents {
                    implicit,
                    ..contents
                }));
            }
            Said::Failed(failure) => {
                if let Some(flag) = self.too_many.as_ref().filter(|_| failure.too_many) {
                    flag.store(true, Ordering::SeqCst);
                }
                heard.end = Some(Err(failure.error()));
            }
        }
        Ok(())
    }

    /// Why it went without a word: it has closed its socket, so it has ended or is about to.
    fn lost(&mut self) -> Error {
        let status = rustix::io::retry_on_intr(|| {
            let ended = PollFd::new(&self.words, PollFlags::empty());
            poll(&mut [ended], Some(&LAST_WORDS))
        })
        .map_err(io::Error::from)
        .and_then(|_| {
            // One that only closed the socket would be waited for in vain.
            self.child.kill()?;
            self.child.wait()
        });
        let how = match status {
            Ok(status) => match status.signal() {
                Some(signal) => format!("was ended by signal {signal}"),
                None => format!("ended without a word ({status})"),
            },
            Err(cause) => format!("is lost: {cause}"),
        };
        let words = self.last_words();
        let colon = if words.is_empty() { "" } else { ": " };
        Error::Other(format!("the process that unpacks {how}{colon}{words}"))
    }

    /// What it said to people; it has ended.
    fn last_words(&self) -> String {
        let mut words = [0; MAX_WORDS];
        let count = rustix::io::read(&self.words, &mut words).unwrap_or(0);
        String::from_utf8_lossy(&words[..count]).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is fine.
        drop(self.child.kill());
        if let Err(cause) = self.child.wait() {
            tracing::warn!(%cause, "a process that unpacked is lost");
        }
    }
}
