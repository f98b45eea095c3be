//! A container's streams: pipes or a terminal on one side, the log and attached clients on the
//! other.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use shim_api::Create;
use shim_api::error::Kind;

use crate::attach::{Clients, Typed, set_nonblocking, write_some};
use crate::failure::Failure;
use crate::log::{Log, MAX_LINE, Stream};
use crate::poller::{Interest, Poller, Token};
use crate::terminal;

/// Most output taken at a time, bytes.
const READ: usize = 64 * 1024;

/// Most input taken from a client before the container has taken it, bytes.
const MAX_TYPED: usize = 16 * 1024;

/// Size of the buffer that is lent to these functions, bytes.
pub(crate) const SCRATCH: usize = MAX_LINE + READ;

/// The ends of pipes that the container gets, to be closed when the runtime has them.
#[derive(Debug)]
pub(crate) struct ContainerEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl ContainerEnds {
    /// In the order of the streams.
    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Gives the pipes to an owner. Without input the first is everybody's /dev/null.
    fn give(&self, uid: u32, gid: u32, stdin: bool) -> io::Result<()> {
        for end in &self.as_fds()[usize::from(!stdin)..] {
            rustix::fs::fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }
}

/// Output that comes in.
#[derive(Debug)]
struct Output {
    file: File,
    stream: Stream,
    /// The begin of a line whose end has not come.
    tail: Vec<u8>,
}

/// Input on its way in.
#[derive(Debug)]
struct Input {
    file: File,
    /// What the container has not taken yet.
    waiting: Vec<u8>,
    /// Whether the container's taking it is watched for.
    watched: bool,
    /// To be closed when all is taken.
    last: bool,
}

/// All streams of a container.
#[derive(Debug)]
pub(crate) struct Stdio {
    log: Log,
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    stdin_once: bool,
    terminal: Option<File>,
    /// Keeps the terminal from hanging up while no process of the container has it open.
    slave: Option<OwnedFd>,
    clients: Clients,
}

impl Stdio {
    /// Opens the log and, without a terminal, the pipes; gives back the container's ends of them.
    pub(crate) fn open(create: &Create) -> Result<(Self, Option<ContainerEnds>), Failure> {
        let mut stdio = Self {
            log: Log::open(Path::new(&create.log_path), create.log_limit)?,
            outputs: [None, None],
            input: None,
            stdin_once: create.stdin_once,
            terminal: None,
            slave: None,
            clients: Clients::default(),
        };
        let ends = if create.terminal {
            None
        } else {
            Some(stdio.open_pipes(create)?)
        };
        Ok((stdio, ends))
    }

    fn open_pipes(&mut self, create: &Create) -> Result<ContainerEnds, Failure> {
        let made = self.try_open_pipes(create.stdin).and_then(|ends| {
            // Else a container's root that is none of the host's could not reopen its streams.
            if create.owner_uid != 0 || create.owner_gid != 0 {
                ends.give(create.owner_uid, create.owner_gid, create.stdin)?;
            }
            Ok(ends)
        });
        made.map_err(|error| Failure::other("make pipes", error))
    }

    fn try_open_pipes(&mut self, stdin: bool) -> io::Result<ContainerEnds> {
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        self.outputs = [
            Some(Output::new(output, Stream::Stdout)?),
            Some(Output::new(errors, Stream::Stderr)?),
        ];
        let stdin = if stdin {
            let (stdin, input) = pipe_with(PipeFlags::CLOEXEC)?;
            self.input = Some(Input::new(input)?);
            stdin
        } else {
            let cloexec = rustix::fs::OFlags::CLOEXEC.bits().cast_signed();
            OpenOptions::new()
                .read(true)
                .custom_flags(cloexec)
                .open("/dev/null")?
                .into()
        };
        Ok(ContainerEnds {
            stdin,
            stdout,
            stderr,
        })
    }

    /// Takes the container's terminal.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd, stdin: bool) -> Result<(), Failure> {
        self.try_set_terminal(master, stdin)
            .map_err(|error| Failure::other("take terminal", error))
    }

