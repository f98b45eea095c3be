//! Limits that change while a container lives.

use std::path::Path;

use cri_api as cri;
use serde_json::json;
use tests::node::{Node, Pod};
use tests::{peers, pod};
use tonic::Code;

const MIB: i64 = 1 << 20;

fn limited(node: &Node, name: &str, script: &str) -> serde_json::Value {
    let mut config = pod::container(name, &node.image, script);
    config["linux"]["resources"] =
        json!({"cpu_shares": 512, "memory_limit_in_bytes": 256 * MIB, "oom_score_adj": 500});
    config
}

fn update(
    node: &Node,
    container: &str,
    linux: cri::LinuxContainerResources,
) -> Result<(), tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let client = node.daemon.client().unwrap();
    client
        .call(async |mut cri| cri.update_container_resources(request).await)
        .map(drop)
}

fn limits(node: &Node, container: &str) -> cri::LinuxContainerResources {
    let client = node.daemon.client().unwrap();
    let request = cri::ContainerStatusRequest {
        container_id: container.to_owned(),
        ..Default::default()
    };
    let status = client
        .call(async |mut cri| cri.container_status(request).await)
        .unwrap();
    status.status.unwrap().resources.unwrap().linux.unwrap()
}

/// The first file of a control group that is there: v1 and v2 name them differently.
fn of_cgroup(node: &Node, pod: &Pod, files: [(&str, &str); 2]) -> String {
    let group = format!("{}/{}", node.daemon.scratch().cgroup(), pod.container);
    let [(controller, v1), (_, v2)] = files;
    let v1 = Path::new("/sys/fs/cgroup")
        .join(controller)
        .join(group.trim_start_matches('/'))
        .join(v1);
    let v2 = Path::new("/sys/fs/cgroup")
        .join(group.trim_start_matches('/'))
        .join(v2);
    let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2));
    text.unwrap().trim().to_owned()
}

fn change(node: &Node, pod: &Pod) {
    let wanted = cri::LinuxContainerResources {
        cpu_quota: 30_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 128 * MIB,
        ..Default::default()
    };
    update(node, &pod.container, wanted).unwrap();
    let now = limits(node, &pod.container);
    assert_eq!((now.cpu_shares, now.oom_score_adj), (512, 500));
    assert_eq!((now.cpu_quota, now.cpu_period), (30_000, 100_000));
    assert_eq!(now.memory_limit_in_bytes, 128 * MIB);
    let memory = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.max"),
    ];
    assert_eq!(of_cgroup(node, pod, memory), (128 * MIB).to_string());
    let quota = of_cgroup(node, pod, [("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.max")]);
    assert!(quota.starts_with("30000"), "{quota}");
}

fn whole_life(handler: &str, node: &Node) {
    let name = format!("limits-{handler}");
    let sandbox = pod::sandbox(node.daemon.scratch(), &name);
    let script = "echo ready; exec sleep 1000";
    let pod = node
        .run_as(&["-r", handler], &sandbox, &limited(node, &name, script))
        .unwrap();
    change(node, &pod);
    let score = cri::LinuxContainerResources {
        oom_score_adj: 700,
        ..Default::default()
    };
    update(node, &pod.container, score).unwrap();
    assert_eq!(
        node.exec(&pod.container, "cat /proc/1/oom_score_adj")
            .unwrap(),
        "700"
    );

    let too_little = cri::LinuxContainerResources {
        memory_limit_in_bytes: 4096,
        ..Default::default()
    };
    let refused = update(node, &pod.container, too_little).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("are less than"), "{refused:?}");
    assert_eq!(
        limits(node, &pod.container).memory_limit_in_bytes,
        128 * MIB
    );

    node.crictl
        .ok(&["stop", "-t", "0", &pod.container])
        .unwrap();
    let late = update(node, &pod.container, Default::default()).unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");
    node.remove(&pod).unwrap();
}

#[test]
fn limits_of_a_running_container_change() {
    let runc = peers::peer_or_installed("runc");
    let setup = |setup: tests::daemon::Setup| match &runc {
        Some(runc) => setup.runtime("runc", runc),
        None => setup,
    };
    let Some(node) = Node::start_with(setup).unwrap() else {
        return;
    };
    whole_life("wrun", &node);
    if runc.is_some() {
        whole_life("runc", &node);
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let refused = update(&node, "0123", Default::default()).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let pod = node.run("refused", "exec sleep 1000").unwrap();
    let wanted = cri::LinuxContainerResources {
        cpu_period: 5,
        ..Default::default()
    };
    let refused = update(&node, &pod.container, wanted).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("cpu_period"), "{refused:?}");
}
