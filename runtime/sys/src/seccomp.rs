//! Loading a system call filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::outcome;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` (linux/seccomp.h).
pub const NEW_LISTENER: u32 = 1 << 3;

/// One instruction of classic BPF: `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How far to jump if the comparison holds.
    pub jt: u8,
    /// How far to jump if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `int seccomp(SECCOMP_SET_MODE_FILTER, unsigned flags, struct sock_fprog *)`.
///
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` among the flags it gives the listener.
///
/// # Errors
///
/// `EACCES`: neither no_new_privs nor `CAP_SYS_ADMIN`. `EINVAL`: an unknown flag, or a program that
/// the kernel refuses. `EBUSY`: a listener exists.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let raw = libc::sock_fprog {
        len: u16::try_from(program.len())
            .map_err(|_too_long| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: Instruction has the layout of sock_filter (repr(C), same fields); the kernel only
    // reads len of them, and they live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const raw,
        )
    };
    let fd = outcome(done)?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let number = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: with that flag the result is a new descriptor, close-on-exec.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}
