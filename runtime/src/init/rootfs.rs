//! The root of the container: attached, entered, finished.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use sys::mount::{MountAttr, RDONLY, mount_setattr};

use super::rooted;
use crate::failure::{Attempt, Result};
use crate::plan::InitPlan;
use crate::prepare::Sources;

/// Puts the detached root on top of the host's in this mount namespace, where it covers nothing that
/// is still needed: every source is open already.
///
/// createContainer hooks look for the container below its path on the host: for them it is there.
pub(super) fn attach(plan: &InitPlan<'_>, sources: &Sources, at_its_path: bool) -> Result<()> {
    // The copy of the host's tree must pass nothing back, whatever the container's own mounts do.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .attempt(|| "detach mounts from those of the host".to_owned())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let place = if at_its_path {
        plan.rootfs.path.as_path()
    } else {
        Path::new("/")
    };
    move_mount(&sources.rootfs, "", CWD, place, flags)
        .attempt(|| format!("mount the root file system {:?}", plan.rootfs.path))
}

/// Makes the folder that the program starts in, as every runtime does.
pub(super) fn make_working_directory(root: BorrowedFd<'_>, plan: &InitPlan<'_>) -> Result<()> {
    if plan.process.cwd == "/" {
        return Ok(());
    }
    // A file in its place is found by chdir, which says so.
    let _there_or_not = rooted::directory(root, plan.process.cwd);
    Ok(())
}

/// Makes the container's root the root of this process and lets go of the host's.
pub(super) fn enter(plan: &InitPlan<'_>, sources: &Sources) -> Result<OwnedFd> {
    fchdir(&sources.rootfs).attempt(|| "enter the root file system".to_owned())?;
    if plan.rootfs.no_pivot {
        chroot(".").attempt(|| "chroot".to_owned())?;
    } else {
        // pivot_root(2): with "." twice the old root ends up on top of the new one.
        pivot_root(".", ".").attempt(|| "pivot_root".to_owned())?;
        unmount(".", UnmountFlags::DETACH).attempt(|| "unmount the host".to_owned())?;
    }
    chdir("/").attempt(|| "chdir to /".to_owned())?;
    if plan.rootfs.propagation_given {
        let spread = plan.rootfs.propagation;
        mount_setattr(sources.rootfs.as_fd(), spread.recursive, spread.attr())
            .attempt(|| "set rootfsPropagation".to_owned())?;
    }
    open_current()
}

/// The root of this process.
pub(super) fn open_current() -> Result<OwnedFd> {
    open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(|| "open the root of the container".to_owned())
}

/// Read-only attributes that had to wait until everything was in place.
pub(super) fn finalise(root: BorrowedFd<'_>, plan: &InitPlan<'_>) -> Result<()> {
    let read_only = MountAttr {
        set: RDONLY,
        ..MountAttr::default()
    };
    for mount in plan
        .mounts
        .iter()
        .filter(|mount| super::mounts::is_late(mount))
    {
        let what = || format!("make {:?} read-only", mount.destination);
        let target = rooted::open(root, mount.destination, OFlags::PATH).attempt(what)?;
        mount_setattr(target.as_fd(), false, read_only).attempt(what)?;
    }
    if plan.rootfs.readonly {
        mount_setattr(root, false, read_only).attempt(|| "make the root read-only".to_owned())?;
    }
    Ok(())
}
