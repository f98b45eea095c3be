//! Freezing, killing, and waiting for a group to become empty: by event where the kernel has one.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Error;
use crate::dir::Dir;

/// How long tasks may take to reach the freezer.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);
/// How long the last processes of a group may take to be gone once they are killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);
/// Groups below one group; containers may make their own.
const MAX_GROUPS: usize = 100_000;
/// Passes over the processes of a v1 group that cannot be frozen and so may fork meanwhile.
const KILL_PASSES: usize = 64;

/// The groups of a hierarchy from `top` down, parents first.
pub(crate) fn tree(top: &Dir) -> Result<Vec<Dir>, Error> {
    let mut all = vec![Dir::new(top.path().to_owned())];
    let mut next = 0;
    while let Some(dir) = all.get(next) {
        let children = dir.children()?;
        all.extend(children);
        next += 1;
        if all.len() > MAX_GROUPS {
            let reason = "more groups below it than anybody needs";
            return Err(Error::Format {
                path: top.path().to_owned(),
                reason,
            });
        }
    }
    Ok(all)
}

/// The processes of the group itself, by id in this process's namespace.
pub(crate) fn own_procs(dir: &Dir) -> Result<Vec<i32>, Error> {
    match dir.read("cgroup.procs") {
        // Gone, or a threaded group, whose processes are listed further up.
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        read => Ok(read?.lines().filter_map(|line| line.parse().ok()).collect()),
    }
}

/// The processes of the group and all groups below.
pub(crate) fn procs(top: &Dir) -> Result<Vec<i32>, Error> {
    let mut all = Vec::new();
    for dir in tree(top)? {
        all.extend(own_procs(&dir)?);
    }
    Ok(all)
}

pub(crate) fn freeze_v2(dir: &Dir, frozen: bool) -> Result<(), Error> {
    dir.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
    if frozen {
        let late = wait_for_event(dir, "frozen 1", Instant::now() + FREEZE_LIMIT)?;
        if late {
            dir.write("cgroup.freeze", "0")?;
            return Err(late_error("freeze", dir, FREEZE_LIMIT));
        }
    }
    Ok(())
}

pub(crate) fn is_frozen_v2(dir: &Dir) -> Result<bool, Error> {
    let events = dir.read_if_there("cgroup.events")?.unwrap_or_default();
    Ok(events.lines().any(|line| line == "frozen 1"))
}

/// v1 reports progress only when asked, and asking is what makes it go on.
pub(crate) fn freeze_v1(dir: &Dir) -> Result<(), Error> {
    dir.write("freezer.state", "FROZEN")?;
    let deadline = Instant::now() + FREEZE_LIMIT;
    while dir.read("freezer.state")?.trim() != "FROZEN" {
        if Instant::now() > deadline {
            thaw_v1(dir)?;
            return Err(late_error("freeze", dir, FREEZE_LIMIT));
        }
        rustix::thread::sched_yield();
        dir.write("freezer.state", "FROZEN")?;
    }
    Ok(())
}

pub(crate) fn thaw_v1(dir: &Dir) -> Result<(), Error> {
    dir.write("freezer.state", "THAWED")
}

pub(crate) fn is_frozen_v1(dir: &Dir) -> Result<bool, Error> {
    Ok(dir
        .read_if_there("freezer.state")?
        .is_some_and(|state| state.trim() != "THAWED"))
}

/// SIGKILL to every process below `dir`, also to those that are born meanwhile.
pub(crate) fn kill_each(dir: &Dir) -> Result<(), Error> {
    let mut sent = std::collections::BTreeSet::new();
    for _ in 0..KILL_PASSES {
        let new: Vec<i32> = procs(dir)?
            .into_iter()
            .filter(|pid| sent.insert(*pid))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            kill(dir, pid)?;
        }
    }
    Ok(())
}

fn kill(dir: &Dir, pid: i32) -> Result<(), Error> {
    // 0 is a process of another PID namespace, which only its own side can name.
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let sent = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_send_signal(&process, Signal::KILL));
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => Err(dir.call("kill the processes of", "", source)),
    }
}

/// Removes `top` and all below. Processes that are being killed are waited for.
pub(crate) fn remove(top: &Dir) -> Result<(), Error> {
    let deadline = Instant::now() + EMPTY_LIMIT;
    // Nearly always there is nothing below.
    if top.unmake().is_ok() {
        return Ok(());
    }
    for dir in tree(top)?.iter().rev() {
        loop {
            match dir.unmake() {
                Ok(()) => break,
                Err(Errno::BUSY) if Instant::now() < deadline => wait_until_empty(dir, deadline)?,
                Err(Errno::BUSY) => {
                    return Err(late_error("wait for the end of", dir, EMPTY_LIMIT));
                }
                Err(source) => return Err(dir.call("remove cgroup", "", source)),
            }
        }
    }
    Ok(())
}

/// Returns when something has changed that may make `dir` removable, or at the deadline.
fn wait_until_empty(dir: &Dir, deadline: Instant) -> Result<(), Error> {
    if dir.has("cgroup.events").unwrap_or(false) {
        wait_for_event(dir, "populated 0", deadline)?;
    }
    let ends: Vec<OwnedFd> = own_procs(dir)?
        .into_iter()
        .filter_map(Pid::from_raw)
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect();
    if ends.is_empty() {
        // Nobody is left, yet the kernel has not finished with the last one.
        rustix::thread::sched_yield();
        return Ok(());
    }
    for end in &ends {
        wait_on(end, PollFlags::IN, deadline).map_err(|source| dir.call("wait for", "", source))?;
    }
    Ok(())
}

/// Waits until `cgroup.events` has `line`; says whether the deadline came first. A group that is
/// gone has it.
fn wait_for_event(dir: &Dir, line: &str, deadline: Instant) -> Result<bool, Error> {
    let failed = |source| dir.call("watch", "cgroup.events", source);
    let events = match dir.open_file("cgroup.events", OFlags::RDONLY) {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => {
            return Ok(false);
        }
        events => events?,
    };
    loop {
        let mut buffer = [0; 256];
        let count = match rustix::io::pread(&events, &mut buffer, 0) {
            Err(Errno::NODEV) => return Ok(false),
            read => read.map_err(failed)?,
        };
        if buffer[..count]
            .split(|byte| *byte == b'\n')
            .any(|have| have == line.as_bytes())
        {
            return Ok(false);
        }
        if !wait_on(&events, PollFlags::PRI, deadline).map_err(failed)? {
            return Ok(true);
        }
    }
}

/// Waits for `flags` on `fd`; says whether they came before the deadline.
pub(crate) fn wait_on(fd: &OwnedFd, flags: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_too_long| Errno::INVAL)?;
        match poll(&mut [PollFd::new(fd, flags)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}

fn late_error(what: &'static str, dir: &Dir, limit: Duration) -> Error {
    Error::Late {
        what,
        path: dir.path().to_owned(),
        seconds: limit.as_secs(),
    }
}
