//! `--pid-file`: written by rename, because engines wait for it to appear and read it at once.

use std::path::Path;

use crate::failure::{Attempt, Result};

/// Writes `pid`, if a file is wanted.
pub(crate) fn write(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}"));
    let what = || format!("write pid file {path:?}");
    std::fs::write(&part, pid.to_string()).attempt(what)?;
    std::fs::rename(&part, path).attempt(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_just_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write(Some(&path), 42).unwrap();
        write(None, 1).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
