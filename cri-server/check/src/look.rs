//! Reads what the judgement needs from the host. It changes nothing; what cannot be read is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::Asked;
use crate::facts::{Cgroups, Disk, Facts, OURS, Socket};
use crate::tried;

/// Sockets of other engines.
const ENGINES: [(&str, &str); 4] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
    ("docker", "/run/docker.sock"),
];

/// Programs that some feature needs.
const PROGRAMS: [&str; 2] = ["criu", "apparmor_parser"];

/// Where they are looked for beside PATH, which a service may not have whole.
const PROGRAM_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Numbers of the kernel that are judged.
pub(crate) const SYSCTLS: [&str; 10] = [
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.pid_max",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.ip_forward",
    "user.max_net_namespaces",
    "user.max_user_namespaces",
    "vm.overcommit_memory",
];

/// Looks at this host.
pub(crate) fn host(asked: &Asked) -> Facts {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Facts {
        root: rustix::process::geteuid().is_root(),
        filesystems: filesystems(&read("/proc/filesystems")),
        modules: modules(&release),
        tried: tried::kernel(),
        release,
        namespaces: names(Path::new("/proc/self/ns")).into_iter().collect(),
        cgroups: cgroups(
            &read("/proc/self/mountinfo"),
            &read("/sys/fs/cgroup/cgroup.controllers"),
        ),
        sysctls: sysctls(),
        seccomp: words(&read("/proc/sys/kernel/seccomp/actions_avail")),
        lsm: lsm(),
        programs: programs(),
        disks: [("root", &asked.root), ("state", &asked.state)]
            .into_iter()
            .filter_map(|(key, folder)| disk(key, folder))
            .collect(),
        swaps: read("/proc/swaps").lines().skip(1).count(),
        memory: memory(&read("/proc/meminfo")),
        open_files: getrlimit(Resource::Nofile).maximum,
        sockets: sockets(asked),
        links: names(Path::new("/sys/class/net")).into_iter().collect(),
        cni: (asked.cni_conf_dir.clone(), cni(&asked.cni_conf_dir)),
        streaming: taken(asked.streaming),
    }
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The last word of each line: `nodev overlay`.
fn filesystems(text: &str) -> BTreeSet<String> {
    let last = |line: &str| line.split_whitespace().last().map(str::to_owned);
    text.lines().filter_map(last).collect()
}

/// modules.builtin and modules.dep have paths, `/proc/modules` has names.
fn modules(release: &str) -> BTreeSet<String> {
    let folder = format!("/lib/modules/{release}");
    let listed = ["modules.builtin", "modules.dep"]
        .map(|file| read(&format!("{folder}/{file}")))
        .concat();
    let listed = listed.lines().filter_map(module_of);
    let loaded = read("/proc/modules");
    let loaded = loaded.lines().filter_map(|line| line.split(' ').next());
    // What is built in and has parameters.
    let built_in = names(Path::new("/sys/module"));
    let all = listed.chain(loaded.map(str::to_owned)).chain(built_in);
    all.map(|name| name.replace('-', "_")).collect()
}

/// `kernel/fs/overlayfs/overlay.ko.zst: kernel/...` is `overlay`.
fn module_of(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.to_owned())
}

/// From proc_pid_mountinfo(5): the type follows ` - `, the controllers are super options.
fn cgroups(mountinfo: &str, controllers: &str) -> Cgroups {
    let mut found = Cgroups::default();
    for line in mountinfo.lines() {
        let Some((_, rest)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        match (fields.next(), fields.next_back()) {
            (Some("cgroup"), Some(options)) => {
                let named = |option: &&str| {
                    !["rw", "ro", "xattr"].contains(option) && !option.contains('=')
                };
                found
                    .v1
                    .extend(options.split(',').filter(named).map(str::to_owned));
            }
            (Some("cgroup2"), _) => found.v2 = Some(words(controllers)),
            _ => {}
        }
    }
    found
}

fn sysctls() -> BTreeMap<&'static str, u64> {
    let number = |name: &&'static str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some((*name, value))
    };
    SYSCTLS.iter().filter_map(number).collect()
}

fn lsm() -> BTreeSet<String> {
    let mut active: BTreeSet<String> = read("/sys/kernel/security/lsm")
        .trim()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if read("/sys/module/apparmor/parameters/enabled").trim() == "Y" {
        active.insert("apparmor".to_owned());
    }
    active
}

