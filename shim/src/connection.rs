//! Connections to daemons: packets of `shim-api` with descriptors beside them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message as _;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recvmsg, sendmsg,
};
use shim_api::{MAX_FDS, Message, Request};

use crate::poller::{Interest, Poller, Token};

/// Most connections at a time: a daemon needs one, its successor another, a debugger a third.
const MAX_CONNECTIONS: usize = 8;

/// Most messages that wait for a daemon to read; a daemon that lets them pile up is cut off.
const MAX_WAITING: usize = 256;

/// What a connection had to give.
#[derive(Debug)]
pub(crate) enum Received {
    /// A request.
    Request(Box<Request>, Vec<OwnedFd>),
    /// Nothing now.
    Nothing,
    /// It has ended, or sent what cannot be understood.
    End,
}

#[derive(Debug)]
struct Connection {
    number: u32,
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

/// The connections alive.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    alive: Vec<Connection>,
    next_number: u32,
}

impl Connections {
    /// Takes a waiting connection; gives back its number. Strangers are turned away.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, poller: &Poller) -> Option<u32> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = accept_with(listener, flags).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
        let own = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
        if !own || self.alive.len() >= MAX_CONNECTIONS {
            return None;
        }
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        poller
            .add(&socket, Token::Connection(number), Interest::IN)
            .ok()?;
        self.alive.push(Connection {
            number,
            socket,
            waiting: VecDeque::new(),
        });
        Some(number)
    }

    /// Reads one packet.
    pub(crate) fn receive(&self, number: u32, scratch: &mut [u8]) -> Received {
        match self
            .alive
            .iter()
            .find(|connection| connection.number == number)
        {
            Some(connection) => receive(connection.socket.as_fd(), scratch),
            None => Received::Nothing,
        }
    }

    /// Sends to one connection, if it is still there; `false`: it is lost.
    pub(crate) fn send(
        &mut self,
        number: u32,
        message: &Message,
        fd: Option<OwnedFd>,
        poller: &Poller,
    ) -> bool {
        let is_it = |connection: &&mut Connection| connection.number == number;
        let Some(connection) = self.alive.iter_mut().find(is_it) else {
            return true;
        };
        connection.waiting.push_back((message.encode_to_vec(), fd));
        connection.waiting.len() <= MAX_WAITING && connection.flush(poller)
    }

    /// Sends what waits; `false`: the connection is lost.
    pub(crate) fn flush(&mut self, number: u32, poller: &Poller) -> bool {
        let is_it = |connection: &&mut Connection| connection.number == number;
        self.alive
            .iter_mut()
            .find(is_it)
            .is_none_or(|connection| connection.flush(poller))
    }

    /// Closes a connection; whether there was one.
    pub(crate) fn close(&mut self, number: u32) -> bool {
        let before = self.alive.len();
        self.alive.retain(|connection| connection.number != number);
        self.alive.len() < before
    }

    /// All numbers.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.alive
            .iter()
            .map(|connection| connection.number)
            .collect()
    }
}

impl Connection {
    fn flush(&mut self, poller: &Poller) -> bool {
        while let Some((packet, fd)) = self.waiting.front() {
            match send(self.socket.as_fd(), packet, fd.as_ref()) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        let interest = if self.waiting.is_empty() {
            Interest::IN
        } else {
            Interest::IN | Interest::OUT
        };
        poller
            .change(&self.socket, Token::Connection(self.number), interest)
            .is_ok()
    }
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], fd: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags).map(|_| ())
}

fn receive(socket: BorrowedFd<'_>, scratch: &mut [u8]) -> Received {
    match receive_packet(socket, scratch) {
        Ok(Some((length, fds))) => match Request::decode(&scratch[..length]) {
            Ok(request) => Received::Request(Box::new(request), fds),
            Err(_) => Received::End,
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
        Ok(None) | Err(_) => Received::End,
    }
}

/// Reads a packet and its descriptors; `None`: the end, or more than there may be.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        flags,
    )?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let cut = message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok((message.bytes > 0 && !cut).then_some((message.bytes, fds)))
}
