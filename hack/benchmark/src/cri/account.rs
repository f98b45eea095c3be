//! Processor time of a daemon and of all that it starts: a control group that counts.
//!
//! The daemon's process is put into one child of the group, its pods get another as their parent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::tests::traces;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A control group of one daemon's own.
#[derive(Debug)]
pub(crate) struct Account {
    name: String,
    group: PathBuf,
    counter: Counter,
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
        Ok(Self {
            name,
            group,
            counter,
        })
    }

    /// Counts a daemon, and all that it starts from now on.
    pub(crate) fn enter(&self, daemon: u32) -> Result<()> {
        fs::write(self.group.join("daemon/cgroup.procs"), daemon.to_string())
            .context("count the daemon's time")
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

/// The hierarchy that counts: v1's if there is one, since v2's has no pods then.
fn hierarchy(mountinfo: &str) -> Option<(PathBuf, Counter)> {
    let find = |kind: &str, option: &str| {
        mountinfo.lines().find_map(|line| {
            let (mount, of) = line.split_once(" - ")?;
            let mut of = of.split(' ');
            let wanted = of.next()? == kind && of.next_back()?.split(',').any(|has| has == option);
            wanted.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
    };
    let first = find("cgroup", "cpuacct").map(|root| (root, Counter::Nanoseconds));
    first.or_else(|| find("cgroup2", "rw").map(|root| (root, Counter::Microseconds)))
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
