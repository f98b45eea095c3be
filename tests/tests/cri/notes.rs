//! What a client tells the daemon for those who look.

use cri_api as cri;
use serde_json::json;
use tests::node::Node;
use tonic::Code;

#[test]
fn what_the_client_says_of_the_node_outlives_the_daemon() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let tell = |node: &Node, cidr: &str| {
        let request = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig {
                network_config: Some(cri::NetworkConfig {
                    pod_cidr: cidr.to_owned(),
                }),
            }),
        };
        let client = node.daemon.client().unwrap();
        client.call(async |mut cri| cri.update_runtime_config(request).await)
    };
    tell(&node, "10.1.0.0/16,fd00::/64").unwrap();
    let refused = tell(&node, "10.1.0.0").unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    node.daemon.kill();
    node.daemon.start().unwrap();
    let info = node.crictl.json(&["info"]).unwrap();
    let network = &info["config"]["network"];
    assert_eq!(network["podCIDR"], "10.1.0.0/16,fd00::/64", "{info}");
}

#[test]
fn what_the_client_says_of_a_pod_outlives_the_daemon() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("noted", "exec sleep 1000").unwrap();
    let tell = |node: &Node, id: &str| {
        let limits = |memory_limit_in_bytes| cri::LinuxContainerResources {
            memory_limit_in_bytes,
            ..Default::default()
        };
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_owned(),
            overhead: Some(limits(5)),
            resources: Some(limits(7)),
        };
        let client = node.daemon.client().unwrap();
        client.call(async |mut cri| cri.update_pod_sandbox_resources(request).await)
    };
    tell(&node, &pod.id).unwrap();
    assert_eq!(tell(&node, "0123").unwrap_err().code(), Code::NotFound);
    node.daemon.kill();
    node.daemon.start().unwrap();
    let info = node.crictl.json(&["inspectp", &pod.id]).unwrap();
    let memory = |what: &str| info["info"][what]["memory_limit_in_bytes"].clone();
    assert_eq!(
        [memory("overhead"), memory("resources")],
        [json!(5), json!(7)]
    );
}
