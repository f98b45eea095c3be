//! The terminal: opened inside the container's own devpts, its master handed to whoever asked.
//!
//! The slave comes from the master (`TIOCGPTPEER`), never from a path that the container could have
//! something else under (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat, fstatfs};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::path::Path;

use super::{mounts, rooted};
use crate::failure::{Attempt, Failure, Result};
use crate::plan::ProcessPlan;
use crate::prepare::tree;

/// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// Opens a terminal, makes it the controlling one and the three streams, and sends its master.
pub(super) fn set_up(
    root: BorrowedFd<'_>,
    socket: &OwnedFd,
    plan: &ProcessPlan<'_>,
    at_dev_console: bool,
) -> Result<()> {
    let master = open_master(root)?;
    unlockpt(&master).attempt(|| "unlock the terminal".to_owned())?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).attempt(|| "open the terminal".to_owned())?;
    if let Some(size) = plan
        .console_size
        .filter(|size| size.width > 0 || size.height > 0)
    {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).attempt(|| "set the size of the terminal".to_owned())?;
    }
    if at_dev_console {
        bind_console(root, slave.as_fd())?;
    }
    send(socket, &master)?;
    ioctl_tiocsctty(&slave).attempt(|| "take the terminal".to_owned())?;
    for stream in 0..=2 {
        sys::process::take_stream(slave.as_fd(), stream)
            .attempt(|| "connect a stream to the terminal".to_owned())?;
    }
    Ok(())
}

fn open_master(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let what = || "open /dev/pts/ptmx in the container".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = rooted::open(root, "/dev/pts/ptmx", flags).attempt(what)?;
    let magic = fstatfs(&master).attempt(what)?.f_type;
    let status = fstat(&master).attempt(what)?;
    let is_device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    if magic != DEVPTS || !is_device || status.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(Failure::new(
            "/dev/pts/ptmx in the container is not that of a devpts",
        ));
    }
    Ok(master)
}

fn bind_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let target = rooted::file(root, "/dev/console")?;
    let copy = tree(slave, Path::new(""), false)?;
    mounts::attach(copy.as_fd(), target.as_fd(), "/dev/console")
}

/// One message: the path of the slave, and the master beside it.
fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    let name = ptsname(master, Vec::new()).attempt(|| "name the terminal".to_owned())?;
    crate::socket::send(socket, name.to_bytes(), master.as_fd())
        .attempt(|| "send the terminal to the console socket".to_owned())
}
