//! What the kernel can, found out by trying it in ways that leave nothing behind: a number of a version
//! says little where distributions take from later ones.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsopen,
    open_tree,
};
use sys::mount::{MountAttr, mount_setattr};

use crate::facts::{Layers, Tried};

/// Folders that every host has, neither of them in the other.
const FOLDERS: [&str; 2] = ["/etc", "/usr"];
/// The option of overlayfs that adds one layer.
const LOWER: &str = "lowerdir+";
/// Where control groups of version 2 lie; the root itself has no `cgroup.kill`.
const GROUPS: &str = "/sys/fs/cgroup";

/// Tries all.
pub(crate) fn kernel() -> Tried {
    Tried {
        mount_setattr: has_mount_setattr(),
        layers: layers(),
        landlock: sys::landlock::version().unwrap_or(0),
        cgroup_kill: has_cgroup_kill(),
    }
}

/// A call that asks for no change.
fn has_mount_setattr() -> Option<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, "/", flags, Mode::empty()).ok()?;
    match mount_setattr(root.as_fd(), false, MountAttr::default()) {
        Ok(()) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Some(false),
        Err(_) => None,
    }
}

/// Makes overlays that can only be read and hang nowhere.
fn layers() -> Option<Layers> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let nowhere = open_tree(CWD, FOLDERS[1], flags).ok()?;
    let context = || fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    let with_first = |context: OwnedFd| -> rustix::io::Result<OwnedFd> {
        fsconfig_set_string(context.as_fd(), LOWER, FOLDERS[0])?;
        Ok(context)
    };
    let by_descriptor = |context: OwnedFd| {
        fsconfig_set_fd(context.as_fd(), LOWER, nowhere.as_fd())?;
        fsconfig_create(context.as_fd())
    };
    let by_path = |context: OwnedFd| -> Result<(), Errno> {
        fsconfig_set_string(context.as_fd(), LOWER, FOLDERS[1])?;
        fsconfig_create(context.as_fd())
    };
    // Without overlayfs there is nothing to be said.
    let first = context().ok()?;
    if with_first(first).and_then(by_descriptor).is_ok() {
        return Some(Layers::Descriptors);
    }
    let second = context().ok()?;
    if with_first(second).and_then(by_path).is_ok() {
        return Some(Layers::Folders);
    }
    Some(Layers::Page)
}

fn has_cgroup_kill() -> Option<bool> {
    let groups = fs::read_dir(GROUPS).ok()?.flatten();
    let mut groups = groups
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists());
    let group = groups.find(|path| path.join("cgroup.events").exists())?;
    Some(group.join("cgroup.kill").exists())
}
