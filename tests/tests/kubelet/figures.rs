//! What the kubelet tells those who watch: /stats/summary, /metrics/cadvisor, /metrics/resource.

use serde_json::{Value, json};
use tests::kubelet::{Kubelet, Setup, on_node};
use tests::{Node, wait};

use crate::{container, gated, plain, pod, ready};

/// Families that a container has on /metrics/cadvisor where cAdvisor asks containerd 2.4.2: seen on
/// a machine with cgroup v1, of a container that does no input or output.
#[rustfmt::skip]
const WITH_CONTAINERD: [&str; 39] = [
    "container_cpu_cfs_burst_periods_total", "container_cpu_cfs_burst_seconds_total",
    "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total", "container_cpu_load_average_10s",
    "container_cpu_load_d_average_10s", "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total", "container_cpu_user_seconds_total",
    "container_file_descriptors", "container_health_state", "container_last_seen",
    "container_memory_cache", "container_memory_failcnt", "container_memory_failures_total",
    "container_memory_kernel_usage", "container_memory_mapped_file",
    "container_memory_max_usage_bytes", "container_memory_rss", "container_memory_swap",
    "container_memory_total_active_file_bytes", "container_memory_total_inactive_file_bytes",
    "container_memory_usage_bytes", "container_memory_working_set_bytes",
    "container_oom_events_total", "container_processes", "container_sockets",
    "container_spec_cpu_period", "container_spec_cpu_quota", "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes", "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes", "container_start_time_seconds",
    "container_tasks_state", "container_threads", "container_threads_max",
    "container_ulimits_soft",
];

/// The same where all comes from CRI: what a container without input, output and huge pages has of
/// the families that CRI names.
const OF_CONTAINER: [&str; 12] = [
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_processes",
    "container_threads",
    "container_spec_memory_limit_bytes",
    "container_spec_cpu_quota",
    "container_start_time_seconds",
];

/// Families of the pod, which has the network; the same on both roads.
const OF_POD: [&str; 8] = [
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
];

/// Values of a family's samples that have all of some labels.
fn samples(text: &str, family: &str, labels: &[String]) -> Vec<f64> {
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with('{')) && labels.iter().all(|l| line.contains(l))
    });
    // The value comes after the labels; a time may follow.
    let values = lines.filter_map(|line| line.rsplit_once("} ")?.1.split(' ').next()?.parse().ok());
    values.collect()
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

/// Runs a pod that works, with limits, and gives the labels of its container and of itself.
fn run(kubelet: &Kubelet, node: &Node) -> [Vec<String>; 2] {
    // On a tmpfs an empty layer takes no room at all.
    let script = "echo something >/written; while :; do echo >/dev/null; done";
    let mut main = container(node, "main", script);
    main["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "100m"}});
    kubelet.add(&pod("measured", &[main])).unwrap();
    kubelet.wait("measured", "to be ready", ready).unwrap();
    let pod = label("pod", &format!("measured-{}", kubelet.node()));
    let namespace = label("namespace", "default");
    [
        vec![pod.clone(), namespace.clone(), label("container", "main")],
        vec![pod, namespace, label("interface", "eth0")],
    ]
}

fn metrics(kubelet: &Kubelet, families: &[&str], [container, pod]: &[Vec<String>; 2]) {
    let mut missing: Vec<&str> = Vec::new();
    let mut text = String::new();
    let seen = wait::until("all families on /metrics/cadvisor", || {
        text = kubelet.text("/metrics/cadvisor").ok()?;
        missing.clear();
        let own = families.iter().map(|family| (family, container));
        for (family, labels) in own.chain(OF_POD.iter().map(|family| (family, pod))) {
            if samples(&text, family, labels).is_empty() {
                missing.push(family);
            }
        }
        missing.is_empty().then_some(())
    });
    let about = || {
        let of_pod = text.lines().filter(|line| line.contains("measured"));
        of_pod.take(200).collect::<Vec<_>>().join("\n")
    };
    seen.unwrap_or_else(|error| panic!("{error}: no {missing:?}\n{}", about()));
    let one = |family: &str| samples(&text, family, container)[0];
    assert_eq!(
        one("container_spec_memory_limit_bytes"),
        f64::from(64 << 20)
    );
    assert_eq!(one("container_spec_cpu_quota"), 10_000.0);
    assert!(one("container_memory_usage_bytes") > 0.0);
    let received = "container_network_receive_bytes_total";
    assert_eq!(samples(&text, received, pod).len(), 1, "one line a pod");
}

fn resource(kubelet: &Kubelet, container: &[String]) {
    for family in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_start_time_seconds",
    ] {
        wait::until(&format!("{family} on /metrics/resource"), || {
            let text = kubelet.text("/metrics/resource").ok()?;
            let values = samples(&text, family, container);
            values
                .first()
                .is_some_and(|value| *value > 0.0)
                .then_some(())
        })
        .unwrap();
    }
}

fn summary(kubelet: &Kubelet) {
    let mut last = Value::Null;
    let seen = wait::until("the pod's figures on /stats/summary", || {
        let all = kubelet.json("/stats/summary").ok()?;
        let name = format!("measured-{}", kubelet.node());
        let pods = all["pods"].as_array()?;
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == name)?;
        last = pod.clone();
        let main = &pod["containers"][0];
        let positive = [
            &main["cpu"]["usageCoreNanoSeconds"],
            &main["cpu"]["usageNanoCores"],
            &main["memory"]["workingSetBytes"],
            &main["rootfs"]["usedBytes"],
            &main["rootfs"]["inodesUsed"],
            &pod["cpu"]["usageCoreNanoSeconds"],
            &pod["memory"]["workingSetBytes"],
            &pod["network"]["txBytes"],
        ];
        let there = positive
            .iter()
            .all(|value| value.as_u64().is_some_and(|value| value > 0));
        let counted = pod["process_stats"]["process_count"].as_u64();
        (there && counted.is_some() && pod["network"]["name"] == "eth0").then_some(())
    });
    seen.unwrap_or_else(|error| panic!("{error}\n{last:#}"));
}

fn everything_is_told(setup: &Setup, families: &[&str]) {
    let Some((kubelet, node)) = on_node(setup).unwrap() else {
        return;
    };
    let labels = run(&kubelet, &node);
    metrics(&kubelet, families, &labels);
    resource(&kubelet, &labels[0]);
    summary(&kubelet);
    kubelet.finish(&node.crictl).unwrap();
}

#[test]
fn through_the_second_socket() {
    everything_is_told(&plain(), &WITH_CONTAINERD);
}

#[test]
fn from_cri_alone() {
    everything_is_told(&gated(), &OF_CONTAINER);
}
