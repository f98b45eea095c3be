//! Metrics of pods and containers, by the names that cAdvisor has made common.
//!
//! The two tables at the end are all there is to say of a metric: descriptors and values both
//! follow from them. A value is a whole number on this wire: seconds are cut.

use std::sync::Arc;

use cri_api as cri;
use engine::{
    Container, ContainerStats, Engine, Error, Figures, Interface, Io, Pressure, Sandbox,
    SandboxStats,
};

use super::stats;

/// Labels of every metric.
const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];
const NANOSECONDS: u64 = 1_000_000_000;

/// All metrics of one name; they are about a `T`.
struct Family<T> {
    name: &'static str,
    help: &'static str,
    kind: cri::MetricType,
    /// Labels beside those that all have.
    labels: &'static [&'static str],
    /// Values, each with its labels.
    values: fn(&T) -> Vec<Value>,
}

/// Labels beside those that all have, and the number.
type Value = (Vec<String>, u64);

/// What a container's metrics are made of.
struct Source {
    container: Arc<Container>,
    stats: ContainerStats,
    figures: Figures,
}

/// What all metrics of a pod or a container have in common.
struct Common {
    timestamp: i64,
    labels: Vec<String>,
}

/// All that can be asked for.
pub(super) fn descriptors() -> cri::ListMetricDescriptorsResponse {
    let of_pods = POD.iter().map(describe);
    cri::ListMetricDescriptorsResponse {
        descriptors: of_pods.chain(CONTAINER.iter().map(describe)).collect(),
    }
}

fn describe<T>(family: &Family<T>) -> cri::MetricDescriptor {
    let labels = LABELS.iter().chain(family.labels);
    cri::MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: labels.map(ToString::to_string).collect(),
    }
}

/// Metrics of all sandboxes that are ready, and of their containers that run. What ends meanwhile
/// is left out.
pub(super) async fn list(engine: &Engine) -> Vec<cri::PodSandboxMetrics> {
    let mut all = Vec::new();
    for sandbox in stats::ready(engine) {
        match of_sandbox(engine, &sandbox).await {
            Ok(metrics) => all.push(metrics),
            Err(error) => tracing::debug!(sandbox = sandbox.id, %error, "no metrics"),
        }
    }
    all
}

async fn of_sandbox(engine: &Engine, sandbox: &Sandbox) -> Result<cri::PodSandboxMetrics, Error> {
    let stats = engine.sandbox_stats(&sandbox.id).await?;
    let common = Common {
        timestamp: stats.usage.timestamp,
        labels: labels(sandbox, "", &sandbox.id, ""),
    };
    Ok(cri::PodSandboxMetrics {
        pod_sandbox_id: sandbox.id.clone(),
        metrics: metrics(&POD, &stats.interfaces, &common),
        container_metrics: of_containers(engine, sandbox, &stats).await,
    })
}

async fn of_containers(
    engine: &Engine,
    sandbox: &Sandbox,
    stats: &SandboxStats,
) -> Vec<cri::ContainerMetrics> {
    let mut all = Vec::new();
    for (container, stats) in &stats.containers {
        match engine.figures(container).await {
            Ok(figures) => all.push(of_container(sandbox, container, stats, figures)),
            Err(error) => tracing::debug!(container = container.id, %error, "no metrics"),
        }
    }
    all
}

fn of_container(
    sandbox: &Sandbox,
    container: &Arc<Container>,
    stats: &ContainerStats,
    figures: Figures,
) -> cri::ContainerMetrics {
    let spec = &container.spec;
    let image = match spec.user_specified_image.as_str() {
        "" => &spec.image,
        given => given,
    };
    let common = Common {
        timestamp: stats.usage.timestamp,
        labels: labels(sandbox, &spec.name, &container.id, image),
    };
    let source = Source {
        container: Arc::clone(container),
        stats: stats.clone(),
        figures,
    };
    cri::ContainerMetrics {
        container_id: container.id.clone(),
        metrics: metrics(&CONTAINER, &source, &common),
    }
}

fn labels(sandbox: &Sandbox, container: &str, id: &str, image: &str) -> Vec<String> {
    let spec = &sandbox.spec;
    [&spec.name, &spec.namespace, container, id, image]
        .map(str::to_owned)
        .into()
}

fn metrics<T>(families: &[Family<T>], source: &T, common: &Common) -> Vec<cri::Metric> {
    let of_family = |family: &Family<T>| {
        let metric = |(labels, value): Value| cri::Metric {
            name: family.name.to_owned(),
            timestamp: common.timestamp,
            metric_type: family.kind.into(),
            label_values: common.labels.iter().cloned().chain(labels).collect(),
            value: Some(cri::UInt64Value { value }),
        };
        (family.values)(source)
            .into_iter()
            .map(metric)
            .collect::<Vec<_>>()
    };
    families.iter().flat_map(of_family).collect()
}

