//! What of a host runs short while it works: how much is used of what there is only so much of, and
//! when that is too much, with the number and the cure. [`look`] reads, [`judge`] is pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::judge::{finding, size};
use crate::look::{memory, read};
use crate::{Finding, Weight};

/// What shortages are about, as [`Finding::subject`].
pub const SUBJECTS: [&str; 8] = [
    "disk",
    "inodes",
    "memory",
    "memory-stall",
    "pids",
    "open-files",
    "inotify",
    "log",
];
/// Part of a thing that may be used, in percent, before it is warned of.
const MUCH: u64 = 80;
/// Part of inodes, in percent, that should be free (kubelet's nodefs.inodesFree<5%).
const FREE_INODES: u64 = 5;
/// Part of the last minute, in percent, in which somebody waited for memory.
const STALLED: f64 = 20.0;
/// A disk that will be full sooner than this is warned of.
const SOON: Duration = Duration::from_secs(6 * 3600);
/// Shortest time from which it is told how fast a disk fills.
const TREND: Duration = Duration::from_secs(600);
/// Time between two points of that, and most of them: an hour.
const TREND_STEP: Duration = Duration::from_secs(60);
const TREND_POINTS: usize = 60;

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Folders whose file systems fill, each under a name; of those on one file system the first
    /// counts.
    pub folders: Vec<(String, PathBuf)>,
    /// Logs of containers, each under the container's name.
    pub logs: Vec<(String, PathBuf)>,
    /// Whether all processes are asked for their watches of files too, which takes longer.
    pub inotify: bool,
}

/// When it is warned. The others are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Part of a file system that should be free, in percent.
    pub free_disk: u64,
    /// Memory that should be free, in bytes.
    pub free_memory: u64,
    /// Most bytes of one container's log.
    pub log: u64,
}

impl Default for Thresholds {
    /// Where kubelet begins to remove images and to evict pods; a log that nobody rotates.
    fn default() -> Self {
        Self {
            free_disk: 15,
            free_memory: 100 << 20,
            log: 1 << 30,
        }
    }
}

/// How much is used of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// What: `disk_bytes`, `disk_inodes`, `memory_bytes`, `pids`, `open_files`,
    /// `inotify_instances`, `inotify_watches`.
    pub resource: &'static str,
    /// Which of them: the name of a folder, of who uses it; empty if there is one.
    pub place: String,
    /// Bytes, or how many.
    pub used: u64,
    /// The same of all that there is.
    pub limit: u64,
}

/// A host at a moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// What could be read.
    pub used: Vec<Used>,
    /// Part of the last minute in which somebody waited for memory, in percent; nothing if the
    /// kernel does not tell.
    pub stalled: Option<f64>,
    /// Sizes of logs, by the containers' names.
    pub logs: Vec<(String, u64)>,
}

/// Something that runs short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Which of its kind: the name of a folder, of a container, of a user; empty if there is one.
    pub place: String,
    /// What was found, and the cure.
    pub finding: Finding,
}

/// How the free bytes of folders went on.
#[derive(Clone, Debug, Default)]
pub struct Trends(BTreeMap<String, VecDeque<(Duration, u64)>>);

/// Looks at this host.
#[must_use]
pub fn look(watch: &Watch) -> Usage {
    let mut used = Vec::new();
    let mut devices = BTreeSet::new();
    for (name, folder) in &watch.folders {
        use std::os::unix::fs::MetadataExt as _;
        let device = fs::metadata(folder).map(|found| found.dev());
        // Folders of one file system fill together.
        if device.is_ok_and(|device| devices.insert(device)) {
            used.extend(disk(name, folder));
        }
    }
    if let Some((all, free)) = memory(&read("/proc/meminfo")) {
        used.push(of("memory_bytes", "", all.saturating_sub(free), all));
    }
    used.extend(pids());
    used.extend(open_files());
    if watch.inotify {
        used.extend(inotify());
    }
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let logs = watch.logs.iter();
    Usage {
        used,
        stalled: stalled(&read("/proc/pressure/memory")),
        logs: logs
            .map(|(name, path)| (name.clone(), size(path)))
            .collect(),
    }
}

