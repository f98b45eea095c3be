//! Paths below a root, resolved by descriptors only: no symlink and no `..` leads out of it.
//!
//! Each function takes the root as a descriptor and gives one on what it found. Nothing here returns
//! a path, so nothing can be swapped between looking and using (CVE-2021-30465, CVE-2024-45310).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

use super::walk;
use crate::failure::{Attempt, Failure, Result};

/// Most symlinks to missing places that are followed while creating a path; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Most tries of a resolution that the kernel gave up because something was renamed meanwhile.
const MAX_TRIES: usize = 64;

/// Opens what is there.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let name = if path.is_empty() { "." } else { path };
    for _ in 0..MAX_TRIES {
        let flags = flags | OFlags::CLOEXEC;
        let opened = match openat2(root, name, flags, Mode::empty(), resolve) {
            Err(error) if walk::is_denied(error) => walk::in_root(root, name, flags),
            opened => opened,
        };
        match opened {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// A folder, and whether it had to be made.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    pub(crate) made: bool,
}

/// The folder at `path`; it and those above it are made if they are missing.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &str) -> Result<Directory> {
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(fd) => Ok(Directory { fd, made: false }),
        Err(Errno::NOENT) => match make_last(root, path) {
            Some(fd) => Ok(Directory { fd, made: true }),
            None => make_directories(root, path),
        },
        Err(error) => Err(error).attempt(|| format!("open folder {path:?} in the container")),
    }
}

/// Makes a folder of which only the last part is missing, which is nearly always so. Whatever is in
/// the way is left to [`make_directories`].
fn make_last(root: BorrowedFd<'_>, path: &str) -> Option<OwnedFd> {
    let (above, name) = split(path).ok()?;
    let above = open(root, above, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    make_one(above.as_fd(), name).ok()
}

/// What is above the last part of a path, and that part, which must be a name.
pub(crate) fn split(path: &str) -> Result<(&str, &str)> {
    let clean = path.trim_end_matches('/');
    let (above, name) = clean.rsplit_once('/').unwrap_or(("", clean));
    if matches!(name, "" | "." | "..") {
        return Err(Failure::new(format!("{path:?} does not name a file")));
    }
    Ok((above, name))
}

fn make_directories(root: BorrowedFd<'_>, path: &str) -> Result<Directory> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match make_until_link(root, &path)? {
            Walk::Arrived(fd) => return Ok(Directory { fd, made: true }),
            Walk::Link(next) => path = next,
        }
    }
    Err(Failure::new(format!(
        "make folder {path:?} in the container: too many symlinks"
    )))
}

enum Walk {
    Arrived(OwnedFd),
    /// A symlink to something missing was in the way; this is the path with the link resolved.
    Link(String),
}

fn make_until_link(root: BorrowedFd<'_>, path: &str) -> Result<Walk> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut here = open(root, ".", OFlags::PATH | OFlags::DIRECTORY)
        .attempt(|| "open the root of the container".to_owned())?;
    for (depth, part) in parts.iter().enumerate() {
        let so_far = parts[..=depth].join("/");
        match open(root, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => here = fd,
            Err(Errno::NOENT) => match make_one(here.as_fd(), part) {
                Ok(fd) => here = fd,
                Err(Errno::EXIST) => {
                    let target = link_target(here.as_fd(), part)
                        .attempt(|| format!("make folder {so_far:?} in the container"))?;
                    let above = parts[..depth].join("/");
                    let rest = parts[depth + 1..].join("/");
                    let base = if target.starts_with('/') { "" } else { &above };
                    return Ok(Walk::Link(format!("{base}/{target}/{rest}")));
                }
                Err(error) => {
                    return Err(error)
                        .attempt(|| format!("make folder {so_far:?} in the container"));
                }
            },
            Err(error) => {
                return Err(error).attempt(|| format!("open folder {so_far:?} in the container"));
            }
        }
    }
    Ok(Walk::Arrived(here))
}

