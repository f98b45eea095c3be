//! Handing a group to another user, who then makes groups in it: delegation
//! (Documentation/admin-guide/cgroup-v2.rst, "Delegation").

use rustix::fs::{AtFlags, Uid, chownat};
use rustix::io::Errno;

use crate::Error;
use crate::dir::Dir;

/// The kernel's list of the files that go along.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// That list before 4.15.
const ALWAYS: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Makes `user` the owner of the directory and of the files that belong to a delegated group.
pub(crate) fn delegate(dir: &Dir, user: u32) -> Result<(), Error> {
    let owner = Some(Uid::from_raw(user));
    chownat(dir.fd()?, "", owner, None, AtFlags::EMPTY_PATH)
        .map_err(|source| dir.call("give away", "", source))?;
    let list = std::fs::read_to_string(LIST).unwrap_or_else(|_too_old| ALWAYS.to_owned());
    // A name with a slash would lead out; the kernel has none.
    for file in list
        .lines()
        .filter(|file| !file.is_empty() && !file.contains('/'))
    {
        match chownat(dir.fd()?, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
            // Of a controller that the group does not have.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(dir.call("give away", file, source)),
        }
    }
    Ok(())
}
