//! What facts mean for pods. Pure: the same facts give the same findings.

mod kernel;

use crate::facts::{Disk, Facts, OURS};
use crate::{Finding, Weight};

/// Namespaces without which no pod can be.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
/// Controllers without which limits of pods cannot be kept.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Part of a disk, in percent, below which kubelet begins to remove images (imagefs.available<15%).
const LOW_DISK: u64 = 15;
/// The same of inodes (nodefs.inodesFree<5%).
const LOW_INODES: u64 = 5;
/// Memory that can be had below which kubelet begins to evict pods (memory.available<100Mi).
const LOW_MEMORY: u64 = 100 << 20;
/// Each kubelet, log follower and many a program in a pod holds some; the kernel gives 128 to a user.
const INOTIFY_INSTANCES: u64 = 1024;
/// Files that all of them watch.
const INOTIFY_WATCHES: u64 = 65_536;
/// A hundred pods of a hundred threads, and as much again.
const PIDS: u64 = 65_536;
/// A connection, a log and figures of each container, for a thousand containers.
const OPEN_FILES: u64 = 16_384;

/// Everything, in the order in which it is told.
pub(crate) fn all(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![
        user(facts),
        kernel::release(facts),
        kernel::overlay(facts),
        kernel::erofs(facts),
        namespaces(facts),
        kernel::user_namespaces(facts),
    ];
    all.extend(cgroups(facts));
    all.extend(kernel::cgroup_kill(facts));
    all.push(seccomp(facts));
    all.push(kernel::landlock(facts));
    all.extend(lsm(facts));
    all.extend(network(facts));
    all.extend(facts.disks.iter().flat_map(disk));
    all.extend(memory(facts));
    all.extend(limits(facts));
    all.extend(kubelet_parameters(facts));
    all.extend(engines(facts));
    all.push(checkpoints(facts));
    all
}

pub(crate) fn finding(subject: &'static str, weight: Weight, found: impl Into<String>) -> Finding {
    Finding {
        subject,
        weight,
        found: found.into(),
        cure: None,
    }
}

impl Finding {
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Finding {
        self.cure = Some(cure.into());
        self
    }
}

fn user(facts: &Facts) -> Finding {
    if facts.root {
        return finding("user", Weight::Good, "root");
    }
    finding(
        "user",
        Weight::Warning,
        "not root: some facts cannot be read, and the daemon must be root",
    )
    .cure("run this as root")
}

fn namespaces(facts: &Facts) -> Finding {
    let missing = NAMESPACES
        .into_iter()
        .filter(|name| !facts.namespaces.contains(*name));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return finding("namespaces", Weight::Good, "all that a pod needs");
    }
    let found = format!("the kernel has no namespaces of {}", missing.join(", "));
    finding("namespaces", Weight::Failure, found)
        .cure("a kernel with CONFIG_NAMESPACES and its parts")
}

fn cgroups(facts: &Facts) -> Vec<Finding> {
    let groups = &facts.cgroups;
    let v1 = !groups.v1.is_empty();
    let kind = match (&groups.v2, v1) {
        (None, false) => {
            return vec![
                finding("cgroups", Weight::Failure, "no control groups are mounted")
                    .cure("mount -t cgroup2 none /sys/fs/cgroup"),
            ];
        }
        (Some(_), false) => finding("cgroups", Weight::Good, "version 2"),
        (_, true) => finding(
            "cgroups",
            Weight::Note,
            "version 1, which Kubernetes gives up: no memory QoS, no group kill on OOM, no pressure \
             figures",
        )
        .cure("boot with systemd.unified_cgroup_hierarchy=1"),
    };
    let none = std::collections::BTreeSet::new();
    let has = if v1 {
        &groups.v1
    } else {
        groups.v2.as_ref().unwrap_or(&none)
    };
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !has.contains(*name))
        .collect();
    let mut found = vec![kind];
    if !missing.is_empty() {
        found.push(
            finding(
                "cgroup-controllers",
                Weight::Warning,
                format!("missing: {}; limits of these are not kept", missing.join(", ")),
            )
            .cure("boot without cgroup_disable=, with cgroup_enable=memory where that is off by default"),
        );
    }
    found
}

fn seccomp(facts: &Facts) -> Finding {
    if facts.seccomp.is_empty() {
        return finding(
            "seccomp",
            Weight::Warning,
            "the kernel has no seccomp filters: pods with RuntimeDefault fail",
        )
        .cure("a kernel with CONFIG_SECCOMP_FILTER");
    }
    if facts.seccomp.contains("user_notif") {
        return finding("seccomp", Weight::Good, "filters, with notification");
    }
    finding("seccomp", Weight::Note, "filters, without notification")
}

