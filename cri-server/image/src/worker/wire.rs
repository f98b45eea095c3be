//! What the daemon and a worker say to each other: packets on a socket between the two.
//!
//! Both ends are the same build of the same program, so there is no version.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::layer::{Contents, Form, Promise};
use crate::{Error, Usage};

/// Longest packet, in bytes.
pub(super) const MAX_PACKET: usize = 64 << 10;
/// Most descriptors of a request: input, folder, recipe, table or image.
const MAX_FDS: usize = 4;
/// Longest text of an error.
const MAX_TEXT: usize = 16 << 10;

const USED: u8 = b'u';
const LACKS: u8 = b'l';
const FOLDERS: u8 = b'i';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

/// What a worker is to do. With it come descriptors: the input, the folder in staging, the recipe if
/// there is one, and the table or the image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) promise: Promise,
    pub(super) form: Form,
    pub(super) recipe: bool,
    /// The process that asks.
    pub(super) parent: u32,
}

/// What a worker has made, but for the folders that no entry described: these come before.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    bytes: u64,
    inodes: u64,
    opaque: bool,
    sum: u32,
}

/// Why it has not.
#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    kind: Kind,
    text: String,
    too_many: bool,
}

/// The kinds of errors that unpacking can end with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Kind {
    Corrupt,
    NoSpace,
    Other,
}

/// A packet of a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// What is used so far.
    Used(u64, u64),
    /// What its confinement lacks.
    Lacks(String),
    /// Some of the folders that no entry described.
    Folders(Vec<Vec<u8>>),
    /// The rest, at the end.
    Done(Contents),
    /// Why there is no layer.
    Failed(Failure),
}

/// Why there is no layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    kind: &'static str,
    text: String,
    /// Whether it only had too many names for this form.
    pub(super) too_many: bool,
}

impl Failure {
    /// The error that it was in the worker.
    pub(super) fn error(self) -> Error {
        match self.kind {
            "corrupt" => Error::Corrupt(self.text),
            "no space" => Error::NoSpace(self.text),
            _ => Error::Other(self.text),
        }
    }
}

impl Said {
    /// Reads a packet; nothing if it is none.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let (tag, rest) = packet.split_first()?;
        Some(match *tag {
            USED => {
                let (bytes, inodes) = rest.split_first_chunk::<8>()?;
                Self::Used(
                    u64::from_le_bytes(*bytes),
                    u64::from_le_bytes(inodes.try_into().ok()?),
                )
            }
            LACKS => Self::Lacks(String::from_utf8_lossy(rest).into_owned()),
            FOLDERS => {
                let paths = rest.strip_suffix(b"\0")?.split(|byte| *byte == 0);
                Self::Folders(paths.map(<[u8]>::to_vec).collect())
            }
            DONE => {
                let done: Done = serde_json::from_slice(rest).ok()?;
                Self::Done(Contents {
                    bytes: done.bytes,
                    inodes: done.inodes,
                    implicit: Vec::new(),
                    opaque: done.opaque,
                    sum: done.sum,
                })
            }
            FAILED => {
                let failed: Failed = serde_json::from_slice(rest).ok()?;
                let kind = match failed.kind {
                    Kind::Corrupt => "corrupt",
                    Kind::NoSpace => "no space",
                    Kind::Other => "other",
                };
                Self::Failed(Failure {
                    kind,
                    text: failed.text,
                    too_many: failed.too_many,
                })
            }
            _ => return None,
        })
    }
}

/// Sends a request with its descriptors.
pub(super) fn ask(socket: &OwnedFd, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(request)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one request"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Waits for a request.
pub(super) fn asked(socket: BorrowedFd<'_>) -> io::Result<(Request, Vec<OwnedFd>)> {
    let mut buffer = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::other("the request was cut"));
    }
    Ok((serde_json::from_slice(&buffer[..message.bytes])?, fds))
}

