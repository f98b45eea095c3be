//! Checkpoint and restore, by the program criu: what it has to be told of a container, and what it
//! has to be done for while it works.
//!
//! ```text
//! flags -options-> \
//! plan -external-> -- dump, restore -wire-> criu, over its socket (service)
//! host facts -----> /        `--- notices: hooks, state, terminal
//! ```
//!
//! Not here: the images, which are criu's own affair, and the network's devices, which are the
//! engine's.

pub(crate) mod dump;
mod external;
pub(crate) mod options;
mod quote;
pub(crate) mod restore;
mod service;
mod wire;

use std::fs::DirBuilder;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

pub(crate) use service::find;

use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use options::Folders;
use wire::Options;

/// In the images' folder: what the standard streams of the first process were, as a list of texts.
const DESCRIPTORS: &str = "descriptors.json";

/// Says that this is not for ordinary users, as runc does.
pub(crate) fn warn_ordinary_user(context: &Context, verb: &str) {
    if !rustix::process::geteuid().is_root() {
        context
            .log
            .warning(&format!("wrun {verb} is untested with rootless containers"));
    }
}

/// The folders of images and logs. criu looks for them by their numbers in the process that made
/// the socket to it.
#[derive(Debug)]
struct Opened {
    images: OwnedFd,
    work: Option<OwnedFd>,
}

impl Opened {
    /// Opens them. A missing one for logs is made.
    fn of(folders: &Folders) -> Result<Opened> {
        let images = directory(&folders.images)?;
        let work = match &folders.work {
            Some(work) => {
                make_directory(work)?;
                Some(directory(work)?)
            }
            None => None,
        };
        Ok(Opened { images, work })
    }

    /// Their numbers; -1 for none.
    fn numbers(&self) -> (i32, i32) {
        let work = self.work.as_ref().map_or(-1, |work| work.as_raw_fd());
        (self.images.as_raw_fd(), work)
    }
}

impl Options {
    /// Names the folders of [`Opened`].
    fn set_folders(&mut self, (images, work): (i32, i32)) {
        self.images_dir_fd = images;
        self.work_dir_fd = (work >= 0).then_some(work);
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).attempt(|| format!("open folder {path:?}"))
}

/// For root alone: images hold the memory of programs.
fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .attempt(|| format!("make folder {path:?}"))
}

/// Puts the telling lines of criu's log into ours, and adds to a failure where that is.
fn explained(context: &Context, folders: &Folders, name: &str, failure: &Failure) -> Failure {
    let folder = folders.work.as_ref().unwrap_or(&folders.images);
    let file = folder.join(name);
    let file = std::path::absolute(&file).unwrap_or(file);
    match quote::errors(&context.log, &file) {
        Some(last) => Failure::new(format!("{failure}; log file {}: {last}", file.display())),
        None => Failure::new(format!("{failure}; log file {}", file.display())),
    }
}
