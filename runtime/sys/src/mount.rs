//! The one call of the new mount API that rustix lacks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::outcome;

/// What [`mount_setattr`] is to change: `struct mount_attr`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to turn on.
    pub set: u64,
    /// `MOUNT_ATTR_*` to turn off. For the access time, which is a number and no set of bits,
    /// [`ATIME`] must be in here whenever one of its values is in `set`.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three values below (relatime is 0).
pub const ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`.
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
pub const NOSYMFOLLOW: u64 = 0x20_0000;
/// `MOUNT_ATTR_IDMAP`.
pub const IDMAP: u64 = 0x10_0000;

const AT_RECURSIVE: i32 = 0x8000;

fn set_attr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr, user: u64) -> io::Result<()> {
    let raw = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: user,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let path: &CStr = c"";
    // SAFETY: path and raw live through the call, and the size is that of raw.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// `int mount_setattr(int dfd, "", AT_EMPTY_PATH [| AT_RECURSIVE], struct mount_attr *, size_t)`.
///
/// # Errors
///
/// `EINVAL`: not the root of a mount, or contradicting attributes. `EPERM`: a locked attribute.
/// `EBUSY`: made read-only while written to. `ENOSYS` before Linux 5.12.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> io::Result<()> {
    set_attr(mount, recursive, attr, 0)
}

/// The same with `MOUNT_ATTR_IDMAP`: maps the ids of a detached mount as `user` (a user namespace)
/// maps them.
///
/// # Errors
///
/// `EINVAL`: the filesystem cannot, or the mount is attached or mapped already. `EPERM`.
pub fn mount_map_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    user: BorrowedFd<'_>,
) -> io::Result<()> {
    let number = u64::try_from(user.as_raw_fd()).map_err(io::Error::other)?;
    set_attr(
        mount,
        recursive,
        MountAttr {
            set: IDMAP,
            ..MountAttr::default()
        },
        number,
    )
}
