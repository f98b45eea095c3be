//! A netlink socket with three verbs: do, list, transact; and one that hears what happens to links.
//!
//! Synchronous: the kernel answers within the call. A socket keeps the network namespace that it
//! was opened in, whoever uses it later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::message::{Message, Received, flag, messages, u32_at};

/// `NLMSG_ERROR`: an errno, or 0 for "done as asked".
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;
/// The kernel never sends more in one datagram of a dump.
const RECEIVE: usize = 64 * 1024;
/// Room for one firewall transaction: about 15 000 host ports.
const SEND_BUFFER: usize = 8 * 1024 * 1024;
/// The kernel answers within the call; silence this long is a fault that must not hang us.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most datagrams of one answer: a bound for a loop that the kernel ends.
const MOST_DATAGRAMS: usize = 100_000;
/// Group of those who hear of links (`RTMGRP_LINK` of linux/rtnetlink.h).
const LINK_CHANGES: u32 = 1;
/// How often a dump that was disturbed by a change is asked again.
const DUMP_TRIES: usize = 5;

/// One netlink conversation.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket for links, addresses and routes, in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn route() -> io::Result<Self> {
        // NETLINK_ROUTE is 0, the protocol that is meant when none is said.
        Self::open(None, 0)
    }

    /// A socket that hears what happens to the links of the calling thread's namespace from now on.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn link_changes() -> io::Result<Self> {
        Self::open(None, LINK_CHANGES)
    }

    /// A socket for the firewall and tracked connections, in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn netfilter() -> io::Result<Self> {
        let socket = Self::open(Some(netlink::NETFILTER), 0)?;
        setsockopt(&socket.fd, sockopt::SndBufForce, &SEND_BUFFER)?;
        Ok(socket)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        rustix::net::sockopt::set_socket_timeout(
            &fd,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; RECEIVE],
        })
    }

    /// Sends one request and waits until it is done.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        let sequence = self.next();
        self.send(&message.or_flags(flag::ACK).finish(sequence))?;
        self.receive(sequence, |_| {})
    }

    /// Asks for one thing; `each` sees the answer.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn get(&mut self, message: Message, each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        let sequence = self.next();
        self.send(&message.or_flags(flag::ACK).finish(sequence))?;
        self.receive(sequence, each)
    }

    /// Asks for all; `parse` turns each message that it knows into a value.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn list<T>(
        &mut self,
        message: &Message,
        mut parse: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let mut torn = false;
            let sequence = self.next();
            self.send(&message.clone().or_flags(flag::DUMP).finish(sequence))?;
            self.receive(sequence, |received| {
                torn |= received.flags & flag::DUMP_INTR != 0;
                found.extend(parse(received));
            })?;
            if !torn {
                return Ok(found);
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Sends messages as one; the last one must ask for an answer. The first refusal is the error.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; `EAGAIN` if it does not answer.
    pub fn transact(&mut self, batch: Vec<Message>, answered: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut awaited = 0;
        for (position, message) in batch.into_iter().enumerate() {
            let sequence = self.next();
            let message = if position == answered {
                awaited = sequence;
                message.or_flags(flag::ACK)
            } else {
                message
            };
            bytes.extend(message.finish(sequence));
        }
        self.send(&bytes)?;
        self.receive(awaited, |_| {})
    }

    /// Waits for one datagram of changes; `each` sees its messages.
    ///
    /// # Errors
    ///
    /// `ENOBUFS`: some were lost; `EAGAIN`: nothing happened for long.
    pub fn hear(&mut self, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        let length = self.read()?;
        let bytes = self.buffer.get(..length).ok_or(Errno::MSGSIZE)?;
        messages(bytes).for_each(|received| each(&received));
        Ok(())
    }

    /// Reads one datagram into the buffer; tells its length, which may be beyond it.
    fn read(&mut self) -> io::Result<usize> {
        // A signal may interrupt a read that has a time limit.
        let read = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::TRUNC)
        });
        let (_, length) = read?;
        Ok(length)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads until the request of this number is answered, or any request of ours is refused.
    fn receive(&mut self, sequence: u32, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        for _ in 0..MOST_DATAGRAMS {
            let length = self.read()?;
            let bytes = self.buffer.get(..length).ok_or(Errno::MSGSIZE)?;
            for received in messages(bytes) {
                if let Some(ended) = outcome(&received, sequence) {
                    return ended;
                }
                if received.sequence == sequence && received.kind != ERROR {
                    each(&received);
                }
            }
        }
        Err(Errno::OVERFLOW.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the message says about the request's end; `None`: nothing yet.
fn outcome(received: &Received<'_>, sequence: u32) -> Option<io::Result<()>> {
    let code = match received.kind {
        ERROR | DONE => u32_at(received.payload, 0).unwrap_or(0).cast_signed(),
        _ => return None,
    };
    match code {
        0 if received.sequence == sequence => Some(Ok(())),
        0 => None,
        // DONE of a dump may carry a positive count in some families; only refusals are negative.
        code if code > 0 => Some(Ok(())),
        code => Some(Err(io::Error::from_raw_os_error(code.saturating_neg()))),
    }
}
