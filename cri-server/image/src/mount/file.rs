//! Mounts EROFS images from the files that they are (kernel documentation, erofs.rst; Linux 6.12
//! with `EROFS_FS_BACKED_BY_FILE`, no loop device). The mounts hang nowhere.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::overlay::explain;
use crate::Error;
use crate::error::During;

/// Mounts the image that a file is. The mount ends with the descriptor and all that was made of it.
pub(crate) fn mount_image(file: &File) -> Result<OwnedFd, Error> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)
        .during(|| "asking for the file system erofs")?;
    // By its descriptor: a path can be longer than an option.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    fsconfig_set_string(context.as_fd(), "source", source)
        .map_err(|errno| explain(&context, errno, "erofs: naming the image"))?;
    fsconfig_create(context.as_fd())
        .map_err(|errno| explain(&context, errno, "erofs: opening the image"))?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(context.as_fd(), flags, MountAttrFlags::MOUNT_ATTR_RDONLY)
        .during(|| "erofs: mounting the image")
}
