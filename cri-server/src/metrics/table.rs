//! Every metric, once: its name, kind, labels and meaning. The exposition and docs/metrics.md are
//! made from this.

use std::fmt::Write as _;

/// What a metric's value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows while the daemon runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

/// Upper bounds of durations, in seconds: from a call that only reads to one that waits for a
/// container's grace.
pub(crate) const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0,
];

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(crate) const $constant: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
        };)*
        /// All of them, in the order in which they are told.
        pub(crate) const ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    BUILD: Gauge "wherryd_build_info" ["version"],
        "1, with the daemon's version.";
    OPERATIONS: Counter "wherryd_operations_total" ["service", "verb", "code"],
        "Requests that were answered, by gRPC service, verb and code; CANCELLED if the client went first. A verb that nobody knows is `other`.";
    OPERATION_SECONDS: Histogram "wherryd_operation_duration_seconds" ["service", "verb"],
        "Time from a request to its answer; of a stream, to its beginning.";
    STEP_SECONDS: Histogram "wherryd_step_duration_seconds" ["verb", "step"],
        "Time that a step inside an operation took, such as network_setup, mount, shim_start, runtime_create; queue is the wait for the pod's task.";
    UNDER_WAY: Gauge "wherryd_operations_under_way" [],
        "Operations whose work is not done, whether or not their client still waits.";
    SPANS: Counter "wherryd_trace_spans_total" ["result"],
        "Spans for the collector: sent, dropped (it did not take them, or the queue was full). Only with `[tracing] endpoint`.";
    PODS: Gauge "wherryd_pods" ["state"],
        "Pods by state: reserved (being made), ready, not_ready.";
    CONTAINERS: Gauge "wherryd_containers" ["state"],
        "Containers by state: created, running, exited.";
    SHIMS: Gauge "wherryd_shims" [],
        "Shims of containers that the daemon is connected to.";
    EXEC_SESSIONS: Gauge "wherryd_exec_sessions" [],
        "Commands that run in containers beside their own process.";
    LEAKS: Counter "wherryd_leaks_total" ["kind"],
        "What was found that nobody had asked for: at recovery a bundle, sandbox, record or checkpoint without an owner, or something unfinished; stuck is what could not be undone after a failure.";
    QUEUED: Gauge "wherryd_pod_queue_commands" [],
        "Commands that wait for their pods' tasks, over all pods.";
    QUEUED_MOST: Gauge "wherryd_pod_queue_commands_max" [],
        "Commands that wait for one pod's task, in the longest queue.";
    PLUGINS: Gauge "wherryd_nri_plugins" [],
        "Plugins of the node (NRI) that take part.";
    PLUGIN_REQUESTS: Counter "wherryd_nri_requests_total" ["event", "outcome"],
        "Requests to plugins by how they ended: answered, refused (the plugin's own error), unknown (to an older plugin), timeout, failed (no answer, or nonsense).";
    PLUGIN_SECONDS: Histogram "wherryd_nri_request_duration_seconds" ["event"],
        "Time that a plugin took for a request.";
    PLUGIN_ENDS: Counter "wherryd_nri_disconnects_total" ["reason"],
        "Connections of plugins that ended: left (the plugin went), timeout, nonsense, deaf (it does not read), registration, synchronization, shutdown.";
    PERMITS: Gauge "wherryd_permits" ["kind"],
        "How many may be had at once: container_lookup (sources of mounts, devices, profiles), image_layer (layers fetched and unpacked).";
    PERMITS_TAKEN: Gauge "wherryd_permits_taken" ["kind"],
        "How many of them are taken.";
    IMAGES: Gauge "wherryd_images" [],
        "Images in the store.";
    IMAGE_BYTES: Gauge "wherryd_image_store_bytes" [],
        "Bytes that images take on disk.";
    WRITABLE_BYTES: Gauge "wherryd_writable_layer_bytes" [],
        "Bytes that containers' writable layers take on disk; at most some seconds old.";
    TRASH_BYTES: Gauge "wherryd_image_trash_bytes" [],
        "Bytes that are removed and not yet deleted, as far as known.";
    PULLS: Counter "wherryd_image_pulls_total" ["result"],
        "Pulls by how they ended: ok, error, cancelled (nobody waited any more).";
    PULL_BYTES: Counter "wherryd_image_pull_received_bytes_total" [],
        "Bytes of layers that registries sent.";
    PULLS_UNDER_WAY: Gauge "wherryd_image_pulls_under_way" [],
        "Pulls that are not done.";
    PULL_SIZE: Gauge "wherryd_image_pull_bytes" ["reference"],
        "Bytes that the layers of a pull under way have in all.";
    PULL_RECEIVED: Gauge "wherryd_image_pull_received_bytes" ["reference"],
        "Bytes of them that are there.";
    SCRUBBED: Counter "wherryd_image_scrubbed_layers_total" ["result"],
        "Layers that the weekly look has read: whole, damaged.";
    SCRUBBED_AT: Gauge "wherryd_image_scrub_timestamp_seconds" [],
        "When all layers were last looked at.";
    USED: Gauge "wherryd_host_used" ["resource", "place"],
        "How much is used of what the host has only so much of: disk_bytes, disk_inodes (place: root, state, logs), memory_bytes, pids, open_files (daemon, host), inotify_instances, inotify_watches (the user who has most).";
    LIMIT: Gauge "wherryd_host_limit" ["resource", "place"],
        "How much there is of it.";
    STALLED: Gauge "wherryd_host_memory_stall_ratio" [],
        "Part of the last minute in which somebody waited for memory; missing where the kernel does not tell (psi).";
    SHORT: Gauge "wherryd_host_short" ["subject"],
        "How many things of a kind run short: each is in the log, in Status and in `wherryd debug`, with the cure.";
    LOG_BYTES: Gauge "wherryd_container_log_bytes" [],
        "Bytes of all containers' logs, without those that were rotated.";
    LOG_BYTES_MOST: Gauge "wherryd_container_log_bytes_max" [],
        "Bytes of the longest of them.";
    CPU: Counter "process_cpu_seconds_total" [],
        "Time that the daemon has had on processors, in user and kernel.";
    OPEN_FILES: Gauge "process_open_fds" [],
        "Descriptors that the daemon has open.";
    MAX_FILES: Gauge "process_max_fds" [],
        "Descriptors that it may have open.";
    VIRTUAL: Gauge "process_virtual_memory_bytes" [],
        "Its virtual memory.";
    RESIDENT: Gauge "process_resident_memory_bytes" [],
        "Its memory that is in RAM.";
    THREADS: Gauge "process_threads" [],
        "Its threads.";
    STARTED: Gauge "process_start_time_seconds" [],
        "When it was started, since the epoch.";
}

/// The page docs/metrics.md.
pub(crate) fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `wherryd` serves these for Prometheus at `/metrics` of the address that `[metrics] address` \
         names\n(an address and a port, or `unix:///path`; nothing is served unless it is named). \
         Whoever reaches\nthe address may read them: they hold names of images, nothing secret. \
         Figures of pods and containers\nare kubelet's (docs/kubelet.md).\n\n\
         This page is written by `wherryd metrics --markdown`.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let (name, help) = (metric.name, metric.help);
        let written = writeln!(
            page,
            "| `{name}` | {kind} | {} | {help} |",
            labels.join(", ")
        );
        written.expect("writing to memory does not fail");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_of_the_docs_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/metrics.md: write it anew with `wherryd metrics --markdown`"
        );
    }

    #[test]
    fn names_are_used_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