fn of(resource: &'static str, place: &str, used: u64, limit: u64) -> Used {
    Used {
        resource,
        place: place.to_owned(),
        used,
        limit,
    }
}

fn disk(name: &str, folder: &Path) -> Vec<Used> {
    let Ok(space) = rustix::fs::statvfs(folder) else {
        return Vec::new();
    };
    // What root alone may use is nothing that pods could have.
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    let taken = space.f_blocks.saturating_sub(space.f_bfree);
    let all = taken.saturating_add(space.f_bavail);
    let mut used = vec![of("disk_bytes", name, bytes(taken), bytes(all))];
    if space.f_files > 0 {
        let taken = space.f_files.saturating_sub(space.f_ffree);
        used.push(of("disk_inodes", name, taken, space.f_files));
    }
    used
}

fn number(path: &str) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// Threads count as processes do: the fourth word of proc_loadavg(5) has all of them.
fn pids() -> Option<Used> {
    let load = read("/proc/loadavg");
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    let limits = ["kernel/pid_max", "kernel/threads-max"];
    let limits = limits.map(|name| number(&format!("/proc/sys/{name}")));
    let limit = limits.into_iter().flatten().min()?;
    Some(of("pids", "", all.parse().ok()?, limit))
}

/// The daemon's own, and all of the host (proc_sys_fs(5), file-nr).
fn open_files() -> Vec<Used> {
    let mut used = Vec::new();
    let own = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        used.push(of("open_files", "daemon", own, limit));
    }
    let all = read("/proc/sys/fs/file-nr");
    let mut words = all.split_whitespace().map(|word| word.parse::<u64>().ok());
    if let (Some(Some(open)), _, Some(Some(limit))) = (words.next(), words.next(), words.next()) {
        used.push(of("open_files", "host", open, limit));
    }
    used
}

/// Instances and watches of the user who has most, as far as processes may be looked into
/// (inotify(7): the limits are a user's).
fn inotify() -> Vec<Used> {
    let mut of_user = BTreeMap::<u32, (u64, u64)>::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let is_process = process.file_name().to_string_lossy().parse::<u32>().is_ok();
        if let (true, Ok(found)) = (is_process, process.metadata()) {
            use std::os::unix::fs::MetadataExt as _;
            let (instances, watches) = inotify_of(&process.path());
            let sum = of_user.entry(found.uid()).or_default();
            *sum = (sum.0 + instances, sum.1 + watches);
        }
    }
    let most = |of: fn(&(u64, u64)) -> u64| {
        let users = of_user.iter().map(|(user, sum)| (of(sum), *user));
        users.max().unwrap_or_default()
    };
    let told = |resource, name: &str, (used, user): (u64, u32)| {
        let limit = number(&format!("/proc/sys/fs/inotify/{name}"))?;
        Some(of(resource, &format!("user {user}"), used, limit))
    };
    let instances = told("inotify_instances", "max_user_instances", most(|sum| sum.0));
    let watches = told("inotify_watches", "max_user_watches", most(|sum| sum.1));
    instances.into_iter().chain(watches).collect()
}

/// Instances of a process, and their watches (proc_pid_fdinfo(5)).
fn inotify_of(process: &Path) -> (u64, u64) {
    let (mut instances, mut watches) = (0, 0);
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    for descriptor in descriptors.flatten() {
        let leads = fs::read_link(descriptor.path()).unwrap_or_default();
        if leads.as_os_str() != "anon_inode:inotify" {
            continue;
        }
        instances += 1;
        let info = process.join("fdinfo").join(descriptor.file_name());
        let info = fs::read_to_string(info).unwrap_or_default();
        let lines = info.lines().filter(|line| line.starts_with("inotify "));
        watches += u64::try_from(lines.count()).unwrap_or_default();
    }
    (instances, watches)
}

