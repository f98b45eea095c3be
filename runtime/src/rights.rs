//! What this process may do: the questions whose answers tell root, an ordinary user, and a root
//! that somebody has made by a user namespace apart.
//!
//! It asks the kernel and decides nothing.

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::failure::{Attempt, Result};

/// Number of the first user namespace, which never changes (linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// The rights of this process, and its ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rights {
    /// Administers its user namespace (`CAP_SYS_ADMIN`): may make and enter namespaces without a new
    /// user namespace.
    pub(crate) administers: bool,
    /// May go back to namespaces that it leaves: those of the machine take a root of the machine.
    pub(crate) returns: bool,
    /// May copy mounts of its own mount namespace. Who may not needs a new one for that: an ordinary
    /// user, or a root by a user namespace that still is in the mount namespace of its maker.
    pub(crate) copies_mounts: bool,
    /// May make device nodes: `CAP_MKNOD` in the first user namespace.
    pub(crate) makes_nodes: bool,
    /// May map any ids that it has into a new user namespace (`CAP_SETUID`, `CAP_SETGID`).
    pub(crate) maps_ids: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Rights {
    /// Those of this process.
    pub(crate) fn own() -> Result<Rights> {
        let sets = capabilities(None).attempt(|| "read capabilities".to_owned())?;
        let has = |set| sets.effective.contains(set);
        let administers = has(CapabilitySet::SYS_ADMIN);
        let first = in_first_user_namespace();
        Ok(Rights {
            administers,
            returns: administers && first,
            copies_mounts: administers && (first || can_copy_a_mount()),
            makes_nodes: first && has(CapabilitySet::MKNOD),
            maps_ids: has(CapabilitySet::SETUID | CapabilitySet::SETGID),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        })
    }
}

fn in_first_user_namespace() -> bool {
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|status| status.st_ino == FIRST_USER_NAMESPACE)
}

/// Nothing shorter tells whose the mount namespace is.
fn can_copy_a_mount() -> bool {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // Not "/": what lies below it may be locked to it, which is another refusal.
    open_tree(CWD, "/proc/self/exe", flags).is_ok()
}

/// Whether control groups are made as far as that is permitted, and done without otherwise:
/// `--rootless true` or `false`, else as runc decides.
pub(crate) fn is_rootless(wanted: Option<bool>) -> bool {
    wanted.unwrap_or_else(is_users_own)
}

/// An ordinary user, or the root of a user namespace that such a user has made: in a container that
/// has one, root is called so.
pub(crate) fn is_users_own() -> bool {
    if !geteuid().is_root() {
        return true;
    }
    !in_first_user_namespace() && std::env::var_os("USER").is_none_or(|name| name != "root")
}
