//! Starts a program with three given descriptors and nothing else of ours.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::Pid;

use crate::failure::Failure;

/// The variable that tells a runtime of which operation of the daemon's it is part.
const OPERATION: &str = "WHERRY_OPERATION";

/// Variables of ours that a runtime would take for its own.
const KEPT_BACK: [&str; 5] = [
    OPERATION,
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// Starts `argv`, whose first word is the program's path. Signals are as a new process expects
/// them, `operation` is in its environment unless it is empty; every descriptor but the three is
/// close-on-exec by the habit of this program.
pub(crate) fn spawn(
    argv: Vec<OsString>,
    stdio: [BorrowedFd<'_>; 3],
    operation: &str,
) -> Result<Pid, Failure> {
    let name = argv
        .first()
        .map(|program| program.display().to_string())
        .unwrap_or_default();
    let fail = |cause: &dyn std::fmt::Display| Failure::other(format!("start {name}"), cause);
    let argv = c_strings(argv).map_err(|error| fail(&error))?;
    let environment = c_strings(environment(operation)).map_err(|error| fail(&error))?;
    let (Some(program), Ok((actions, attributes))) = (argv.first(), prepare(stdio)) else {
        return Err(fail(&"out of memory"));
    };
    let pid = posix_spawn(
        program.as_c_str(),
        &actions,
        &attributes,
        &argv,
        &environment,
    )
    .map_err(|error| fail(&error.desc()))?;
    Ok(Pid::from_raw(pid.as_raw()).expect("a new process has a number above zero"))
}

fn prepare(stdio: [BorrowedFd<'_>; 3]) -> nix::Result<(PosixSpawnFileActions, PosixSpawnAttr)> {
    let mut actions = PosixSpawnFileActions::init()?;
    for (fd, place) in stdio.iter().zip(0..) {
        actions.add_dup2(fd.as_raw_fd(), place)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    // The standard library ignores SIGPIPE in this process, and ignoring is inherited.
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    Ok((actions, attributes))
}

fn environment(operation: &str) -> Vec<OsString> {
    let kept = std::env::vars_os().filter(|(name, _)| !KEPT_BACK.iter().any(|other| name == other));
    let kept = kept.map(|(mut line, value)| {
        line.push("=");
        line.push(value);
        line
    });
    let own = (!operation.is_empty()).then(|| format!("{OPERATION}={operation}").into());
    kept.chain(own).collect()
}

fn c_strings(words: Vec<OsString>) -> Result<Vec<CString>, std::ffi::NulError> {
    words
        .into_iter()
        .map(|word| CString::new(word.into_vec()))
        .collect()
}
