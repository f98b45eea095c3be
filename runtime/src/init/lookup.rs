//! Finding the program in the container, so that a missing one fails `create` and not `start`.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use crate::failure::{Attempt, Failure, Result};
use crate::messages;
use crate::plan::ProcessPlan;

/// `PATH` for a container that sets none; what runc gives.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program that `args[0]` means, as the user and in the folder that it will start in.
pub(super) fn program(plan: &ProcessPlan<'_>) -> Result<CString> {
    let name = plan
        .args
        .first()
        .map(|arg| arg.as_bytes())
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(name).into_owned();
    if name.contains(&b'/') {
        check(name).map_err(|error| wrong(&shown, error))?;
        return c_string(name.to_vec(), &shown);
    }
    let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    for folder in path.split(|byte| *byte == b':') {
        // An empty part means the working directory.
        let folder = if folder.is_empty() { &b"."[..] } else { folder };
        let candidate = [folder, b"/", name].concat();
        match check(&candidate) {
            Ok(()) => {
                return c_string(candidate, &shown);
            }
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        return Err(wrong(&shown, Errno::ACCESS));
    }
    Err(Failure::new(format!(
        "exec: {shown:?}: {}",
        messages::NOT_IN_PATH
    )))
}

fn c_string(path: Vec<u8>, shown: &str) -> Result<CString> {
    CString::new(path).map_err(|_zero| Failure::new(format!("exec: {shown:?}: a zero byte")))
}

fn wrong(shown: &str, error: Errno) -> Failure {
    let what = || match error {
        Errno::NOENT => format!("exec: {shown:?}: stat {shown}"),
        _ => format!("exec: {shown:?}"),
    };
    let result: std::result::Result<(), Errno> = Err(error);
    match result.attempt(what) {
        Err(failure) => failure,
        Ok(()) => Failure::new(shown),
    }
}

fn check(path: &[u8]) -> std::result::Result<(), Errno> {
    let path = OsStr::from_bytes(path);
    match FileType::from_raw_mode(stat(path)?.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS),
        _ => Err(Errno::ACCESS),
    }
}
