//! Places for mounts that somebody else will make: criu puts a container's mounts back on folders
//! and files that must be there, and wants the root to be a mount.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};

use super::mounts::{attach, target_like};
use super::rooted;
use crate::failure::{Attempt, Result};
use crate::plan::{InitPlan, Mount, Source};
use crate::prepare::tree;

/// Shows the root file system at `place`, with a place for every mount of the plan. For a process
/// in a mount namespace of its own: nothing of this is seen outside but the places.
pub(crate) fn show(plan: &InitPlan<'_>, place: &Path) -> Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).attempt(|| "detach mounts from those of the host".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Binds may be on folders that are in other binds; so they are made here, all go again with
    // the first showing, and criu makes its own.
    show_plain(plan, place)?;
    make_all(plan, place)?;
    unmount(place, UnmountFlags::DETACH).attempt(|| format!("unmount {place:?}"))?;
    show_plain(plan, place)
}

fn show_plain(plan: &InitPlan<'_>, place: &Path) -> Result<()> {
    let root = tree(CWD, &plan.rootfs.path, true)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, place, flags)
        .attempt(|| format!("mount the root file system on {place:?}"))
}

fn make_all(plan: &InitPlan<'_>, place: &Path) -> Result<()> {
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root =
        rustix::fs::open(place, flags, Mode::empty()).attempt(|| format!("open {place:?}"))?;
    let root = root.as_fd();
    for mount in plan.mounts.iter().filter(|mount| !is_on_tmpfs(plan, mount)) {
        match &mount.source {
            Source::Bind { path, recursive } => {
                let source = tree(CWD, path, *recursive)?;
                let target = target_like(root, mount.destination, source.as_fd())?;
                attach(source.as_fd(), target.as_fd(), mount.destination)?;
            }
            Source::Filesystem { .. } => {
                rooted::directory(root, mount.destination)?;
            }
            // On v1 a tmpfs, with what is in it; on v2 in sysfs, which has the place.
            Source::CgroupV1 | Source::CgroupV2 | Source::Remount { .. } => {}
        }
    }
    Ok(())
}

/// What is in a tmpfs comes from the images.
fn is_on_tmpfs(plan: &InitPlan<'_>, mount: &Mount<'_>) -> bool {
    let below = |other: &Mount<'_>| {
        let rest = mount.destination.strip_prefix(other.destination);
        other.is_tmpfs() && rest.is_some_and(|rest| rest.starts_with('/'))
    };
    plan.mounts.iter().any(below)
}
