//! What [`crate::look`] finds and [`crate::judge`] judges: plain values, nothing of their meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A host, as far as pods depend on it. What could not be read is missing, never guessed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether this was looked at as root, who sees everything.
    pub(crate) root: bool,
    /// The kernel's release, as uname(2) has it.
    pub(crate) release: String,
    /// What was tried of the kernel.
    pub(crate) tried: Tried,
    /// Names in `/proc/filesystems`.
    pub(crate) filesystems: BTreeSet<String>,
    /// Modules that are loaded, built in, or can be loaded; with underscores.
    pub(crate) modules: BTreeSet<String>,
    /// Names in `/proc/self/ns`.
    pub(crate) namespaces: BTreeSet<String>,
    /// Control groups.
    pub(crate) cgroups: Cgroups,
    /// Numbers below `/proc/sys`, each under its dotted name.
    pub(crate) sysctls: BTreeMap<&'static str, u64>,
    /// What a seccomp filter may answer.
    pub(crate) seccomp: BTreeSet<String>,
    /// Security modules that are active.
    pub(crate) lsm: BTreeSet<String>,
    /// Programs of interest that lie in PATH.
    pub(crate) programs: BTreeSet<&'static str>,
    /// The two folders of the daemon.
    pub(crate) disks: Vec<Disk>,
    /// Files or devices that are swapped to.
    pub(crate) swaps: usize,
    /// Memory in bytes: all, and what could be had.
    pub(crate) memory: Option<(u64, u64)>,
    /// The hard limit of open files; nothing for none.
    pub(crate) open_files: Option<u64>,
    /// Sockets that were looked at.
    pub(crate) sockets: Vec<Socket>,
    /// Network links.
    pub(crate) links: BTreeSet<String>,
    /// CNI configurations in their order, and where they lie.
    pub(crate) cni: (PathBuf, Vec<String>),
    /// Why the streaming server's address cannot be had, if so.
    pub(crate) streaming: Option<String>,
}

/// What was tried of the kernel; nothing where trying it needs rights that are not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    /// Whether it has mount_setattr(2).
    pub(crate) mount_setattr: Option<bool>,
    /// How overlays take layers.
    pub(crate) layers: Option<Layers>,
    /// The version of Landlock's ABI; 0 for none.
    pub(crate) landlock: u32,
    /// Whether control groups of version 2 have `cgroup.kill`.
    pub(crate) cgroup_kill: Option<bool>,
}

/// How the overlays of a kernel take layers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layers {
    /// One by one, also mounts that hang nowhere.
    Descriptors,
    /// One by one.
    Folders,
    /// All in one text.
    Page,
}

/// What is there of control groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroups {
    /// Controllers of version 1 that are mounted.
    pub(crate) v1: BTreeSet<String>,
    /// Controllers of version 2; nothing if it is not mounted.
    pub(crate) v2: Option<BTreeSet<String>>,
}

/// The file system that a folder lies on, or will lie on.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Which of the daemon's folders: the name of its key.
    pub(crate) key: &'static str,
    pub(crate) folder: PathBuf,
    /// Type of the file system; empty if it could not be told.
    pub(crate) kind: String,
    /// Bytes: all, and those that are free.
    pub(crate) bytes: (u64, u64),
    /// Inodes: all (0 where they are made as needed), and those that are free.
    pub(crate) inodes: (u64, u64),
}

/// A socket of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    /// Whose.
    pub(crate) engine: &'static str,
    pub(crate) path: PathBuf,
    /// Whether somebody answers.
    pub(crate) answers: bool,
}

/// The engine that this program belongs to, as a [`Socket::engine`].
pub(crate) const OURS: &str = "wherryd";
