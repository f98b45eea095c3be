//! Where this process may make groups and move itself to (cgroups(7), "Delegation"): asked before
//! anything is made, so that nothing has to be undone.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// Whether the directory may be made, or used if it exists: whether the first that exists from there
/// upwards may be written to.
pub(crate) fn may_make(dir: &Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.is_dir());
    there.is_some_and(may_write)
}

/// Whether a process of the v2 group at `from` may be moved to the one at `to`, which exists or will
/// be made by this process: whether it may move processes in the nearest that holds both.
pub(crate) fn may_move(from: &Path, to: &Path) -> bool {
    may_write(&common(from, to).join("cgroup.procs"))
}

fn common(a: &Path, b: &Path) -> PathBuf {
    let pairs = a.components().zip(b.components());
    pairs.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

fn may_write(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_that_holds_both() {
        let check = |a: &str, b: &str, expect: &str| {
            assert_eq!(common(Path::new(a), Path::new(b)), Path::new(expect));
        };
        check("/c/user/s", "/c/user/n", "/c/user");
        check("/c/user/s", "/c/user/s/n", "/c/user/s");
        check("/c/user", "/c/used", "/c");
    }

    #[test]
    fn what_is_missing_is_asked_of_what_is_above() {
        let folder = std::env::temp_dir();
        assert!(may_make(&folder.join("no such/folder/here")));
    }
}
