//! `wherryd` over its CRI socket, from outside: real containers, real kernel, crictl as the client.
//!
//! One module a capability. Each test has a daemon of its own with folders, bridge and control
//! groups of its own, and fails if anything of it is left in the end.

#![expect(
    clippy::unwrap_used,
    reason = "what the tests' own steps cannot do fails the test"
)]

mod accounts;
mod activation;
mod apparmor;
mod bad_input;
mod builders;
mod cadvisor;
mod cdi;
mod checkpoint;
mod classes;
mod config;
mod containerd;
mod debugging;
mod erofs;
mod events;
mod faults;
mod fields;
mod handlers;
mod host;
mod image_volumes;
mod inspection;
mod limits;
mod metrics;
mod migrate;
mod network;
mod notes;
mod nri;
mod power;
mod pressure;
mod prometheus;
mod reboot;
mod registries;
mod restart;
mod signatures;
mod spans;
mod stats;
mod strangers;
mod unpacking;
mod update;
mod upgrade;
mod user_namespaces;
mod verbs;
