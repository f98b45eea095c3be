//! Pod networks on a real kernel: each test runs in a host of its own, a private network
//! namespace, with pods that are namespaces too.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "these are tests: a panic is how they fail, and what they skip they say"
)]

mod builtin;
mod cni;
mod lab;
