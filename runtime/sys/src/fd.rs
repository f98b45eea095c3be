//! File descriptors that come from outside.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `int fcntl(int fd, F_SETFD, FD_CLOEXEC)`: takes over a descriptor that the parent process left
/// open for us, and makes it close-on-exec. To be called once for each number.
///
/// # Errors
///
/// `EBADF`: nothing is open under that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes no pointers and fails on a bad descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (checked above) and, by contract, nobody else in this process
    // owns it: it came from the parent.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
