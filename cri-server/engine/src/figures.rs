//! What monitoring wants to know of a container beyond [`crate::ContainerStats`]: figures that few
//! ask for, and that cost more reading.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Inner;
use crate::error::Error;
use crate::view::Container;

/// Most processes of a container whose descriptors are counted.
const MAX_PROCESSES: usize = 1024;

/// Figures of a container; what this kernel does not tell is 0 or missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Page cache, bytes.
    pub cache: u64,
    /// Files mapped into memory, bytes.
    pub mapped_file: u64,
    /// Memory of the kernel on its behalf, bytes.
    pub kernel: u64,
    /// The most memory it ever used, bytes.
    pub max_usage: u64,
    /// How often its limit of memory was hit.
    pub limit_hits: u64,
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// Memory that it is left with when memory is short, bytes; 0: none.
    pub reservation: u64,
    /// Input and output, by device and operation.
    pub io: Vec<Io>,
    /// Huge pages, by page size.
    pub huge_pages: Vec<HugePages>,
    /// Processes.
    pub processes: u64,
    /// Open descriptors of all its processes.
    pub descriptors: u64,
    /// Sockets among them.
    pub sockets: u64,
    /// Soft limit of open files of its first process.
    pub open_files_soft: u64,
    /// The file system of its writable layer.
    pub disk: Disk,
}

/// A file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its device, `/dev/...` if it has a name there.
    pub device: String,
    /// Its size, bytes.
    pub bytes: u64,
    /// Inodes that it can have.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// What was read from, or written to, a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Major number of the device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Its name, `/dev/...` if it has one.
    pub device: String,
    /// `Read` or `Write`.
    pub operation: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Size of a page, as the kernel names it (`2MB`).
    pub size: String,
    /// In use, bytes.
    pub usage: u64,
    /// The most that was ever in use, bytes.
    pub max_usage: u64,
}

/// Reads the figures of a container that runs; may block.
pub(crate) fn read(engine: &Inner, container: &Container) -> Result<Figures, Error> {
    let what = || format!("reading the cgroup of container {}", container.id);
    let group = engine.group(&container.cgroup);
    let group = group.map_err(|error| Error::failed(what(), error))?;
    let processes = group
        .procs()
        .map_err(|error| Error::failed(what(), error))?;
    let mut figures = match Files(group.paths()) {
        files if files.0.contains_key("") => read_v2(&files),
        files => read_v1(&files),
    };
    for io in &mut figures.io {
        io.device = device_name(io.major, io.minor);
    }
    figures.disk = disk(engine.images.mountpoint());
    figures.processes = u64::try_from(processes.len()).unwrap_or(u64::MAX);
    count_descriptors(&processes, &mut figures);
    if let Some(first) = container.pid {
        figures.open_files_soft = soft_limit(&text(Path::new(&format!("/proc/{first}/limits"))));
    }
    Ok(figures)
}

/// A file system whose figures cannot be had has none.
fn disk(path: &Path) -> Disk {
    let (Ok(stat), Ok(file)) = (rustix::fs::statvfs(path), rustix::fs::stat(path)) else {
        return Disk::default();
    };
    Disk {
        device: device_name(
            rustix::fs::major(file.st_dev),
            rustix::fs::minor(file.st_dev),
        ),
        bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    }
}

/// The kernel's name of a block device; its numbers where it has none.
fn device_name(major: u32, minor: u32) -> String {
    let told = text(Path::new(&format!("/sys/dev/block/{major}:{minor}/uevent")));
    let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    match name {
        Some(name) => format!("/dev/{name}"),
        None => format!("{major}:{minor}"),
    }
}

/// A group's folders by controller; on v2 one, under the empty name.
struct Files(BTreeMap<String, PathBuf>);

impl Files {
    fn text(&self, controller: &str, file: &str) -> String {
        let folder = self.0.get(controller);
        folder
            .map(|folder| text(&folder.join(file)))
            .unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        self.text(controller, file).trim().parse().unwrap_or(0)
    }
}

/// A file of the kernel's; nothing where it is not to be had.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn read_v1(files: &Files) -> Figures {
    let stat = files.text("memory", "memory.stat");
    let memory = |file: &str| files.number("memory", file);
    Figures {
        cache: field(&stat, "total_cache"),
        mapped_file: field(&stat, "total_mapped_file"),
        kernel: memory("memory.kmem.usage_in_bytes"),
        max_usage: memory("memory.max_usage_in_bytes"),
        limit_hits: memory("memory.failcnt"),
        oom_kills: field(&files.text("memory", "memory.oom_control"), "oom_kill"),
        reservation: limited(memory("memory.soft_limit_in_bytes")),
        io: io_v1(
            &files.text("blkio", "blkio.throttle.io_service_bytes_recursive"),
            &files.text("blkio", "blkio.throttle.io_serviced_recursive"),
        ),
        huge_pages: huge_pages(|size| HugePages {
            usage: files.number("hugetlb", &format!("hugetlb.{size}.usage_in_bytes")),
            max_usage: files.number("hugetlb", &format!("hugetlb.{size}.max_usage_in_bytes")),
            size,
        }),
        ..Figures::default()
    }
}

