//! What runs inside the containers: this binary, under the name of what it does.

use std::ffi::OsStr;
use std::path::Path;

/// Ends at once, successfully.
pub(crate) const TRUE: &str = "true";
/// Stays until it is killed.
pub(crate) const WAIT: &str = "wait";

/// Does what the program's name says, if it is one of the names above; says whether it was.
pub(crate) fn run() -> bool {
    let Some(first) = std::env::args_os().next() else {
        return false;
    };
    match Path::new(&first).file_name().and_then(OsStr::to_str) {
        Some(TRUE) => true,
        Some(WAIT) => loop {
            rustix::event::pause();
        },
        _ => false,
    }
}
