//! Making processes, signalling them, and what a new one inherits.
//!
//! Only what rustix and nix have no safe call for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::outcome;

/// Which side of [`clone3`] this is.
#[derive(Debug)]
pub enum Clone3 {
    /// The new process.
    Child,
    /// The caller, with a handle on the new process.
    Parent {
        /// Number of the new process in the caller's process id namespace.
        pid: i32,
        /// Handle on it; becomes readable when it has ended.
        pidfd: OwnedFd,
    },
}

/// `CLONE_INTO_CGROUP` (linux/sched.h); libc has it as a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `long clone3(struct clone_args *args, size_t size)` with `CLONE_PIDFD` and `SIGCHLD`: a copy of
/// this process, in new namespaces of the kinds in `namespaces` (`CLONE_NEW*`).
///
/// `sibling` makes the new process a child of the caller's parent (`CLONE_PARENT`); `group`, the
/// folder of a v2 control group, is where it is born (`CLONE_INTO_CGROUP`).
///
/// # Errors
///
/// `EINVAL` where this process has more than one thread: only the calling thread would exist in
/// the copy, with whatever locks the others held. Else as in clone(2): `EPERM`, `ENOSPC`,
/// `EAGAIN`, `EUSERS`.
pub fn clone3(namespaces: u64, sibling: bool, group: Option<BorrowedFd<'_>>) -> io::Result<Clone3> {
    // SAFETY: no pointers. CLONE_VM in unshare(2) does nothing but fail if there are other threads.
    outcome(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_VM) })?;
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data; all zero means "nothing asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    if sibling {
        // The exit signal is then that of the caller, and giving one is an error.
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(group) = group {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: args and pidfd live through the call; without CLONE_VM the child runs on its own copy
    // of this memory, and there are no other threads (checked above) whose locks it could miss.
    let made = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match outcome(made)? {
        0 => Ok(Clone3::Child),
        pid => Ok(Clone3::Parent {
            pid: i32::try_from(pid).map_err(io::Error::other)?,
            // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// `int pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags)`, any signal number.
///
/// # Errors
///
/// `ESRCH`: it has ended. `EINVAL`: no such signal. `EPERM`.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed: the kernel fills in that of kill(2).
    outcome(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    })?;
    Ok(())
}

/// `int kill(pid_t pid, int sig)`, any signal number, one process.
///
/// # Errors
///
/// `ESRCH`: it has ended. `EINVAL`: no such signal. `EPERM`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_kill, pid, signal) })?;
    Ok(())
}

/// `int sigaction(int sig, const struct sigaction *act, ...)` with `SIG_DFL` for every signal, and
/// `sigprocmask` with an empty set: what a program expects to start with.
///
/// # Errors
///
/// None that the manual knows of.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || signal == 32 || signal == 33 {
            continue; // The first two cannot be changed; a libc keeps the others for itself.
        }
        // SAFETY: SIG_DFL is a valid disposition for each of these signals, and removes handlers
        // rather than adding any.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(io::Error::from)
}

/// `void _exit(int status)`: ends this process without running anything that was registered to run
/// at exit; for the child of [`clone3`], which shares such registrations with its parent.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: no pointers, does not return.
    unsafe { libc::_exit(status) }
}

/// `int close_range(first, ~0U, CLOSE_RANGE_CLOEXEC)`: nothing from `first` up survives an exec.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; descriptors stay open, so no owner is surprised.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// `int close_range(first, last, 0)` twice: closes everything from `first` up but `keep`.
///
/// For the last moments of a process before exec or exit: owners of what it closes must never be
/// dropped afterwards, so it takes a closure that does not return.
pub fn close_all_but(
    first: u32,
    keep: BorrowedFd<'_>,
    then: impl FnOnce() -> std::convert::Infallible,
) -> ! {
    let kept = u32::try_from(keep.as_raw_fd()).unwrap_or(u32::MAX);
    let ranges = [
        (first, kept.saturating_sub(1)),
        (kept.saturating_add(1).max(first), u32::MAX),
    ];
    for (from, to) in ranges {
        if from <= to {
            // SAFETY: no pointers. What owned these descriptors is never dropped, because nothing
            // below this frame runs again.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    }
    match then() {}
}

/// `int setns(int fd, int nstype)`: enters a namespace (a nsfs descriptor) or several of another
/// process (a pidfd) of the kinds in `kinds` (`CLONE_NEW*`).
///
/// # Errors
///
/// `EINVAL`: the descriptor is of another kind, or this one cannot be entered. `EPERM`. `ESRCH`:
/// the process has ended.
pub fn setns(namespace: impl AsFd, kinds: i32) -> io::Result<()> {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: no pointers; none of the kinds changes memory of this process.
    outcome(unsafe { libc::syscall(libc::SYS_setns, fd, kinds) })?;
    Ok(())
}

/// `int dup3(int old, int new, 0)`: puts `descriptor` in the place of standard input, output or
/// error (0 to 2), without close-on-exec.
///
/// # Errors
///
/// `EBADF` where `stream` is none of the three; `EMFILE`.
pub fn take_stream(descriptor: BorrowedFd<'_>, stream: RawFd) -> io::Result<()> {
    if !(0..=2).contains(&stream) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    if descriptor.as_raw_fd() == stream {
        return Ok(());
    }
    // SAFETY: no pointers; the three streams have no owner that closes them.
    outcome(unsafe { libc::syscall(libc::SYS_dup3, descriptor.as_raw_fd(), stream, 0) })?;
    Ok(())
}
