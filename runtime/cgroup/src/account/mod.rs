//! All that the kernel accounts of a group, for whoever shows everything (`events`): dozens of
//! files. Callers that ask often want [`Group::stats`](crate::Group::stats) instead.
//!
//! v1 and v2 account differently; the shape here is v1's, as the tools that read it know it, and
//! what a version does not have is zero, empty or `None`.

mod v1;
mod v2;

use std::collections::BTreeMap;

use crate::Error;
use crate::dir::Dir;
use crate::stats::Pressure;
pub(crate) use v1::read as read_v1;
pub(crate) use v2::read as read_v2;

/// All that is accounted of a group at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Processor time.
    pub cpu: CpuAccount,
    /// Which processors and memory nodes.
    pub cpuset: CpusetAccount,
    /// Memory.
    pub memory: MemoryAccount,
    /// Processes and threads.
    pub pids: PidsAccount,
    /// Input and output.
    pub io: IoAccount,
    /// Huge pages by their size as the kernel names it (`2MB`).
    pub huge_pages: BTreeMap<String, HugePageAccount>,
}

/// Processor time in nanoseconds since the group's creation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuAccount {
    /// All of it.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub kernel_ns: u64,
    /// By processor; v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// By processor, in the kernel; v1 only.
    pub per_cpu_kernel_ns: Vec<u64>,
    /// By processor, in user mode; v1 only.
    pub per_cpu_user_ns: Vec<u64>,
    /// Periods with a quota.
    pub periods: u64,
    /// Of them those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_ns: u64,
    /// Stalls; v2 only.
    pub pressure: Option<Pressure>,
}

/// The files of the cpuset controller; v1 only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpusetAccount {
    /// Processors.
    pub cpus: Vec<u16>,
    /// Memory nodes.
    pub mems: Vec<u16>,
    /// `cpu_exclusive`.
    pub cpu_exclusive: u64,
    /// `mem_hardwall`.
    pub mem_hardwall: u64,
    /// `mem_exclusive`.
    pub mem_exclusive: u64,
    /// `memory_migrate`.
    pub memory_migrate: u64,
    /// `memory_spread_page`.
    pub memory_spread_page: u64,
    /// `memory_spread_slab`.
    pub memory_spread_slab: u64,
    /// `memory_pressure`.
    pub memory_pressure: u64,
    /// `sched_load_balance`.
    pub sched_load_balance: u64,
    /// `sched_relax_domain_level`; -1 is the system's.
    pub sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryAccount {
    /// Page cache.
    pub cache: u64,
    /// Memory.
    pub usage: MemoryUse,
    /// Memory and swap together, on both versions; all zero where swap is not accounted.
    pub swap: MemoryUse,
    /// Of the kernel; v1 only.
    pub kernel: MemoryUse,
    /// Of the kernel's TCP buffers; v1 only.
    pub kernel_tcp: MemoryUse,
    /// `memory.stat` as it is.
    pub raw: BTreeMap<String, u64>,
    /// Stalls; v2 only.
    pub pressure: Option<Pressure>,
}

/// One kind of memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// The limit; `u64::MAX` for none on v2, v1's own large number there.
    pub limit: u64,
    /// In use.
    pub usage: u64,
    /// The most that was ever in use; zero where the kernel does not keep it.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsAccount {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 for no limit.
    pub limit: u64,
}

/// Input and output by device and kind of operation, since the group's creation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoAccount {
    /// Bytes.
    pub service_bytes: Vec<IoEntry>,
    /// Operations.
    pub serviced: Vec<IoEntry>,
    /// Operations waiting; v1 only.
    pub queued: Vec<IoEntry>,
    /// Nanoseconds of service; v1 only.
    pub service_time: Vec<IoEntry>,
    /// Nanoseconds of waiting; v1 only.
    pub wait_time: Vec<IoEntry>,
    /// Operations merged; v1 only.
    pub merged: Vec<IoEntry>,
    /// Milliseconds of a device's time; v1 only.
    pub time: Vec<IoEntry>,
    /// Sectors; v1 only.
    pub sectors: Vec<IoEntry>,
    /// Stalls; v2 only.
    pub pressure: Option<Pressure>,
}

/// One number of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the kernel names none.
    pub operation: String,
    /// The number.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePageAccount {
    /// In use.
    pub usage: u64,
    /// The most that was ever in use; v1 only.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// A file with one number; zero if it is missing or says `max`.
fn number(dir: &Dir, file: &str) -> Result<u64, Error> {
    let text = dir.read_if_there(file)?.unwrap_or_default();
    Ok(text.trim().parse().unwrap_or(0))
}

/// `memory.stat`.
fn raw(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// `8:0` in front of what a device did.
fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The sizes of huge pages that have files of the form `hugetlb.SIZE.end`.
fn page_sizes(dir: &Dir, end: &str) -> Result<Vec<String>, Error> {
    let mut sizes: Vec<String> = dir
        .files()?
        .iter()
        .filter_map(|file| file.strip_prefix("hugetlb.")?.strip_suffix(end))
        .filter_map(|size| size.strip_suffix('.'))
        .filter(|size| !size.contains('.'))
        .map(str::to_owned)
        .collect();
    sizes.sort_unstable();
    Ok(sizes)
}
