//! SELinux: files of the host get the label of the container that is to use them.
//!
//! Whoever may write to them must not lead us elsewhere meanwhile: every folder is opened below the
//! one that holds it, no link is followed, and what is labelled is what was opened.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, XattrFlags, openat};
use rustix::io::Errno;

/// The attribute with a file's label (xattr(7)).
pub(crate) const ATTRIBUTE: &str = "security.selinux";

/// Deepest folder that is labelled: each on the way is open meanwhile.
const MAX_DEPTH: usize = 256;

/// Longest label that is compared, bytes.
const MAX_LABEL: usize = 512;

/// Folders of the system, which other programs need as they are.
const SYSTEM: [&str; 17] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root",
    "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",
];

/// Labels a file, or a folder with all in it; may block for long. What has the label at its top is
/// taken to have it everywhere.
pub(crate) fn all_below(path: &Path, attribute: &str, label: &str) -> io::Result<()> {
    if SYSTEM.iter().any(|system| path == Path::new(system)) {
        return Err(io::Error::other("it is a folder of the system's own"));
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, path, flags, Mode::empty())?;
    let mut known = [0; MAX_LABEL];
    let length = rustix::fs::getxattr(link(&top), attribute, &mut known).unwrap_or(0);
    if known[..length]
        .strip_suffix(b"\0")
        .unwrap_or(&known[..length])
        == label.as_bytes()
    {
        return Ok(());
    }
    // The top comes last: it says that all is done.
    if FileType::from_raw_mode(rustix::fs::fstat(&top)?.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = openat(&top, ".", flags, Mode::empty())?;
        below(&inside, attribute, label, 0)?;
    }
    one(&top, attribute, label)
}

fn below(folder: &OwnedFd, attribute: &str, label: &str, depth: usize) -> io::Result<()> {
    if depth == MAX_DEPTH {
        return Err(io::Error::other(format!(
            "it has folders more than {MAX_DEPTH} deep"
        )));
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            entry_of(folder.as_fd(), name, attribute, label, depth)?;
        }
    }
    Ok(())
}

fn entry_of(
    folder: BorrowedFd<'_>,
    name: &CStr,
    attribute: &str,
    label: &str,
    depth: usize,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(folder, name, flags, Mode::empty()) {
        // It has gone meanwhile.
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = openat(&found, ".", flags, Mode::empty())?;
        below(&inside, attribute, label, depth + 1)?;
    }
    one(&found, attribute, label)
}

/// Labels what was opened. A file system without labels has one for all its files.
fn one(file: &OwnedFd, attribute: &str, label: &str) -> io::Result<()> {
    match rustix::fs::setxattr(link(file), attribute, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => Ok(other?),
    }
}

/// The name of an open file: that file, whatever its path says now.
fn link(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Like labels; also of links, and there without SELinux.
    const TRUSTED: &str = "trusted.wherry";

    fn label_of(path: &Path) -> Option<String> {
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(path, TRUSTED, &mut value).ok()?;
        Some(String::from_utf8_lossy(&value[..length]).into_owned())
    }

    #[test]
    fn all_below_a_folder_and_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        std::fs::create_dir_all(volume.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(volume.join("a/b/file"), "").unwrap();
        std::fs::write(outside.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        let one =
            |path: &Path| rustix::fs::lsetxattr(path, TRUSTED, b"x", XattrFlags::empty()).is_ok();
        if !one(&outside) {
            return;
        }
        all_below(&volume, TRUSTED, "s0:c1").unwrap();
        for name in ["", "a", "a/b", "a/b/file", "link"] {
            let label = label_of(&volume.join(name));
            assert_eq!(label.as_deref(), Some("s0:c1"), "{name:?}");
        }
        assert_eq!(label_of(&outside).as_deref(), Some("x"));
        assert_eq!(label_of(&outside.join("file")), None);
        // Labelled at the top: left as it is.
        std::fs::write(volume.join("new"), "").unwrap();
        all_below(&volume, TRUSTED, "s0:c1").unwrap();
        assert_eq!(label_of(&volume.join("new")), None);
        all_below(&volume, TRUSTED, "s0:c2").unwrap();
        assert_eq!(label_of(&volume.join("new")).as_deref(), Some("s0:c2"));
    }

    #[test]
    fn folders_of_the_system_stay_as_they_are() {
        for path in ["/", "/etc", "/usr"] {
            assert!(all_below(Path::new(path), TRUSTED, "x").is_err(), "{path}");
        }
    }
}
