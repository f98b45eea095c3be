//! What pods use, and lists that come in parts.

use cri_api as cri;
use tests::node::Node;
use tests::{pod, wait};
use tonic::Code;

fn of_pod(node: &Node, id: &str) -> Result<cri::LinuxPodSandboxStats, tonic::Status> {
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let client = node.daemon.client().unwrap();
    let answer = client.call(async |mut cri| cri.pod_sandbox_stats(request).await)?;
    Ok(answer.stats.unwrap().linux.unwrap())
}

fn value(number: Option<cri::UInt64Value>) -> u64 {
    number.unwrap().value
}

#[test]
fn a_pod_uses_what_its_containers_use_and_more() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let script = "echo ready; while :; do :; done";
    let pod = node.run("busy", script).unwrap();
    pod.wait_for_log("ready").unwrap();
    node.exec(&pod.container, "ping -c 3 -i 0.2 -w 5 127.0.0.2; true")
        .unwrap();
    let stats = wait::until("a rate of the pod's processor time", || {
        let stats = of_pod(&node, &pod.id).unwrap();
        let rate = stats.cpu.unwrap().usage_nano_cores?.value;
        (rate > 0).then_some(stats)
    })
    .unwrap();
    assert!(value(stats.cpu.unwrap().usage_core_nano_seconds) > 0);
    assert!(value(stats.memory.unwrap().working_set_bytes) > 0);
    assert!(value(stats.process.unwrap().process_count) >= 1);
    let network = stats.network.unwrap();
    assert_eq!(network.default_interface.unwrap().name, "eth0");
    let [container] = &stats.containers[..] else {
        panic!("{:?}", stats.containers);
    };
    assert_eq!(container.attributes.as_ref().unwrap().id, pod.container);

    node.crictl.ok(&["stopp", &pod.id]).unwrap();
    let late = of_pod(&node, &pod.id).unwrap_err();
    assert_eq!(late.code(), Code::Unavailable, "{late:?}");
    assert_eq!(of_pod(&node, "0123").unwrap_err().code(), Code::NotFound);
}

#[test]
fn traffic_is_counted_where_it_flows() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("talks", "exec sleep 1000").unwrap();
    let received = |stats: &cri::LinuxPodSandboxStats| {
        let network = stats.network.as_ref().unwrap();
        value(network.default_interface.as_ref().unwrap().tx_bytes)
    };
    let before = received(&of_pod(&node, &pod.id).unwrap());
    let gateway = "ip route | awk '/default/ {print $3}'";
    node.exec(
        &pod.container,
        &format!("ping -c 2 -s 1000 -w 5 $({gateway})"),
    )
    .unwrap();
    let after = received(&of_pod(&node, &pod.id).unwrap());
    assert!(after >= before + 2000, "{before} {after}");
}

#[test]
fn the_hosts_traffic_is_not_the_pods() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "host");
    let mut config = pod::container("host", &node.image, "exec sleep 1000");
    pod::on_host_network(&mut sandbox, &mut config);
    let pod = node.run_as(&[], &sandbox, &config).unwrap();
    assert_eq!(of_pod(&node, &pod.id).unwrap().network, None);
}

#[test]
fn lists_come_in_parts_too() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let client = node.daemon.client().unwrap();
    let none = client.call(async |mut cri| {
        let mut parts = cri
            .stream_containers(cri::StreamContainersRequest::default())
            .await?;
        Ok(tonic::Response::new(parts.get_mut().message().await?))
    });
    assert_eq!(none.unwrap(), None);
    let pod = node.run("listed", "exec sleep 1000").unwrap();
    let ids = client.call(async |mut cri| {
        let mut sandboxes = cri
            .stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default())
            .await?
            .into_inner();
        let mut containers = cri
            .stream_containers(cri::StreamContainersRequest::default())
            .await?
            .into_inner();
        let mut stats = cri
            .stream_container_stats(cri::StreamContainerStatsRequest::default())
            .await?
            .into_inner();
        let mut pods = cri
            .stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest::default())
            .await?
            .into_inner();
        let sandbox = sandboxes.message().await?.unwrap().pod_sandboxes;
        let container = containers.message().await?.unwrap().containers;
        let stats = stats.message().await?.unwrap().container_stats;
        let pods = pods.message().await?.unwrap().pod_sandbox_stats;
        Ok(tonic::Response::new([
            sandbox[0].id.clone(),
            container[0].id.clone(),
            stats[0].attributes.clone().unwrap().id,
            pods[0].attributes.clone().unwrap().id,
        ]))
    });
    let (sandbox, container) = (&pod.id, &pod.container);
    assert_eq!(
        ids.unwrap(),
        [sandbox, container, container, sandbox].map(String::clone)
    );
}
