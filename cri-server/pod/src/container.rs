//! What a client asks of a container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sandbox::NamespaceMode;

/// A container as asked for. Kept byte for byte: lists and status give back what came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name, unique within the pod together with `attempt`.
    pub name: String,
    /// How often the client made this container before.
    pub attempt: u32,
    /// The image: any name that the store resolves.
    pub image: String,
    /// The name that the user wrote, where it differs from `image`; given back unaltered.
    pub user_specified_image: String,
    /// What else the client says of it.
    #[serde(default)]
    pub image_notes: ImageNotes,
    /// Replaces the image's entrypoint, unless empty.
    pub command: Vec<String>,
    /// Replaces the image's default arguments, unless empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory, unless empty.
    pub working_dir: String,
    /// Environment, on top of the image's.
    pub env: Vec<(String, String)>,
    /// Mounts, in the order given.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Devices by the names that their vendors give them (CDI), `vendor.example/class=name`.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// Labels, given back unaltered.
    pub labels: BTreeMap<String, String>,
    /// Annotations, given back unaltered.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the pod's log directory; empty means no log.
    pub log_path: String,
    /// Keep standard input open for clients that attach.
    pub stdin: bool,
    /// Close standard input when the first client that attached goes.
    pub stdin_once: bool,
    /// Give the process a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Rights and identity.
    pub security: Security,
    /// The signal that asks the container to stop, by name (`SIGTERM`, `SIGRTMIN+3`); `None` takes
    /// the image's, else `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Where a checkpoint lies that the container is to go on from: a file of the host, absolute.
    /// The image is then the checkpoint's.
    #[serde(default)]
    pub checkpoint: Option<PathBuf>,
    /// What becomes of the connections that it had then.
    #[serde(default)]
    pub connections: Connections,
}

/// What becomes of TCP connections that are open when a container is written to a checkpoint, or
/// that were, when it goes on from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connections {
    /// They are an error.
    #[default]
    Refuse,
    /// They are written, or go on: both ends must be where they were.
    Keep,
    /// Who goes on finds them closed.
    Close,
}

/// What a client says of an image beside its name. Nothing follows from it here; given back
/// unaltered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNotes {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The runtime handler that it was pulled for; images are the same for all.
    pub handler: String,
}

/// A mount into a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it appears, absolute.
    pub container_path: String,
    /// What appears there, absolute; made as a folder if it does not exist. Empty for an image.
    pub host_path: String,
    /// An image that appears there instead of a path of the host.
    #[serde(default)]
    pub image: Option<ImageVolume>,
    /// No writing through this mount.
    pub readonly: bool,
    /// No writing through any mount below it either; needs `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// Whether later mounts travel.
    pub propagation: Propagation,
    /// Relabel the source for SELinux.
    pub selinux_relabel: bool,
    /// What may not be done below it, besides.
    #[serde(default)]
    pub restrictions: Vec<Restriction>,
    /// As which ids those of the source are to appear; `None`: as they are.
    #[serde(default)]
    pub id_maps: Option<IdMaps>,
}

/// What a mount may forbid (mount(8), "filesystem-independent mount options").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restriction {
    /// Execute programs.
    NoExec,
    /// Open devices.
    NoDev,
    /// Gain rights by set-user-ID bits and file capabilities.
    NoSuid,
}

impl Restriction {
    /// Its name among the options of a mount.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoExec => "noexec",
            Self::NoDev => "nodev",
            Self::NoSuid => "nosuid",
        }
    }
}

/// How the ids of a mount's files are mapped; neither list is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

/// Ids in a row that appear as others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The first, as the file system has it.
    pub from: u32,
    /// As what it appears on the host.
    pub to: u32,
    /// How many.
    pub length: u32,
}

/// An image as a volume; always read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// The image: any name that the store resolves.
    pub image: String,
    /// The name that the user wrote; given back unaltered.
    pub user_specified_image: String,
    /// What else the client says of it.
    #[serde(default)]
    pub notes: ImageNotes,
    /// What of the image, relative to its root; empty means all.
    pub sub_path: String,
}

/// Whether mounts made later travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device of the host to show in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host: a device, or a folder of devices.
    pub host_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits. Zero or empty means not set, except where said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds per period; negative means unlimited.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory_limit: i64,
    /// -1000 to 1000; zero is a value.
    pub oom_score_adj: i64,
    /// List of CPUs, `0-3,7`.
    pub cpuset_cpus: String,
    /// List of memory nodes.
    pub cpuset_mems: String,
    /// Bytes per page size (`2MB`).
    pub hugepages: Vec<(String, u64)>,
    /// Files of cgroup v2, set as they are.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, bytes.
    pub memory_swap_limit: i64,
    /// Limits that clients have no words for; plugins have.
    #[serde(default, skip_serializing_if = "Tuning::is_nothing")]
    pub tuning: Tuning,
    /// A class of block I/O, which plugins name; the empty one is none, and `None` is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blockio_class: Option<String>,
}