/// From `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` (psi, Documentation/accounting/psi.rst).
fn stalled(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let minute = some
        .split(' ')
        .find_map(|word| word.strip_prefix("avg60="))?;
    minute.parse().ok()
}

impl Trends {
    /// Takes note of what is free now; `now` is on any clock that only goes forward.
    pub fn note(&mut self, now: Duration, usage: &Usage) {
        for disk in usage
            .used
            .iter()
            .filter(|used| used.resource == "disk_bytes")
        {
            let points = self.0.entry(disk.place.clone()).or_default();
            let due = points
                .back()
                .is_none_or(|(last, _)| now >= *last + TREND_STEP);
            if due {
                points.push_back((now, disk.limit.saturating_sub(disk.used)));
            }
            if points.len() > TREND_POINTS {
                points.pop_front();
            }
        }
    }

    /// Bytes that a folder's file system loses in an hour, and when none is left at that rate.
    /// Nothing if it loses none, or was not watched long enough.
    #[must_use]
    pub fn full_in(&self, place: &str) -> Option<(u64, Duration)> {
        let points = self.0.get(place)?;
        let ((began, had), (now, has)) = (points.front()?, points.back()?);
        let time = now.checked_sub(*began).filter(|time| *time >= TREND)?;
        let lost = had.checked_sub(*has).filter(|lost| *lost > 0)?;
        let milliseconds = |bytes: u64, time: Duration| {
            let all = u128::from(bytes) * time.as_millis() / u128::from(lost);
            Duration::from_millis(u64::try_from(all).unwrap_or(u64::MAX))
        };
        let in_an_hour = u128::from(lost) * 3_600_000 / time.as_millis().max(1);
        let in_an_hour = u64::try_from(in_an_hour).unwrap_or(u64::MAX);
        Some((in_an_hour, milliseconds(*has, time)))
    }
}

/// What runs short.
#[must_use]
pub fn judge(usage: &Usage, trends: &Trends, thresholds: &Thresholds) -> Vec<Shortage> {
    let mut found: Vec<Shortage> = usage
        .used
        .iter()
        .filter_map(|used| match used.resource {
            "disk_bytes" => full(used, trends, thresholds),
            "memory_bytes" => little_memory(used, thresholds),
            "disk_inodes" => few_inodes(used),
            _ => scarce(used),
        })
        .collect();
    found.extend(usage.stalled.and_then(waiting));
    found.extend(usage.logs.iter().filter_map(|log| long(log, thresholds)));
    found
}

fn warning(subject: &'static str, place: &str, found: String, cure: &str) -> Shortage {
    Shortage {
        place: place.to_owned(),
        finding: finding(subject, Weight::Warning, found).cure(cure),
    }
}

fn full(disk: &Used, trends: &Trends, thresholds: &Thresholds) -> Option<Shortage> {
    let free = disk.limit.saturating_sub(disk.used);
    let little = disk.limit > 0 && free < disk.limit / 100 * thresholds.free_disk;
    let trend = trends.full_in(&disk.place);
    let soon = trend.filter(|(_, time)| *time < SOON);
    if !little && soon.is_none() {
        return None;
    }
    let mut said = format!(
        "{}: {} of {} free",
        disk.place,
        size(free),
        size(disk.limit)
    );
    if let Some((rate, time)) = trend {
        let minutes = time.as_secs() / 60;
        said += &format!(", {} less each hour: full in {minutes} minutes", size(rate));
    }
    let cure = "a larger disk; fewer images (wherryd images remove, kubelet's \
        imageGCHighThresholdPercent); [limits] writable_layer and log";
    Some(warning("disk", &disk.place, said, cure))
}

fn few_inodes(disk: &Used) -> Option<Shortage> {
    let free = disk.limit.saturating_sub(disk.used);
    (free < disk.limit / 100 * FREE_INODES).then(|| {
        let said = format!("{}: {free} of {} inodes free", disk.place, disk.limit);
        let cure = "fewer images, or a file system with more inodes";
        warning("inodes", &disk.place, said, cure)
    })
}

