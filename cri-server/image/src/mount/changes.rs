//! What a container has changed of its image: from its writable folder to a layer, and back.
//!
//! The layer has the marks of the image format for what was deleted (image-spec, layer.md). Beside it
//! goes a list of the same paths, for readers that expect no marks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::fs::{CWD, fgetxattr, flistxattr, openat, openat2, readlinkat, statat, unlinkat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::Error;
use crate::error::During;
use crate::layer::dir::DirBuilder;
use crate::layer::table::Writer;
use crate::layer::tree::Tree;
use crate::layer::unpack::{Notes, unpack};

/// How deep folders may be nested: each level holds a descriptor.
const MAX_DEPTH: usize = 256;
/// Largest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`, linux/limits.h).
const MAX_XATTR: usize = 64 << 10;
/// Largest list of their names, in bytes (`XATTR_LIST_MAX`).
const MAX_XATTR_NAMES: usize = 64 << 10;
/// Attributes of overlayfs' own, which mean nothing elsewhere.
const OVERLAY: &str = "trusted.overlay.";
/// What a tar puts before the name of an extended attribute.
const PAX_XATTR: &str = "SCHILY.xattr.";
/// What the image format puts before the name of what was deleted.
const WHITEOUT: &str = ".wh.";
/// The name of the mark in a folder that hides all below it.
const OPAQUE: &str = ".wh..wh..opq";

/// Files that a container had changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// A layer with them, not compressed; need not be there.
    pub layer: PathBuf,
    /// Paths that it had deleted, of a layer that has no marks for that.
    pub deleted: Vec<String>,
}

/// Writes what is in a writable folder as a layer; answers with the paths that were deleted.
pub(super) fn save(upper: &Path, file: File) -> Result<Vec<String>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, upper, flags, Mode::empty())
        .during(|| format!("opening {}", upper.display()))?;
    let mut saver = Saver {
        tar: Builder::new(BufWriter::new(file)),
        deleted: Vec::new(),
        linked: HashMap::new(),
    };
    saver.folder(&root, Path::new(""), 0)?;
    let written = saver.tar.into_inner().and_then(|mut file| file.flush());
    written.during(|| "writing the layer")?;
    Ok(saver.deleted)
}

