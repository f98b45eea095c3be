//! The mounts of the configuration, each on a descriptor of its target below the new root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
    move_mount,
};
use sys::mount::{MountAttr, RDONLY, mount_setattr};

use super::rooted;
use crate::failure::{Attempt, Failure, Result};
use crate::plan::{InitPlan, Mount, Source};
use crate::prepare::{Opened, Sources, cgroup_folders, tree};

/// Longest value that fsconfig(2) takes as a string.
const MAX_VALUE: usize = 255;

/// Data of a new filesystem: a flag, or a key with its value.
type Data<'a> = [(&'a str, Option<&'a str>)];

/// A read-only tmpfs becomes so when devices and the like have been put into it.
pub(super) fn is_late(mount: &Mount<'_>) -> bool {
    mount.is_tmpfs() && mount.attr.set & RDONLY != 0
}

/// Makes all mounts in order.
pub(super) fn make_all(root: BorrowedFd<'_>, plan: &InitPlan<'_>, sources: &Sources) -> Result<()> {
    for (mount, opened) in plan.mounts.iter().zip(&sources.mounts) {
        make(root, mount, opened, plan.mount_label)?;
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, mount: &Mount<'_>, opened: &Opened, label: &str) -> Result<()> {
    match (&mount.source, opened) {
        (Source::Bind { .. } | Source::CgroupV2, Opened::Tree(tree)) => {
            let target = target_like(root, mount.destination, tree.as_fd())?;
            attach(tree.as_fd(), target.as_fd(), mount.destination)
        }
        (Source::CgroupV1, Opened::Folders(folders)) => cgroup_v1(root, mount, folders),
        (Source::CgroupV1, Opened::Unmade(groups)) => {
            cgroup_v1(root, mount, &cgroup_folders(mount, groups)?)
        }
        (Source::CgroupV2, _) => filesystem(root, mount, "cgroup2", "cgroup2", &[], label),
        (Source::Remount { data }, _) => remount(root, mount, data),
        (Source::Filesystem { kind, source, data }, _) => {
            filesystem(root, mount, kind, source, data, label)
        }
        _ => Err(Failure::new(format!(
            "mount {:?}: its source is not open",
            mount.destination
        ))),
    }
}

/// A target of the kind of its source: a folder for a folder, else a file.
pub(super) fn target_like(
    root: BorrowedFd<'_>,
    path: &str,
    source: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let status = fstat(source).attempt(|| format!("look at the source of {path:?}"))?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        Ok(rooted::directory(root, path)?.fd)
    } else {
        rooted::file(root, path)
    }
}

/// Puts a detached mount in its place.
pub(super) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, path: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags).attempt(|| format!("mount on {path:?}"))
}

fn filesystem(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    kind: &str,
    source: &str,
    data: &Data<'_>,
    label: &str,
) -> Result<()> {
    let path = mount.destination;
    let target = if mount.needs_real_directory() {
        real_directory(root, path)?
    } else {
        rooted::directory(root, path)?
    };
    let mut data = data.to_vec();
    let mode = inherited_mode(mount, &target, &data)?;
    if let Some(mode) = &mode {
        data.push(("mode", Some(mode)));
    }
    let quoted = format!("\"{label}\"");
    if !label.is_empty() && !matches!(kind, "proc" | "sysfs") {
        data.push(("context", Some(&quoted)));
    }
    let made = match new(kind, source, &data, mount) {
        // sysfs(5): only for who owns the network namespace; the host's shows the same then.
        Err(NotMade {
            error: Errno::PERM, ..
        }) if kind == "sysfs" => of_host(mount, "/sys")?,
        // The same holds of the cgroup namespace, where the host's is shared.
        Err(NotMade {
            error: Errno::PERM | Errno::BUSY,
            ..
        }) if kind == "cgroup2" => of_host(mount, "/sys/fs/cgroup")?,
        made => made.attempt_in(path, kind)?,
    };
    if mount.copy_up {
        copy_up(root, path, made.as_fd())?;
    }
    attach(made.as_fd(), target.fd.as_fd(), path)?;
    for propagation in &mount.propagation {
        mount_setattr(made.as_fd(), propagation.recursive, propagation.attr())
            .attempt(|| format!("set the propagation of {path:?}"))?;
    }
    if mount.recursive_attr != MountAttr::default() {
        mount_setattr(made.as_fd(), true, mount.recursive_attr)
            .attempt(|| format!("set the attributes of {path:?}"))?;
    }
    Ok(())
}

