//! Hearing of a control group that has run out of memory.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::{Errno, read, retry_on_intr};

use crate::cgroups::ContainerGroup;
use crate::failure::{Attempt, Result};

/// One line of `memory.events` and `memory.oom_control`.
const COUNTER: &str = "oom_kill";

/// Room for a few events of inotify(7), which are not looked at.
const CHUNK: usize = 4096;

/// A group that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    counter: PathBuf,
    version: Version,
}

#[derive(Debug)]
enum Version {
    /// An eventfd that counts, also once when the group is removed.
    V1,
    /// An inotify of the counters' file; any of them may have changed.
    V2(std::cell::Cell<u64>),
}

impl Watch {
    /// `None` if nobody counts memory there.
    pub(crate) fn of(group: &ContainerGroup) -> Result<Option<Watch>> {
        let Some(counter) = group.oom_counter() else {
            return Ok(None);
        };
        let what = || format!("watch {counter:?}");
        if counter.ends_with("memory.oom_control") {
            let fd = register(&counter).attempt(what)?;
            return Ok(Some(Watch {
                fd,
                counter,
                version: Version::V1,
            }));
        }
        if !counter.exists() {
            return Ok(None);
        }
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).attempt(what)?;
        inotify::add_watch(&fd, &counter, inotify::WatchFlags::MODIFY).attempt(what)?;
        let now = count(&counter).unwrap_or(0);
        let version = Version::V2(std::cell::Cell::new(now));
        Ok(Some(Watch {
            fd,
            counter,
            version,
        }))
    }

    /// To be polled for reading.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Looks what it was that made the descriptor readable.
    pub(crate) fn happened(&self) -> Result<bool> {
        let mut chunk = [0_u8; CHUNK];
        match retry_on_intr(|| read(&self.fd, &mut chunk)) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => return Err(error).attempt(|| format!("read {:?}", self.counter)),
        }
        Ok(match &self.version {
            Version::V1 => self.counter.exists(),
            Version::V2(seen) => {
                let now = count(&self.counter).unwrap_or(0);
                now > seen.replace(now)
            }
        })
    }
}

/// cgroup-v1/memory.rst, "OOM Control": the kernel is told both descriptors by their numbers.
fn register(counter: &std::path::Path) -> std::io::Result<OwnedFd> {
    let file = std::fs::File::open(counter)?;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let line = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
    std::fs::write(counter.with_file_name("cgroup.event_control"), line)?;
    Ok(event)
}

fn count(counter: &std::path::Path) -> Option<u64> {
    let text = std::fs::read_to_string(counter).ok()?;
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == COUNTER).then(|| number.trim().parse().ok())?
    })
}