fn little_memory(memory: &Used, thresholds: &Thresholds) -> Option<Shortage> {
    let free = memory.limit.saturating_sub(memory.used);
    (free < thresholds.free_memory).then(|| {
        let said = format!("{} of {} can be had", size(free), size(memory.limit));
        let cure = "limits for pods without one, fewer pods, or more memory";
        warning("memory", "", said, cure)
    })
}

fn waiting(stalled: f64) -> Option<Shortage> {
    (stalled > STALLED).then(|| {
        let said = format!("somebody waited for memory in {stalled:.0}% of the last minute");
        warning("memory-stall", "", said, "fewer pods, or more memory")
    })
}

fn long((name, bytes): &(String, u64), thresholds: &Thresholds) -> Option<Shortage> {
    (*bytes > thresholds.log).then(|| {
        let said = format!("the log of container {name} has {}", size(*bytes));
        let cure = "containerLogMaxSize in kubelet's configuration, or [limits] log";
        warning("log", name, said, cure)
    })
}

/// Of what nothing else needs to be known.
fn scarce(used: &Used) -> Option<Shortage> {
    if used.limit == 0 || used.used < used.limit.saturating_mul(MUCH) / 100 {
        return None;
    }
    let doubled = used.limit.saturating_mul(2);
    let (subject, cure) = match used.resource {
        "pids" => (
            "pids",
            format!("sysctl -w kernel.pid_max={doubled} kernel.threads-max={doubled}"),
        ),
        "open_files" if used.place == "daemon" => (
            "open-files",
            format!("LimitNOFILE={doubled} where the daemon is started"),
        ),
        "open_files" => ("open-files", format!("sysctl -w fs.file-max={doubled}")),
        "inotify_instances" => (
            "inotify",
            format!("sysctl -w fs.inotify.max_user_instances={doubled}"),
        ),
        _ => (
            "inotify",
            format!("sysctl -w fs.inotify.max_user_watches={doubled}"),
        ),
    };
    let place = match used.place.as_str() {
        "" => String::new(),
        place => format!(" ({place})"),
    };
    let what = used.resource.replace('_', " ");
    let said = format!("{what}{place}: {} of {} are used", used.used, used.limit);
    Some(warning(subject, &used.place, said, &cure))
}

