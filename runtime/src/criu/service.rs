//! One criu process (`criu swrk FD`) and the conversation with it over a `SOCK_SEQPACKET` socket: a
//! request, any number of notices that each wait to be acknowledged, an answer.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType, recvmsg, send, socketpair,
};

use super::wire::{Features, Kind, Request, Response};
use crate::failure::{Attempt, Failure, Result};

/// Largest message that is read, bytes; criu's own limit for what it reads is the same.
const MAX_MESSAGE: usize = 64 * 1024;

/// Longest silence of criu, seconds: it may be writing terabytes of memory to a slow disk, so this
/// only bounds what would otherwise hang for ever.
const SILENCE: i64 = 24 * 3600;

/// Oldest criu that can do all that is asked of it here: external namespaces, another LSM profile,
/// the notice that lazy pages are served.
const OLDEST: Number = Number(3, 16, 0);

/// A version of criu.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Number(i32, i32, i32);

/// Where criu is.
pub(crate) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("criu"))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

/// Where criu is, if it is there and can do what is needed.
pub(crate) fn checked() -> Result<PathBuf> {
    let program = find().ok_or_else(|| {
        Failure::new(
            "checkpoint and restore need the program criu: executable file not found in $PATH",
        )
    })?;
    let request = Request {
        kind: Kind::Version.into(),
        ..Request::default()
    };
    let answer = once(&program, &request)?;
    let version = answer
        .version
        .map(|version| Number(version.major, version.minor, version.sublevel));
    match version {
        Some(number) if number >= OLDEST => Ok(program),
        Some(Number(major, minor, _)) => Err(Failure::new(format!(
            "criu {major}.{minor} is too old: {}.{} or newer is needed",
            OLDEST.0, OLDEST.1
        ))),
        None => Err(Failure::new("criu does not say its version")),
    }
}

/// Fails unless criu can do on this kernel what `wanted` names.
pub(crate) fn require(program: &Path, wanted: Features) -> Result<()> {
    let request = Request {
        kind: Kind::FeatureCheck.into(),
        features: Some(wanted),
        ..Request::default()
    };
    let there = once(program, &request)?.features.unwrap_or_default();
    let mut missing = Vec::new();
    if wanted.mem_track && !there.mem_track {
        missing.push("MemTrack");
    }
    if wanted.lazy_pages && !there.lazy_pages {
        missing.push("LazyPages");
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "criu is missing features: [{}]",
        missing.join(" ")
    )))
}

fn once(program: &Path, request: &Request) -> Result<Response> {
    let (line, far) = Line::pair()?;
    let criu = start(program, &far)?;
    drop(far);
    let answer = line.ask(request, &mut |_, _| Ok(()));
    drop(line);
    end(criu)?;
    answer
}

/// Executes criu with the far end of a line, which is the caller's to drop then, and no streams.
#[expect(
    clippy::disallowed_methods,
    reason = "criu is a child of this module and of its restore alone"
)]
pub(crate) fn start(program: &Path, far: &OwnedFd) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("swrk").arg(pass_on(far)?.to_string());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().attempt(|| format!("execute {program:?}"))
}

/// Lets a descriptor stay open in the program that is executed next; gives its number there.
pub(crate) fn pass_on(descriptor: &OwnedFd) -> Result<i32> {
    fcntl_setfd(descriptor, FdFlags::empty())
        .attempt(|| "pass a descriptor on to criu".to_owned())?;
    Ok(descriptor.as_raw_fd())
}

/// Waits for a criu whose line is gone.
pub(crate) fn end(mut criu: Child) -> Result<std::process::ExitStatus> {
    criu.wait().attempt(|| "wait for criu".to_owned())
}

/// Something that criu tells on its way.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) script: String,
    /// Of the first restored process, where there is one.
    pub(crate) pid: i32,
}

/// This program's end of a socket to one criu process.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

impl Line {
    /// A line and the end for criu, both close-on-exec.
    pub(crate) fn pair() -> Result<(Line, OwnedFd)> {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .attempt(|| "make a socket to criu".to_owned())?;
        Ok((Line(near), far))
    }

    /// The end of a line that another process made, by its number there.
    pub(crate) fn fetch(process: &OwnedFd, number: i32) -> Result<Line> {
        let flags = rustix::process::PidfdGetfdFlags::empty();
        rustix::process::pidfd_getfd(process, number, flags)
            .map(Line)
            .attempt(|| "fetch the socket to criu".to_owned())
    }

