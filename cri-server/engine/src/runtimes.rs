//! OCI runtimes that a shim has left at work when it was killed: found among all processes, and ended.
//!
//! They would go on to make what nobody knows of. Nothing is known here of how a runtime is called,
//! only that it is told of its container and of files in that container's bundle.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::shim::Launch;

/// How often they are looked for: each time finds what those before have made in the meantime.
const ROUNDS: usize = 16;

/// Ends them, and what they have made so far under their own command lines.
///
/// # Errors
///
/// If one does not end within `patience`.
pub(crate) fn end(launch: &Launch, patience: Duration) -> io::Result<()> {
    let until = Instant::now() + patience;
    for _ in 0..ROUNDS {
        let found = find(launch)?;
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            kill(process, until)?;
        }
    }
    Err(io::Error::other("there are ever more of them"))
}

fn find(launch: &Launch) -> io::Result<Vec<OwnedFd>> {
    let names = std::fs::read_dir("/proc")?.flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| runtime(launch, pid)).collect())
}

/// A handle of a process, if it is one of them.
fn runtime(launch: &Launch, pid: i32) -> Option<OwnedFd> {
    let is_it = || {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        works_for(launch, &command)
    };
    let number = Pid::from_raw(pid).filter(|_| is_it())?;
    let handle = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // The number may have gone to another in between.
    is_it().then_some(handle)
}

/// Whether a command line has the container among its words, and a file in its bundle.
fn works_for(launch: &Launch, command: &[u8]) -> bool {
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let in_bundle =
        |word: &&[u8]| Path::new(OsStr::from_bytes(word)).parent() == Some(launch.bundle.as_path());
    words.contains(&launch.container.as_bytes()) && words.iter().any(in_bundle)
}

/// Kills a process and waits until it has ended.
fn kill(process: &OwnedFd, until: Instant) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let rest = until.saturating_duration_since(Instant::now());
    let rest = Timespec::try_from(rest).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&rest))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_known_by_container_and_bundle() {
        let launch = Launch {
            program: "/bin/shim".into(),
            container: "c1".into(),
            bundle: "/b/c1".into(),
            runtime: "/bin/runc".into(),
            runtime_root: "/r".into(),
            systemd_cgroup: false,
            open_files: None,
            operation: String::new,
        };
        let check = |command: &str, expect: bool| {
            let command = command.replace(' ', "\0") + "\0";
            assert_eq!(
                works_for(&launch, command.as_bytes()),
                expect,
                "{command:?}"
            );
        };
        check(
            "runc --log /b/c1/runtime.log create --bundle /b/c1 c1",
            true,
        );
        check("sh /bin/wrapper --log /b/c1/exec-3.log exec c1", true);
        check("runc --log /b/c2/runtime.log create c2", false);
        check("runc --log /b/c1/runtime.log state c2", false);
        check("shim --id c1 --bundle /b/c1", false);
        check("", false);
    }
}
