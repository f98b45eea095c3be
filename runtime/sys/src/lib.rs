//! Linux kernel calls, wrapped: the only unsafe code of the project.
//!
//! One function a call; its first line of documentation is the C signature. Descriptors are owned
//! or borrowed, flags are typed, every new descriptor is close-on-exec from birth. This crate does;
//! it never decides and never logs. It knows nothing of OCI, CRI or policy.
#![allow(
    unsafe_code,
    reason = "this crate is where the project's unsafe code lives"
)]

use std::io;

pub mod arena;
pub mod bpf;
pub mod fd;
pub mod keyring;
pub mod landlock;
pub mod link;
pub mod mount;
pub mod process;
pub mod schedule;
pub mod seccomp;

/// The result of a raw system call: -1 means that errno has the reason.
fn outcome(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
