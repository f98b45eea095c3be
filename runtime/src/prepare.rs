//! What the child will need of the host, opened before it exists: mount sources as detached trees,
//! the host's `/dev/null`, its procfs, the namespaces to join.
//!
//! The child then needs no path of the host: neither one that its mount namespace no longer has, nor
//! one that a user namespace may not reach. Everything is read in the host's mount namespace, so that
//! a bind with `rshared` is a peer of the host's mount.
//!
//! Who may not copy mounts here leaves all but the namespaces to the child, which does the same in
//! its own mount namespace before it changes anything there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, chmodat, chownat, fstat, fstatfs,
    makedev, mkdirat, mknodat, open, statx,
};
use rustix::mount::{OpenTreeFlags, open_tree};
use sys::mount::{MountAttr, NODEV, NOEXEC, NOSUID, RDONLY, mount_map_ids, mount_setattr};

use crate::failure::{Attempt, Failure, Result};
use crate::init::walk;
use crate::plan::{Device, DeviceKind, InitPlan, Mount, NamespaceKind, Source};
use crate::rights::Rights;
use crate::spec::RawIdMap;
use crate::user_namespace;

/// Opened sources of one mount.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Made by the child, in its own namespaces.
    Later,
    Tree(OwnedFd),
    /// Folder name below the mount, detached tree.
    Folders(Vec<(String, OwnedFd)>),
    /// The same as paths: for the child to open, once systemd has made them.
    Unmade(Vec<(String, PathBuf)>),
}

/// Everything that the child gets.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) rootfs: OwnedFd,
    /// One for each mount of the plan.
    pub(crate) mounts: Vec<Opened>,
    /// One for each device that is bound.
    pub(crate) devices: Vec<OwnedFd>,
    /// `/dev/null`, if paths are masked.
    pub(crate) null: Option<OwnedFd>,
    /// The host's procfs, if something has to be written to it.
    pub(crate) proc: Option<ProcRoot>,
}

/// Namespaces to join, in the order of joining.
pub(crate) type Joined = Vec<(NamespaceKind, OwnedFd)>;

/// A procfs that is known to be one: the only thing that writers of sysctls and of LSM labels take.
#[derive(Debug)]
pub(crate) struct ProcRoot(OwnedFd);

impl ProcRoot {
    /// The host's.
    pub(crate) fn of_host() -> Result<ProcRoot> {
        let what = || "open /proc of the host".to_owned();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open("/proc", flags, Mode::empty()).attempt(what)?;
        // proc(5): the root of every procfs has inode 1.
        let magic = fstatfs(&fd).attempt(what)?.f_type;
        if magic != rustix::fs::PROC_SUPER_MAGIC || fstat(&fd).attempt(what)?.st_ino != 1 {
            return Err(Failure::new("/proc of the host is not a procfs"));
        }
        Ok(ProcRoot(fd))
    }

    /// Opens a file below it for writing; nothing that is mounted over a part of it is entered
    /// (CVE-2019-16884, CVE-2025-52881).
    pub(crate) fn open_to_write(
        &self,
        path: &str,
    ) -> std::result::Result<OwnedFd, rustix::io::Errno> {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Err(error) if walk::is_denied(error) => walk::on_one_mount(self.0.as_fd(), path, flags),
            opened => opened,
        }
    }

    /// Writes one value in one go.
    pub(crate) fn write(
        &self,
        path: &str,
        value: &str,
    ) -> std::result::Result<(), rustix::io::Errno> {
        let file = self.open_to_write(path)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
        Ok(())
    }
}

/// Folders of the host that are the container's.
#[derive(Clone, Debug)]
pub(crate) struct Folders<'a> {
    /// Its control groups, for mounts of type cgroup: name below a v1 mount and the folder; on v2
    /// one entry.
    pub(crate) groups: &'a [(String, PathBuf)],
    /// They exist already.
    pub(crate) groups_made: bool,
    /// In its state: nodes, until they are bound, for their names must last until then.
    pub(crate) nodes: PathBuf,
}

/// A detached copy of the mount at `path`, with those below it if `recursive`.
pub(crate) fn tree(base: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(base, path, flags).attempt(|| format!("open mount source {path:?}"))
}

