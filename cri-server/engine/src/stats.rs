//! What containers and pods use, read straight from their control groups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cgroup::{Cpu, Memory, Stats};
use pod::lifecycle::ContainerPhase;
use pod::sandbox::NamespaceMode;

use crate::error::Error;
use crate::interfaces::{self, Interface};
use crate::view::{Container, Sandbox};
use crate::{Inner, LOCK, now};

/// What a control group uses, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds since the epoch.
    pub timestamp: i64,
    /// CPU time per second of the last stretch, nanoseconds; `None` before a second sample.
    pub cpu_rate: Option<u64>,
    /// What the kernel accounts.
    pub group: Stats,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    /// Its control group.
    pub usage: Usage,
    /// Its writable layer.
    pub writable: image::Usage,
}

/// What a pod uses.
#[derive(Clone, Debug, Default)]
pub struct SandboxStats {
    /// Its control group; where it has none of its own, those of its containers together.
    pub usage: Usage,
    /// Its network interfaces but the loopback; none with the host's network.
    pub interfaces: Vec<Interface>,
    /// Its containers that run.
    pub containers: Vec<(Arc<Container>, ContainerStats)>,
}

/// The last sample of each control group, from which rates follow.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    last: Mutex<HashMap<String, Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    timestamp: i64,
    cpu_usage: u64,
    /// As told when this sample was taken.
    rate: Option<u64>,
}

/// Shortest stretch over which a rate is told, nanoseconds; a shorter one is joined to the last.
const SHORTEST_STRETCH: i64 = 100_000_000;

impl Rates {
    /// The rate up to this sample. Who asks again too soon hears the last one.
    fn rate(&self, id: &str, timestamp: i64, cpu_usage: u64) -> Option<u64> {
        let mut last = self.last.lock().expect(LOCK);
        let first = Sample {
            timestamp,
            cpu_usage,
            rate: None,
        };
        let before = *last.entry(id.to_owned()).or_insert(first);
        let stretch = timestamp - before.timestamp;
        if stretch < SHORTEST_STRETCH {
            return before.rate;
        }
        let rate = per_second(cpu_usage.saturating_sub(before.cpu_usage), stretch);
        last.insert(id.to_owned(), Sample { rate, ..first });
        rate
    }

    pub(crate) fn forget(&self, id: &str) {
        self.last.lock().expect(LOCK).remove(id);
    }
}

fn per_second(used: u64, stretch: i64) -> Option<u64> {
    let rate = u128::from(used) * 1_000_000_000 / u128::try_from(stretch).ok()?;
    u64::try_from(rate).ok()
}

fn usage(engine: &Inner, id: &str, group: Stats) -> Usage {
    let timestamp = now();
    let used = group.cpu.as_ref().map_or(0, |cpu| cpu.usage_ns);
    Usage {
        timestamp,
        cpu_rate: engine.rates.rate(id, timestamp, used),
        group,
    }
}

/// Reads the control group of a container; may block.
pub(crate) fn read(engine: &Inner, container: &Container) -> Result<ContainerStats, Error> {
    let what = || format!("reading the cgroup of container {}", container.id);
    let group = engine.group(&container.cgroup);
    let stats = group.and_then(|group| group.stats());
    let stats = stats.map_err(|error| Error::failed(what(), error))?;
    Ok(ContainerStats {
        usage: usage(engine, &container.id, stats),
        writable: engine.images.container_usage(&container.id),
    })
}

/// Reads all of a pod; may block. A container that ends meanwhile is left out.
pub(crate) fn read_sandbox(engine: &Inner, sandbox: &Sandbox) -> SandboxStats {
    let mut containers = Vec::new();
    for container in engine.view.containers_of(&sandbox.id) {
        if container.phase != ContainerPhase::Running {
            continue;
        }
        match read(engine, &container) {
            Ok(stats) => containers.push((container, stats)),
            Err(error) => tracing::debug!(container = container.id, %error, "no figures"),
        }
    }
    let group = of_pod(engine, sandbox);
    let group = group.unwrap_or_else(|| sum(containers.iter().map(|(_, stats)| &stats.usage)));
    SandboxStats {
        usage: usage(engine, &sandbox.id, group),
        interfaces: interfaces_of(sandbox),
        containers,
    }
}

/// The control group that a client made for the pod. The default one is for all pods, and tells
/// nothing of this one.
fn of_pod(engine: &Inner, sandbox: &Sandbox) -> Option<Stats> {
    let parent = pod::plan::parent_cgroup(&sandbox.spec.cgroup_parent, &engine.facts)?;
    let group = engine.group(&parent).ok()?;
    group.stats().ok().filter(|stats| stats.memory.is_some())
}

/// Groups taken together.
fn sum<'a>(groups: impl Iterator<Item = &'a Usage>) -> Stats {
    let mut all = Stats::default();
    for group in groups.map(|usage| &usage.group) {
        if let Some(cpu) = &group.cpu {
            add_cpu(all.cpu.get_or_insert_default(), cpu);
        }
        if let Some(memory) = &group.memory {
            add_memory(all.memory.get_or_insert_default(), memory);
        }
        all.pids = Some(all.pids.unwrap_or(0) + group.pids.unwrap_or(0));
    }
    all
}

fn add_cpu(all: &mut Cpu, one: &Cpu) {
    all.usage_ns += one.usage_ns;
    all.user_ns += one.user_ns;
    all.system_ns += one.system_ns;
}

fn add_memory(all: &mut Memory, one: &Memory) {
    all.usage += one.usage;
    all.working_set += one.working_set;
    all.rss += one.rss;
    all.page_faults += one.page_faults;
    all.major_page_faults += one.major_page_faults;
    all.swap = Some(all.swap.unwrap_or(0) + one.swap.unwrap_or(0));
}

fn interfaces_of(sandbox: &Sandbox) -> Vec<Interface> {
    if sandbox.spec.namespaces.network == NamespaceMode::Node {
        return Vec::new();
    }
    interfaces::read(&sandbox.namespaces.join("net")).unwrap_or_else(|error| {
        tracing::debug!(sandbox = sandbox.id, %error, "no figures of its network");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_apart() {
        let rates = Rates::default();
        let at = |milliseconds: i64, used| rates.rate("c", milliseconds * 1_000_000, used);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(10, 5), None);
        assert_eq!(at(2000, 1_000_000_000), Some(500_000_000));
        assert_eq!(at(2050, 1_900_000_000), Some(500_000_000));
        rates.forget("c");
        assert_eq!(at(4000, 1_000_000_000), None);
    }

    #[test]
    fn groups_add_up() {
        let one = |usage_ns, usage| Usage {
            group: Stats {
                cpu: Some(Cpu {
                    usage_ns,
                    ..Default::default()
                }),
                memory: Some(Memory {
                    usage,
                    limit: Some(5),
                    ..Default::default()
                }),
                pids: Some(2),
                ..Default::default()
            },
            ..Default::default()
        };
        let all = sum([one(1, 10), one(2, 20)].iter());
        assert_eq!(all.cpu.unwrap().usage_ns, 3);
        let memory = all.memory.unwrap();
        assert_eq!((memory.usage, memory.limit), (30, None));
        assert_eq!(all.pids, Some(4));
    }
}
