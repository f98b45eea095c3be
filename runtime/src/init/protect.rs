//! Kernel parameters, read-only paths and masked paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use sys::mount::{MountAttr, RDONLY, mount_setattr};

use super::{mounts, rooted};
use crate::failure::{Attempt, Failure, Result};
use crate::prepare::{ProcRoot, tree};

/// Writes kernel parameters of the container's namespaces.
pub(super) fn set_sysctls(proc: Option<&ProcRoot>, planned: &[(String, &str)]) -> Result<()> {
    for (path, value) in planned {
        let proc = proc.ok_or_else(|| Failure::new("procfs of the host is not open"))?;
        proc.write(&format!("sys/{path}"), value)
            .attempt(|| format!("set sysctl {path:?} to {value:?}"))?;
    }
    Ok(())
}

/// Binds each path on itself, read-only; missing ones need no protection.
pub(super) fn make_read_only(root: BorrowedFd<'_>, paths: &[&str]) -> Result<()> {
    let read_only = MountAttr {
        set: RDONLY,
        ..MountAttr::default()
    };
    for path in paths {
        let what = || format!("make {path:?} read-only");
        let Some(target) = existing(root, path)? else {
            continue;
        };
        let copy = tree(target.as_fd(), Path::new(""), true)?;
        mount_setattr(copy.as_fd(), false, read_only).attempt(what)?;
        mounts::attach(copy.as_fd(), target.as_fd(), path)?;
    }
    Ok(())
}

/// Covers files with `/dev/null` and folders with one empty read-only tmpfs.
pub(super) fn mask(root: BorrowedFd<'_>, paths: &[&str], null: Option<&OwnedFd>) -> Result<()> {
    let mut over_files = Cover {
        mount: null.map(AsFd::as_fd),
        attached: false,
    };
    let mut empty: Option<OwnedFd> = None;
    let mut folder_attached = false;
    for path in paths {
        let Some(target) = existing(root, path)? else {
            continue;
        };
        let status = fstat(&target).attempt(|| format!("look at {path:?}"))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            over_files.put(target.as_fd(), path)?;
            continue;
        }
        if empty.is_none() {
            empty = Some(empty_folder()?);
        }
        let mut over_folders = Cover {
            mount: empty.as_ref().map(AsFd::as_fd),
            attached: folder_attached,
        };
        over_folders.put(target.as_fd(), path)?;
        folder_attached = true;
    }
    Ok(())
}

/// A mount that covers many places: itself the first one, copies of it the others. A copy can only
/// be taken of a mount that is attached (before Linux 6.15).
#[derive(Debug)]
struct Cover<'fd> {
    mount: Option<BorrowedFd<'fd>>,
    attached: bool,
}

impl Cover<'_> {
    fn put(&mut self, target: BorrowedFd<'_>, path: &str) -> Result<()> {
        let mount = self
            .mount
            .ok_or_else(|| Failure::new("/dev/null of the host is not open"))?;
        if self.attached {
            let copy = tree(mount, Path::new(""), false)?;
            return mounts::attach(copy.as_fd(), target, path);
        }
        self.attached = true;
        mounts::attach(mount, target, path)
    }
}

/// A tmpfs in which nothing can be made: its root takes the only inode.
fn empty_folder() -> Result<OwnedFd> {
    let what = || "make an empty folder".to_owned();
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).attempt(what)?;
    for (key, value) in [
        ("source", "tmpfs"),
        ("nr_blocks", "1"),
        ("nr_inodes", "1"),
        ("mode", "755"),
    ] {
        fsconfig_set_string(&context, key, value).attempt(what)?;
    }
    fsconfig_create(&context).attempt(what)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .attempt(what)
}

fn existing(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match rooted::open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).attempt(|| format!("open {path:?} in the container")),
    }
}