fn lsm(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.lsm.contains("apparmor") && !facts.programs.contains("apparmor_parser") {
        found.push(
            finding(
                "apparmor",
                Weight::Warning,
                "active, but there is no apparmor_parser: the default profile cannot be loaded",
            )
            .cure("install apparmor"),
        );
    } else if facts.lsm.contains("apparmor") {
        found.push(finding("apparmor", Weight::Good, "active"));
    }
    if facts.lsm.contains("selinux") {
        found.push(finding("selinux", Weight::Good, "active"));
    }
    if found.is_empty() {
        found.push(finding(
            "lsm",
            Weight::Note,
            "neither AppArmor nor SELinux confines containers",
        ));
    }
    found
}

fn network(facts: &Facts) -> Vec<Finding> {
    let (folder, files) = &facts.cni;
    let mut found = vec![match files.first() {
        Some(first) => finding(
            "network",
            Weight::Good,
            format!("by CNI: {}", folder.join(first).display()),
        ),
        None => finding(
            "network",
            Weight::Good,
            format!(
                "built in; a CNI configuration in {} takes over",
                folder.display()
            ),
        ),
    }];
    if files.is_empty() {
        let missing = ["bridge", "veth", "nf_tables"]
            .into_iter()
            .filter(|name| !facts.modules.contains(*name));
        let missing: Vec<&str> = missing.collect();
        // A kernel without modules and without a list of what it has says nothing.
        if !missing.is_empty() && !facts.modules.is_empty() {
            found.push(
                finding(
                    "network-modules",
                    Weight::Note,
                    format!("neither loaded nor listed: {}", missing.join(", ")),
                )
                .cure(format!(
                    "modprobe -a {}, unless they are built in",
                    missing.join(" ")
                )),
            );
        }
    }
    if facts.sysctls.get("net.bridge.bridge-nf-call-iptables") == Some(&0) {
        found.push(
            finding(
                "bridge-nf",
                Weight::Warning,
                "packets between pods of one bridge do not pass kube-proxy's rules: a pod may not \
                 reach a Service that leads to its neighbour",
            )
            .cure("modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1"),
        );
    }
    if facts.sysctls.get("net.ipv4.ip_forward") == Some(&0) {
        let found_off = finding(
            "ip-forward",
            Weight::Note,
            "off; the built-in network switches it on",
        );
        found.push(match files.is_empty() {
            true => found_off,
            false => finding(
                "ip-forward",
                Weight::Warning,
                "off: pods reach nothing beyond this host",
            )
            .cure("sysctl -w net.ipv4.ip_forward=1"),
        });
    }
    if let Some(why) = &facts.streaming {
        let answers = facts
            .sockets
            .iter()
            .any(|socket| socket.engine == OURS && socket.answers);
        // Then it is most likely the running daemon that has it.
        if !answers {
            found.push(
                finding(
                    "streaming",
                    Weight::Failure,
                    format!("exec, attach and port-forward cannot be served on {why}"),
                )
                .cure("another streaming.address"),
            );
        }
    }
    found
}

/// Whether `part` is less than `percent` of `whole`.
fn is_below(percent: u64, (whole, part): (u64, u64)) -> bool {
    whole > 0 && part < whole / 100 * percent
}

fn disk(disk: &Disk) -> Vec<Finding> {
    let place = format!("{} {}", disk.key, disk.folder.display());
    let (whole, free) = disk.bytes;
    let space = format!(
        "{place} on {}: {} of {} free",
        if disk.kind.is_empty() {
            "an unknown file system"
        } else {
            &disk.kind
        },
        size(free),
        size(whole)
    );
    let mut found = vec![if is_below(LOW_DISK, disk.bytes) && disk.key == "root" {
        finding(
            "disk",
            Weight::Warning,
            format!("{space}: kubelet removes images at once"),
        )
        .cure("a larger disk, or wherryd images remove")
    } else {
        finding("disk", Weight::Good, space)
    }];
    if is_below(LOW_INODES, disk.inodes) {
        let (whole, free) = disk.inodes;
        found.push(
            finding(
                "inodes",
                Weight::Warning,
                format!("{place}: {free} of {whole} inodes free"),
            )
            .cure("a file system with more inodes"),
        );
    }
    if disk.key != "root" {
        return found;
    }
    match disk.kind.as_str() {
        "overlay" => found.push(
            finding(
                "root-file-system",
                Weight::Failure,
                format!("{place} lies on an overlay, over which no overlay can be written"),
            )
            .cure("another folder as root, or a volume mounted there"),
        ),
        "tmpfs" | "ramfs" => found.push(finding(
            "root-file-system",
            Weight::Note,
            format!("{place} lies in memory: a reboot forgets all images"),
        )),
        "nfs" | "nfs4" | "cifs" | "9p" | "fuse" | "virtiofs" => found.push(
            finding(
                "root-file-system",
                Weight::Warning,
                format!(
                    "{place} lies on {}, which may hang and knows no upper layers",
                    disk.kind
                ),
            )
            .cure("a disk of this host"),
        ),
        _ => {}
    }
    found
}

