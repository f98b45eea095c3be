//! What a new process and the one that makes it say to each other, over a `SOCK_SEQPACKET` pair.
//!
//! ```text
//! child                         parent
//!   <------------- Go ----------- ids are mapped (only with a new user namespace)
//!   ---- Warning(text) ---------> (any number)
//!   ---- HooksPlease -----------> (only if there are prestart or createRuntime hooks)
//!   <------------- Go -----------
//!   ---- Ready -----------------> limits, state file
//!   <------------- Go -----------
//!   ---- Listener(number) ------> (only with seccomp notify) fetches the descriptor
//!   <------------- Go -----------
//!   ---- Waiting ---------------> done; the socket closes
//! ```
//!
//! `Failed(text)` may come at any point and is the last. The end of the socket without `Waiting` or
//! `Failed` means that the child was killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, retry_on_intr};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::failure::{Attempt, Failure, Result};

/// Longest message; longer texts are cut.
const MAX_MESSAGE: usize = 16 * 1024;

/// Longest wait for the other side, seconds: mounts of slow network filesystems and hooks happen
/// meanwhile, so this only bounds what would otherwise hang for ever.
const DEADLINE_SECONDS: i64 = 600;

/// From the child.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Message {
    HooksPlease,
    Ready,
    Listener(i32),
    /// From the process that is about to be criu: its numbers of this program's end of their socket,
    /// of the images' folder and of that for logs (-1: none).
    Criu([i32; 3]),
    /// From the process between: the number of the one that was asked for.
    Born(i32),
    Waiting,
    Warning(String),
    Failed(String),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        let three;
        let (tag, body): (u8, &[u8]) = match self {
            Message::Criu(numbers) => {
                three = numbers.map(i32::to_ne_bytes).concat();
                (b'C', &three)
            }
            Message::HooksPlease => (b'H', &[]),
            Message::Ready => (b'R', &[]),
            Message::Listener(number) => (b'L', &number.to_ne_bytes()),
            Message::Born(pid) => (b'B', &pid.to_ne_bytes()),
            Message::Waiting => (b'W', &[]),
            Message::Warning(text) => (b'w', text.as_bytes()),
            Message::Failed(text) => (b'F', text.as_bytes()),
        };
        let mut frame = Vec::with_capacity(1 + body.len());
        frame.push(tag);
        frame.extend_from_slice(&body[..body.len().min(MAX_MESSAGE - 1)]);
        frame
    }

    fn decode(frame: &[u8]) -> Option<Message> {
        let (tag, body) = frame.split_first()?;
        let text = || String::from_utf8_lossy(body).into_owned();
        match tag {
            b'H' => Some(Message::HooksPlease),
            b'R' => Some(Message::Ready),
            b'L' => Some(Message::Listener(i32::from_ne_bytes(body.try_into().ok()?))),
            b'B' => Some(Message::Born(i32::from_ne_bytes(body.try_into().ok()?))),
            b'C' => Some(Message::Criu(three_numbers(body)?)),
            b'W' => Some(Message::Waiting),
            b'w' => Some(Message::Warning(text())),
            b'F' => Some(Message::Failed(text())),
            _ => None,
        }
    }
}

fn three_numbers(body: &[u8]) -> Option<[i32; 3]> {
    let (parts, []) = body.as_chunks::<4>() else {
        return None;
    };
    <[[u8; 4]; 3]>::try_from(parts)
        .ok()
        .map(|parts| parts.map(i32::from_ne_bytes))
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct ChildEnd(OwnedFd);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct ParentEnd(OwnedFd);

/// A connected pair.
pub(crate) fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let flags = SocketFlags::CLOEXEC;
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .attempt(|| "make the sync socket".to_owned())?;
    Ok((ParentEnd(a), ChildEnd(b)))
}

/// Waits until `fd` can be read or its other side is gone.
fn wait(fd: BorrowedFd<'_>) -> Result<()> {
    let deadline = Timespec {
        tv_sec: DEADLINE_SECONDS,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let ready = retry_on_intr(|| poll(&mut fds, Some(&deadline)))
        .attempt(|| "wait on the sync socket".to_owned())?;
    if ready == 0 {
        return Err(Failure::new(format!(
            "nothing happened for {DEADLINE_SECONDS} s"
        )));
    }
    Ok(())
}

impl ChildEnd {
    /// Tells the parent something.
    pub(crate) fn tell(&self, message: &Message) -> Result<()> {
        // write(2), not send: a system call filter may be in place already that knows only that.
        retry_on_intr(|| rustix::io::write(&self.0, &message.encode()))
            .attempt(|| "tell the parent".to_owned())?;
        Ok(())
    }

    /// Waits for the parent's `Go`; its end means that nobody wants this process any more.
    pub(crate) fn wait_for_go(&self) -> Result<()> {
        let mut byte = [0_u8; 1];
        match retry_on_intr(|| read(&self.0, &mut byte)) {
            Ok(1) => Ok(()),
            Ok(_) => Err(Failure::new("the parent has gone")),
            Err(error) => Err(error).attempt(|| "wait for the parent".to_owned()),
        }
    }

    /// Tells the parent something and waits for its `Go`.
    pub(crate) fn ask(&self, message: &Message) -> Result<()> {
        self.tell(message)?;
        self.wait_for_go()
    }
}

impl ParentEnd {
    /// Lets the child go on.
    pub(crate) fn go(&self) -> Result<()> {
        match retry_on_intr(|| send(&self.0, b"g", SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(()),
            // It has ended; what it said last is still to be read.
            Err(rustix::io::Errno::PIPE) => Ok(()),
            Err(error) => Err(error).attempt(|| "let the child go on".to_owned()),
        }
    }

    /// The child's next message; `None` when it has closed its end.
    pub(crate) fn next(&self) -> Result<Option<Message>> {
        wait(self.0.as_fd())?;
        let mut frame = Vec::with_capacity(MAX_MESSAGE);
        match retry_on_intr(|| read(&self.0, spare_capacity(&mut frame))) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            got => got.attempt(|| "listen to the child".to_owned())?,
        };
        let message = Message::decode(&frame);
        message
            .map(Some)
            .ok_or_else(|| Failure::new("the child sent something unintelligible"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        let (parent, child) = pair().unwrap();
        let all = [
            Message::HooksPlease,
            Message::Ready,
            Message::Listener(7),
            Message::Born(1234),
            Message::Criu([-1, 2, i32::MAX]),
            Message::Waiting,
            Message::Warning("w".to_owned()),
            Message::Failed("f".to_owned()),
        ];
        for message in all {
            child.tell(&message).unwrap();
            assert_eq!(parent.next().unwrap(), Some(message));
        }
        parent.go().unwrap();
        child.wait_for_go().unwrap();
        drop(child);
        assert_eq!(parent.next().unwrap(), None);
    }

    #[test]
    fn a_child_without_parent_stops_waiting() {
        let (parent, child) = pair().unwrap();
        drop(parent);
        assert!(child.wait_for_go().is_err());
    }

    #[test]
    fn long_texts_are_cut() {
        let (parent, child) = pair().unwrap();
        child
            .tell(&Message::Failed("x".repeat(2 * MAX_MESSAGE)))
            .unwrap();
        let Some(Message::Failed(text)) = parent.next().unwrap() else {
            panic!("no failure")
        };
        assert_eq!(text.len(), MAX_MESSAGE - 1);
    }
}