/// What of the host as a whole runs short now, for [`crate::host`], which looks at disks and memory
/// itself.
pub(crate) fn host_wide() -> Vec<Finding> {
    let watch = Watch {
        inotify: true,
        ..Watch::default()
    };
    let mut usage = look(&watch);
    // This process is not the daemon.
    usage
        .used
        .retain(|used| used.place != "daemon" && used.resource != "memory_bytes");
    let short = judge(&usage, &Trends::default(), &Thresholds::default());
    short.into_iter().map(|one| one.finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn told(used: Used) -> Vec<(&'static str, String)> {
        let usage = Usage {
            used: vec![used],
            ..Usage::default()
        };
        let found = judge(&usage, &Trends::default(), &Thresholds::default());
        found
            .into_iter()
            .map(|one| (one.finding.subject, one.finding.found))
            .collect()
    }

    #[test]
    fn what_is_used_up_is_warned_of_with_numbers() {
        assert!(told(of("disk_bytes", "root", 80 * GIB, 100 * GIB)).is_empty());
        let disk = told(of("disk_bytes", "root", 90 * GIB, 100 * GIB));
        assert_eq!(disk, [("disk", "root: 10 GiB of 100 GiB free".to_owned())]);
        assert!(told(of("disk_inodes", "root", 94, 1000)).is_empty());
        assert_eq!(told(of("disk_inodes", "root", 960, 1000))[0].0, "inodes");
        assert!(told(of("inotify_instances", "user 0", 100, 128)).is_empty());
        let inotify = told(of("inotify_instances", "user 0", 120, 128));
        let said = "inotify instances (user 0): 120 of 128 are used".to_owned();
        assert_eq!(inotify, [("inotify", said)]);
        assert_eq!(told(of("pids", "", 9, 10))[0].0, "pids");
        assert_eq!(told(of("open_files", "daemon", 9, 10))[0].0, "open-files");
        assert_eq!(
            told(of("memory_bytes", "", 4 * GIB - 5, 4 * GIB))[0].0,
            "memory"
        );
        assert!(told(of("pids", "", 0, 0)).is_empty());
    }

    #[test]
    fn every_warning_has_a_cure() {
        let usage = Usage {
            used: vec![
                of("disk_bytes", "root", 100, 100),
                of("disk_inodes", "root", 100, 100),
                of("memory_bytes", "", 100, 100),
                of("inotify_watches", "user 0", 100, 100),
                of("open_files", "host", 100, 100),
            ],
            stalled: Some(50.0),
            logs: vec![("web".into(), 2 * GIB), ("idle".into(), 10)],
        };
        let found = judge(&usage, &Trends::default(), &Thresholds::default());
        assert_eq!(found.len(), 7, "{found:?}");
        let known = |one: &Shortage| SUBJECTS.contains(&one.finding.subject);
        assert!(found.iter().all(known), "{found:?}");
        assert!(
            found.iter().all(|one| one.finding.cure.is_some()),
            "{found:?}"
        );
        assert!(
            found[6]
                .finding
                .found
                .contains("container web has 2048 MiB"),
            "{found:?}"
        );
    }

    #[test]
    fn a_disk_that_fills_is_warned_of_while_there_is_room() {
        let mut trends = Trends::default();
        let at = |minute: u64, free: u64| {
            let used = of("disk_bytes", "root", 1000 * GIB - free, 1000 * GIB);
            let usage = Usage {
                used: vec![used],
                ..Usage::default()
            };
            (Duration::from_secs(minute * 60), usage)
        };
        for minute in 0..=30 {
            let (now, usage) = at(minute, (600 - 2 * minute) * GIB);
            trends.note(now, &usage);
            let found = judge(&usage, &trends, &Thresholds::default());
            assert_eq!(found.is_empty(), minute < 10, "{minute}: {found:?}");
        }
        let (rate, time) = trends.full_in("root").unwrap();
        assert_eq!(rate, 120 * GIB);
        assert_eq!(time, Duration::from_secs(270 * 60));
        assert_eq!(trends.full_in("state"), None);
    }

    #[test]
    fn a_disk_that_is_emptied_fills_never() {
        let mut trends = Trends::default();
        for minute in 0..200 {
            let used = of("disk_bytes", "root", 1000 - minute, 2000);
            let usage = Usage {
                used: vec![used],
                ..Usage::default()
            };
            trends.note(Duration::from_secs(minute * 60), &usage);
        }
        assert_eq!(trends.full_in("root"), None);
        assert_eq!(trends.0["root"].len(), TREND_POINTS);
    }

    #[test]
    fn stalls_of_memory() {
        let text = "some avg10=1.00 avg60=33.50 avg300=0.00 total=11313966\nfull avg10=0.00\n";
        assert_eq!(stalled(text), Some(33.5));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log"), "12345").unwrap();
        let usage = look(&Watch {
            folders: ["here", "also"]
                .map(|name| (name.into(), folder.path().into()))
                .into(),
            logs: vec![("web".into(), folder.path().join("log"))],
            inotify: true,
        });
        assert!(
            usage.used.iter().all(|used| used.place != "also"),
            "{usage:?}"
        );
        let has = |resource: &str| usage.used.iter().any(|used| used.resource == resource);
        for resource in [
            "disk_bytes",
            "memory_bytes",
            "pids",
            "open_files",
            "inotify_watches",
        ] {
            assert!(has(resource), "{resource}: {usage:?}");
        }
        assert_eq!(usage.logs, [("web".to_owned(), 5)]);
    }
}
