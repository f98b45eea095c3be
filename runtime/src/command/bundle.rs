//! What `create` and `run` start from: a bundle, the flags, and what was inherited.

use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open, readlink};

use super::{preserved, shut_others_out};
use crate::activation;
use crate::cli::Values;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::parent::{self, Request};
use crate::plan::Choices;
use crate::spec::Spec;
use crate::state::Folder;

/// A bundle whose configuration has been read.
#[derive(Debug)]
pub(super) struct Bundle<'a> {
    id: &'a str,
    dir: PathBuf,
    config: PathBuf,
    bytes: Vec<u8>,
    preserved: u32,
    folder: Folder,
}

impl<'a> Bundle<'a> {
    /// Reads it, and shuts out every inherited descriptor that the container is not to have.
    pub(super) fn of(context: &Context, values: &Values, id: &'a str) -> Result<Bundle<'a>> {
        let preserved = preserved(values, activation::listening())?;
        shut_others_out(preserved)?;
        let dir = directory(values)?;
        let config = dir.join(config_name(values));
        let bytes = parent::read_config(&config)?;
        let folder = Folder::of(&context.root, id)?;
        Ok(Bundle {
            id,
            dir,
            config,
            bytes,
            preserved,
            folder,
        })
    }

    /// Its configuration, with what a service manager adds.
    pub(super) fn spec(&self) -> Result<Spec<'_>> {
        let mut spec = parent::parse_config(&self.config, &self.bytes)?;
        activation::add_to(&mut spec, &self.folder);
        Ok(spec)
    }

    /// What is to be made of it.
    pub(super) fn request<'b>(
        &'b self,
        values: &Values,
        at_once: bool,
        console: Option<&'b OwnedFd>,
    ) -> Request<'b> {
        Request {
            id: self.id,
            bundle: &self.dir,
            config: &self.config,
            choices: Choices {
                no_pivot: values.is_set("no-pivot"),
                no_new_keyring: values.is_set("no-new-keyring"),
            },
            preserved: self.preserved,
            at_once,
            console,
        }
    }
}

/// `--bundle`, absolute.
pub(super) fn directory(values: &Values) -> Result<PathBuf> {
    let given = values
        .text("bundle")
        .filter(|dir| !dir.is_empty())
        .unwrap_or(".");
    let what = || format!("find the bundle {given:?}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(given, flags, Mode::empty()).attempt(what)?;
    // realpath(3) would be the first here to need the C library's memory.
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let path = readlink(link, Vec::new()).attempt(what)?;
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// `--config`.
fn config_name(values: &Values) -> &str {
    values
        .text("config")
        .filter(|name| !name.is_empty())
        .unwrap_or("config.json")
}