fn of_host(mount: &Mount<'_>, path: &str) -> Result<OwnedFd> {
    let made = tree(CWD, Path::new(path), true)?;
    mount_setattr(made.as_fd(), true, mount.attr)
        .attempt(|| format!("set the attributes of {:?}", mount.destination))?;
    Ok(made)
}

/// procfs and sysfs go on a real folder: a symlink in its place would let an image choose where.
fn real_directory(root: BorrowedFd<'_>, path: &str) -> Result<rooted::Directory> {
    let (above, name) = rooted::parent(root, path)?;
    match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => {
            return Err(error).attempt(|| format!("make folder {path:?} in the container"));
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(&above, name, flags, Mode::empty())
        .attempt(|| format!("open {path:?} in the container"))?;
    let status = fstat(&fd).attempt(|| format!("look at {path:?}"))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        return Err(Failure::new(format!(
            "{path:?} must be mounted on ordinary directory"
        )));
    }
    Ok(rooted::Directory { fd, made: false })
}

/// A tmpfs without a mode gets that of the folder it covers.
fn inherited_mode(
    mount: &Mount<'_>,
    target: &rooted::Directory,
    data: &Data<'_>,
) -> Result<Option<String>> {
    if !mount.is_tmpfs() || target.made || data.iter().any(|(key, _)| *key == "mode") {
        return Ok(None);
    }
    let status = fstat(&target.fd).attempt(|| format!("look at {:?}", mount.destination))?;
    Ok(Some(format!("{:o}", status.st_mode & 0o7777)))
}

/// Why a filesystem could not be made.
#[derive(Debug)]
struct NotMade {
    step: String,
    error: Errno,
    /// What the filesystem itself says (fsopen(2), "the message log").
    log: String,
}

trait AttemptIn<T> {
    fn attempt_in(self, path: &str, kind: &str) -> Result<T>;
}

impl<T> AttemptIn<T> for std::result::Result<T, NotMade> {
    fn attempt_in(self, path: &str, kind: &str) -> Result<T> {
        self.or_else(|NotMade { step, error, log }| {
            Err(error).attempt(|| format!("mount {kind} on {path:?}: {step}{log}"))
        })
    }
}

/// A new instance of a filesystem, mounted nowhere yet.
fn new(
    kind: &str,
    source: &str,
    data: &Data<'_>,
    mount: &Mount<'_>,
) -> std::result::Result<OwnedFd, NotMade> {
    let failed = |step: &str, error, log| NotMade {
        step: step.to_owned(),
        error,
        log,
    };
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|error| failed("open the filesystem", error, String::new()))?;
    let said = || message_log(context.as_fd());
    if !source.is_empty() {
        fsconfig_set_string(&context, "source", source)
            .map_err(|error| failed("set the source", error, said()))?;
    }
    configure(context.as_fd(), data)?;
    if mount.attr.set & RDONLY != 0 && !has_no_disk(kind) {
        fsconfig_set_flag(&context, "ro").map_err(|error| failed("set ro", error, said()))?;
    }
    fsconfig_create(&context).map_err(|error| failed("create", error, said()))?;
    let mut attr = mount.attr.set;
    if is_late(mount) {
        attr &= !RDONLY;
    }
    // The bits are those of MOUNT_ATTR_*, which all fit into 32.
    let attr = MountAttrFlags::from_bits_retain(u32::try_from(attr).unwrap_or(0));
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr)
        .map_err(|error| failed("make the mount", error, said()))
}