    /// Its number in this process.
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Asks for something. `hear` gets each notice, with the descriptor that came along; when it
    /// fails, criu is told so, which makes it undo what it did, and the failure is the answer.
    pub(crate) fn ask(
        &self,
        request: &Request,
        hear: &mut dyn FnMut(&Notice, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        self.say(request)?;
        let mut first = None;
        loop {
            let (answer, descriptor) = match self.listen() {
                Ok(heard) => heard,
                Err(failure) => return Err(first.unwrap_or(failure)),
            };
            if answer.kind != i32::from(Kind::Notify) {
                return match first {
                    Some(failure) => Err(failure),
                    None => judged(request, answer),
                };
            }
            let notify = answer.notify.unwrap_or_default();
            let notice = Notice {
                script: notify.script,
                pid: notify.pid,
            };
            let done = match first {
                // It is on its way back; what it says there changes nothing any more.
                Some(_) => Ok(()),
                None => hear(&notice, descriptor),
            };
            let acknowledged = Request {
                kind: Kind::Notify.into(),
                notify_success: Some(done.is_ok()),
                ..Request::default()
            };
            first = first.or(done.err());
            self.say(&acknowledged)?;
        }
    }

    fn say(&self, request: &Request) -> Result<()> {
        let bytes = request.encode_to_vec();
        retry_on_intr(|| send(&self.0, &bytes, SendFlags::NOSIGNAL))
            .attempt(|| "ask criu".to_owned())?;
        Ok(())
    }

    fn listen(&self) -> Result<(Response, Option<OwnedFd>)> {
        self.wait()?;
        let what = || "read criu's answer".to_owned();
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let got = retry_on_intr(|| {
            recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut beside,
                RecvFlags::CMSG_CLOEXEC,
            )
        })
        .attempt(what)?
        .bytes;
        if got == 0 {
            return Err(Failure::new("criu ended without an answer"));
        }
        let descriptor = beside
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .next();
        let answer = Response::decode(&bytes[..got])
            .map_err(|error| crate::failure::because(&what(), &error))?;
        Ok((answer, descriptor))
    }

    fn wait(&self) -> Result<()> {
        let deadline = Timespec {
            tv_sec: SILENCE,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut fds, Some(&deadline)))
            .attempt(|| "wait for criu".to_owned())?;
        if ready == 0 {
            return Err(Failure::new(format!("criu said nothing for {SILENCE} s")));
        }
        Ok(())
    }
}

/// criu's answer, or what it says went wrong.
fn judged(request: &Request, answer: Response) -> Result<Response> {
    if answer.success {
        return Ok(answer);
    }
    let kind = Kind::try_from(answer.kind).unwrap_or(Kind::Empty);
    let mut text = format!("criu failed: type {} errno {}", kind.name(), answer.errno);
    if request.kind == i32::from(Kind::Version) {
        text = format!("ask criu for its version: {text}");
    }
    Err(Failure::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(
            Number(4, 2, 1) > OLDEST && Number(3, 16, 1) > OLDEST && Number(3, 16, 0) >= OLDEST
        );
        assert!(Number(3, 9, 9) < OLDEST);
    }

    /// Plays criu: sends these answers, whatever it is asked.
    fn check(answers: &[Response], refuse: bool, expect: &str) {
        let (line, far) = Line::pair().unwrap();
        for answer in answers {
            send(&far, &answer.encode_to_vec(), SendFlags::NOSIGNAL).unwrap();
        }
        rustix::net::shutdown(&far, rustix::net::Shutdown::Write).unwrap();
        let request = Request {
            kind: Kind::Dump.into(),
            ..Request::default()
        };
        let mut heard = Vec::new();
        let answer = line.ask(&request, &mut |notice, _| {
            heard.push(notice.script.clone());
            if refuse {
                Err(Failure::new("refused"))
            } else {
                Ok(())
            }
        });
        let text = match answer {
            Ok(_) => format!("done {heard:?}"),
            Err(failure) => format!("{failure} {heard:?}"),
        };
        assert_eq!(text, expect);
    }

    fn notice(script: &str) -> Response {
        let notify = super::super::wire::Notify {
            script: script.to_owned(),
            pid: 1,
        };
        Response {
            kind: Kind::Notify.into(),
            success: true,
            notify: Some(notify),
            ..Response::default()
        }
    }

    fn dumped(success: bool) -> Response {
        Response {
            kind: Kind::Dump.into(),
            success,
            errno: 17,
            ..Response::default()
        }
    }

    #[test]
    fn a_conversation_ends_with_an_answer() {
        check(
            &[notice("a"), notice("b"), dumped(true)],
            false,
            "done [\"a\", \"b\"]",
        );
        check(
            &[dumped(false)],
            false,
            "criu failed: type DUMP errno 17 []",
        );
        check(
            &[notice("a")],
            false,
            "criu ended without an answer [\"a\"]",
        );
    }

    #[test]
    fn after_a_refusal_nothing_is_heard_and_the_refusal_is_the_answer() {
        check(
            &[notice("a"), notice("b"), dumped(false)],
            true,
            "refused [\"a\"]",
        );
        check(&[notice("a")], true, "refused [\"a\"]");
    }
}