// ---- words of the tables ----

const fn counter<T>(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&T) -> Vec<Value>,
) -> Family<T> {
    Family {
        name,
        help,
        kind: cri::MetricType::Counter,
        labels,
        values,
    }
}

const fn gauge<T>(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&T) -> Vec<Value>,
) -> Family<T> {
    Family {
        name,
        help,
        kind: cri::MetricType::Gauge,
        labels,
        values,
    }
}

fn one(value: u64) -> Vec<Value> {
    vec![(Vec::new(), value)]
}

/// A limit, 0 where there is none.
fn limit(value: i64) -> Vec<Value> {
    one(u64::try_from(value).unwrap_or(0))
}

fn seconds(nanoseconds: u64) -> Vec<Value> {
    one(nanoseconds / NANOSECONDS)
}

fn each_interface(interfaces: &[Interface], value: fn(&Interface) -> u64) -> Vec<Value> {
    let labelled = |interface: &Interface| (vec![interface.name.clone()], value(interface));
    interfaces.iter().map(labelled).collect()
}

/// Input and output of each device for one operation.
fn each_device(source: &Source, operation: &str, value: fn(&Io) -> u64) -> Vec<Value> {
    let io = source.figures.io.iter();
    io.filter(|io| io.operation == operation)
        .map(|io| (vec![io.device.clone()], value(io)))
        .collect()
}

fn disk(source: &Source, value: u64) -> Vec<Value> {
    vec![(vec![source.figures.disk.device.clone()], value)]
}

fn cpu(source: &Source, value: fn(&engine::Cpu) -> u64) -> u64 {
    source.stats.usage.group.cpu.as_ref().map_or(0, value)
}

fn memory(source: &Source, value: fn(&engine::Memory) -> u64) -> u64 {
    source.stats.usage.group.memory.as_ref().map_or(0, value)
}

/// Time in which something waited, and in which everything did.
fn waiting(pressure: Option<Pressure>) -> Vec<Value> {
    seconds(pressure.map_or(0, |pressure| pressure.some.total_ns))
}

fn stalled(pressure: Option<Pressure>) -> Vec<Value> {
    seconds(pressure.map_or(0, |pressure| pressure.full.total_ns))
}

fn cpu_pressure(source: &Source) -> Option<Pressure> {
    source.stats.usage.group.cpu.as_ref()?.pressure
}

fn memory_pressure(source: &Source) -> Option<Pressure> {
    source.stats.usage.group.memory.as_ref()?.pressure
}

fn faults(source: &Source) -> Vec<Value> {
    let kind = |name: &str| vec![name.to_owned(), "container".to_owned()];
    vec![
        (kind("pgfault"), memory(source, |memory| memory.page_faults)),
        (
            kind("pgmajfault"),
            memory(source, |memory| memory.major_page_faults),
        ),
    ]
}

fn block_io(source: &Source) -> Vec<Value> {
    let labelled = |io: &Io| {
        let labels = [
            io.device.clone(),
            io.major.to_string(),
            io.minor.to_string(),
            io.operation.to_owned(),
        ];
        (labels.into(), io.bytes)
    };
    source.figures.io.iter().map(labelled).collect()
}

fn huge_pages(source: &Source, value: fn(&engine::HugePages) -> u64) -> Vec<Value> {
    let pages = source.figures.huge_pages.iter();
    pages
        .map(|pages| (vec![pages.size.clone()], value(pages)))
        .collect()
}

// ---- the tables ----

#[rustfmt::skip]
static POD: [Family<Vec<Interface>>; 8] = [
    counter("container_network_receive_bytes_total", "Bytes received", &["interface"], |i| each_interface(i, |i| i.received.bytes)),
    counter("container_network_receive_packets_total", "Packets received", &["interface"], |i| each_interface(i, |i| i.received.packets)),
    counter("container_network_receive_packets_dropped_total", "Packets dropped while receiving", &["interface"], |i| each_interface(i, |i| i.received.dropped)),
    counter("container_network_receive_errors_total", "Errors while receiving", &["interface"], |i| each_interface(i, |i| i.received.errors)),
    counter("container_network_transmit_bytes_total", "Bytes sent", &["interface"], |i| each_interface(i, |i| i.sent.bytes)),
    counter("container_network_transmit_packets_total", "Packets sent", &["interface"], |i| each_interface(i, |i| i.sent.packets)),
    counter("container_network_transmit_packets_dropped_total", "Packets dropped while sending", &["interface"], |i| each_interface(i, |i| i.sent.dropped)),
    counter("container_network_transmit_errors_total", "Errors while sending", &["interface"], |i| each_interface(i, |i| i.sent.errors)),
];

