//! One directory of a hierarchy, and its files by name.
//!
//! The directory is opened once, when first needed; files are opened relative to it. Never
//! `O_CREAT`: a missing file must say "not found", not "not permitted".

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::Error;

/// The most that is read of one file; the largest (`memory.stat`, `memory.numa_stat`) have a few
/// kilobytes, `cgroup.procs` about eight bytes a process.
const MAX_FILE: usize = 4 << 20;

/// What is asked for at once: the whole of most files.
const CHUNK: usize = 4096;

/// Everything in an open file; not more than [`MAX_FILE`].
pub(crate) fn read_all(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > MAX_FILE => return Err(Errno::FBIG),
            Ok(_) if bytes.len() == bytes.capacity() => bytes.reserve(CHUNK),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A group's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    open: OnceLock<OwnedFd>,
}

impl Dir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        if let Some(open) = self.open.get() {
            return Ok(open.as_fd());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = fs::open(&self.path, flags, Mode::empty())
            .map_err(|source| self.call("open cgroup", "", source))?;
        Ok(self.open.get_or_init(|| open).as_fd())
    }

    /// Writes `value` in one call, which is how the kernel takes it.
    pub(crate) fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        self.write_each(file, &[value])
    }

    /// Writes each of `values` in a call of its own to a file that takes one after the other.
    pub(crate) fn write_each(&self, file: &str, values: &[impl AsRef<str>]) -> Result<(), Error> {
        let Some(first) = values.first() else {
            return Ok(());
        };
        let failed = |value: &str, source| Error::Write {
            path: self.path.join(file),
            value: value.to_owned(),
            source,
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let open = fs::openat(self.fd()?, file, flags, Mode::empty())
            .map_err(|source| failed(first.as_ref(), source))?;
        for value in values.iter().map(AsRef::as_ref) {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&open, value.as_bytes()));
            match written.map_err(|source| failed(value, source))? {
                all if all == value.len() => {}
                _ => return Err(failed(value, Errno::IO)),
            }
        }
        Ok(())
    }

    /// The whole of a file.
    pub(crate) fn read(&self, file: &str) -> Result<String, Error> {
        let open = self.open_file(file, OFlags::RDONLY)?;
        let bytes = read_all(&open).map_err(|source| self.call("read", file, source))?;
        String::from_utf8(bytes).map_err(|_not_text| Error::Format {
            path: self.path.join(file),
            reason: "not text",
        })
    }

    /// The whole of a file, or nothing if this host does not have it.
    pub(crate) fn read_if_there(&self, file: &str) -> Result<Option<String>, Error> {
        match self.read(file) {
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
            read => read.map(Some),
        }
    }

    pub(crate) fn has(&self, file: &str) -> Result<bool, Error> {
        match fs::statat(self.fd()?, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(source) => Err(self.call("look for", file, source)),
        }
    }

    pub(crate) fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let flags = flags | OFlags::CLOEXEC;
        match self.open.get() {
            Some(dir) => fs::openat(dir, file, flags, Mode::empty()),
            // One file is all that is wanted of most directories.
            None => fs::open(self.path.join(file), flags, Mode::empty()),
        }
        .map_err(|source| self.call("open", file, source))
    }

    /// Makes the directory; says whether it is new.
    pub(crate) fn make(&self) -> Result<bool, Error> {
        match fs::mkdir(&self.path, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(source) => Err(self.call("create cgroup", "", source)),
        }
    }

    /// Removes the directory.
    pub(crate) fn unmake(&self) -> Result<(), Errno> {
        match fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // What the kernel says of a directory that vanishes while it is used.
            Err(Errno::NODEV) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The groups right below.
    pub(crate) fn children(&self) -> Result<Vec<Dir>, Error> {
        let names = self.list(FileType::Directory)?;
        let child = |name: &String| Self::new(self.path.join(name));
        Ok(names.iter().map(child).collect())
    }

    /// The names of its files.
    pub(crate) fn files(&self) -> Result<Vec<String>, Error> {
        self.list(FileType::RegularFile)
    }

    fn list(&self, wanted: FileType) -> Result<Vec<String>, Error> {
        let failed = |source| self.call("list", "", source);
        let open = match fs::open(
            &self.path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            open => open.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in fs::Dir::new(open).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let is_self_or_parent = |name: &CStr| matches!(name.to_bytes(), b"." | b"..");
            if entry.file_type() == wanted && !is_self_or_parent(name) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    pub(crate) fn call(&self, what: &'static str, file: &str, source: Errno) -> Error {
        let path = if file.is_empty() {
            self.path.clone()
        } else {
            self.path.join(file)
        };
        Error::Call { what, path, source }
    }
}