/// With the largest unit that leaves a number over 1.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = bytes;
    while rest >= 10 * 1024 && unit + 1 < UNITS.len() {
        rest /= 1024;
        unit += 1;
    }
    format!("{rest} {}", UNITS[unit])
}

fn memory(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some((whole, free)) = facts.memory {
        let said = format!("{} of {} can be had", size(free), size(whole));
        found.push(if free < LOW_MEMORY {
            finding(
                "memory",
                Weight::Warning,
                format!("{said}: kubelet evicts pods"),
            )
            .cure("end what is not needed, or more memory")
        } else {
            finding("memory", Weight::Good, said)
        });
    }
    if facts.swaps > 0 {
        found.push(
            finding(
                "swap",
                Weight::Note,
                "on: kubelet starts only with failSwapOn: false",
            )
            .cure("swapoff -a, or failSwapOn: false in kubelet's configuration"),
        );
    }
    found
}

fn limits(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let wanted = [
        (
            "fs.inotify.max_user_instances",
            INOTIFY_INSTANCES,
            "programs that watch files fail with \"too many open files\"",
        ),
        (
            "fs.inotify.max_user_watches",
            INOTIFY_WATCHES,
            "programs that watch files fail with \"no space left on device\"",
        ),
        ("kernel.pid_max", PIDS, "the host runs out of process ids"),
    ];
    for (name, least, otherwise) in wanted {
        let Some(value) = facts.sysctls.get(name).filter(|value| **value < least) else {
            continue;
        };
        let said = format!("{name} is {value}, less than {least}: with many pods {otherwise}");
        found.push(
            finding("limits", Weight::Warning, said).cure(format!("sysctl -w {name}={least}")),
        );
    }
    if let Some(most) = facts.open_files.filter(|most| *most < OPEN_FILES) {
        found.push(
            finding(
                "limits",
                Weight::Warning,
                format!("at most {most} open files: too few for a thousand containers"),
            )
            .cure(format!(
                "LimitNOFILE={OPEN_FILES} or more where the daemon is started"
            )),
        );
    }
    if found.is_empty() {
        found.push(finding(
            "limits",
            Weight::Good,
            "enough files, watches and process ids",
        ));
    }
    found
}

/// What kubelet sets by itself, unless it is told to protect the kernel's defaults.
fn kubelet_parameters(facts: &Facts) -> Option<Finding> {
    let wanted = [
        ("vm.overcommit_memory", 1),
        ("kernel.panic", 10),
        ("kernel.panic_on_oops", 1),
    ];
    let other: Vec<String> = wanted
        .into_iter()
        .filter(|(name, value)| facts.sysctls.get(name).is_some_and(|found| found != value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if other.is_empty() {
        return None;
    }
    let found =
        "not as kubelet wants: it sets them, or refuses to start with protectKernelDefaults";
    Some(
        finding("kubelet-sysctls", Weight::Note, found)
            .cure(format!("sysctl -w {}", other.join(" "))),
    )
}

fn engines(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for socket in &facts.sockets {
        let path = socket.path.display();
        found.push(match (socket.engine, socket.answers) {
            (OURS, true) => finding("engines", Weight::Good, format!("wherryd answers on {path}")),
            (OURS, false) => finding(
                "engines",
                Weight::Note,
                format!("nobody answers on {path}: left by a daemon that was killed, taken over at the next start"),
            ),
            (engine, true) => finding(
                "engines",
                Weight::Note,
                format!("{engine} runs too, on {path}; kubelet must be told which one is meant"),
            )
            .cure("containerRuntimeEndpoint in kubelet's configuration"),
            (engine, false) => finding(
                "engines",
                Weight::Note,
                format!("{path} is left of {engine}, nobody answers"),
            )
            .cure(format!("rm {path}")),
        });
    }
    if facts.links.contains("cni0") && facts.cni.1.is_empty() {
        found.push(
            finding(
                "engines",
                Weight::Warning,
                "the link cni0 is left of a CNI network: its range may be ours",
            )
            .cure("ip link delete cni0"),
        );
    }
    found
}

fn checkpoints(facts: &Facts) -> Finding {
    if facts.programs.contains("criu") {
        return finding("criu", Weight::Good, "containers can be checkpointed");
    }
    finding(
        "criu",
        Weight::Note,
        "not installed: containers cannot be checkpointed",
    )
    .cure("install criu")
}

#[cfg(test)]
mod tests;
