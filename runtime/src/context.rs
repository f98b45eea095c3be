//! What the global flags decide, for every command.

use std::path::PathBuf;

use crate::cgroups::Manager;
use crate::log::Log;

/// Made once in `main`.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where states are kept.
    pub(crate) root: PathBuf,
    /// `--root` was given: then it has to exist where that matters.
    pub(crate) root_given: bool,
    pub(crate) manager: Manager,
    pub(crate) log: Log,
}
