//! `wrun` from outside: real containers from a busybox rootfs, the real kernel, own folders.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

mod adopting;
mod bad_input;
mod checkpoint;
mod events;
mod flags;
mod groups;
mod harness;
mod hooks;
mod joining;
mod lifecycle;
mod mounts;
mod nested;
mod net_devices;
mod overwriting;
mod process;
mod rootless;
mod rootless_groups;
mod rows;
mod safety;
mod scheduling;
mod seccomp;
mod shadowed;
mod swapping;
mod systemd;
mod terminal;
mod torture;
mod tracing;
mod update;
mod user;