/// Opens everything that `plan` takes from the host but the namespaces.
pub(crate) fn sources(
    plan: &InitPlan<'_>,
    rights: &Rights,
    folders: &Folders<'_>,
) -> Result<Sources> {
    let private_cgroups = plan.namespaces.has(NamespaceKind::Cgroup);
    let mut mounts = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        mounts.push(opened(plan, rights, mount, folders, private_cgroups)?);
    }
    let needs_proc = !plan.sysctls.is_empty()
        || plan.process.apparmor_profile.is_some()
        || plan.process.selinux_label.is_some();
    Ok(Sources {
        rootfs: rootfs(plan)?,
        mounts,
        devices: devices(plan, &folders.nodes)?,
        null: if plan.masked_paths.is_empty() {
            None
        } else {
            Some(null()?)
        },
        proc: if needs_proc {
            Some(ProcRoot::of_host()?)
        } else {
            None
        },
    })
}

fn rootfs(plan: &InitPlan<'_>) -> Result<OwnedFd> {
    let path = &plan.rootfs.path;
    let what = || format!("open the root file system {path:?}");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let fd = open_tree(CWD, path, flags).attempt(what)?;
    if FileType::from_raw_mode(fstat(&fd).attempt(what)?.st_mode) != FileType::Directory {
        return Err(Failure::new(format!(
            "the root file system {path:?} is not a directory"
        )));
    }
    let spread = plan.rootfs.propagation;
    mount_setattr(fd.as_fd(), true, spread.attr())
        .attempt(|| format!("set the propagation of {path:?}"))?;
    // pivot_root(2) refuses a shared root; it gets its propagation afterwards.
    if spread.goes_out() {
        let private = MountAttr {
            propagation: 1 << 18,
            ..MountAttr::default()
        };
        mount_setattr(fd.as_fd(), false, private)
            .attempt(|| format!("set the propagation of {path:?}"))?;
    }
    Ok(fd)
}

fn opened(
    plan: &InitPlan<'_>,
    rights: &Rights,
    mount: &Mount<'_>,
    folders: &Folders<'_>,
    private_cgroups: bool,
) -> Result<Opened> {
    match &mount.source {
        Source::Bind { path, recursive } => {
            let tree = bind(plan, rights, mount, (path, *recursive))?;
            Ok(Opened::Tree(tree))
        }
        Source::CgroupV2 if private_cgroups && folders.groups_made => match folders.groups {
            [(_, folder), ..] => Ok(Opened::Tree(attributed(mount, tree(CWD, folder, false)?)?)),
            [] => Ok(Opened::Later),
        },
        Source::CgroupV1 if folders.groups_made => {
            Ok(Opened::Folders(cgroup_folders(mount, folders.groups)?))
        }
        Source::CgroupV1 => Ok(Opened::Unmade(folders.groups.to_vec())),
        _ => Ok(Opened::Later),
    }
}

/// One tree for each v1 hierarchy.
pub(crate) fn cgroup_folders(
    mount: &Mount<'_>,
    groups: &[(String, PathBuf)],
) -> Result<Vec<(String, OwnedFd)>> {
    let open = |(name, folder): &(String, PathBuf)| {
        Ok((name.clone(), attributed(mount, tree(CWD, folder, false)?)?))
    };
    groups.iter().map(open).collect()
}

fn bind(
    plan: &InitPlan<'_>,
    rights: &Rights,
    mount: &Mount<'_>,
    (path, recursive): (&Path, bool),
) -> Result<OwnedFd> {
    let fd = tree(CWD, path, recursive)?;
    if let Some(maps) = &mount.id_maps {
        let own = (&plan.namespaces.uid_maps[..], &plan.namespaces.gid_maps[..]);
        let (uids, gids) = if maps.uids.is_empty() {
            own
        } else {
            (maps.uids, maps.gids)
        };
        if uids.is_empty() {
            return Err(Failure::new(format!("bind {path:?}: no ids to map")));
        }
        let user = user_namespace::with_maps(rights, uids, gids)?;
        mount_map_ids(fd.as_fd(), maps.recursive, user.as_fd())
            .attempt(|| format!("map the ids of {path:?}"))?;
    }
    attributed(mount, fd)
}

/// Gives a detached tree the attributes and the propagation of `mount`.
fn attributed(mount: &Mount<'_>, fd: OwnedFd) -> Result<OwnedFd> {
    let what = || format!("set the attributes of {:?}", mount.destination);
    for propagation in &mount.propagation {
        mount_setattr(fd.as_fd(), propagation.recursive, propagation.attr()).attempt(what)?;
    }
    if mount.attr != MountAttr::default() {
        mount_setattr(fd.as_fd(), false, mount.attr).attempt(what)?;
    }
    if mount.recursive_attr != MountAttr::default() {
        mount_setattr(fd.as_fd(), true, mount.recursive_attr).attempt(what)?;
    }
    Ok(fd)
}

