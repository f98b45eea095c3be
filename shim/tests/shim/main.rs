//! The shim as a program: real processes, a real OCI runtime, this machine's kernel.
//!
//! The runtime is `$WHERRY_TEST_RUNTIME`, or the `wrun` beside the shim, or `runc`. Needs root,
//! a static busybox and control groups; prints `skipped: needs X` where one is missing.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

mod ending;
mod exec;
mod harness;
mod lifecycle;
mod logs;
mod streams;
