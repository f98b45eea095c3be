//! What containers use, read straight from their control groups.

/// What a container uses, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Nanoseconds since the epoch.
    pub timestamp: i64,
    /// CPU time, nanoseconds.
    pub cpu_usage: u64,
    /// CPU time per second of the last stretch, nanoseconds; `None` before a second sample.
    pub cpu_rate: Option<u64>,
    /// Memory in use, bytes, page cache included.
    pub memory_usage: u64,
    /// Memory that cannot be reclaimed easily, bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Limit minus working set, bytes; `None` without a limit.
    pub memory_available: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// Swap in use, bytes.
    pub swap_usage: Option<u64>,
    /// Writable layer, bytes.
    pub writable_bytes: u64,
    /// Writable layer, inodes.
    pub writable_inodes: u64,
}

use std::collections::HashMap;
use std::sync::Mutex;

use crate::error::Error;
use crate::view::Container;
use crate::{Inner, LOCK, now};

/// The last sample of each container, from which rates follow.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    last: Mutex<HashMap<String, Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    timestamp: i64,
    cpu_usage: u64,
}

/// Shortest stretch over which a rate is told, nanoseconds; a shorter one is joined to the last.
const SHORTEST_STRETCH: i64 = 100_000_000;

impl Rates {
    fn rate(&self, container: &str, sample: Sample) -> Option<u64> {
        let mut last = self.last.lock().expect(LOCK);
        let before = *last.entry(container.to_owned()).or_insert(sample);
        let stretch = sample.timestamp - before.timestamp;
        if stretch < SHORTEST_STRETCH {
            return None;
        }
        last.insert(container.to_owned(), sample);
        per_second(sample.cpu_usage.saturating_sub(before.cpu_usage), stretch)
    }

    pub(crate) fn forget(&self, container: &str) {
        self.last.lock().expect(LOCK).remove(container);
    }
}

fn per_second(used: u64, stretch: i64) -> Option<u64> {
    let rate = u128::from(used) * 1_000_000_000 / u128::try_from(stretch).ok()?;
    u64::try_from(rate).ok()
}

/// Reads the control group of a container; may block.
pub(crate) fn read(engine: &Inner, container: &Container) -> Result<ContainerStats, Error> {
    let what = || format!("reading the cgroup of container {}", container.id);
    let group = engine
        .cgroups
        .group(&container.cgroup)
        .map_err(|e| Error::failed(what(), e))?;
    let used = group
        .stats()
        .map_err(|error| Error::failed(what(), error))?;
    let writable = engine.images.container_usage(&container.id);
    let timestamp = now();
    let cpu_usage = used.cpu.map(|cpu| cpu.usage_ns).unwrap_or_default();
    let memory = used.memory.unwrap_or_default();
    let sample = Sample {
        timestamp,
        cpu_usage,
    };
    Ok(ContainerStats {
        timestamp,
        cpu_usage,
        cpu_rate: engine.rates.rate(&container.id, sample),
        memory_usage: memory.usage,
        memory_working_set: memory.working_set,
        memory_rss: memory.rss,
        memory_available: memory.available(),
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
        swap_usage: memory.swap,
        writable_bytes: writable.bytes,
        writable_inodes: writable.inodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_apart() {
        let rates = Rates::default();
        let at = |milliseconds: i64, cpu_usage| Sample {
            timestamp: milliseconds * 1_000_000,
            cpu_usage,
        };
        assert_eq!(rates.rate("c", at(0, 0)), None);
        assert_eq!(rates.rate("c", at(10, 5)), None);
        assert_eq!(rates.rate("c", at(2000, 1_000_000_000)), Some(500_000_000));
        rates.forget("c");
        assert_eq!(rates.rate("c", at(4000, 1_000_000_000)), None);
    }
}
