//! Resolution where the kernel's own, openat2(2), may not be used: part by part, by descriptor.
//!
//! Older engines' seccomp profiles answer `EPERM` or `ENOSYS` to a call that they do not know, and a
//! container of such an engine may well have an engine in it. The answer is believed to mean that,
//! and nothing else: what is really forbidden is so here too.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, StatxFlags, fstat, fstatfs, openat,
    readlinkat, statx,
};
use rustix::io::Errno;

/// Most symlinks in one path; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Whether openat2(2) said that it is not to be had.
pub(crate) fn is_denied(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

/// What `openat2(root, path, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` gives.
///
/// The folders on the way stay open, and `..` goes back to the one that was come from: nothing that
/// is renamed meanwhile leads above `root`.
///
/// # Errors
///
/// As of openat2(2); `EAGAIN` if the last part was replaced between looking and opening.
pub(super) fn in_root(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut walk = Walk {
        way: vec![Step::of(root, ".")?],
        left: parts(path.as_bytes())?,
        links: 0,
    };
    while let Some(part) = walk.left.pop_front() {
        walk.take(part)?;
    }
    walk.arrive(flags)
}

/// One part of a path.
#[derive(Debug)]
enum Part {
    Root,
    /// `.`, and what a slash at the end means: this is a folder.
    Here,
    Above,
    Name(CString),
}

fn parts(path: &[u8]) -> Result<VecDeque<Part>, Errno> {
    let mut parts = VecDeque::new();
    if path.starts_with(b"/") {
        parts.push_back(Part::Root);
    }
    for part in path.split(|byte| *byte == b'/') {
        parts.push_back(match part {
            b"" => continue,
            b"." => Part::Here,
            b".." => Part::Above,
            name => Part::Name(CString::new(name).map_err(|_zero| Errno::INVAL)?),
        });
    }
    if path.ends_with(b"/") {
        parts.push_back(Part::Here);
    }
    Ok(parts)
}

/// Something that was come by: a handle on it, and its name in the one before.
#[derive(Debug)]
struct Step {
    fd: OwnedFd,
    name: CString,
    kind: FileType,
}

impl Step {
    fn of(folder: BorrowedFd<'_>, name: &str) -> Result<Step, Errno> {
        Step::to(folder, CString::new(name).map_err(|_zero| Errno::INVAL)?)
    }

    fn to(folder: BorrowedFd<'_>, name: CString) -> Result<Step, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(folder, name.as_c_str(), flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        Ok(Step { fd, name, kind })
    }
}

#[derive(Debug)]
struct Walk {
    /// From the root to here; never empty.
    way: Vec<Step>,
    left: VecDeque<Part>,
    links: usize,
}

impl Walk {
    fn here(&self) -> &Step {
        self.way.last().expect("the root is never left")
    }

    fn take(&mut self, part: Part) -> Result<(), Errno> {
        match part {
            Part::Root => self.way.truncate(1),
            _ if self.here().kind != FileType::Directory => return Err(Errno::NOTDIR),
            Part::Above if self.way.len() > 1 => {
                self.way.pop();
            }
            Part::Above | Part::Here => {}
            Part::Name(name) => {
                let step = Step::to(self.here().fd.as_fd(), name)?;
                if step.kind == FileType::Symlink {
                    return self.follow(&step);
                }
                self.way.push(step);
            }
        }
        Ok(())
    }

    /// The target of a link is read as text, and never followed by the kernel.
    fn follow(&mut self, link: &Step) -> Result<(), Errno> {
        self.links += 1;
        let target = readlinkat(&link.fd, "", Vec::new())?;
        let target = target.as_bytes();
        if self.links > MAX_LINKS || is_magic(link, target)? {
            return Err(Errno::LOOP);
        }
        let mut parts = parts(target)?;
        parts.append(&mut self.left);
        self.left = parts;
        Ok(())
    }

    /// Opens what the walk led to as the caller wants it.
    fn arrive(mut self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = self.way.pop().expect("the root is never left");
        if flags.contains(OFlags::DIRECTORY) && step.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if flags.contains(OFlags::PATH) {
            return Ok(step.fd);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if step.kind == FileType::Directory {
            return openat(&step.fd, ".", flags, Mode::empty());
        }
        let folder = self
            .way
            .last()
            .map_or(step.fd.as_fd(), |above| above.fd.as_fd());
        let opened = match openat(folder, step.name.as_c_str(), flags, Mode::empty()) {
            // A symlink by now.
            Err(Errno::LOOP) => return Err(Errno::AGAIN),
            opened => opened?,
        };
        if is_same(&fstat(&opened)?, &fstat(&step.fd)?) {
            Ok(opened)
        } else {
            Err(Errno::AGAIN)
        }
    }
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// A link of procfs to what a process has open, whose text is not where it leads (proc(5)): the
/// ordinary ones there, such as `self`, are relative and plain.
fn is_magic(link: &Step, target: &[u8]) -> Result<bool, Errno> {
    let plain = !target.starts_with(b"/") && !target.contains(&b':');
    Ok(!plain && fstatfs(&link.fd)?.f_type == PROC_SUPER_MAGIC)
}

/// What `openat2(root, path, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)` gives, for a
/// `path` without symlinks but `self`.
///
/// # Errors
///
/// As of openat2(2): `EXDEV` where something is mounted over a part of the path.
pub(crate) fn on_one_mount(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let own = mount_of(root)?;
    let (folders, name) = path.rsplit_once('/').unwrap_or((".", path));
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    let mut here = step_on(own, root, ".", folder)?;
    for part in folders.split('/') {
        here = if part == "self" {
            let number = readlinkat(&here, part, Vec::new())?;
            let number = number.to_str().map_err(|_text| Errno::LOOP)?;
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Errno::LOOP);
            }
            step_on(own, here.as_fd(), number, folder)?
        } else {
            step_on(own, here.as_fd(), part, folder)?
        };
    }
    step_on(own, here.as_fd(), name, flags)
}

fn step_on(own: u64, from: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    if name == ".." {
        return Err(Errno::XDEV);
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(from, name, flags, Mode::empty())?;
    if mount_of(fd.as_fd())? == own {
        Ok(fd)
    } else {
        Err(Errno::XDEV)
    }
}

fn mount_of(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{ResolveFlags, open, openat2};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
    const ONE_MOUNT: ResolveFlags = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_XDEV)
        .union(ResolveFlags::NO_MAGICLINKS);

    fn folder(path: &Path) -> OwnedFd {
        open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn identity(found: Result<OwnedFd, Errno>) -> Result<(u64, u64), Errno> {
        let status = fstat(found?)?;
        Ok((status.st_dev, status.st_ino))
    }

    /// The kernel's resolution and ours come to the same, whatever that is.
    fn check(root: &OwnedFd, path: &str) {
        let root = root.as_fd();
        for flags in [
            OFlags::PATH,
            OFlags::PATH | OFlags::DIRECTORY,
            OFlags::RDONLY,
            OFlags::RDONLY | OFlags::DIRECTORY,
        ] {
            let kernel = openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT);
            let ours = in_root(root, path, flags);
            assert_eq!(identity(ours), identity(kernel), "{path:?} {flags:?}");
        }
    }

    #[test]
    fn it_comes_to_what_the_kernel_comes_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/f"), "").unwrap();
        std::fs::write(root.join("a/f"), "").unwrap();
        for (target, name) in [
            ("/a/b", "absolute"),
            ("../../../../a/b/c", "up"),
            ("../outside", "out"),
            (dir.path().join("outside").to_str().unwrap(), "host"),
            ("f", "a/file"),
            ("nothing", "missing"),
            ("ring", "gnir"),
            ("gnir", "ring"),
            ("absolute/..", "dots"),
            ("/", "top"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let handle = folder(&root);
        for path in [
            ".",
            "/",
            "..",
            "a",
            "/a/b/../f",
            "a/f/.",
            "a/f/..",
            "a/f/x",
            "../../a/f",
            "absolute",
            "absolute/c",
            "absolute/../f",
            "up",
            "up/..",
            "out",
            "out/f",
            "host",
            "host/f",
            "a/file",
            "missing",
            "missing/x",
            "ring",
            "dots",
            "dots/f",
            "top/top/a",
            "none",
            "none/..",
            "a/",
            "a/f/",
            "up/./",
            "a//b///c",
        ] {
            check(&handle, path);
        }
    }

    #[test]
    fn links_to_open_things_are_refused() {
        let proc = folder(Path::new("/proc"));
        for path in [
            "self/exe",
            "self/cwd",
            "self/root/etc",
            "self/fd/0",
            "self/ns/mnt",
        ] {
            check(&proc, path);
            let ours = in_root(proc.as_fd(), path, OFlags::PATH);
            assert_eq!(ours.err(), Some(Errno::LOOP), "{path}");
        }
        check(&proc, "self/status");
        check(&proc, "sys/kernel/ostype");
    }

    #[test]
    fn other_mounts_are_not_entered() {
        let root = folder(Path::new("/"));
        for path in [
            "etc/passwd",
            "proc/version",
            "dev/null",
            "none/x",
            "../etc/passwd",
        ] {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let kernel = openat2(&root, path, flags, Mode::empty(), ONE_MOUNT);
            let ours = on_one_mount(root.as_fd(), path, flags);
            assert_eq!(identity(ours), identity(kernel), "{path}");
        }
        let proc = folder(Path::new("/proc"));
        let ours = on_one_mount(proc.as_fd(), "self/comm", OFlags::RDONLY);
        assert!(identity(ours).is_ok());
    }
}
