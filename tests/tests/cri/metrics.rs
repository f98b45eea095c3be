//! Metrics by cAdvisor's names.

use std::collections::BTreeMap;

use cri_api as cri;
use serde_json::json;
use tests::node::Node;
use tests::pod;

/// What depends on devices that account for input and output, or on huge pages.
fn may_be_missing(name: &str) -> bool {
    let beginnings = [
        "container_blkio_",
        "container_fs_reads",
        "container_fs_writes",
        "container_hugetlb",
    ];
    beginnings
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

#[test]
fn every_metric_that_is_described_is_there() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "measured");
    let mut config = pod::container("measured", &node.image, "exec sleep 1000");
    config["linux"]["resources"] = json!({
        "cpu_period": 100_000, "cpu_quota": 20_000, "cpu_shares": 1024,
        "memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 64 << 20,
    });
    let pod = node.run_as(&[], &sandbox, &config).unwrap();
    let client = node.daemon.client().unwrap();
    let request = cri::ListMetricDescriptorsRequest {};
    let described = client
        .call(async |mut cri| cri.list_metric_descriptors(request).await)
        .unwrap();
    let request = cri::ListPodSandboxMetricsRequest {};
    let listed = client
        .call(async |mut cri| cri.list_pod_sandbox_metrics(request).await)
        .unwrap();
    let [of_pod] = &listed.pod_metrics[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(of_pod.pod_sandbox_id, pod.id);
    assert_eq!(of_pod.container_metrics[0].container_id, pod.container);
    let of_container = &of_pod.container_metrics[0].metrics;
    let all: BTreeMap<&str, &cri::Metric> = of_pod
        .metrics
        .iter()
        .chain(of_container)
        .map(|metric| (metric.name.as_str(), metric))
        .collect();
    for one in described.descriptors {
        match all.get(one.name.as_str()) {
            Some(metric) => assert_eq!(metric.label_values.len(), one.label_keys.len()),
            None => assert!(may_be_missing(&one.name), "{} is missing", one.name),
        }
    }
    let value = |name: &str| all[name].value.unwrap().value;
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!(value("container_spec_cpu_quota"), 20_000);
    assert_eq!(value("container_processes"), 1);
    for positive in [
        "container_memory_usage_bytes",
        "container_memory_max_usage_bytes",
        "container_fs_limit_bytes",
        "container_fs_inodes_total",
        "container_file_descriptors",
        "container_threads",
        "container_start_time_seconds",
        "container_ulimits_soft",
    ] {
        assert!(value(positive) > 0, "{positive}");
    }
    let labels = &all["container_memory_usage_bytes"].label_values;
    assert_eq!(labels[..3], ["measured", "default", "measured"]);
}
