//! Layers whose files have other ids: each a mount of its own, mapped as a user namespace maps
//! (mount_setattr(2), `MOUNT_ATTR_IDMAP`). Nothing is copied and nothing changes its owner.
//!
//! The mounts hang nowhere. Linux 6.14 takes such ones as layers; for older ones `page` attaches them
//! where nobody sees them. Before 5.19 overlayfs takes no mapped layers at all, and the store says so,
//! see [`crate::Store::can_map_ids`].

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::Error;
use crate::error::During;
use crate::store::lower::Lower;

/// What an id is that has no other (`/proc/sys/kernel/overflowuid`, "nobody").
const NOBODY: u32 = 65_534;

/// How the ids of an image are to appear: as a user namespace maps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// A file that is the user namespace.
    pub namespace: PathBuf,
    /// Which user ids of the host its own are, from 0 on.
    pub uids: std::ops::Range<u32>,
    /// Which group ids of the host its own are, from 0 on.
    pub gids: std::ops::Range<u32>,
}

impl IdMap {
    /// The user namespace.
    pub(super) fn open(&self) -> Result<File, Error> {
        File::open(&self.namespace)
            .during(|| format!("opening user namespace {}", self.namespace.display()))
    }

    /// A user id of an image, as the host knows it.
    pub(super) fn uid(&self, uid: u32) -> u32 {
        on_host(&self.uids, uid)
    }

    /// A group id of an image, as the host knows it.
    pub(super) fn gid(&self, gid: u32) -> u32 {
        on_host(&self.gids, gid)
    }
}

fn on_host(range: &std::ops::Range<u32>, id: u32) -> u32 {
    let host = range.start.checked_add(id);
    host.filter(|id| range.contains(id)).unwrap_or(NOBODY)
}

/// The same layers, with mapped ids.
pub(super) fn mapped(lowers: &[Lower], ids: &IdMap) -> Result<Vec<Lower>, Error> {
    let namespace = ids.open()?;
    let map = |lower: &Lower| {
        let mapped = map_one(lower, &namespace)?;
        Ok(Lower::Mount(Arc::new(mapped)))
    };
    lowers.iter().map(map).collect()
}

/// One layer, with ids as the user namespace maps them.
pub(super) fn map_one(lower: &Lower, namespace: &File) -> Result<OwnedFd, Error> {
    clone_mapped(lower, namespace).during(|| format!("mapping the ids of {lower:?}"))
}

fn clone_mapped(lower: &Lower, namespace: &File) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = match lower {
        Lower::Folder(path) => open_tree(CWD, path, flags)?,
        Lower::Mount(mount) => open_tree(mount, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?,
    };
    sys::mount::mount_map_ids(mount.as_fd(), false, namespace.as_fd())?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_not_mapped_are_nobodys() {
        let map = IdMap {
            namespace: PathBuf::new(),
            uids: 1000..1010,
            gids: u32::MAX - 1..u32::MAX,
        };
        assert_eq!([map.uid(0), map.uid(9), map.uid(10)], [1000, 1009, NOBODY]);
        assert_eq!(
            [map.gid(0), map.gid(1), map.gid(5)],
            [u32::MAX - 1, NOBODY, NOBODY]
        );
    }
}