#[rustfmt::skip]
static CONTAINER: [Family<Source>; 48] = [
    counter("container_cpu_user_seconds_total", "Processor time in user mode, seconds", &[], |s| seconds(cpu(s, |c| c.user_ns))),
    counter("container_cpu_system_seconds_total", "Processor time in the kernel, seconds", &[], |s| seconds(cpu(s, |c| c.system_ns))),
    counter("container_cpu_usage_seconds_total", "Processor time, seconds", &[], |s| seconds(cpu(s, |c| c.usage_ns))),
    counter("container_cpu_cfs_periods_total", "Periods of the processor quota that have passed", &[], |s| one(cpu(s, |c| c.periods))),
    counter("container_cpu_cfs_throttled_periods_total", "Periods in which the processor quota was used up", &[], |s| one(cpu(s, |c| c.throttled_periods))),
    counter("container_cpu_cfs_throttled_seconds_total", "Time without processor because of the quota, seconds", &[], |s| seconds(cpu(s, |c| c.throttled_ns))),
    gauge("container_memory_cache", "Page cache, bytes", &[], |s| one(s.figures.cache)),
    gauge("container_memory_rss", "Anonymous memory, bytes", &[], |s| one(memory(s, |m| m.rss))),
    gauge("container_memory_kernel_usage", "Memory of the kernel on its behalf, bytes", &[], |s| one(s.figures.kernel)),
    gauge("container_memory_mapped_file", "Files mapped into memory, bytes", &[], |s| one(s.figures.mapped_file)),
    gauge("container_memory_swap", "Swap in use, bytes", &[], |s| one(memory(s, |m| m.swap.unwrap_or(0)))),
    counter("container_memory_failcnt", "How often the limit of memory was hit", &[], |s| one(s.figures.limit_hits)),
    gauge("container_memory_usage_bytes", "Memory in use with page cache, bytes", &[], |s| one(memory(s, |m| m.usage))),
    gauge("container_memory_max_usage_bytes", "Most memory that was ever in use, bytes", &[], |s| one(s.figures.max_usage)),
    gauge("container_memory_working_set_bytes", "Memory that cannot be reclaimed easily, bytes", &[], |s| one(memory(s, |m| m.working_set))),
    counter("container_memory_failures_total", "Page faults by kind", &["failure_type", "scope"], faults),
    counter("container_oom_events_total", "Processes ended by the kernel for want of memory", &[], |s| one(s.figures.oom_kills)),
    gauge("container_hugetlb_usage_bytes", "Huge pages in use, bytes", &["pagesize"], |s| huge_pages(s, |h| h.usage)),
    gauge("container_hugetlb_max_usage_bytes", "Most huge pages that were ever in use, bytes", &["pagesize"], |s| huge_pages(s, |h| h.max_usage)),
    counter("container_pressure_cpu_waiting_seconds_total", "Time in which some waited for a processor, seconds", &[], |s| waiting(cpu_pressure(s))),
    counter("container_pressure_cpu_stalled_seconds_total", "Time in which all waited for a processor, seconds", &[], |s| stalled(cpu_pressure(s))),
    counter("container_pressure_memory_waiting_seconds_total", "Time in which some waited for memory, seconds", &[], |s| waiting(memory_pressure(s))),
    counter("container_pressure_memory_stalled_seconds_total", "Time in which all waited for memory, seconds", &[], |s| stalled(memory_pressure(s))),
    counter("container_pressure_io_waiting_seconds_total", "Time in which some waited for input or output, seconds", &[], |s| waiting(s.stats.usage.group.io_pressure)),
    counter("container_pressure_io_stalled_seconds_total", "Time in which all waited for input or output, seconds", &[], |s| stalled(s.stats.usage.group.io_pressure)),
    gauge("container_fs_inodes_free", "Free inodes of the file system", &["device"], |s| disk(s, s.figures.disk.inodes_free)),
    gauge("container_fs_inodes_total", "Inodes of the file system", &["device"], |s| disk(s, s.figures.disk.inodes)),
    gauge("container_fs_limit_bytes", "Size of the file system, bytes", &["device"], |s| disk(s, s.figures.disk.bytes)),
    gauge("container_fs_usage_bytes", "Size of the writable layer, bytes", &["device"], |s| disk(s, s.stats.writable.bytes)),
    counter("container_fs_reads_bytes_total", "Bytes read", &["device"], |s| each_device(s, "Read", |i| i.bytes)),
    counter("container_fs_reads_total", "Reads", &["device"], |s| each_device(s, "Read", |i| i.requests)),
    counter("container_fs_writes_bytes_total", "Bytes written", &["device"], |s| each_device(s, "Write", |i| i.bytes)),
    counter("container_fs_writes_total", "Writes", &["device"], |s| each_device(s, "Write", |i| i.requests)),
    counter("container_blkio_device_usage_total", "Bytes by device and operation", &["device", "major", "minor", "operation"], block_io),
    gauge("container_processes", "Processes", &[], |s| one(s.figures.processes)),
    gauge("container_file_descriptors", "Open descriptors of its processes", &[], |s| one(s.figures.descriptors)),
    gauge("container_sockets", "Open sockets of its processes", &[], |s| one(s.figures.sockets)),
    gauge("container_threads", "Threads", &[], |s| one(s.stats.usage.group.pids.unwrap_or(0))),
    gauge("container_threads_max", "Limit of threads, 0 without one", &[], |s| one(s.stats.usage.group.pids_limit.unwrap_or(0))),
    gauge("container_ulimits_soft", "Soft limits of its first process", &["ulimit"], |s| vec![(vec!["max_open_files".to_owned()], s.figures.open_files_soft)]),
    gauge("container_last_seen", "When it was last seen, seconds since the epoch", &[], |s| limit(s.stats.usage.timestamp / 1_000_000_000)),
    gauge("container_start_time_seconds", "When it was started, seconds since the epoch", &[], |s| limit(s.container.started_at / 1_000_000_000)),
    gauge("container_spec_cpu_period", "Period of the processor quota, microseconds", &[], |s| limit(s.container.spec.resources.cpu_period)),
    gauge("container_spec_cpu_quota", "Processor quota, microseconds a period", &[], |s| limit(s.container.spec.resources.cpu_quota)),
    gauge("container_spec_cpu_shares", "Weight for the processor", &[], |s| limit(s.container.spec.resources.cpu_shares)),
    gauge("container_spec_memory_limit_bytes", "Limit of memory, bytes", &[], |s| limit(s.container.spec.resources.memory_limit)),
    gauge("container_spec_memory_reservation_limit_bytes", "Memory that it keeps when memory is short, bytes", &[], |s| one(s.figures.reservation)),
    gauge("container_spec_memory_swap_limit_bytes", "Limit of memory and swap together, bytes", &[], |s| limit(s.container.spec.resources.memory_swap_limit)),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::reply::samples;
    use super::*;

    /// All that can be asked of a container, with one device and one size of huge pages.
    fn container_metrics() -> Vec<cri::Metric> {
        let figures = Figures {
            io: ["Read", "Write"]
                .map(|operation| Io {
                    operation,
                    ..Default::default()
                })
                .into(),
            huge_pages: vec![Default::default()],
            ..Default::default()
        };
        let container = Arc::new(samples::container());
        let mut stats = ContainerStats::default();
        stats.usage.group.cpu.get_or_insert_default().usage_ns = 2_900_000_000;
        of_container(&samples::sandbox(), &container, &stats, figures).metrics
    }

    #[test]
    fn names_are_fifty_six_and_each_is_said_once() {
        let all = descriptors().descriptors;
        let names: BTreeSet<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((all.len(), names.len()), (56, 56));
        assert!(all.iter().all(|one| !one.help.is_empty()));
        assert!(names.iter().all(|name| name.starts_with("container_")));
    }

    #[test]
    fn every_metric_is_as_described() {
        let interfaces = vec![Interface::default()];
        let common = Common {
            timestamp: 1,
            labels: labels(&samples::sandbox(), "", "id", ""),
        };
        let of_pod = metrics(&POD, &interfaces, &common);
        let all: Vec<cri::Metric> = of_pod.into_iter().chain(container_metrics()).collect();
        for one in descriptors().descriptors {
            let mut found = all.iter().filter(|metric| metric.name == one.name);
            let metric = found.next().unwrap_or_else(|| panic!("no {}", one.name));
            assert_eq!(
                metric.label_values.len(),
                one.label_keys.len(),
                "{metric:?}"
            );
        }
    }

    #[test]
    fn labels_and_values() {
        let all = container_metrics();
        let metric = all
            .iter()
            .find(|metric| metric.name == "container_cpu_usage_seconds_total")
            .unwrap();
        let id = "b2".repeat(32);
        let expect = ["web", "shop", "main", &id, "busybox:1"];
        assert_eq!(metric.label_values, expect);
        assert_eq!(metric.value.unwrap().value, 2);
        assert_eq!(metric.metric_type(), cri::MetricType::Counter);
    }
}