/// `/dev/null` of the host, seen to be it (CVE-2025-31133).
fn null() -> Result<OwnedFd> {
    let fd = tree(CWD, Path::new("/dev/null"), false)?;
    let status = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .attempt(|| "look at /dev/null".to_owned())?;
    let is_device = FileType::from_raw_mode(status.stx_mode.into()) == FileType::CharacterDevice;
    if !is_device || (status.stx_rdev_major, status.stx_rdev_minor) != (1, 3) {
        return Err(Failure::new("/dev/null of the host is not the null device"));
    }
    Ok(fd)
}

/// Trees of one node each.
fn devices(plan: &InitPlan<'_>, nodes: &Path) -> Result<Vec<OwnedFd>> {
    let bound = plan.devices.iter().flatten().filter(|device| device.bind);
    if bound.clone().any(|device| device.made) {
        // Nobody else may reach them, whatever their own modes are.
        mkdirat(CWD, nodes, Mode::RWXU).attempt(|| format!("make {nodes:?}"))?;
    }
    bound
        .enumerate()
        .map(|(number, device)| {
            let what = || format!("set the attributes of {:?}", device.path);
            let (node, clear) = if device.made {
                // The state may lie where nodes do not count.
                (
                    make_node(plan, device, &nodes.join(number.to_string()))?,
                    NODEV | RDONLY,
                )
            } else {
                (tree(CWD, Path::new(device.path), false)?, 0)
            };
            let attr = MountAttr {
                set: NOSUID | NOEXEC,
                clear,
                propagation: 0,
            };
            mount_setattr(node.as_fd(), false, attr).attempt(what)?;
            Ok(node)
        })
        .collect()
}

/// A node as the configuration wants it: who is root only of a user namespace cannot make one.
fn make_node(plan: &InitPlan<'_>, device: &Device<'_>, path: &Path) -> Result<OwnedFd> {
    let what = || format!("make device {:?}", device.path);
    let maps = &plan.namespaces;
    let uid = on_host(&maps.uid_maps, device.uid).ok_or_else(|| unmapped(device, "uid"))?;
    let gid = on_host(&maps.gid_maps, device.gid).ok_or_else(|| unmapped(device, "gid"))?;
    let kind = match device.kind {
        DeviceKind::Block => FileType::BlockDevice,
        _ => FileType::CharacterDevice,
    };
    let number = makedev(device.major, device.minor);
    mknodat(CWD, path, kind, Mode::empty(), number).attempt(what)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).attempt(what)?;
    // mknod(2) applies the umask.
    let mode = Mode::from_raw_mode(device.mode);
    chmodat(CWD, path, mode, AtFlags::empty()).attempt(what)?;
    tree(CWD, path, false)
}

/// Takes the names of bound nodes away.
pub(crate) fn forget_nodes(plan: &InitPlan<'_>, folders: &Folders<'_>) -> Result<()> {
    if !plan.devices.iter().flatten().any(|device| device.made) {
        return Ok(());
    }
    let nodes = &folders.nodes;
    std::fs::remove_dir_all(nodes).attempt(|| format!("remove {nodes:?}"))
}

fn unmapped(device: &Device<'_>, what: &str) -> Failure {
    Failure::new(format!(
        "device {:?}: its {what} is not in the user namespace",
        device.path
    ))
}

/// The id that the host has for one of a user namespace.
fn on_host(maps: &[RawIdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|map| {
        let offset = id.checked_sub(map.container_id)?;
        (offset < map.size).then(|| map.host_id.checked_add(offset))?
    })
}

/// Opens the namespaces to join.
pub(crate) fn joined(plan: &InitPlan<'_>) -> Result<Joined> {
    let open = |(kind, path): (NamespaceKind, &str)| {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .attempt(|| format!("open the {} namespace {path:?}", kind.name()))?;
        Ok((kind, fd))
    };
    plan.namespaces.all_joined().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_its_range() {
        let map = |container_id, host_id, size| RawIdMap {
            container_id,
            host_id,
            size,
        };
        let maps = [map(0, 100, 10), map(10, 5000, 5)];
        for (id, expect) in [(0, Some(100)), (9, Some(109)), (12, Some(5002)), (15, None)] {
            assert_eq!(on_host(&maps, id), expect, "{id}");
        }
        assert_eq!(on_host(&[map(0, u32::MAX, 2)], 1), None);
    }
}