/// Says how much is used so far, if the daemon has room to hear it: more is said later.
pub(super) fn say_used(socket: BorrowedFd<'_>, usage: Usage) {
    let packet = [
        &[USED][..],
        &usage.bytes.to_le_bytes(),
        &usage.inodes.to_le_bytes(),
    ]
    .concat();
    send(socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).ok();
}

/// Says what the confinement lacks.
pub(super) fn say_lacks(socket: BorrowedFd<'_>, what: &str) -> io::Result<()> {
    say(socket, LACKS, what.as_bytes())
}

/// Says how it ended.
pub(super) fn say_end(
    socket: BorrowedFd<'_>,
    built: Result<Contents, Error>,
    too_many: bool,
) -> io::Result<()> {
    let contents = match built {
        Ok(contents) => contents,
        Err(error) => return say(socket, FAILED, &failed(error, too_many)?),
    };
    let mut folders = Vec::new();
    for path in &contents.implicit {
        if folders.len() + path.len() + 2 > MAX_PACKET && !folders.is_empty() {
            say(socket, FOLDERS, &folders)?;
            folders.clear();
        }
        folders.extend_from_slice(path);
        folders.push(0);
    }
    if !folders.is_empty() {
        say(socket, FOLDERS, &folders)?;
    }
    let done = Done {
        bytes: contents.bytes,
        inodes: contents.inodes,
        opaque: contents.opaque,
        sum: contents.sum,
    };
    say(socket, DONE, &serde_json::to_vec(&done)?)
}

fn failed(error: Error, too_many: bool) -> serde_json::Result<Vec<u8>> {
    let (kind, mut text) = match error {
        Error::Corrupt(text) => (Kind::Corrupt, text),
        Error::NoSpace(text) => (Kind::NoSpace, text),
        other => (Kind::Other, other.to_string()),
    };
    // Names of entries may be long, and are told with escapes.
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    serde_json::to_vec(&Failed {
        kind,
        text,
        too_many,
    })
}

fn say(socket: BorrowedFd<'_>, tag: u8, rest: &[u8]) -> io::Result<()> {
    let packet = [&[tag], rest].concat();
    loop {
        match send(socket.as_fd(), &packet, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, recv, socketpair};

    use super::*;

    fn check(built: Result<Contents, Error>, too_many: bool) -> Vec<Said> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        say_end(theirs.as_fd(), built, too_many).unwrap();
        drop(theirs);
        let (mut said, mut buffer) = (Vec::new(), vec![0; MAX_PACKET]);
        loop {
            let (count, _) = recv(&ours, &mut buffer[..], RecvFlags::empty()).unwrap();
            if count == 0 {
                return said;
            }
            said.push(Said::parse(&buffer[..count]).unwrap());
        }
    }

    #[test]
    fn what_a_layer_holds_arrives_as_it_was() {
        let contents = Contents {
            bytes: 5,
            inodes: 7,
            implicit: vec![Vec::new(), b"a/\xff".to_vec()],
            opaque: true,
            sum: 9,
        };
        let said = check(Ok(contents.clone()), false);
        let folders = Said::Folders(contents.implicit.clone());
        let done = Said::Done(Contents {
            implicit: Vec::new(),
            ..contents
        });
        assert_eq!(said, [folders, done]);
    }

    #[test]
    fn errors_keep_their_kind() {
        for error in [
            Error::Corrupt("c".into()),
            Error::NoSpace("n".into()),
            Error::Other("o".into()),
        ] {
            let mut said = check(Err(error.clone()), true);
            let Some(Said::Failed(failure)) = said.pop() else {
                panic!("{said:?}")
            };
            assert!(failure.too_many);
            assert_eq!(format!("{:?}", failure.error()), format!("{error:?}"));
        }
    }

    #[test]
    fn what_is_no_packet_is_told_apart() {
        for bad in [&b""[..], b"x", b"u1234", b"i", b"d{}", b"f[]"] {
            assert_eq!(Said::parse(bad), None, "{bad:?}");
        }
    }
}