    fn try_set_terminal(&mut self, master: OwnedFd, stdin: bool) -> io::Result<()> {
        let master = File::from(master);
        self.slave = terminal::open_slave(&master);
        self.outputs[0] = Some(Output::new(master.try_clone()?.into(), Stream::Stdout)?);
        if stdin {
            self.input = Some(Input::new(master.try_clone()?.into())?);
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// Begins to read output.
    pub(crate) fn watch(&self, poller: &Poller) -> io::Result<()> {
        for (output, number) in self.outputs.iter().zip(0..) {
            if let Some(output) = output {
                poller.add(&output.file, Token::Output(number), Interest::IN)?;
            }
        }
        Ok(())
    }

    /// What a runtime that failed has said on standard error.
    pub(crate) fn said(&mut self, scratch: &mut [u8]) -> Option<String> {
        let [_, errors] = &mut self.outputs;
        let length = errors.as_mut()?.file.read(scratch).ok()?;
        crate::runtime::shorten(&String::from_utf8_lossy(&scratch[..length]))
    }

    /// Undoes the log of a container that was never made.
    pub(crate) fn discard(self) {
        self.log.discard_if_empty();
    }

    /// Opens the log anew.
    pub(crate) fn reopen_log(&mut self) -> Result<(), Failure> {
        self.log.reopen()
    }

    /// Connects a client.
    pub(crate) fn attach(
        &mut self,
        streams: [bool; 3],
        fds: Vec<OwnedFd>,
        poller: &Poller,
    ) -> Result<(), Failure> {
        self.clients.add(streams, fds, poller)
    }

    /// Sets the size of the terminal.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<(), Failure> {
        let missing = || Failure::new(Kind::Invalid, "the container has no terminal");
        terminal::resize(self.terminal.as_ref().ok_or_else(missing)?, width, height)
    }

    /// Output has come, or ended.
    pub(crate) fn output_ready(
        &mut self,
        number: u8,
        wall: i64,
        scratch: &mut [u8],
        poller: &Poller,
    ) {
        let place = usize::from(number);
        let Some(output) = &mut self.outputs[place] else {
            return;
        };
        let tail = output.tail.len();
        scratch[..tail].copy_from_slice(&output.tail);
        match output.file.read(&mut scratch[tail..tail + READ]) {
            Ok(0) => self.close_output(place, wall),
            Ok(count) => {
                let data = &scratch[..tail + count];
                let rest = self.log.write(output.stream, wall, data, false);
                output.tail.clear();
                output.tail.extend_from_slice(rest);
                self.clients.offer(place, &data[tail..], poller);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // EIO: a terminal whose other side is closed.
            Err(_) => self.close_output(place, wall),
        }
    }

    fn close_output(&mut self, place: usize, wall: i64) {
        if let Some(output) = self.outputs[place].take() {
            self.log.write(output.stream, wall, &output.tail, true);
        }
    }

    /// A client has typed, reads, or is gone.
    pub(crate) fn client_ready(
        &mut self,
        number: u32,
        stream: u8,
        flags: Interest,
        scratch: &mut [u8],
        poller: &Poller,
    ) {
        if stream == 0 {
            let typed = self.clients.read(number, &mut scratch[..MAX_TYPED]);
            if let Typed::Bytes(count) = typed {
                self.type_in(&scratch[..count], poller);
            }
        } else {
            let gone = flags.intersects(Interest::ERR | Interest::HUP);
            self.clients.outlet_ready(number, stream, gone, poller);
        }
        self.after_typist(poller);
    }

    /// Closes the input once the first client that could type has gone, if that was asked for.
    fn after_typist(&mut self, poller: &Poller) {
        if self.clients.typist_left() && self.stdin_once {
            if let Some(input) = &mut self.input {
                input.last = true;
            }
            self.input_ready(poller);
        }
    }

    fn type_in(&mut self, data: &[u8], poller: &Poller) {
        // What is typed to a container without input is lost, as with an empty file.
        if let Some(input) = &mut self.input {
            input.waiting.extend_from_slice(data);
            self.input_ready(poller);
        }
    }

    /// The container takes input, or takes none any more.
    pub(crate) fn input_ready(&mut self, poller: &Poller) {
        let open = self
            .input
            .as_mut()
            .is_some_and(|input| input.flush(poller).unwrap_or(false));
        if !open {
            self.input = None;
        }
        let waits = self
            .input
            .as_ref()
            .is_some_and(|input| !input.waiting.is_empty());
        self.clients.pause(waits, poller);
    }

    /// Closes the container's input and our side of its terminal, so that output can end.
    pub(crate) fn drain(&mut self, poller: &Poller) {
        self.input = None;
        self.slave = None;
        self.clients.pause(false, poller);
    }

    /// Whether all output is read, and clients have theirs.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none) && self.clients.are_served()
    }

    /// Writes what is left and closes all.
    pub(crate) fn close(&mut self, wall: i64) {
        (0..self.outputs.len()).for_each(|place| self.close_output(place, wall));
        self.clients.close();
        self.input = None;
        self.terminal = None;
    }
}

impl Output {
    fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            file: fd.into(),
            stream,
            tail: Vec::new(),
        })
    }
}

impl Input {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            file: fd.into(),
            waiting: Vec::new(),
            watched: false,
            last: false,
        })
    }

    /// Writes what the container takes; whether there may be more input.
    fn flush(&mut self, poller: &Poller) -> io::Result<bool> {
        let written = write_some(&mut self.file, &self.waiting)?;
        self.waiting.drain(..written);
        let watch = !self.waiting.is_empty();
        if watch && !self.watched {
            poller.add(&self.file, Token::Input, Interest::OUT)?;
        } else if self.watched && !watch {
            poller.remove(&self.file)?;
        }
        self.watched = watch;
        Ok(watch || !self.last)
    }
}
