//! Holds new namespaces until somebody has pinned them.
//!
//! A user namespace can only be made by a process with one thread, and owns the namespaces that are
//! made with it. Its maps are written from outside, by who may.

use std::io::{Read, Write};

use nix::sched::{CloneFlags, unshare};

use crate::failure::Failure;

/// Makes the namespaces, says so by one byte on standard output, and stays until standard input
/// ends.
pub(crate) fn hold(flags: CloneFlags) -> Result<(), Failure> {
    unshare(flags).map_err(|error| Failure::other("make namespaces", error.desc()))?;
    let mut output = std::io::stdout();
    let told = output.write_all(b"\n").and_then(|()| output.flush());
    told.map_err(|error| Failure::other("say that there are namespaces", error))?;
    let ended = std::io::stdin().read(&mut [0]);
    ended.map_err(|error| Failure::other("wait for the end", error))?;
    Ok(())
}
