//! Landlock: a process gives up access to files, ports and sockets for good (landlock(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::outcome;

/// What a ruleset rules over: `struct landlock_ruleset_attr`. Whatever is named here is forbidden
/// but where a rule allows it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Handled {
    /// `LANDLOCK_ACCESS_FS_*`.
    pub files: u64,
    /// `LANDLOCK_ACCESS_NET_*` (ABI 4).
    pub network: u64,
    /// `LANDLOCK_SCOPE_*` (ABI 6).
    pub scoped: u64,
}

/// `struct landlock_ruleset_attr` as of ABI 6.
#[repr(C)]
struct RawRuleset {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct RawPathBeneath {
    allowed: u64,
    parent: i32,
}

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: u32 = 1;

/// `int landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)`: the version of the ABI.
///
/// # Errors
///
/// `ENOSYS`: the kernel was built without it. `EOPNOTSUPP`: it was started without it.
pub fn version() -> io::Result<u32> {
    let none = std::ptr::null::<RawRuleset>();
    // SAFETY: a null pointer with the size 0 is what this flag wants.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(outcome(version)?).map_err(io::Error::other)
}

/// `int landlock_create_ruleset(const struct landlock_ruleset_attr *, size_t, 0)`.
///
/// # Errors
///
/// `E2BIG`, `EINVAL`: the kernel knows less than is asked for; see [`version`]. As there.
pub fn create_ruleset(handled: Handled) -> io::Result<OwnedFd> {
    let raw = RawRuleset {
        files: handled.files,
        network: handled.network,
        scoped: handled.scoped,
    };
    // SAFETY: raw lives through the call, and the size is its own; a kernel that knows a shorter one
    // looks whether the rest is zero.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const raw,
            size_of::<RawRuleset>(),
            0_u32,
        )
    };
    let number = i32::try_from(outcome(made)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `int landlock_add_rule(int ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, const void *, 0)`: allows
/// `allowed` (`LANDLOCK_ACCESS_FS_*`) to `folder` and to all that is below it.
///
/// # Errors
///
/// `EINVAL`: more than the ruleset handles. `ENOMSG`: nothing at all is allowed.
pub fn allow_beneath(
    ruleset: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    allowed: u64,
) -> io::Result<()> {
    let raw = RawPathBeneath {
        allowed,
        parent: folder.as_raw_fd(),
    };
    // SAFETY: raw lives through the call and has the layout that this kind of rule has.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const raw,
            0_u32,
        )
    })?;
    Ok(())
}

/// `int landlock_restrict_self(int ruleset_fd, 0)`: of the calling thread, and those it makes.
///
/// # Errors
///
/// `EPERM`: neither no_new_privs nor `CAP_SYS_ADMIN`. `E2BIG`: too many rulesets on each other.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    outcome(unsafe {
        libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernel() {
        assert_eq!(
            (size_of::<RawRuleset>(), size_of::<RawPathBeneath>()),
            (24, 12)
        );
    }
}
