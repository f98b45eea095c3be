//! The session keyring.

use std::ffi::CStr;
use std::io;

use crate::outcome;

/// `long keyctl(KEYCTL_JOIN_SESSION_KEYRING, const char *name)`: its serial number.
///
/// # Errors
///
/// `ENOSYS`: the kernel has no keyrings. `EDQUOT`, `ENOMEM`, `EACCES`.
pub fn join_session(name: &CStr) -> io::Result<i64> {
    // SAFETY: name lives through the call and ends with a zero byte.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    })
}

/// `long keyctl(KEYCTL_SETPERM, key_serial_t key, key_perm_t perm)`, with `perm` from the present
/// one: adds `add` to the bits that `KEYCTL_DESCRIBE` names.
///
/// # Errors
///
/// `EACCES`, `EINVAL`, `ENOKEY`.
pub fn allow(key: i64, add: u32) -> io::Result<()> {
    let mut text = [0_u8; 256];
    // SAFETY: the kernel writes at most the given length into text.
    let length = outcome(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_DESCRIBE,
            key,
            text.as_mut_ptr(),
            text.len(),
        )
    })?;
    let length = usize::try_from(length)
        .map_err(io::Error::other)?
        .min(text.len());
    let described = String::from_utf8_lossy(&text[..length]);
    // keyctl(2): "type;uid;gid;perm;description", perm in hexadecimal.
    let now = described
        .split(';')
        .nth(3)
        .and_then(|bits| u32::from_str_radix(bits, 16).ok());
    let Some(now) = now else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, now | add) })?;
    Ok(())
}
