//! Processor time of a daemon and of all that it starts: a control group that counts.
//!
//! The daemon's process is put into one child of the group, its pods get another as their parent.
//! In the hierarchy that shares processors out the group goes before whatever else runs here, and so
//! does the client that asks. Whoever wakes up goes first, too: what is measured is the daemons, not
//! how long they wait for others' time slices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::tests::traces;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use sys::schedule::{Scheduler, set_scheduler};

/// Weight of a group that goes first: the largest that v1 has.
const HEAVIEST: (&str, &str) = ("cpu.shares", "262144");

/// Time slice of all that is measured, nanoseconds: the shortest that the kernel gives. The usual one
/// is some milliseconds, and on a busy machine each step between two processes waits for one.
const SLICE: u64 = 100_000;
/// `SCHED_OTHER` (sched(7)), and the best nice value in it.
const ORDINARY: u32 = 0;
const NICEST: i32 = -20;

/// Lets this process, and all that it starts, go before who runs whenever it wakes up.
pub(crate) fn hurry() -> Result<()> {
    let scheduler = Scheduler {
        policy: ORDINARY,
        nice: NICEST,
        runtime: SLICE,
        ..Scheduler::default()
    };
    set_scheduler(scheduler).context("ask for short time slices")
}

/// A control group of one daemon's own.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    group: PathBuf,
    counter: Counter,
    /// Where processors are shared out, if not there.
    share: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// `cpuacct.usage` of v1: nanoseconds.
    Nanoseconds,
    /// `usage_usec` in `cpu.stat` of v2: microseconds.
    Microseconds,
}

impl Account {
    /// Opens an account.
    pub(crate) fn open(name: String) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let (root, counter) =
            hierarchy(&mounts).context("no control groups count processor time")?;
        let group = root.join(&name);
        fs::create_dir_all(group.join("daemon"))
            .with_context(|| format!("create the control group {name}"))?;
        let share = first_in_line(&mounts, &name)?;
        Ok(Self {
            name,
            group,
            counter,
            share,
        })
    }

    /// Puts this process, the client, into a group that goes first as well.
    pub(crate) fn enter_client(name: &str) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        match first_in_line(&mounts, name)? {
            Some(group) => enter(&group, std::process::id()),
            None => Ok(()),
        }
    }

    /// Takes this process out again, and its group away.
    pub(crate) fn leave_client(name: &str) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let Some(root) = sharing(&mounts) else {
            return Ok(());
        };
        enter(&root, std::process::id())?;
        fs::remove_dir(root.join(name)).context("remove the client's control group")
    }

    /// Counts a daemon, and all that it starts from now on.
    pub(crate) fn enter(&self, daemon: u32) -> Result<()> {
        if let Some(share) = &self.share {
            enter(share, daemon)?;
        }
        enter(&self.group.join("daemon"), daemon)
    }

    /// The parent for the control groups of pods.
    pub(crate) fn pods(&self) -> String {
        format!("/{}/pods", self.name)
    }

    /// Time of the daemon, of its shims, runtimes and plugins, and of all pods.
    pub(crate) fn all(&self) -> Result<Duration> {
        self.read(&self.group)
    }

    /// Time of all but the pods.
    pub(crate) fn daemon(&self) -> Result<Duration> {
        self.read(&self.group.join("daemon"))
    }

    fn read(&self, group: &Path) -> Result<Duration> {
        let file = match self.counter {
            Counter::Nanoseconds => "cpuacct.usage",
            Counter::Microseconds => "cpu.stat",
        };
        let text = fs::read_to_string(group.join(file)).context("read processor time")?;
        self.counter.read(&text).context("no processor time")
    }

    /// Ends all processes in it.
    pub(crate) fn kill(&self) {
        let mut groups = vec![self.group.clone()];
        while let Some(group) = groups.pop() {
            let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            let pids = listed
                .lines()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
            for pid in pids {
                // What has ended meanwhile needs no signal.
                kill_process(pid, Signal::KILL).ok();
            }
            let below = traces::children(&group).into_iter();
            groups.extend(below.filter(|path| path.is_dir()));
        }
    }

    /// Its name, by which the group is found in every hierarchy.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Counter {
    fn read(self, text: &str) -> Option<Duration> {
        match self {
            Self::Nanoseconds => Some(Duration::from_nanos(text.trim().parse().ok()?)),
            Self::Microseconds => {
                let number = text
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "));
                Some(Duration::from_micros(number?.parse().ok()?))
            }
        }
    }
}

fn enter(group: &Path, pid: u32) -> Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("put a process into {}", group.display()))
}

/// Makes a group that goes before all others; none where v1 does not share processors out.
fn first_in_line(mounts: &str, name: &str) -> Result<Option<PathBuf>> {
    let Some(group) = sharing(mounts).map(|root| root.join(name)) else {
        return Ok(None);
    };
    fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
    let (file, weight) = HEAVIEST;
    fs::write(group.join(file), weight).with_context(|| format!("write {file} of {name}"))?;
    Ok(Some(group))
}

/// The hierarchy of v1 that shares processors out.
fn sharing(mounts: &str) -> Option<PathBuf> {
    find(mounts, "cgroup", "cpu")
}

/// Where a hierarchy of this kind and with this option is mounted.
fn find(mountinfo: &str, kind: &str, option: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, of) = line.split_once(" - ")?;
        let mut of = of.split(' ');
        let wanted = of.next()? == kind && of.next_back()?.split(',').any(|has| has == option);
        wanted.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The hierarchy that counts: v1's if there is one, since v2's has no pods then.
fn hierarchy(mountinfo: &str) -> Option<(PathBuf, Counter)> {
    let first = find(mountinfo, "cgroup", "cpuacct").map(|root| (root, Counter::Nanoseconds));
    first.or_else(|| find(mountinfo, "cgroup2", "rw").map(|root| (root, Counter::Microseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_counts_before_v2() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 = "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(
            hierarchy(&[v2, v1].concat()),
            Some((
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"),
                Counter::Nanoseconds
            ))
        );
        assert_eq!(
            hierarchy(v2),
            Some((
                PathBuf::from("/sys/fs/cgroup/unified"),
                Counter::Microseconds
            ))
        );
        assert_eq!(hierarchy(""), None);
    }

    #[test]
    fn counters() {
        let v2 = "usage_usec 1500\nuser_usec 1000\n";
        assert_eq!(
            Counter::Microseconds.read(v2),
            Some(Duration::from_micros(1500))
        );
        let v1 = Counter::Nanoseconds.read("1500000\n");
        assert_eq!(v1, Some(Duration::from_micros(1500)));
    }
}