/// Filesystems that the kernel makes up: read-only is a matter of the mount, and one instance may be
/// shared by many mounts.
fn has_no_disk(kind: &str) -> bool {
    matches!(
        kind,
        "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2"
    )
}

fn configure(context: BorrowedFd<'_>, data: &Data<'_>) -> std::result::Result<(), NotMade> {
    for (key, value) in data {
        let set = match value {
            Some(value) if value.len() > MAX_VALUE => Err(Errno::NAMETOOLONG),
            Some(value) => fsconfig_set_string(context, *key, *value),
            None => fsconfig_set_flag(context, *key),
        };
        set.map_err(|error| NotMade {
            step: format!("set option {key:?}"),
            error,
            log: message_log(context),
        })?;
    }
    Ok(())
}

fn message_log(context: BorrowedFd<'_>) -> String {
    let mut buffer = [0_u8; 512];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) => format!(
            " ({})",
            String::from_utf8_lossy(&buffer[..length]).trim_end()
        ),
        Err(_) => String::new(),
    }
}

/// Changes what is mounted at the destination.
fn remount(root: BorrowedFd<'_>, mount: &Mount<'_>, data: &Data<'_>) -> Result<()> {
    let path = mount.destination;
    let what = || format!("remount {path:?}");
    let target = rooted::open(root, path, OFlags::PATH).attempt(what)?;
    if !data.is_empty() {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&target, "", flags).attempt(what)?;
        configure(context.as_fd(), data).attempt_in(path, "again")?;
        fsconfig_reconfigure(&context).attempt(what)?;
    }
    mount_setattr(target.as_fd(), false, mount.attr).attempt(what)
}

/// A tmpfs with one folder for each hierarchy, in which the container's own group is the root.
fn cgroup_v1(root: BorrowedFd<'_>, mount: &Mount<'_>, folders: &[(String, OwnedFd)]) -> Result<()> {
    let path = mount.destination;
    let target = rooted::directory(root, path)?;
    let attr = MountAttr {
        set: mount.attr.set & !RDONLY,
        ..MountAttr::default()
    };
    let plain = Mount {
        destination: path,
        source: Source::CgroupV1,
        attr,
        recursive_attr: MountAttr::default(),
        propagation: Vec::new(),
        id_maps: None,
        copy_up: false,
    };
    let base = new("tmpfs", "tmpfs", &[("mode", Some("755"))], &plain).attempt_in(path, "tmpfs")?;
    attach(base.as_fd(), target.fd.as_fd(), path)?;
    for (name, folder) in folders {
        let what = || format!("mount on \"{path}/{name}\"");
        // In a file system as new as this one, nothing but our own folders can be in the way.
        mkdirat(&base, name.as_str(), Mode::from_raw_mode(0o755)).attempt(what)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(folder, "", &base, name.as_str(), flags).attempt(what)?;
        // "cpu,cpuacct" is also found under each of its names.
        for alias in name.split(',').filter(|alias| *alias != name) {
            symlinkat(name.as_str(), &base, alias).attempt(|| format!("link {path:?}/{alias}"))?;
        }
    }
    if mount.attr.set & RDONLY != 0 {
        let attr = MountAttr {
            set: RDONLY,
            ..MountAttr::default()
        };
        mount_setattr(base.as_fd(), false, attr).attempt(|| format!("make {path:?} read-only"))?;
    }
    Ok(())
}

/// Copies what a tmpfs is about to cover into it.
fn copy_up(root: BorrowedFd<'_>, path: &str, into: BorrowedFd<'_>) -> Result<()> {
    let what = || format!("copy {path:?} up");
    let from = rooted::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY).attempt(what)?;
    super::copy::tree(from.as_fd(), into, 0).attempt(what)
}
