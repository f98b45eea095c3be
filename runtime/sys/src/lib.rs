//! Linux kernel calls, wrapped: the only unsafe code of the project.
//!
//! One function a call; its first line of documentation is the C signature. Descriptors are owned
//! or borrowed, flags are typed, every new descriptor is close-on-exec from birth. This crate does;
//! it never decides and never logs. It knows nothing of OCI, CRI or policy.
#![allow(unsafe_code, reason = "this crate is where the project's unsafe code lives")]

pub mod fd;
