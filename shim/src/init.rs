//! The first process of a process id namespace that the containers of a pod share.
//!
//! It reaps what its children leave to it and ends, and the namespace with it, on SIGTERM or
//! SIGINT. It may run alone in an empty root file system, so it opens no file, not even /proc.

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitOptions, wait};

use crate::failure::Failure;

/// Reaps until told to end.
pub(crate) fn run() -> Result<(), Failure> {
    let awaited: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]
        .into_iter()
        .collect();
    // A blocked signal reaches even the first process of a namespace, which ignores by default.
    awaited
        .thread_block()
        .map_err(|error| Failure::other("block signals", error))?;
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        match awaited
            .wait()
            .map_err(|error| Failure::other("wait for a signal", error))?
        {
            Signal::SIGCHLD => {}
            _ => return Ok(()),
        }
    }
}