struct Saver {
    tar: Builder<BufWriter<File>>,
    deleted: Vec<String>,
    /// Paths of files with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Saver {
    fn folder(&mut self, folder: &OwnedFd, path: &Path, depth: usize) -> Result<(), Error> {
        let during = || format!("reading {:?}", path.display());
        if depth > MAX_DEPTH {
            let text = format!("{} is nested deeper than {MAX_DEPTH}", path.display());
            return Err(Error::Other(text));
        }
        for entry in Dir::read_from(folder).during(during)? {
            let entry = entry.during(during)?;
            let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let inner = path.join(name);
            self.entry(folder, name.as_ref(), &inner, depth)
                .map_err(|error| error.within(inner.display()))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &Path,
        path: &Path,
        depth: usize,
    ) -> Result<(), Error> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).during(|| "looking at it")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.gone(path);
        }
        match kind {
            FileType::Directory => self.member_folder(folder, name, path, (&stat, depth)),
            FileType::RegularFile => self.file(folder, name, path, &stat),
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new()).during(|| "reading the link")?;
                let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
                let mut header = header(&stat, EntryType::Symlink)?;
                self.tar
                    .append_link(&mut header, path, target)
                    .during(|| "writing it")
            }
            FileType::CharacterDevice => self.node(path, &stat, EntryType::Char),
            FileType::BlockDevice => self.node(path, &stat, EntryType::Block),
            FileType::Fifo => self.node(path, &stat, EntryType::Fifo),
            // Who listened there makes it anew; criu does for those that it restores.
            _ => Ok(()),
        }
    }

    /// What a container has deleted of its image.
    fn gone(&mut self, path: &Path) -> Result<(), Error> {
        self.deleted.push(path.to_string_lossy().into_owned());
        let mut mark = std::ffi::OsString::from(WHITEOUT);
        mark.push(path.file_name().unwrap_or_default());
        self.mark(&path.with_file_name(mark))
    }

    fn mark(&mut self, path: &Path) -> Result<(), Error> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.tar
            .append_data(&mut header, path, io::empty())
            .during(|| "writing a mark")
    }

    fn member_folder(
        &mut self,
        parent: &OwnedFd,
        name: &Path,
        path: &Path,
        (stat, depth): (&Stat, usize),
    ) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty()).during(|| "opening it")?;
        let own = self.attributes(&folder)?;
        let mut header = header(stat, EntryType::Directory)?;
        self.tar
            .append_data(&mut header, path, io::empty())
            .during(|| "writing it")?;
        if own.opaque {
            self.mark(&path.join(OPAQUE))?;
        }
        self.folder(&folder, path, depth + 1)
    }

    fn file(
        &mut self,
        folder: &OwnedFd,
        name: &Path,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), Error> {
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                let mut header = header(stat, EntryType::Link)?;
                return self
                    .tar
                    .append_link(&mut header, path, first)
                    .during(|| "writing it");
            }
            self.linked.insert(inode, path.to_owned());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty()).during(|| "opening it")?;
        self.attributes(&file)?;
        let mut header = header(stat, EntryType::Regular)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_size(size);
        let content = Whole {
            file: File::from(file),
            left: size,
        };
        self.tar
            .append_data(&mut header, path, content)
            .during(|| "writing it")
    }

    fn node(&mut self, path: &Path, stat: &Stat, kind: EntryType) -> Result<(), Error> {
        let mut header = header(stat, kind)?;
        let set = header
            .set_device_major(rustix::fs::major(stat.st_rdev))
            .and_then(|()| header.set_device_minor(rustix::fs::minor(stat.st_rdev)));
        set.during(|| "describing it")?;
        self.tar
            .append_data(&mut header, path, io::empty())
            .during(|| "writing it")
    }

    /// Writes what else is noted of a file or folder; answers with what overlayfs says of it.
    fn attributes(&mut self, file: &OwnedFd) -> Result<Own, Error> {
        let all = xattrs(file).during(|| "reading its attributes")?;
        let mut own = Own::default();
        let mut kept = Vec::new();
        for (name, value) in all {
            match name.strip_prefix(OVERLAY) {
                None => kept.push((format!("{PAX_XATTR}{name}"), value)),
                Some("opaque") => own.opaque = value == b"y",
                Some("redirect" | "metacopy") => {
                    let text = format!("a layer cannot hold it: overlayfs has noted {name:?}");
                    return Err(Error::Other(text));
                }
                Some(_) => {}
            }
        }
        if !kept.is_empty() {
            let pairs = kept.iter().map(|(name, value)| (&**name, &**value));
            self.tar
                .append_pax_extensions(pairs)
                .during(|| "writing its attributes")?;
        }
        Ok(own)
    }
}

/// What overlayfs says of a folder.
#[derive(Default)]
struct Own {
    /// It hides what is below.
    opaque: bool,
}

/// A file that must not become shorter while it is read.
struct Whole {
    file: File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::other("it became shorter meanwhile"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn header(stat: &Stat, kind: EntryType) -> Result<Header, Error> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    Ok(header)
}

fn xattrs(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; MAX_XATTR_NAMES];
    let length = match flistxattr(file, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut all = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Some(name) = std::str::from_utf8(name).ok().filter(|n| !n.is_empty()) else {
            continue;
        };
        let mut value = vec![0; MAX_XATTR];
        let length = fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        all.push((name.to_owned(), value));
    }
    Ok(all)
}

