//! From what is asked for and what is true to what is to be done: plans without effects.
//!
//! One module for each noun of a specification; [`plan_sandbox`] and [`plan_container`] put the
//! parts together. Nothing here carries a plan out, and nothing here knows what a plan's paths
//! hold: what must be read first (accounts of the image, a profile's text, device numbers) comes in
//! as an argument.

mod account;
mod adjust;
mod apparmor;
mod capabilities;
mod cgroup;
mod check;
mod classes;
mod container;
mod devices;
mod edits;
mod files;
mod identity;
mod init;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod sandbox;
mod seccomp;
mod selinux;
mod signals;
mod storage;
mod sysctls;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::container::{Accounts, Device, ImageFacts};
use crate::facts::HostDevice;
use crate::sandbox::{SandboxSpec, UserNamespace};

pub use account::NewAccount;
pub use adjust::{Adjustment, BlockIoChange, RdtChange, adjust};
pub use apparmor::DEFAULT_PROFILE;
pub use cgroup::{DEFAULT_CGROUP_PARENT, parent_cgroup};
pub use classes::{ClassNames, NamedClass, Shares, class_names};
pub use container::plan_container;
pub use edits::{EditHook, EditMount, EditNode, EditRdt, Edits, HookPoint, NodeKind};
pub use resources::{oom_score_adj as plan_oom_score, plan_resources};
pub use sandbox::plan_sandbox;
pub use selinux::mount_label;
pub use storage::{LOG_LIMIT, StorageLimits, WRITABLE_LAYER_LIMIT, bytes, storage_limits};

/// Version of the OCI runtime specification that the plans follow: the lowest that has all they
/// use. Runtimes refuse what is newer than themselves (crun of Debian 12 takes no 1.2).
const OCI_VERSION: &str = "1.1.0";

/// A kernel namespace that a pod may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Network.
    Network,
    /// IPC.
    Ipc,
    /// Host name.
    Uts,
    /// Process ids; needs an init.
    Pid,
    /// User and group ids; owns the others.
    User,
}

/// What to do to make a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxPlan {
    /// Namespaces to make and pin.
    pub namespaces: Vec<Namespace>,
    /// The maps of the user namespace, if one is made.
    pub user: Option<UserNamespace>,
    /// Name for the UTS namespace, if one is made.
    pub hostname: String,
    /// Files to write inside the new namespaces, relative to `/proc/sys`, with their values.
    pub sysctls: Vec<(String, String)>,
    /// Content of `/etc/hostname`.
    pub etc_hostname: String,
    /// Content of `/etc/hosts`.
    pub etc_hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub etc_resolv_conf: String,
    /// Size of the pod's own `/dev/shm`, bytes; `None` where the host's is used.
    pub shm_size: Option<u64>,
    /// Specification of the built-in init, where the pod shares its process ids.
    pub init: Option<Box<Spec>>,
}

/// Paths of a sandbox that plans refer to. All are absolute paths of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxPaths {
    /// Folder with the pinned namespaces `net`, `ipc`, `uts`, `pid`, `user`.
    pub namespaces: PathBuf,
    /// The pod's `/dev/shm`.
    pub shm: PathBuf,
    /// The pod's `/etc/hostname`.
    pub hostname: PathBuf,
    /// The pod's `/etc/hosts`.
    pub hosts: PathBuf,
    /// The pod's `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The program that a shared process id namespace gets as its first process.
    pub init_program: PathBuf,
}

/// Everything that decides a container's plan, besides its own specification.
#[derive(Clone, Debug)]
pub struct ContainerInputs<'a> {
    /// Id of the container.
    pub id: &'a str,
    /// Id of its sandbox.
    pub sandbox_id: &'a str,
    /// The sandbox as asked for.
    pub sandbox: &'a SandboxSpec,
    /// Paths of the sandbox.
    pub paths: &'a SandboxPaths,
    /// What the classes come to that are named for the container.
    pub shares: &'a Shares,
    /// The image's say.
    pub image: &'a ImageFacts,
    /// The image's accounts.
    pub accounts: &'a Accounts,
    /// The process whose process id namespace is joined, for `ContainerPidMode::Target`.
    pub target_pid: Option<i32>,
    /// Devices found at the host paths of
    /// [`ContainerSpec::devices`](crate::ContainerSpec::devices) (folders spread out), each with the
    /// path that it gets in the container and its permissions.
    pub devices: &'a [(HostDevice, Device)],
    /// What vendors add for [`ContainerSpec::cdi_devices`](crate::ContainerSpec::cdi_devices).
    pub edits: &'a Edits,
    /// Text of the localhost seccomp profile, if one was asked for.
    pub seccomp_profile: Option<&'a str>,
    /// For each mount of the specification: where its source really lies (links resolved).
    pub mount_sources: &'a [PathBuf],
}

/// What to do to make a container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerPlan {
    /// The OCI specification; its root is `rootfs` beside it.
    pub spec: Spec,
    /// The container's control group, as in the specification.
    pub cgroup: String,
    /// The signal that asks it to stop, as a number.
    pub stop_signal: i32,
    /// The same by name.
    pub stop_signal_name: String,
    /// User id that the process gets.
    pub uid: u32,
    /// Group id that it gets.
    pub gid: u32,
    /// Its other groups.
    pub supplemental_groups: Vec<u32>,
    /// What its image's accounts lack.
    pub account: NewAccount,
    /// Environment of the container, which execs get too.
    pub env: BTreeMap<String, String>,
}

/// Why no plan could be made. Fields are named as the client named them: a path in the container's
/// or the sandbox's configuration, such as `linux.security_context.run_as_group`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A field holds what can never be right.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as a path in the specification.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The field is right, but this node cannot do it.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field, as a path in the specification.
        field: String,
        /// What the node lacks.
        reason: String,
    },
}

impl PlanError {
    /// The field holds what can never be right.
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The field is right, but this node cannot do it.
    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
