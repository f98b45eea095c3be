//! Control groups, v1 and v2, by mkdir or by systemd: create, apply limits, read, freeze, kill,
//! remove.
//!
//! ```text
//! Host::detect() -> Host -- group(path) -> Group -- create, enter, apply, stats, kill, remove
//!                        \- group_by(Systemd, "slice:prefix:name") -- start(process), apply, ...
//! ```
//!
//! What is written is decided first, without effects ([`LinuxResources`] to a list of writes:
//! `v1` and `v2` modules), then carried out relative to the group's open directory (`dir`).
//! A hybrid host is treated as v1: its v2 side holds no controller that containers use.
//! This crate knows nothing of containers or pods; it does not decide which limits are right.
//!
//! # libcgroups
//!
//! libcgroups is the reference in the tests (same resources, same files) and nothing more:
//! on v2 it creates no group without a process, offers no directory to clone into, needs libbpf
//! for device rules, enables every controller one by one, and gives up on a group that is still
//! dying after four tries with sleeps between; on v1 its controllers are private and its manager
//! parses mountinfo once per controller. Each is on the path of every container start or end.
//!
//! [`LinuxResources`]: oci_spec::runtime::LinuxResources

mod account;
mod convert;
mod devices;
mod dir;
mod error;
mod group;
mod host;
mod memory;
mod ownership;
mod permission;
mod signal;
mod stats;
mod systemd;
mod v1;
mod v2;
mod wanted;

pub use account::{
    Account, CpuAccount, CpusetAccount, HugePageAccount, IoAccount, IoEntry, MemoryAccount,
    MemoryUse, PidsAccount,
};
pub use convert::shares_to_weight;
pub use devices::default_device_rules;
pub use error::Error;
pub use group::Group;
pub use host::{Driver, Host};
pub use stats::{Cpu, Memory, Pressure, PressureLine, Stats};
pub use systemd::Property;
pub use wanted::first_limit;