/// Limits beyond those of clients (OCI specification, config-linux.md); `None` means not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Memory below which it is taken from others first, bytes.
    pub memory_reservation: Option<i64>,
    /// Memory of the kernel's, bytes.
    pub memory_kernel: Option<i64>,
    /// Memory of the kernel's for TCP, bytes.
    pub memory_kernel_tcp: Option<i64>,
    /// How readily memory is swapped, 0 to 100.
    pub swappiness: Option<u64>,
    /// Out of memory, it waits instead of being killed.
    pub disable_oom_killer: Option<bool>,
    /// Memory is counted with that of groups below.
    pub use_hierarchy: Option<bool>,
    /// Realtime scheduling, microseconds per period.
    pub realtime_runtime: Option<i64>,
    /// Its period, microseconds.
    pub realtime_period: Option<u64>,
    /// How many processes; negative: any number.
    pub pids: Option<i64>,
}

impl Tuning {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn changed(self, wanted: Self) -> Self {
        Self {
            memory_reservation: wanted.memory_reservation.or(self.memory_reservation),
            memory_kernel: wanted.memory_kernel.or(self.memory_kernel),
            memory_kernel_tcp: wanted.memory_kernel_tcp.or(self.memory_kernel_tcp),
            swappiness: wanted.swappiness.or(self.swappiness),
            disable_oom_killer: wanted.disable_oom_killer.or(self.disable_oom_killer),
            use_hierarchy: wanted.use_hierarchy.or(self.use_hierarchy),
            realtime_runtime: wanted.realtime_runtime.or(self.realtime_runtime),
            realtime_period: wanted.realtime_period.or(self.realtime_period),
            pids: wanted.pids.or(self.pids),
        }
    }
}

impl Resources {
    /// These limits changed as a client wants: what it does not name stays.
    #[must_use]
    pub fn changed(&self, wanted: &Self) -> Self {
        let number = |new: i64, old: i64| if new == 0 { old } else { new };
        let text = |new: &String, old: &String| if new.is_empty() { old } else { new }.clone();
        let mut hugepages = self.hugepages.clone();
        hugepages.retain(|(size, _)| wanted.hugepages.iter().all(|(new, _)| new != size));
        hugepages.extend(wanted.hugepages.iter().cloned());
        let mut unified = self.unified.clone();
        unified.extend(wanted.unified.clone());
        let memory_limit = number(wanted.memory_limit, self.memory_limit);
        let memory_swap_limit = match wanted.memory_swap_limit {
            // No swap stays no swap, whatever becomes of memory.
            0 if (1..).contains(&self.memory_limit)
                && self.memory_swap_limit == self.memory_limit =>
            {
                memory_limit
            }
            // The old sum would leave less than nothing for swap.
            0 if (1..memory_limit).contains(&self.memory_swap_limit) => memory_limit,
            new => number(new, self.memory_swap_limit),
        };
        Self {
            cpu_period: number(wanted.cpu_period, self.cpu_period),
            cpu_quota: number(wanted.cpu_quota, self.cpu_quota),
            cpu_shares: number(wanted.cpu_shares, self.cpu_shares),
            memory_limit,
            oom_score_adj: number(wanted.oom_score_adj, self.oom_score_adj),
            cpuset_cpus: text(&wanted.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: text(&wanted.cpuset_mems, &self.cpuset_mems),
            hugepages,
            unified,
            memory_swap_limit,
            tuning: self.tuning.changed(wanted.tuning),
            blockio_class: wanted
                .blockio_class
                .as_ref()
                .or(self.blockio_class.as_ref())
                .cloned(),
        }
    }
}

/// Rights and identity of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All rights and devices of the host.
    pub privileged: bool,
    /// Capabilities relative to the default set, names without `CAP_`; `ALL` is understood.
    pub capabilities: Capabilities,
    /// Network namespace: the pod's, whatever that is, or the host's if the pod has that.
    pub network: NamespaceMode,
    /// IPC namespace: the pod's, whatever that is, or the host's if the pod has that.
    pub ipc: NamespaceMode,
    /// Process ids.
    pub pid: ContainerPidMode,
    /// The user that the process runs as.
    pub user: UserRequest,
    /// The group; needs a user.
    pub group: Option<i64>,
    /// More groups.
    pub supplemental_groups: Vec<i64>,
    /// Whether the groups that the image gives the user are added.
    pub groups_policy: GroupsPolicy,
    /// No writing to the root file system.
    pub readonly_rootfs: bool,
    /// `no_new_privs` (prctl(2)).
    pub no_new_privs: bool,
    /// Paths to hide, exactly as given; empty means none.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only, exactly as given; empty means none.
    pub readonly_paths: Vec<String>,
    /// Filter of system calls.
    pub seccomp: ProfileRequest,
    /// AppArmor profile.
    pub apparmor: ProfileRequest,
    /// SELinux context `user:role:type:level`, parts may be empty; empty means none asked for.
    pub selinux: Option<SelinuxOptions>,
}

