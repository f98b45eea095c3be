//! What containers and pods use, as CRI messages.

use std::path::Path;

use cri_api as cri;
use engine::{Container, ContainerStats, Interface, Pressure, Sandbox, SandboxStats, Usage};

use super::reply::{container_metadata, number, pairs, sandbox_metadata};

/// The interface that a pod is reached by, if it has one of that name; else its first.
const MAIN_INTERFACE: &str = "eth0";

/// What a container uses; `mountpoint` is a path on the file system of its writable layer.
pub(super) fn container(
    container: &Container,
    stats: &ContainerStats,
    mountpoint: &Path,
) -> cri::ContainerStats {
    let usage = &stats.usage;
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id.clone(),
            metadata: Some(container_metadata(container)),
            labels: pairs(&container.spec.labels),
            annotations: pairs(&container.spec.annotations),
        }),
        cpu: Some(cpu(usage)),
        memory: Some(memory(usage)),
        writable_layer: Some(file_system(usage.timestamp, mountpoint, stats.writable)),
        swap: swap(usage),
        io: io(usage),
    }
}

/// What a pod uses.
pub(super) fn sandbox(
    sandbox: &Sandbox,
    stats: &SandboxStats,
    mountpoint: &Path,
) -> cri::PodSandboxStats {
    let usage = &stats.usage;
    let containers = stats.containers.iter();
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: Some(sandbox_metadata(sandbox)),
            labels: pairs(&sandbox.spec.labels),
            annotations: pairs(&sandbox.spec.annotations),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(cpu(usage)),
            memory: Some(memory(usage)),
            network: network(usage.timestamp, &stats.interfaces),
            process: Some(cri::ProcessUsage {
                timestamp: usage.timestamp,
                process_count: number(usage.group.pids.unwrap_or(0)),
            }),
            containers: containers
                .map(|(of, stats)| container(of, stats, mountpoint))
                .collect(),
            io: io(usage),
        }),
        ..Default::default()
    }
}

fn cpu(usage: &Usage) -> cri::CpuUsage {
    let cpu = usage.group.cpu.clone().unwrap_or_default();
    cri::CpuUsage {
        timestamp: usage.timestamp,
        usage_core_nano_seconds: number(cpu.usage_ns),
        usage_nano_cores: usage.cpu_rate.and_then(number),
        psi: cpu.pressure.as_ref().map(psi),
    }
}

fn memory(usage: &Usage) -> cri::MemoryUsage {
    let memory = usage.group.memory.clone().unwrap_or_default();
    cri::MemoryUsage {
        timestamp: usage.timestamp,
        working_set_bytes: number(memory.working_set),
        available_bytes: memory.available().and_then(number),
        usage_bytes: number(memory.usage),
        rss_bytes: number(memory.rss),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        psi: memory.pressure.as_ref().map(psi),
    }
}

fn swap(usage: &Usage) -> Option<cri::SwapUsage> {
    let memory = usage.group.memory.as_ref()?;
    let used = memory.swap?;
    let available = memory.swap_limit.map(|limit| limit.saturating_sub(used));
    Some(cri::SwapUsage {
        timestamp: usage.timestamp,
        swap_available_bytes: available.and_then(number),
        swap_usage_bytes: number(used),
    })
}

fn io(usage: &Usage) -> Option<cri::IoUsage> {
    let pressure = usage.group.io_pressure.as_ref()?;
    Some(cri::IoUsage {
        timestamp: usage.timestamp,
        psi: Some(psi(pressure)),
    })
}

fn psi(pressure: &Pressure) -> cri::PsiStats {
    let [full, some] = [pressure.full, pressure.some].map(|line| cri::PsiData {
        total: line.total_ns,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    });
    cri::PsiStats {
        full: Some(full),
        some: Some(some),
    }
}

/// Nothing where the pod has the host's network, whose figures are not the pod's.
fn network(timestamp: i64, interfaces: &[Interface]) -> Option<cri::NetworkUsage> {
    let named = |interface: &&Interface| interface.name == MAIN_INTERFACE;
    let main = interfaces.iter().find(named).or(interfaces.first())?;
    let others = interfaces.iter().filter(|other| other.name != main.name);
    Some(cri::NetworkUsage {
        timestamp,
        default_interface: Some(interface(main)),
        interfaces: others.map(interface).collect(),
    })
}

fn interface(interface: &Interface) -> cri::NetworkInterfaceUsage {
    let (received, sent) = (interface.received, interface.sent);
    cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(received.bytes),
        rx_errors: number(received.errors),
        tx_bytes: number(sent.bytes),
        tx_errors: number(sent.errors),
    }
}

/// How much of a file system is used.
pub(super) fn file_system(
    timestamp: i64,
    mountpoint: &Path,
    usage: image::Usage,
) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: number(usage.bytes),
        inodes_used: number(usage.inodes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::samples;
    use super::*;

    #[test]
    fn stats_without_a_second_sample_have_no_rate() {
        let mut stats = ContainerStats::default();
        stats.usage.timestamp = 5;
        stats.usage.group.cpu.get_or_insert_default().usage_ns = 6;
        let message = container(&samples::container(), &stats, Path::new("/store"));
        let cpu = message.cpu.unwrap();
        assert_eq!((cpu.timestamp, cpu.usage_core_nano_seconds), (5, number(6)));
        assert_eq!(cpu.usage_nano_cores, None);
        let memory = message.memory.unwrap();
        assert_eq!((memory.timestamp, memory.available_bytes), (5, None));
        assert_eq!(
            message.writable_layer.unwrap().fs_id.unwrap().mountpoint,
            "/store"
        );
        assert_eq!((message.swap, message.io), (None, None));
    }

    #[test]
    fn swap_that_is_left_is_told_where_there_is_a_limit() {
        let mut usage = Usage::default();
        let memory = usage.group.memory.get_or_insert_default();
        memory.swap = Some(3);
        assert_eq!(swap(&usage).unwrap().swap_available_bytes, None);
        usage.group.memory.get_or_insert_default().swap_limit = Some(10);
        assert_eq!(swap(&usage).unwrap().swap_available_bytes, number(7));
    }

    #[test]
    fn a_pod_has_one_main_interface() {
        let named = |name: &str| Interface {
            name: name.into(),
            ..Default::default()
        };
        let names = |interfaces: &[Interface]| {
            let network = network(1, interfaces).unwrap();
            let others = network.interfaces.into_iter().map(|other| other.name);
            let all = [network.default_interface.unwrap().name].into_iter();
            all.chain(others).collect::<Vec<_>>()
        };
        assert_eq!(names(&[named("net1"), named("eth0")]), ["eth0", "net1"]);
        assert_eq!(names(&[named("net1"), named("net2")]), ["net1", "net2"]);
        assert_eq!(network(1, &[]), None);
    }

    #[test]
    fn a_pod_has_its_containers() {
        let container = (
            std::sync::Arc::new(samples::container()),
            ContainerStats::default(),
        );
        let mut stats = SandboxStats {
            containers: vec![container],
            ..Default::default()
        };
        stats.usage.group.pids = Some(3);
        let message = sandbox(&samples::sandbox(), &stats, Path::new("/store"));
        let linux = message.linux.unwrap();
        assert_eq!(linux.process.unwrap().process_count, number(3));
        let id = &linux.containers[0].attributes.as_ref().unwrap().id;
        assert_eq!(*id, "b2".repeat(32));
        assert_eq!(linux.network, None);
    }
}
