//! Clients attached to a container: each gets its own copy of the output, and may type.
//!
//! The container never waits for a client: what a client has not read is kept up to a limit, and
//! beyond it the client is cut off.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use shim_api::error::Kind;

use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token};

/// Most clients at a time.
const MAX_CLIENTS: usize = 32;

/// Most output kept for one stream of a client that does not read, bytes.
const MAX_KEPT: usize = 256 * 1024;

/// Standard input among a client's streams.
const STDIN: u8 = 0;

/// Makes reads and writes return instead of waiting.
pub(crate) fn set_nonblocking(fd: &impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// One stream towards a client, with what it has yet to read.
#[derive(Debug)]
struct Outlet {
    file: File,
    token: Token,
    kept: VecDeque<u8>,
}

impl Outlet {
    /// Writes what can be written and keeps the rest. An error: the client is lost.
    fn offer(&mut self, mut data: &[u8], poller: &Poller) -> io::Result<()> {
        if self.kept.is_empty() {
            let written = write_some(&mut self.file, data)?;
            data = &data[written..];
            if !data.is_empty() {
                poller.change(&self.file, self.token, Interest::OUT)?;
            }
        }
        if self.kept.len() + data.len() > MAX_KEPT {
            return Err(ErrorKind::TimedOut.into());
        }
        self.kept.extend(data);
        Ok(())
    }

    /// Writes what was kept. An error: the client is lost.
    fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        while !self.kept.is_empty() {
            let written = write_some(&mut self.file, self.kept.as_slices().0)?;
            if written == 0 {
                return Ok(());
            }
            self.kept.drain(..written);
        }
        self.kept = VecDeque::new();
        poller.change(&self.file, self.token, Interest::empty())
    }
}

/// Writes as much as fits now.
pub(crate) fn write_some(file: &mut File, mut data: &[u8]) -> io::Result<usize> {
    let whole = data.len();
    while !data.is_empty() {
        match file.write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(whole - data.len())
}

#[derive(Debug)]
struct Client {
    number: u32,
    stdin: Option<File>,
    /// Standard output and standard error.
    outlets: [Option<Outlet>; 2],
}

/// What came of reading a client's input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// It will type no more.
    End,
}

/// The attached clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    alive: Vec<Client>,
    next_number: u32,
    /// Whether input is not taken from clients now, because the container does not.
    paused: bool,
    /// A client that could type has gone since this was last asked.
    typist_left: bool,
}

impl Clients {
    /// Connects a client; the descriptors are in the order of the streams.
    pub(crate) fn add(
        &mut self,
        streams: [bool; 3],
        fds: Vec<OwnedFd>,
        poller: &Poller,
    ) -> Result<(), Failure> {
        if self.alive.len() >= MAX_CLIENTS {
            let message = format!("{MAX_CLIENTS} clients are attached, which is the limit");
            return Err(Failure::new(Kind::Other, message));
        }
        self.try_add(streams, fds, poller)
            .map_err(|error| Failure::other("attach", error))
    }

    fn try_add(
        &mut self,
        streams: [bool; 3],
        fds: Vec<OwnedFd>,
        poller: &Poller,
    ) -> io::Result<()> {
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        let mut client = Client {
            number,
            stdin: None,
            outlets: [None, None],
        };
        let asked = (0..)
            .zip(streams)
            .filter_map(|(stream, asked)| asked.then_some(stream));
        for (stream, fd) in asked.zip(fds) {
            set_nonblocking(&fd)?;
            let token = Token::Client { number, stream };
            let file = File::from(fd);
            let reads = stream == STDIN && !self.paused;
            // Without interest the end of the other side is still told.
            poller.add(
                &file,
                token,
                if reads {
                    Interest::IN
                } else {
                    Interest::empty()
                },
            )?;
            match stream {
                STDIN => client.stdin = Some(file),
                _ => {
                    let outlet = Outlet {
                        file,
                        token,
                        kept: VecDeque::new(),
                    };
                    client.outlets[usize::from(stream) - 1] = Some(outlet);
                }
            }
        }
        self.alive.push(client);
        Ok(())
    }

    /// Hands output to all clients of a stream: 0 standard output, 1 standard error.
    pub(crate) fn offer(&mut self, stream: usize, data: &[u8], poller: &Poller) {
        let lost: Vec<u32> = self
            .alive
            .iter_mut()
            .filter_map(|client| {
                let outlet = client.outlets[stream].as_mut()?;
                outlet.offer(data, poller).is_err().then_some(client.number)
            })
            .collect();
        lost.into_iter().for_each(|number| self.remove(number));
    }

    /// A client's output can be written, or nobody reads it any more. What was typed before that is
    /// still to be read, so only the one stream is closed.
    pub(crate) fn outlet_ready(&mut self, number: u32, stream: u8, gone: bool, poller: &Poller) {
        let Some(client) = self.alive.iter_mut().find(|client| client.number == number) else {
            return;
        };
        let outlet = &mut client.outlets[usize::from(stream) - 1];
        let flushed = outlet
            .as_mut()
            .is_none_or(|outlet| outlet.flush(poller).is_ok());
        if gone || !flushed {
            *outlet = None;
        }
        self.remove_if_idle(number);
    }

    /// Reads what a client has typed.
    pub(crate) fn read(&mut self, number: u32, buffer: &mut [u8]) -> Typed {
        let Some(client) = self.alive.iter_mut().find(|client| client.number == number) else {
            return Typed::Nothing;
        };
        let Some(stdin) = &mut client.stdin else {
            return Typed::Nothing;
        };
        match stdin.read(buffer) {
            Ok(0) => {}
            Ok(count) => return Typed::Bytes(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Typed::Nothing,
            Err(_) => {}
        }
        client.stdin = None;
        self.typist_left = true;
        self.remove_if_idle(number);
        Typed::End
    }

    /// Takes input from clients, or leaves it with them. A client whose input is left with it is not
    /// watched at all: that it has hung up would be told again and again.
    pub(crate) fn pause(&mut self, pause: bool, poller: &Poller) {
        if std::mem::replace(&mut self.paused, pause) == pause {
            return;
        }
        for client in &self.alive {
            if let Some(stdin) = &client.stdin {
                let token = Token::Client {
                    number: client.number,
                    stream: STDIN,
                };
                let changed = match pause {
                    true => poller.remove(stdin),
                    false => poller.add(stdin, token, Interest::IN),
                };
                // Neither fails but for want of memory; the client can then type no more.
                drop(changed);
            }
        }
    }

    /// Whether a client that could type has gone since this was last asked.
    pub(crate) fn typist_left(&mut self) -> bool {
        std::mem::take(&mut self.typist_left)
    }

    /// Whether every client has all output so far.
    pub(crate) fn are_served(&self) -> bool {
        let outlets = self
            .alive
            .iter()
            .flat_map(|client| &client.outlets)
            .flatten();
        outlets.into_iter().all(|outlet| outlet.kept.is_empty())
    }

    /// Closes all.
    pub(crate) fn close(&mut self) {
        self.alive.clear();
    }

    /// Forgets a client without streams.
    fn remove_if_idle(&mut self, number: u32) {
        let idle =
            |client: &Client| client.stdin.is_none() && client.outlets.iter().all(Option::is_none);
        self.alive
            .retain(|client| client.number != number || !idle(client));
    }

    fn remove(&mut self, number: u32) {
        let typed = |client: &Client| client.number == number && client.stdin.is_some();
        self.typist_left |= self.alive.iter().any(typed);
        self.alive.retain(|client| client.number != number);
    }
}
