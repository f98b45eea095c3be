//! The one epoll set, and the names under which things are in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

pub(crate) use rustix::event::epoll::EventFlags as Interest;

/// Most events taken at a time; the rest comes with the next wait.
const BATCH: usize = 16;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A connection waits to be accepted.
    Listener,
    /// A child has ended.
    Signals,
    /// The container's init has ended.
    Init,
    /// The container has written: 0 stdout or terminal, 1 stderr.
    Output(u8),
    /// The container's standard input takes more.
    Input,
    /// A daemon's connection, by number.
    Connection(u32),
    /// A count of processes killed for want of memory may have changed.
    Memory,
    /// A stream of an attached client: 0 stdin, 1 stdout, 2 stderr.
    Client {
        /// Number of the client.
        number: u32,
        /// Which of its streams.
        stream: u8,
    },
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, stream, number) = match self {
            Self::Listener => (0, 0, 0),
            Self::Signals => (1, 0, 0),
            Self::Init => (2, 0, 0),
            Self::Output(stream) => (3, stream, 0),
            Self::Input => (4, 0, 0),
            Self::Connection(number) => (5, 0, number),
            Self::Memory => (7, 0, 0),
            Self::Client { number, stream } => (6, stream, number),
        };
        kind << 48 | u64::from(stream) << 32 | u64::from(number)
    }

    fn unpack(packed: u64) -> Self {
        let [_, kind, _, stream, number @ ..] = packed.to_be_bytes();
        let number = u32::from_be_bytes(number);
        match kind {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Init,
            3 => Self::Output(stream),
            4 => Self::Input,
            5 => Self::Connection(number),
            7 => Self::Memory,
            _ => Self::Client { number, stream },
        }
    }
}

/// An epoll set, level-triggered.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An empty set.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches a descriptor. Closing it takes it out again, if nobody else holds its file.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.pack()),
            interest,
        )?)
    }

    /// Watches a watched descriptor for something else.
    pub(crate) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.pack()),
            interest,
        )?)
    }

    /// Watches a descriptor no longer.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits for events until the time-out, or for ever.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<(Token, Interest)>> {
        let mut events = Vec::with_capacity(BATCH);
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let taken = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, taken, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events
            .iter()
            .map(|event| (Token::unpack(event.data.u64()), event.flags))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let client = Token::Client {
            number: u32::MAX,
            stream: 2,
        };
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Init,
            Token::Output(1),
            Token::Input,
            Token::Connection(7),
            Token::Memory,
            client,
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