/// Unpacks a layer into a writable folder that is not mounted yet.
pub(super) fn apply(
    layer: &Path,
    upper: &Path,
    scratch: &Path,
    trash: OwnedFd,
) -> Result<(), Error> {
    let file = match File::open(layer) {
        // A container that had changed nothing.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.during(|| format!("opening {}", layer.display()))?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, upper, flags, Mode::empty())
        .during(|| format!("opening {}", upper.display()))?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let table = openat(CWD, scratch, flags, Mode::RUSR | Mode::WUSR)
        .during(|| format!("making a file in {}", scratch.display()))?;
    let tree = Tree::new(root, trash);
    let builder = DirBuilder::new(tree, Writer::new(table.into()));
    let unpacked = unpack(BufReader::new(file), builder, Notes::default());
    unpacked
        .map(drop)
        .map_err(|error| Error::Corrupt(format!("changed files of a container: {error}")))
}

/// Removes paths below a mounted root file system. Already gone is fine; no link leads out of it.
pub(super) fn remove(target: &Path, deleted: &[String]) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, target, flags, Mode::empty())
        .during(|| format!("opening {}", target.display()))?;
    for path in deleted {
        remove_one(&root, Path::new(path.trim_start_matches('/')))
            .during(|| format!("deleting {path:?}"))?;
    }
    Ok(())
}

fn remove_one(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Ok(());
    };
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let parent = parent.unwrap_or(Path::new("."));
    let parent = match openat2(root, parent, flags, Mode::empty(), inside) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        parent => parent?,
    };
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            let folder = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
            std::fs::remove_dir_all(folder.join(name))
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use rustix::fs::{XattrFlags, makedev, mknodat, setxattr};

    use super::*;

    #[test]
    fn what_was_changed_comes_back() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["upper/a/deep", "upper/hidden", "again", "trash"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("upper/a/file"), "text").unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(at("upper/a/file"), mode).unwrap();
        std::fs::hard_link(at("upper/a/file"), at("upper/a/same")).unwrap();
        std::os::unix::fs::symlink("/etc/x", at("upper/link")).unwrap();
        let long = format!("upper/a/deep/{}", "n".repeat(200));
        std::fs::write(at(&long), "long").unwrap();
        let flags = XattrFlags::empty();
        setxattr(at("upper/a/file"), "user.note", b"kept", flags).unwrap();
        setxattr(at("upper/hidden"), "trusted.overlay.opaque", b"y", flags).unwrap();
        let device = FileType::CharacterDevice;
        mknodat(CWD, at("upper/gone"), device, Mode::empty(), makedev(0, 0)).unwrap();

        let deleted = save(&at("upper"), File::create(at("tar")).unwrap()).unwrap();
        assert_eq!(deleted, ["gone"]);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let trash = openat(CWD, at("trash"), flags, Mode::empty()).unwrap();
        apply(&at("tar"), &at("again"), folder.path(), trash).unwrap();
        let looks = |name: &str| std::fs::symlink_metadata(at(name)).unwrap();
        assert_eq!(std::fs::read(at("again/a/same")).unwrap(), b"text");
        assert_eq!(looks("again/a/file").mode() & 0o7777, 0o640);
        assert_eq!(looks("again/a/file").ino(), looks("again/a/same").ino());
        assert_eq!(
            std::fs::read(at(&long.replace("upper", "again"))).unwrap(),
            b"long"
        );
        assert_eq!(
            std::fs::read_link(at("again/link")).unwrap(),
            Path::new("/etc/x")
        );
        assert_eq!(
            (looks("again/gone").mode() >> 12, looks("again/gone").rdev()),
            (2, 0)
        );
        let mut value = [0; 16];
        let read = |name: &str, key: &str, value: &mut [u8]| {
            rustix::fs::getxattr(at(name), key, value).unwrap()
        };
        assert_eq!(read("again/a/file", "user.note", &mut value), 4);
        assert_eq!(
            read("again/hidden", "trusted.overlay.opaque", &mut value),
            1
        );
    }

    #[test]
    fn nothing_outside_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("root/in/folder")).unwrap();
        std::fs::create_dir(at("out")).unwrap();
        std::fs::write(at("out/file"), "").unwrap();
        std::os::unix::fs::symlink(at("out"), at("root/link")).unwrap();
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        remove(&at("root"), &list(&["/in/folder", "never/was", "in/none"])).unwrap();
        assert!(!at("root/in/folder").exists());
        assert!(remove(&at("root"), &list(&["link/file"])).is_err());
        assert!(remove(&at("root"), &list(&["../out/file"])).is_err());
        assert!(at("out/file").exists());
    }
}
