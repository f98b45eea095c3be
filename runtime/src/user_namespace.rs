//! User namespaces: writing the maps of one, and making one that exists only for its maps.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};

use crate::failure::{Attempt, Result};
use crate::spec::RawIdMap;
use crate::sync;

/// Most lines that the kernel takes (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// Writes the maps of the user namespace that process `pid` has just been put into.
pub(crate) fn write_maps(pid: i32, uids: &[RawIdMap], gids: &[RawIdMap]) -> Result<()> {
    for (file, maps) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, lines(maps)).attempt(|| format!("write {file}"))?;
    }
    Ok(())
}

fn lines(maps: &[RawIdMap]) -> String {
    let mut text = String::new();
    for map in maps.iter().take(MAX_RANGES) {
        let _never_fails = writeln!(text, "{} {} {}", map.container_id, map.host_id, map.size);
    }
    text
}

/// A user namespace with these maps and no process in it.
pub(crate) fn with_maps(uids: &[RawIdMap], gids: &[RawIdMap]) -> Result<OwnedFd> {
    let what = || "make a user namespace for id maps".to_owned();
    let (parent_end, child_end) = sync::pair()?;
    let flag = u64::from(crate::plan::NamespaceKind::User.flag().unsigned_abs());
    match sys::process::clone3(flag, false, None).attempt(what)? {
        sys::process::Clone3::Child => {
            drop(parent_end);
            // Until the parent closes its end, which it also does when it fails.
            let _gone = child_end.wait_for_go();
            sys::process::exit_now(0)
        }
        sys::process::Clone3::Parent { pid, pidfd } => {
            drop(child_end);
            let made = write_maps(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).attempt(what)
            });
            drop(parent_end);
            crate::reap::reap(&pidfd)?;
            made
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_line() {
        let maps = [RawIdMap {
            container_id: 0,
            host_id: 1000,
            size: 1,
        }; 2];
        assert_eq!(lines(&maps), "0 1000 1\n0 1000 1\n");
    }
}
