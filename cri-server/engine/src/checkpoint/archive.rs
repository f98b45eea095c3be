//! The archive of a container's checkpoint: a tar as containerd and CRI-O write and read it
//! (checkpoint-restore/checkpointctl, "metadata").
//!
//! | name | holds |
//! |---|---|
//! | `config.dump` | which container and image it was, JSON |
//! | `spec.dump` | its OCI specification |
//! | `status.dump` | its state as clients saw it, JSON |
//! | `rootfs-diff.tar` | the files that it had changed, as a layer |
//! | `deleted.files` | the paths that it had deleted, JSON |
//! | `container.log` | its log |
//! | `dump.log`, `stats-dump` | how criu wrote it |
//! | `checkpoint/*` | criu's images |

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use tar::{Builder, EntryType, Header};

use crate::error::Error;
use crate::store;

/// Folder of criu's images.
pub(super) const IMAGES: &str = "checkpoint";
/// Folder of criu's logs; what is worth keeping of it stands at the top of the archive.
pub(super) const WORK: &str = "work";
pub(super) const CONFIG: &str = "config.dump";
pub(super) const SPEC: &str = "spec.dump";
pub(super) const STATUS: &str = "status.dump";
pub(super) const CHANGES: &str = "rootfs-diff.tar";
pub(super) const DELETED: &str = "deleted.files";
pub(super) const LOG: &str = "container.log";
/// What CRI-O calls the log.
const OTHER_LOG: &str = "io.kubernetes.cri-o.LogPath";

/// What of an archive is used.
const USED: [&str; 6] = [CONFIG, SPEC, STATUS, CHANGES, DELETED, LOG];
/// What is kept of criu's own notes.
const NOTES: [&str; 2] = ["dump.log", "stats-dump"];
/// Most files of an archive.
const MAX_FILES: usize = 100_000;
/// Longest document that is read, bytes.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// A file that is written but has no name yet.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    place: PathBuf,
}

impl Draft {
    /// An empty one that is to lie at `place`.
    pub(super) fn new(place: PathBuf) -> Result<Self, Error> {
        let folder = place.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR);
        match opened {
            Ok(file) => Ok(Self {
                file: file.into(),
                place,
            }),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(Error::Invalid(
                format!("location: there is no folder {}", folder.display()),
            )),
            Err(errno) => Err(writing(&place)(errno.into())),
        }
    }

    /// The archive of a container whose files lie in `folder`.
    pub(super) fn archive(folder: &Path, place: PathBuf) -> Result<Self, Error> {
        let mut draft = Self::new(place)?;
        pack(folder, &mut draft.file).map_err(writing(&draft.place))?;
        Ok(draft)
    }

    /// One with this content.
    pub(super) fn of(bytes: &[u8], place: PathBuf) -> Result<Self, Error> {
        let mut draft = Self::new(place)?;
        draft.file.write_all(bytes).map_err(writing(&draft.place))?;
        Ok(draft)
    }

    /// A copy of a file.
    pub(super) fn copy(from: &Path, place: PathBuf) -> Result<Self, Error> {
        let mut draft = Self::new(place)?;
        let copied = File::open(from).and_then(|mut from| io::copy(&mut from, &mut draft.file));
        copied.map_err(writing(&draft.place))?;
        Ok(draft)
    }

    /// Gives it its name, in place of what has it.
    fn publish(&self) -> io::Result<()> {
        let mut fresh = std::ffi::OsString::from(".");
        fresh.push(self.place.file_name().unwrap_or_default());
        fresh.push(".new");
        let fresh = self.place.with_file_name(fresh);
        store::gone_is_fine(fs::remove_file(&fresh))?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own, CWD, &fresh, AtFlags::SYMLINK_FOLLOW)?;
        fs::rename(&fresh, &self.place).inspect_err(|_failure| {
            // The first failure is the one to tell.
            drop(fs::remove_file(&fresh));
        })
    }
}

/// Names all drafts, in their order. When one cannot be named, those before it are gone again.
pub(super) fn publish(drafts: &[Draft]) -> Result<(), Error> {
    for (done, draft) in drafts.iter().enumerate() {
        if let Err(error) = draft.publish() {
            for other in &drafts[..done] {
                drop(fs::remove_file(&other.place));
            }
            return Err(writing(&draft.place)(error));
        }
    }
    Ok(())
}

fn writing(place: &Path) -> impl Fn(io::Error) -> Error {
    let what = format!("writing {}", place.display());
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::Exhausted(format!("{what}: {error}"))
        }
        _ => Error::failed(&what, error),
    }
}

fn pack(folder: &Path, file: &mut File) -> io::Result<()> {
    let mut tar = Builder::new(BufWriter::new(file));
    for name in USED {
        append(&mut tar, &folder.join(name), Path::new(name))?;
    }
    for name in NOTES {
        append(&mut tar, &folder.join(WORK).join(name), Path::new(name))?;
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o700);
    header.set_size(0);
    tar.append_data(&mut header, IMAGES, io::empty())?;
    let mut names = store::names(&folder.join(IMAGES))?;
    names.sort_unstable();
    for name in names {
        let name = Path::new(IMAGES).join(name);
        append(&mut tar, &folder.join(&name), &name)?;
    }
    tar.into_inner()?.flush()
}

