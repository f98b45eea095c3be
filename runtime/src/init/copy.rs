//! Copying a folder into a new tmpfs (`tmpcopyup`), descriptor by descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fchmod, fchown,
    makedev, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};

/// Deepest folder that is copied: beyond it the tree is a loop or an attack.
const MAX_DEPTH: usize = 64;

/// Copies what is in `from` into `into`, with owners and modes.
pub(super) fn tree(from: BorrowedFd<'_>, into: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(
            rustix::io::Errno::LOOP.raw_os_error(),
        ));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let status = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        match kind {
            FileType::Directory => folder(from, into, name, &status, depth)?,
            FileType::RegularFile => file(from, into, name, &status)?,
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), into, name)?;
                own(into, name, &status)?;
            }
            _ => {
                let number = makedev(
                    rustix::fs::major(status.st_rdev),
                    rustix::fs::minor(status.st_rdev),
                );
                mknodat(into, name, kind, mode(&status), number)?;
                own(into, name, &status)?;
                chmodat(into, name, mode(&status), AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

fn mode(status: &Stat) -> Mode {
    Mode::from_raw_mode(status.st_mode & 0o7777)
}

fn owner(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
    )
}

fn own(into: BorrowedFd<'_>, name: &std::ffi::CStr, status: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(status);
    Ok(chownat(into, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open(at: BorrowedFd<'_>, name: &std::ffi::CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::from_raw_mode(0o600))?)
}

fn folder(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    status: &Stat,
    depth: usize,
) -> io::Result<()> {
    mkdirat(into, name, mode(status))?;
    let source = open(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let made = open(into, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    tree(source.as_fd(), made.as_fd(), depth + 1)?;
    let (uid, gid) = owner(status);
    fchown(&made, uid, gid)?;
    Ok(fchmod(&made, mode(status))?)
}

fn file(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    status: &Stat,
) -> io::Result<()> {
    let mut source = File::from(open(from, name, OFlags::RDONLY)?);
    let mut made = File::from(open(
        into,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
    )?);
    io::copy(&mut source, &mut made)?;
    let (uid, gid) = owner(status);
    fchown(&made, uid, gid)?;
    Ok(fchmod(&made, mode(status))?)
}
