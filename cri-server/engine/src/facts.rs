//! Facts of the node, read once; the few that change are read anew for each plan.

use std::fs;
use std::path::Path;

use pod::NodeFacts;
use rustix::thread::CapabilitySet;

use crate::apparmor;

/// Where systemd-resolved keeps the servers that it asks itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// First kernel with mount_setattr(2).
const RECURSIVE_READ_ONLY_SINCE: (u32, u32) = (5, 12);

/// Is there where systemd is the init system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// Reads all facts. `cgroups` are the node's control groups; `systemd_cgroup` is what the operator wants; without a word systemd makes the
/// control groups where it is the init system and they are v2: it takes all of them for its own.
///
/// # Errors
///
/// If systemd shall make them and is not the init system.
pub(crate) fn gather(
    cgroups: &cgroup::Host,
    systemd_cgroup: Option<bool>,
) -> Result<NodeFacts, &'static str> {
    let cgroup_v2 = cgroups.is_v2();
    let booted = Path::new(SYSTEMD).is_dir();
    if systemd_cgroup == Some(true) && !booted {
        return Err("systemd cannot make them: it is not the init system here");
    }
    Ok(refresh(&NodeFacts {
        cgroup_v2,
        systemd_cgroup: systemd_cgroup.unwrap_or(booted && cgroup_v2),
        oom_score_floor: oom_score_floor(),
        last_capability: number("/proc/sys/kernel/cap_last_cap").unwrap_or(40),
        held_capabilities: bounding_set(&text("/proc/self/status")),
        seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
        apparmor: apparmor::is_on(),
        apparmor_default: apparmor::has_default(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        recursive_read_only: kernel_version() >= RECURSIVE_READ_ONLY_SINCE,
        swap_limits: cgroups.limits_swap(),
        hugepage_sizes: match cgroups.has_controller("hugetlb") {
            true => hugepage_sizes(),
            false => Vec::new(),
        },
        architecture: architecture().into(),
        ..NodeFacts::default()
    }))
}

/// The same facts with those read anew that may have changed.
pub(crate) fn refresh(facts: &NodeFacts) -> NodeFacts {
    NodeFacts {
        hostname: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        hosts: text("/etc/hosts"),
        resolv_conf: resolv_conf(),
        ..facts.clone()
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    text(path).trim().parse().ok()
}

/// Without CAP_SYS_RESOURCE nobody may be made less likely to be killed than we are (proc(5)).
fn oom_score_floor() -> Option<i32> {
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    if capable {
        None
    } else {
        number("/proc/self/oom_score_adj")
    }
}

/// The capabilities that a process of ours can have, from the text of proc(5)'s `status`.
fn bounding_set(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    let mut next = || parts.next().flatten().unwrap_or(0);
    (next(), next())
}

/// The host's servers; behind a local stub that a pod cannot reach, the servers of the stub.
fn resolv_conf() -> String {
    let own = text("/etc/resolv.conf");
    let mut servers = own
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .peekable();
    let stub = servers.peek().is_some()
        && servers.all(|server| server.trim().starts_with("127.") || server.trim() == "::1");
    match fs::read_to_string(RESOLVED) {
        Ok(behind) if stub => behind,
        _ => own,
    }
}

/// Page sizes of the kernel, named as the files of the hugetlb controller name them.
pub(crate) fn hugepage_sizes() -> Vec<String> {
    let names = crate::store::names(Path::new("/sys/kernel/mm/hugepages")).unwrap_or_default();
    names.iter().filter_map(|name| page_size(name)).collect()
}

fn page_size(name: &str) -> Option<String> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kib {
        kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
        kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

/// The machine's architecture as image platforms name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_the_controller_names_them() {
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(page_size("other"), None);
    }

    #[test]
    fn the_bounding_set_is_read() {
        assert_eq!(bounding_set("Name:\tx\nCapBnd:\t000001ff\n"), Some(0x1ff));
        assert_eq!(bounding_set("Name:\tx\n"), None);
    }

    #[test]
    fn facts_of_this_host() {
        let cgroups = cgroup::Host::detect().unwrap();
        let facts = gather(&cgroups, None).unwrap();
        let chosen = facts.systemd_cgroup;
        assert!(!chosen || facts.cgroup_v2, "not on v1 unless asked for");
        // Limits of huge pages are for a controller that is there.
        let limited = !facts.hugepage_sizes.is_empty();
        assert!(!limited || cgroups.has_controller("hugetlb"));
        assert!(cgroups.has_controller("memory") || !facts.swap_limits);
        assert!(!facts.hostname.is_empty());
        assert!(facts.last_capability >= 37);
    }
}