/// Appends a regular file; what is none, or is not there, is left out.
fn append(tar: &mut Builder<impl Write>, from: &Path, name: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(from) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, File::open(from)?.take(metadata.len()))
}

/// Where a file of an archive goes; `None`: it is not used.
fn destination(name: &Path) -> Option<PathBuf> {
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    let (Some(Component::Normal(first)), second, None) = (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    match second {
        None if first == OTHER_LOG => Some(LOG.into()),
        None => USED.iter().any(|used| first == *used).then(|| first.into()),
        Some(Component::Normal(image)) if first == IMAGES => Some(Path::new(IMAGES).join(image)),
        Some(_) => None,
    }
}

/// Writes what is used of an archive into a folder, which exists.
pub(super) fn extract(archive: File, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join(IMAGES))?;
    let mut tar = tar::Archive::new(BufReader::new(archive));
    for (count, entry) in tar.entries()?.enumerate() {
        let mut entry = entry?;
        if count >= MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        let name = destination(&entry.path()?);
        if let Some(name) = name.filter(|_| entry.header().entry_type().is_file()) {
            put(&folder.join(name), &mut entry)?;
        }
    }
    Ok(())
}

/// The same from a folder: the root file system of an image that is a checkpoint.
pub(super) fn copy(root: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join(IMAGES))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    for name in USED.iter().chain([&OTHER_LOG]) {
        if let (Some(place), Some(mut file)) = (destination(name.as_ref()), open(&root, name)?) {
            put(&folder.join(place), &mut file)?;
        }
    }
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let images = rustix::fs::openat2(&root, IMAGES, flags, Mode::empty(), inside)?;
    for (count, entry) in rustix::fs::Dir::read_from(&images)?.enumerate() {
        if count >= MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != ".."
            && let Some(mut file) = open(&images, &name)?
        {
            put(&folder.join(IMAGES).join(&name), &mut file)?;
        }
    }
    Ok(())
}

/// Opens a regular file in a folder; `None` if there is none of that name.
fn open(folder: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(folder, name, flags, Mode::empty(), inside) {
        Ok(file) => {
            let file = File::from(file);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn put(place: &Path, content: &mut impl Read) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(place)?;
    io::copy(content, &mut file).map(drop)
}

/// Reads a document of a checkpoint.
pub(super) fn document(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        let name = path
            .file_name()
            .unwrap_or(OsStr::new("it"))
            .display()
            .to_string();
        return Err(io::Error::other(format!(
            "{name} is longer than {MAX_DOCUMENT} bytes"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_used() {
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(
                destination(Path::new(name)),
                expect.map(PathBuf::from),
                "{name}"
            );
        };
        check("config.dump", Some("config.dump"));
        check("./checkpoint/core-1.img", Some("checkpoint/core-1.img"));
        check("io.kubernetes.cri-o.LogPath", Some("container.log"));
        check("checkpoint", None);
        check("checkpoint/../config.dump", None);
        check("checkpoint/a/b", None);
        check("/config.dump", None);
        check("../config.dump", None);
        check("other", None);
        check("", None);
    }

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("from/checkpoint")).unwrap();
        fs::create_dir_all(at("from/work")).unwrap();
        for (name, text) in [
            ("config.dump", "{}"),
            ("checkpoint/a.img", "image"),
            ("work/dump.log", "log"),
        ] {
            fs::write(at("from").join(name), text).unwrap();
        }
        let draft = Draft::archive(&at("from"), at("out.tar")).unwrap();
        assert!(!at("out.tar").exists());
        publish(&[draft]).unwrap();
        fs::create_dir(at("to")).unwrap();
        extract(File::open(at("out.tar")).unwrap(), &at("to")).unwrap();
        assert_eq!(fs::read(at("to/checkpoint/a.img")).unwrap(), b"image");
        assert_eq!(fs::read(at("to/config.dump")).unwrap(), b"{}");
        assert!(!at("to/dump.log").exists());

        let first = Draft::of(b"x", at("first")).unwrap();
        let second = Draft::of(b"y", at("to")).unwrap();
        assert!(publish(&[first, second]).is_err());
        assert!(!at("first").exists() && !at(".to.new").exists());
        assert!(matches!(
            Draft::of(b"", at("none/x")),
            Err(Error::Invalid(_))
        ));
    }

    #[test]
    fn a_folder_is_read_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("from/checkpoint/folder")).unwrap();
        fs::write(at("secret"), "secret").unwrap();
        fs::write(at("from/config.dump"), "{}").unwrap();
        fs::write(at("from/checkpoint/a.img"), "image").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("from/spec.dump")).unwrap();
        std::os::unix::fs::symlink("../../secret", at("from/checkpoint/b.img")).unwrap();
        copy(&at("from"), &at("to")).unwrap();
        assert_eq!(fs::read(at("to/config.dump")).unwrap(), b"{}");
        assert_eq!(fs::read(at("to/checkpoint/a.img")).unwrap(), b"image");
        assert!(!at("to/spec.dump").exists());
        assert_eq!(fs::read_dir(at("to/checkpoint")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "no tar at all".repeat(100)).unwrap();
        let file = File::open(dir.path().join("x")).unwrap();
        assert!(extract(file, dir.path()).is_err());
    }
}