/// Parts of an SELinux context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub type_: String,
    /// Level part.
    pub level: String,
}

/// Capabilities relative to the default set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// To add.
    pub add: Vec<String>,
    /// To drop.
    pub drop: Vec<String>,
    /// To add to the ambient set too.
    pub add_ambient: Vec<String>,
}

/// Whose process ids a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPidMode {
    /// What the pod says: its shared namespace, the container's own, or the host's.
    Pod,
    /// Its own.
    #[default]
    Container,
    /// The host's.
    Node,
    /// That of another container of the same pod, by id.
    Target(String),
}

/// The user that the process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserRequest {
    /// The image's, else root.
    #[default]
    Image,
    /// A number.
    Uid(i64),
    /// A name of the image's `/etc/passwd`.
    Name(String),
}

/// Whether the groups that the image gives the user are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Added to those asked for.
    #[default]
    Merge,
    /// Only those asked for.
    Strict,
}

/// Which security profile is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileRequest {
    /// None.
    #[default]
    Unconfined,
    /// The engine's own.
    RuntimeDefault,
    /// One of the host: an absolute path (seccomp) or a loaded profile's name (AppArmor).
    Localhost(String),
}

/// What the image says about how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Id of the image (digest of its configuration).
    pub id: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Stop signal; may be empty.
    pub stop_signal: String,
}

/// Accounts of the image, as text; either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl ContainerSpec {
    /// The container's log file below the pod's log directory; a leading slash of
    /// [`Self::log_path`] means nothing.
    #[must_use]
    pub fn log_file(&self, log_directory: Option<PathBuf>) -> Option<PathBuf> {
        let below = self.log_path.trim_start_matches('/');
        match log_directory {
            Some(directory) if !below.is_empty() => Some(directory.join(below)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_does_not_name_stays() {
        let before = Resources {
            cpu_shares: 100,
            memory_limit: 64,
            memory_swap_limit: 64,
            cpuset_cpus: "0".into(),
            hugepages: vec![("2MB".into(), 1), ("1GB".into(), 2)],
            unified: BTreeMap::from([("memory.high".into(), "1".into())]),
            ..Default::default()
        };
        assert_eq!(before.changed(&Resources::default()), before);
        let wanted = Resources {
            cpu_quota: -1,
            memory_limit: 128,
            hugepages: vec![("2MB".into(), 3)],
            unified: BTreeMap::from([("memory.low".into(), "2".into())]),
            ..Default::default()
        };
        let after = before.changed(&wanted);
        assert_eq!((after.cpu_shares, after.cpu_quota), (100, -1));
        assert_eq!((after.memory_limit, after.memory_swap_limit), (128, 128));
        assert_eq!(after.hugepages, [("1GB".into(), 2), ("2MB".into(), 3)]);
        assert_eq!(after.unified.len(), 2);
        assert_eq!(after.cpuset_cpus, "0");
    }

    #[test]
    fn swap_stays_what_it_was_when_memory_changes() {
        let check = |before: (i64, i64), wanted: (i64, i64), expect: (i64, i64)| {
            let limits = |(memory_limit, memory_swap_limit)| Resources {
                memory_limit,
                memory_swap_limit,
                ..Default::default()
            };
            let after = limits(before).changed(&limits(wanted));
            assert_eq!((after.memory_limit, after.memory_swap_limit), expect);
        };
        check((64, 64), (32, 0), (32, 32));
        check((64, 64), (128, 0), (128, 128));
        check((64, 96), (32, 0), (32, 96));
        check((64, 96), (128, 0), (128, 128));
        check((64, 0), (32, 0), (32, 0));
        check((0, 0), (32, 0), (32, 0));
        check((64, -1), (32, 0), (32, -1));
        check((64, 64), (0, -1), (64, -1));
    }

    #[test]
    fn logs_lie_below_the_pods_directory() {
        let check = |log_path: &str, directory: Option<&str>, expect: Option<&str>| {
            let spec = ContainerSpec {
                log_path: log_path.into(),
                ..Default::default()
            };
            let found = spec.log_file(directory.map(PathBuf::from));
            assert_eq!(found, expect.map(PathBuf::from));
        };
        check("web/0.log", Some("/logs"), Some("/logs/web/0.log"));
        check("/0.log", Some("/logs"), Some("/logs/0.log"));
        check("", Some("/logs"), None);
        check("0.log", None, None);
    }
}
