//! Messages that are too long, in either direction, and bytes that are no message.

use cri_api as cri;
use tests::{Client, Daemon};
use tonic::Code::{Internal, ResourceExhausted, Unimplemented};

use super::asked::{namespaces, run};

/// Fewer bytes than a label may have, and many of them.
const VALUE: usize = 200 * 1024;
/// How many of them a pod gets: more than half of what a message may hold.
const VALUES: usize = 45;

#[test]
fn a_request_that_is_too_long() {
    let daemon = Daemon::setup().start().unwrap();
    let client = daemon.client().unwrap();
    let mut config = cri::PodSandboxConfig::default();
    for n in 0..100 {
        config.annotations.insert(format!("{n}"), "v".repeat(VALUE));
    }
    let refused = run(&client, config).unwrap_err();
    assert_eq!(refused.code(), ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("16777216"), "{refused:?}");
    // The connection goes on.
    version(&client);
}

fn version(client: &Client) {
    let version = client.call(async |mut cri| cri.version(cri::VersionRequest::default()).await);
    version.unwrap();
}

#[test]
fn a_list_that_is_too_long_for_a_message() {
    let daemon = Daemon::setup().start().unwrap();
    let client = daemon.client().unwrap();
    for n in 0..2 {
        run(&client, large(&daemon, n)).unwrap();
    }
    let all = cri::ListPodSandboxRequest::default();
    let refused = client.call(async |mut cri| cri.list_pod_sandbox(all).await);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ResourceExhausted, "{refused:?}");
    let parts = client.call(async |mut cri| {
        let request = cri::StreamPodSandboxesRequest::default();
        let mut stream = cri.stream_pod_sandboxes(request).await?.into_inner();
        let mut parts = Vec::new();
        while let Some(part) = stream.message().await? {
            parts.push(part.pod_sandboxes.len());
        }
        Ok(tonic::Response::new(parts))
    });
    assert_eq!(parts.unwrap(), [1, 1]);
}

/// A pod of which two do not fit into one message.
fn large(daemon: &Daemon, n: usize) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: format!("large-{n}"),
        uid: format!("uid-{n}"),
        namespace: "default".into(),
        attempt: 0,
    };
    let mut config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        ..Default::default()
    };
    let options = namespaces(&mut config);
    options.network = cri::NamespaceMode::Node.into();
    options.pid = cri::NamespaceMode::Container.into();
    let linux = config.linux.get_or_insert_default();
    linux.cgroup_parent = daemon.scratch().cgroup();
    for n in 0..VALUES {
        config.annotations.insert(format!("{n}"), "v".repeat(VALUE));
    }
    config
}

#[test]
fn bytes_that_are_no_message() {
    let daemon = Daemon::setup().start().unwrap();
    let client = daemon.client().unwrap();
    for verb in ["RunPodSandbox", "CreateContainer", "StopContainer", "Exec"] {
        // The first field of each of these is a text or a message; here it is a number.
        let number = cri::Int64Value { value: 7 };
        let answer = client.send(&format!("/runtime.v1.RuntimeService/{verb}"), number);
        let refused = answer.unwrap_err();
        assert_eq!(refused.code(), Internal, "{verb}: {refused:?}");
    }
    let unknown = client.send("/runtime.v1.RuntimeService/Fly", cri::Int64Value::default());
    assert_eq!(unknown.unwrap_err().code(), Unimplemented);
    version(&client);
}
