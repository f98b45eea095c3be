//! What is true of the node: read once by the engine, passed in to every plan.

/// Facts of the node that decide what a plan may contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's host name.
    pub hostname: String,
    /// Text of the host's `/etc/hosts`.
    pub hosts: String,
    /// Text of the host's `/etc/resolv.conf` (or of the file behind a local stub resolver).
    pub resolv_conf: String,
    /// Control groups are the unified hierarchy.
    pub cgroup_v2: bool,
    /// Control groups are driven through systemd.
    pub systemd_cgroup: bool,
    /// Lowest `oom_score_adj` that a process of ours may have; `None` means any.
    pub oom_score_floor: Option<i32>,
    /// Highest capability number that the kernel knows (`/proc/sys/kernel/cap_last_cap`).
    pub last_capability: u8,
    /// Capabilities that the engine itself may hand on, one bit each by number (`CapBnd` of its
    /// `/proc/self/status`); `None` means all. A privileged container gets no more than these.
    pub held_capabilities: Option<u64>,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is on.
    pub apparmor: bool,
    /// The engine's own AppArmor profile is loaded, or can be.
    pub apparmor_default: bool,
    /// SELinux is on.
    pub selinux: bool,
    /// The kernel can make mounts read-only recursively (`mount_setattr`, Linux 5.12).
    pub recursive_read_only: bool,
    /// Kernel, file system of the images and OCI runtime can give a pod user ids of its own.
    pub user_namespaces: bool,
    /// Control groups can limit swap.
    pub swap_limits: bool,
    /// Page sizes of the hugetlb controller (`2MB`); empty where there is none.
    pub hugepage_sizes: Vec<String>,
    /// Devices of the host's `/dev`, for privileged containers.
    pub devices: Vec<HostDevice>,
    /// Every pod gets a process of its own, for programs that know a pod by one (cAdvisor).
    pub pod_process: bool,
    /// The machine's architecture as in Go (`amd64`, `arm64`).
    pub architecture: String,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Absolute path on the host, `/dev/kvm`.
    pub path: String,
    /// Block device, else character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
