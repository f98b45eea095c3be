//! User namespaces: writing the maps of one, and making one that exists only for its maps.
//!
//! Who has no right to the ids may map itself, and nothing else; more than that is for `newuidmap`
//! and `newgidmap`, which know what `/etc/subuid` and `/etc/subgid` give to a user.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};

use crate::failure::{Attempt, Failure, Result};
use crate::rights::Rights;
use crate::spec::RawIdMap;
use crate::sync;

/// Most lines that the kernel takes (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// One of the two maps of a user namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Users,
    Groups,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Kind::Users => "uid_map",
            Kind::Groups => "gid_map",
        }
    }

    /// The program of shadow-utils that writes it for an ordinary user.
    fn helper(self) -> &'static str {
        match self {
            Kind::Users => "newuidmap",
            Kind::Groups => "newgidmap",
        }
    }
}

/// How a map gets written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// By this process, which has the right to all ids.
    Direct,
    /// By this process, which maps only itself.
    Own,
    /// By the helper.
    Helper,
}

impl Way {
    fn choose(rights: &Rights, own: u32, maps: &[RawIdMap]) -> Way {
        match maps {
            _ if rights.maps_ids => Way::Direct,
            [one] if (one.host_id, one.size) == (own, 1) => Way::Own,
            _ => Way::Helper,
        }
    }
}

/// Writes the maps of the user namespace that process `pid` has just been put into.
pub(crate) fn write_maps(
    rights: &Rights,
    pid: i32,
    uids: &[RawIdMap],
    gids: &[RawIdMap],
) -> Result<()> {
    let both = [
        (Kind::Users, rights.uid, uids),
        (Kind::Groups, rights.gid, gids),
    ];
    for (kind, own, maps) in both {
        match Way::choose(rights, own, maps) {
            Way::Direct => write(pid, kind.file(), &lines(maps))?,
            Way::Own => {
                // user_namespaces(7): else it could leave a group that keeps it from a file.
                if kind == Kind::Groups {
                    write(pid, "setgroups", "deny")?;
                }
                write(pid, kind.file(), &lines(maps))?;
            }
            Way::Helper => ask_helper(pid, kind, maps)?,
        }
    }
    Ok(())
}

fn write(pid: i32, file: &str, text: &str) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/{file}"), text).attempt(|| format!("write {file}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the two helpers are children of this function alone"
)]
fn ask_helper(pid: i32, kind: Kind, maps: &[RawIdMap]) -> Result<()> {
    let helper = kind.helper();
    let numbers = maps
        .iter()
        .take(MAX_RANGES)
        .flat_map(|map| [map.container_id, map.host_id, map.size]);
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .attempt(|| format!("run {helper} for ids that are not the user's own"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "{helper} refused ({}): {}",
        output.status,
        said.trim()
    )))
}

fn lines(maps: &[RawIdMap]) -> String {
    let mut text = String::new();
    for map in maps.iter().take(MAX_RANGES) {
        let _never_fails = writeln!(text, "{} {} {}", map.container_id, map.host_id, map.size);
    }
    text
}

/// A user namespace with these maps and no process in it.
pub(crate) fn with_maps(rights: &Rights, uids: &[RawIdMap], gids: &[RawIdMap]) -> Result<OwnedFd> {
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
            let made = write_maps(rights, pid, uids, gids).and_then(|()| {
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

    fn check_way(maps_ids: bool, host_id: u32, size: u32, expect: Way) {
        let rights = Rights {
            administers: false,
            returns: false,
            copies_mounts: false,
            makes_nodes: false,
            maps_ids,
            uid: 1000,
            gid: 1000,
        };
        let one = RawIdMap {
            container_id: 0,
            host_id,
            size,
        };
        assert_eq!(Way::choose(&rights, rights.uid, &[one]), expect);
    }

    #[test]
    fn more_than_oneself_is_for_the_helper() {
        check_way(false, 1000, 1, Way::Own);
        check_way(false, 1000, 2, Way::Helper);
        check_way(false, 1001, 1, Way::Helper);
        check_way(true, 0, 65536, Way::Direct);
    }

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
