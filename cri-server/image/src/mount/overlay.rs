//! Overlays that are mounted nowhere yet, made in the way that this kernel knows.
//!
//! Kernels differ in how they take layers. Which way it is gets found out once, by trying it: the
//! number of a version says little where distributions take from later ones.
//!
//! | way | layers that are folders | layers with mapped ids | layers that are images |
//! |---|---|---|---|
//! | [`Way::Descriptors`] (as Linux since 6.14) | an option each | an option each | an option each |
//! | [`Way::Folders`] (since 6.8) | an option each | one text | never |
//! | [`Way::Page`] (before) | one text | one text (since 5.19, else never) | never |

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use super::{IdMap, ids, page};
use crate::Error;
use crate::error::During;
use crate::store::lower::Lower;

/// The option of overlayfs that adds a layer below the others.
const LOWER: &str = "lowerdir+";
/// Longest text that `fsconfig` takes, in bytes; longer paths go by way of a descriptor.
const MAX_OPTION: usize = 255;

/// How this kernel takes the layers of an overlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// One by one, also those that are mounted nowhere.
    Descriptors,
    /// One by one; mounts only where they are attached.
    Folders,
    /// All of them in one text.
    Page,
}

impl Way {
    /// Tries them on two folders of which neither lies in the other. Blocks.
    pub(super) fn find(folders: [&Path; 2]) -> Self {
        let [first, second] = folders.map(|path| Lower::Folder(path.to_path_buf()));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let nowhere = open_tree(CWD, folders[1], flags).map(|mount| Lower::Mount(Arc::new(mount)));
        let takes = |lowers: &[Lower]| by_descriptors(lowers, &[], Look::default()).is_ok();
        if nowhere.is_ok_and(|nowhere| takes(&[first.clone(), nowhere])) {
            return Self::Descriptors;
        }
        if takes(&[first, second]) {
            return Self::Folders;
        }
        Self::Page
    }

    /// Folders over each other, the top first, mounted nowhere yet. At `place`, a folder of ours, it
    /// may be mounted meanwhile where nobody else sees it. Blocks.
    pub(super) fn overlay(
        self,
        lowers: &[Lower],
        writable: &[(&'static str, &Path)],
        look: Look<'_>,
        place: &Path,
    ) -> Result<OwnedFd, Error> {
        match self {
            Self::Descriptors => by_descriptors(lowers, writable, look),
            Self::Folders if look.ids.is_none() => by_descriptors(lowers, writable, look),
            Self::Folders | Self::Page => page::overlay(lowers, writable, look, place),
        }
    }
}

/// How files are to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look<'a> {
    /// How the ids of all but the writable folders are mapped; those have the host's already.
    pub(crate) ids: Option<&'a IdMap>,
    /// The SELinux context of all files (mount(8), "context=").
    pub(crate) label: Option<&'a str>,
}

/// Folders over each other, the top first, mounted nowhere yet. Every layer is an option of its own:
/// their number is not bounded by a page of options.
pub(crate) fn by_descriptors(
    lowers: &[Lower],
    writable: &[(&'static str, &Path)],
    look: Look<'_>,
) -> Result<OwnedFd, Error> {
    let mapped = look.ids.map(|ids| ids::mapped(lowers, ids)).transpose()?;
    let context =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during(|| "asking for overlayfs")?;
    for lower in mapped.as_deref().unwrap_or(lowers) {
        add_lower(&context, lower)?;
    }
    for (key, folder) in writable {
        set_folder(&context, key, folder)?;
    }
    fsconfig_set_string(context.as_fd(), "source", "overlay")
        .during(|| "naming the file system")?;
    // Files of several file systems would else be of several devices, and change their inode when
    // they are written to (kernel documentation, overlayfs.rst, "Inode properties").
    if lowers.iter().any(Lower::is_mount) {
        fsconfig_set_string(context.as_fd(), "xino", "on")
            .map_err(|errno| explain(&context, errno, "overlayfs: xino"))?;
    }
    if let Some(label) = look.label {
        fsconfig_set_string(context.as_fd(), "context", label)
            .map_err(|errno| explain(&context, errno, &format!("overlayfs: context={label}")))?;
    }
    if !writable.is_empty() {
        fsconfig_set_flag(context.as_fd(), "volatile")
            .map_err(|errno| explain(&context, errno, "overlayfs: volatile"))?;
    }
    fsconfig_create(context.as_fd())
        .map_err(|errno| explain(&context, errno, "overlayfs: creating the file system"))?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(context.as_fd(), flags, MountAttrFlags::empty()).during(|| "mounting overlayfs")
}

/// Adds what lies below all that was added before.
fn add_lower(context: &OwnedFd, lower: &Lower) -> Result<(), Error> {
    match lower {
        Lower::Folder(path) => set_folder(context, LOWER, path),
        Lower::Mount(mount) => fsconfig_set_fd(context.as_fd(), LOWER, mount.as_fd())
            .map_err(|errno| explain(context, errno, &format!("overlayfs: {LOWER}"))),
    }
}

/// Names a folder by its path. One whose path is too long is opened, and named by its descriptor.
fn set_folder(context: &OwnedFd, key: &str, path: &Path) -> Result<(), Error> {
    let explained = |errno| {
        explain(
            context,
            errno,
            &format!("overlayfs: {key}={}", path.display()),
        )
    };
    if path.as_os_str().as_bytes().len() <= MAX_OPTION {
        return fsconfig_set_string(context.as_fd(), key, path.as_os_str()).map_err(explained);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder =
        openat(CWD, path, flags, Mode::empty()).during(|| format!("opening {}", path.display()))?;
    let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
    fsconfig_set_string(context.as_fd(), key, name).map_err(explained)
}

/// The kernel's own words, where it has some (fsopen(2), "the kernel's message log").
pub(super) fn explain(context: &OwnedFd, errno: Errno, what: &str) -> Error {
    let mut words = [0; 512];
    let told = rustix::io::read(context, &mut words).unwrap_or(0);
    let told = String::from_utf8_lossy(&words[..told]).trim().to_owned();
    Error::io(format!("{what}: {told}"), &errno.into())
}
