//! What the global flags decide, for every command.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::cgroups::Manager;
use crate::failure::{Attempt, Result};
use crate::log::Log;

/// Made once in `main`.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where states are kept.
    pub(crate) root: PathBuf,
    /// `--root` was given: then it has to exist where that matters.
    pub(crate) root_given: bool,
    /// It is the default one of an ordinary user.
    pub(crate) root_is_users: bool,
    /// Control groups are made as far as that is permitted, and done without otherwise.
    pub(crate) rootless: bool,
    pub(crate) manager: Manager,
    pub(crate) log: Log,
}

impl Context {
    /// Makes the folder of an ordinary user's states. The sticky bit keeps what tidies runtime
    /// folders up away from it (XDG Base Directory Specification, `XDG_RUNTIME_DIR`).
    pub(crate) fn make_root(&self) -> Result<()> {
        if !self.root_is_users {
            return Ok(());
        }
        let root = &self.root;
        let what = || format!("make {root:?}");
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(root).attempt(what)?;
        set_permissions(root, Permissions::from_mode(0o1700)).attempt(what)
    }
}
