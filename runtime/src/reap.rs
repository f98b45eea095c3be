//! Waiting for processes to end, by their handles and never by time.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::failure::{Attempt, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    /// Its status, or 128 and the signal that ended it, as shells count.
    pub(crate) code: i32,
}

/// Collects a child of this process, waiting for its end.
pub(crate) fn reap(pidfd: &OwnedFd) -> Result<Ended> {
    let what = || "wait for a child".to_owned();
    let id = || WaitId::PidFd(pidfd.as_fd());
    let status = retry_on_intr(|| waitid(id(), WaitIdOptions::EXITED)).attempt(what)?;
    let code = status.and_then(|status| {
        status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    });
    Ok(Ended {
        code: code.unwrap_or(255),
    })
}

/// Waits until a process (anybody's child) has ended; `false` if it has not within `seconds`.
pub(crate) fn wait_for_end(pidfd: &OwnedFd, seconds: i64) -> Result<bool> {
    let deadline = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let ended = retry_on_intr(|| poll(&mut fds, Some(&deadline)))
        .attempt(|| "wait for a process to end".to_owned())?;
    Ok(ended > 0)
}