fn programs() -> BTreeSet<&'static str> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders: Vec<&str> = path
        .split(':')
        .chain(PROGRAM_FOLDERS.split(':'))
        .filter(|folder| !folder.is_empty())
        .collect();
    let lies = |name: &&'static str| {
        folders
            .iter()
            .any(|folder| Path::new(folder).join(name).is_file())
    };
    PROGRAMS.into_iter().filter(|name| lies(name)).collect()
}

/// The file system of a folder, or of the nearest one above it that is there.
fn disk(key: &'static str, folder: &Path) -> Option<Disk> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let there = fs::canonicalize(there).ok()?;
    let space = rustix::fs::statvfs(&there).ok()?;
    Some(Disk {
        key,
        folder: folder.to_owned(),
        kind: kind_of(&read("/proc/self/mountinfo"), &there),
        bytes: (
            space.f_blocks.saturating_mul(space.f_frsize),
            space.f_bavail.saturating_mul(space.f_frsize),
        ),
        inodes: (space.f_files, space.f_favail),
    })
}

/// The type of the last mount whose place is the longest that the folder lies below.
fn kind_of(mountinfo: &str, folder: &Path) -> String {
    let mut best: (usize, &str) = (0, "");
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let place = before.split(' ').nth(4).unwrap_or_default();
        if folder.starts_with(place) && place.len() >= best.0 {
            best = (place.len(), after.split(' ').next().unwrap_or_default());
        }
    }
    best.1.to_owned()
}

/// proc_meminfo(5) counts in KiB.
pub(crate) fn memory(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    };
    Some((of("MemTotal")?, of("MemAvailable")?))
}

fn sockets(asked: &Asked) -> Vec<Socket> {
    let own = asked.sockets.iter().map(|path| (OURS, path.clone()));
    let others = ENGINES.map(|(engine, path)| (engine, PathBuf::from(path)));
    own.chain(others)
        .filter(|(_, path)| path.exists())
        .map(|(engine, path)| Socket {
            engine,
            answers: UnixStream::connect(&path).is_ok(),
            path,
        })
        .collect()
}

/// What libcni would read: `.conflist`, `.conf`, `.json`.
fn cni(folder: &Path) -> Vec<String> {
    let ends = |name: &String| {
        let extension = Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    };
    names(folder).into_iter().filter(ends).collect()
}

/// Why an address cannot be listened on.
fn taken(address: SocketAddr) -> Option<String> {
    let error = TcpListener::bind(address).err()?;
    Some(format!("{address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_of_both_versions() {
        let info = "30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
            32 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = cgroups(info, "");
        let v1: Vec<&str> = found.v1.iter().map(String::as_str).collect();
        assert_eq!(v1, ["cpu", "cpuacct", "memory"]);
        assert!(found.v2.unwrap().is_empty());
        let v2 = cgroups("33 23 0:29 / /c rw - cgroup2 cgroup2 rw\n", "cpu memory\n").v2;
        assert_eq!(v2.unwrap(), words("cpu memory"));
    }

    #[test]
    fn the_file_system_is_that_of_the_longest_place() {
        let info = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /var rw - xfs /dev/b rw\n\
            3 1 0:3 / /var/lib/w rw shared:1 - btrfs /dev/c rw\n";
        assert_eq!(kind_of(info, Path::new("/var/lib/w/x")), "btrfs");
        assert_eq!(kind_of(info, Path::new("/var/lib/wherry")), "xfs");
        assert_eq!(kind_of(info, Path::new("/etc")), "ext4");
    }

    #[test]
    fn names_of_modules() {
        let line = "kernel/fs/overlayfs/overlay.ko.xz: kernel/lib/libcrc32c.ko.xz";
        assert_eq!(module_of(line).as_deref(), Some("overlay"));
        assert_eq!(
            module_of("kernel/net/bridge/bridge.ko").as_deref(),
            Some("bridge")
        );
        assert_eq!(module_of(""), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(memory(text), Some((2 << 20, 1 << 20)));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_lies_on_the_disk_above() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk("root", &folder.path().join("a/b")).unwrap();
        assert!(disk.bytes.0 > 0 && !disk.kind.is_empty());
    }
}
