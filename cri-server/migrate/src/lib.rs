//! What another engine on this node was told, and the images that it has: containerd and CRI-O.
//!
//! Their files are read and never changed, and their daemons need not run. What they were told comes
//! out as keys of ours, files of ours and a list of what has no equal ([`Moved`]); their images come
//! out one by one as layouts of the image specification ([`Image::lay_out`]). It knows nothing of our
//! store, and whether our keys exist is for whoever writes them to say.

mod bolt;
mod containerd;
mod content;
mod crio;
mod plugins;
mod split;
mod storage;
mod tree;

use std::path::{Path, PathBuf};

pub use containerd::{Containerd, configuration as containerd};
pub use content::images as containerd_images;
pub use crio::{Crio, Files as CrioFiles, configuration as crio};
pub use storage::images as crio_images;

/// What an engine was told, in our words.
#[derive(Debug, Default)]
pub struct Moved {
    /// Keys of our configuration.
    pub settings: Vec<Setting>,
    /// Files that lie beside our configuration.
    pub files: Vec<File>,
    /// What has no equal.
    pub unlike: Vec<Unlike>,
}

/// A key of our configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name with its tables.
    pub key: Vec<String>,
    /// Its value.
    pub value: toml::Value,
    /// The key of theirs that it comes from.
    pub from: String,
}

/// A file that lies beside our configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where: relative to the folder of our configuration.
    pub to: PathBuf,
    /// What it holds.
    pub content: Vec<u8>,
    /// Whether others must not read it.
    pub secret: bool,
    /// The file or key of theirs that it comes from.
    pub from: String,
}

/// A key of theirs that has no equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlike {
    /// Its name with its tables, or a file.
    pub key: String,
    /// Why, or what takes its place.
    pub why: String,
}

/// An image of theirs.
#[derive(Debug)]
pub struct Image {
    /// Its whole names: with tags and with digests.
    pub names: Vec<String>,
    /// Whether it must never be collected.
    pub pinned: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Content(content::Target),
    Storage(storage::Stored),
}

impl Image {
    /// Writes the image as an OCI layout into an empty folder: links to its blobs where the folder
    /// lies on their file system, else copies; layers that are only there unpacked are put together
    /// again, uncompressed, under the digests that the configuration has for them.
    ///
    /// # Errors
    ///
    /// [`Error`] if something of it is not there any more.
    pub fn lay_out(&self, folder: &Path) -> Result<(), Error> {
        match &self.source {
            Source::Content(target) => target.lay_out(self, folder),
            Source::Storage(stored) => stored.lay_out(self, folder),
        }
    }
}

/// Why something of theirs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("{doing} {path:?}: {cause}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// A configuration.
    #[error("{path:?} is not TOML: {cause}")]
    Syntax {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        cause: Box<toml::de::Error>,
    },
    /// Anything else of theirs.
    #[error("{path:?}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An image is not whole.
    #[error("{reason}")]
    Incomplete {
        /// What is missing, and why that may be.
        reason: String,
    },
}

impl Error {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Io {
            doing,
            path: path.into(),
            cause,
        }
    }

    fn unreadable(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Unreadable {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}

impl Moved {
    fn set(&mut self, key: &[&str], value: impl Into<toml::Value>, from: &str) {
        self.settings.push(Setting {
            key: key.iter().map(|&part| part.to_owned()).collect(),
            value: value.into(),
            from: from.to_owned(),
        });
    }

    fn unlike(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.unlike.push(Unlike {
            key: key.into(),
            why: why.into(),
        });
    }

    /// A file of theirs, as it is.
    fn copy(&mut self, from: &Path, to: PathBuf, secret: bool) -> Result<(), Error> {
        let content = std::fs::read(from).map_err(Error::io("reading", from))?;
        self.files.push(File {
            to,
            content,
            secret,
            from: from.display().to_string(),
        });
        Ok(())
    }

    /// The files in the folders of hosts below `from`.
    fn copy_hosts(&mut self, from: &Path) -> Result<(), Error> {
        for host in children(from)? {
            if !host.is_dir() {
                continue;
            }
            for file in children(&host)? {
                if let (true, Some(host), Some(name)) =
                    (file.is_file(), host.file_name(), file.file_name())
                {
                    let secret = file.extension().is_some_and(|end| end == "key");
                    let to = Path::new("certs.d").join(host).join(name);
                    self.copy(&file, to, secret)?;
                }
            }
        }
        Ok(())
    }
}

/// Why a file of classes of RDT has no equal.
const RDT_FILE: &str = "wherryd makes no classes of RDT: they are folders of /sys/fs/resctrl, made by \
                        whoever mounts it; pods name them by the same annotations";

/// What lies in a folder, in order; nothing if there is none.
fn children(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("reading", folder))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths
        .collect::<Result<_, _>>()
        .map_err(Error::io("reading", folder))?;
    paths.sort();
    Ok(paths)
}

/// Folders in which programs are looked for that are named without one.
const PROGRAMS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The path of a program, if it is there.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.is_absolute() {
        return path.is_file().then(|| path.into());
    }
    let mut candidates = PROGRAMS.iter().map(|folder| Path::new(folder).join(name));
    candidates.find(|path| path.is_file())
}
