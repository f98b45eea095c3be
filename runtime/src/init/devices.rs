//! Device nodes and the usual symlinks in `/dev`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, symlinkat,
};
use rustix::io::Errno;

use super::{mounts, rooted};
use crate::failure::{Attempt, Result};
use crate::plan::{Device, DeviceKind};
use crate::prepare::Sources;

/// runtime-spec, "Dev symbolic links"; and ptmx, which lies in the container's own devpts.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Makes the nodes and links.
pub(super) fn make_all(
    root: BorrowedFd<'_>,
    planned: &[Device<'_>],
    sources: &Sources,
) -> Result<()> {
    // mknod(2) applies the umask.
    let umask = rustix::process::umask(Mode::empty());
    let mut bound = sources.devices.iter();
    let mut folder = None;
    for device in planned {
        match device.bind.then(|| bound.next()).flatten() {
            Some(source) => bind(root, device, source)?,
            None => node(root, device, &mut folder)?,
        }
    }
    rustix::process::umask(umask);
    let dev = rooted::directory(root, "/dev")?.fd;
    for (target, name) in LINKS {
        link(dev.as_fd(), target, name)?;
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, device: &Device<'_>, source: &OwnedFd) -> Result<()> {
    let target = rooted::file(root, device.path)?;
    mounts::attach(source.as_fd(), target.as_fd(), device.path)
}

/// The folder that the last node went into, and its path: as a rule that of the next one too.
type LastFolder<'p> = Option<(&'p str, OwnedFd)>;

fn node<'p>(root: BorrowedFd<'_>, device: &Device<'p>, last: &mut LastFolder<'p>) -> Result<()> {
    let what = || format!("make device {:?}", device.path);
    let (above, name) = rooted::split(device.path)?;
    let folder = match last.take() {
        Some((path, folder)) if path == above => folder,
        _ => rooted::directory(root, above)?.fd,
    };
    let made = make(folder.as_fd(), name, device).attempt(what);
    *last = Some((above, folder));
    made
}

fn make(folder: BorrowedFd<'_>, name: &str, device: &Device<'_>) -> std::result::Result<(), Errno> {
    let kind = match device.kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(folder, name, kind, mode, number) {
        Ok(()) => {}
        // An image may bring its own; what it is does not matter to anyone but the image.
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(folder, name, Some(uid), Some(gid), flags)?;
    }
    Ok(())
}

fn link(dev: BorrowedFd<'_>, target: &str, name: &str) -> Result<()> {
    match symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).attempt(|| format!("make the symlink /dev/{name}")),
    }
}

/// Standard streams that are the host's null device become the container's, so that nothing of the
/// host is open in it: a checkpoint could not write down a file that is in no mount of the container.
/// To be called before anything of the container has run, which might put something else there.
pub(super) fn reopen_null(root: BorrowedFd<'_>) -> Result<()> {
    // mem(4).
    let null = makedev(1, 3);
    let is_null = |fd: BorrowedFd<'_>| {
        fstat(fd).is_ok_and(|status| {
            FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
                && status.st_rdev == null
        })
    };
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let mut own = None;
    for (number, stream) in (0..).zip(streams) {
        if !is_null(stream) {
            continue;
        }
        if own.is_none() {
            let found = rooted::open(root, "/dev/null", OFlags::RDWR).ok();
            own = found.filter(|found| is_null(found.as_fd()));
        }
        let Some(own) = &own else { return Ok(()) };
        sys::process::take_stream(own.as_fd(), number)
            .attempt(|| "take the container's null device".to_owned())?;
    }
    Ok(())
}