fn read_v2(files: &Files) -> Figures {
    let stat = files.text("", "memory.stat");
    let events = files.text("", "memory.events");
    let number = |file: &str| files.number("", file);
    Figures {
        cache: field(&stat, "file"),
        mapped_file: field(&stat, "file_mapped"),
        kernel: field(&stat, "kernel"),
        max_usage: number("memory.peak"),
        limit_hits: field(&events, "max"),
        oom_kills: field(&events, "oom_kill"),
        reservation: number("memory.low"),
        io: io_v2(&files.text("", "io.stat")),
        // The kernel remembers no peak of them.
        huge_pages: huge_pages(|size| {
            let usage = number(&format!("hugetlb.{size}.current"));
            HugePages {
                usage,
                max_usage: usage,
                size,
            }
        }),
        ..Figures::default()
    }
}

fn huge_pages(of: impl Fn(String) -> HugePages) -> Vec<HugePages> {
    crate::facts::hugepage_sizes().into_iter().map(of).collect()
}

/// v1 says "no limit" with the largest multiple of a page.
fn limited(bytes: u64) -> u64 {
    if bytes < 1 << 62 { bytes } else { 0 }
}

/// The value behind `key` in lines of `key value`.
fn field(text: &str, key: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// `MAJOR:MINOR`.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `MAJOR:MINOR OPERATION NUMBER` a line, bytes in one file and requests in the other
/// (`Documentation/admin-guide/cgroup-v1/blkio-controller.rst`).
fn io_v1(bytes: &str, requests: &str) -> Vec<Io> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let operation = ["Read", "Write"];
        let word = words.next()?;
        let operation = operation.into_iter().find(|known| *known == word)?;
        Some((major, minor, operation, words.next()?.parse::<u64>().ok()?))
    };
    let requests: Vec<_> = requests.lines().filter_map(row).collect();
    let with_requests = |(major, minor, operation, bytes)| {
        let same = |other: &&(u32, u32, &str, u64)| {
            (other.0, other.1, other.2) == (major, minor, operation)
        };
        Io {
            major,
            minor,
            operation,
            bytes,
            device: String::new(),
            requests: requests.iter().find(same).map_or(0, |other| other.3),
        }
    };
    bytes.lines().filter_map(row).map(with_requests).collect()
}

/// `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...` a line
/// (`Documentation/admin-guide/cgroup-v2.rst`, "IO Interface Files").
fn io_v2(stat: &str) -> Vec<Io> {
    let mut all = Vec::new();
    for line in stat.lines() {
        let Some((major, minor)) = line.split(' ').next().and_then(device) else {
            continue;
        };
        let value = |key: &str| {
            let words = line.split_whitespace();
            let mut found = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found
                .next()
                .and_then(|number| number.parse().ok())
                .unwrap_or(0)
        };
        let both = [("Read", "rbytes", "rios"), ("Write", "wbytes", "wios")];
        all.extend(both.map(|(operation, bytes, requests)| Io {
            major,
            minor,
            operation,
            device: String::new(),
            bytes: value(bytes),
            requests: value(requests),
        }));
    }
    all
}

fn count_descriptors(processes: &[i32], figures: &mut Figures) {
    for pid in processes.iter().take(MAX_PROCESSES) {
        // One that has just ended has none.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for entry in entries.flatten() {
            figures.descriptors += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"socket:")
            {
                figures.sockets += 1;
            }
        }
    }
}

/// The soft limit of open files in the text of proc_pid_limits(5).
fn soft_limit(limits: &str) -> u64 {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions() {
        let write = Io {
            major: 8,
            minor: 16,
            operation: "Write",
            device: String::new(),
            bytes: 4096,
            requests: 2,
        };
        let bytes = "8:16 Read 0\n8:16 Write 4096\n8:16 Sync 1\nTotal 4096\n";
        let requests = "8:16 Read 0\n8:16 Write 2\nTotal 2\n";
        assert_eq!(io_v1(bytes, requests)[1], write);
        assert_eq!(io_v1(bytes, requests).len(), 2);
        let stat = "8:16 rbytes=0 wbytes=4096 rios=0 wios=2 dbytes=0 dios=0\n";
        assert_eq!(io_v2(stat)[1], write);
        assert!(io_v2("").is_empty());
    }

    #[test]
    fn soft_limits() {
        let limits = "Limit  Soft Limit Hard Limit Units\nMax open files   1024   4096   files\n";
        assert_eq!(soft_limit(limits), 1024);
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), 0);
        assert_eq!(soft_limit(""), 0);
    }

    #[test]
    fn own_descriptors_are_counted() {
        let mut figures = Figures::default();
        let own = i32::try_from(std::process::id()).unwrap();
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        count_descriptors(&[own, -1], &mut figures);
        assert!(
            figures.descriptors >= 5 && figures.sockets >= 2,
            "{figures:?}"
        );
    }
}