fn make_one(parent: BorrowedFd<'_>, name: &str) -> std::result::Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn link_target(parent: BorrowedFd<'_>, name: &str) -> std::io::Result<String> {
    let target = readlinkat(parent, name, Vec::new())?;
    target.into_string().map_err(std::io::Error::other)
}

/// The parent folder of `path` (made if missing) and the last part of the path.
pub(crate) fn parent<'p>(root: BorrowedFd<'_>, path: &'p str) -> Result<(OwnedFd, &'p str)> {
    let (above, name) = split(path)?;
    Ok((directory(root, above)?.fd, name))
}

/// What is at `path`; an empty file is made if there is nothing.
pub(crate) fn file(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error).attempt(|| format!("open {path:?} in the container")),
    }
    let (folder, name) = parent(root, path)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match openat(&folder, name, flags, Mode::from_raw_mode(0o755)) {
        Ok(_) => {}
        Err(Errno::LOOP) => return file_behind_link(root, path, folder.as_fd(), name),
        Err(error) => return Err(error).attempt(|| format!("make {path:?} in the container")),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&folder, name, flags, Mode::empty())
        .attempt(|| format!("open {path:?} in the container"))
}

/// The file is a symlink to something missing: make that, once.
fn file_behind_link(
    root: BorrowedFd<'_>,
    path: &str,
    folder: BorrowedFd<'_>,
    name: &str,
) -> Result<OwnedFd> {
    let target = link_target(folder, name).attempt(|| format!("read the symlink {path:?}"))?;
    let above = path
        .trim_end_matches('/')
        .rsplit_once('/')
        .map_or("", |(above, _)| above);
    let whole = if target.starts_with('/') {
        target
    } else {
        format!("{above}/{target}")
    };
    let (folder, name) = parent(root, &whole)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    let _made = openat(&folder, name, flags, Mode::from_raw_mode(0o755))
        .attempt(|| format!("make {whole:?} in the container"))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&folder, name, flags, Mode::empty()).attempt(|| format!("open {whole:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        dir: tempfile::TempDir,
        root: OwnedFd,
    }

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/a")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        let root = rustix::fs::open(dir.path().join("root"), OFlags::PATH, Mode::empty()).unwrap();
        Tree { dir, root }
    }

    fn check(link: Option<(&str, &str)>, path: &str, expect: &str) {
        let tree = tree();
        if let Some((target, name)) = link {
            symlink(target, tree.dir.path().join("root").join(name)).unwrap();
        }
        directory(tree.root.as_fd(), path).unwrap();
        assert!(
            tree.dir.path().join("root").join(expect).is_dir(),
            "{path} -> {expect}"
        );
        assert_eq!(
            std::fs::read_dir(tree.dir.path().join("outside"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn folders_are_made_inside_whatever_the_links_say() {
        check(None, "/x/y/z", "x/y/z");
        check(None, "/../../x", "x");
        check(Some(("/outside", "l")), "/l/x", "outside/x");
        check(Some(("../../outside", "l")), "/l/x", "outside/x");
        check(Some(("a", "l")), "/l/x", "a/x");
        check(Some(("b/c", "a/l")), "/a/l/x", "a/b/c/x");
    }

    #[test]
    fn files_are_made_inside_too() {
        let tree = tree();
        symlink("/etc/made", tree.dir.path().join("root/l")).unwrap();
        file(tree.root.as_fd(), "/l").unwrap();
        assert!(tree.dir.path().join("root/etc/made").is_file());
        file(tree.root.as_fd(), "x/f").unwrap();
        assert!(tree.dir.path().join("root/x/f").is_file());
    }

    #[test]
    fn a_ring_of_links_ends() {
        let tree = tree();
        symlink("m", tree.dir.path().join("root/l")).unwrap();
        symlink("l", tree.dir.path().join("root/m")).unwrap();
        assert!(directory(tree.root.as_fd(), "/l/x").is_err());
    }
}
