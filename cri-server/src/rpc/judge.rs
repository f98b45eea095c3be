//! Requests turned into the pod's types, for fuzzing: whatever a client sends is refused or becomes a
//! value that keeps the promises of its type. Nothing else uses this.

use cri_api as cri;
use pod::NodeFacts;
use pod::container::UserRequest;
use pod::sandbox::SandboxNamespaces;
use prost::Message as _;

use super::request;

/// RunPodSandbox.
///
/// # Panics
///
/// If a sandbox is not as its type promises: that is what the fuzzer looks for.
pub fn sandbox(bytes: &[u8]) {
    let Ok(asked) = cri::RunPodSandboxRequest::decode(bytes) else {
        return;
    };
    let Ok(spec) = request::sandbox(asked.config, asked.runtime_handler) else {
        return;
    };
    for name in [&spec.name, &spec.namespace, &spec.uid] {
        assert!(!name.is_empty() && !name.contains('\0'), "{name:?}");
    }
    assert!(is_absolute(&spec.log_directory) || spec.log_directory.is_empty());
    assert!(
        spec.port_mappings
            .iter()
            .all(|port| port.container_port != 0)
    );
    if let Some(user) = spec.namespaces.user {
        for range in [user.uids, user.gids] {
            assert!(range.length > 0 && range.host.checked_add(range.length).is_some());
        }
    }
}

/// CreateContainer, and the limits of UpdateContainerResources.
///
/// # Panics
///
/// As [`sandbox`].
pub fn container(bytes: &[u8]) {
    let Ok(asked) = cri::CreateContainerRequest::decode(bytes) else {
        return;
    };
    let Ok(spec) = request::container(asked.config, SandboxNamespaces::default()) else {
        return;
    };
    assert!(!spec.name.is_empty() && !spec.image.is_empty());
    for mount in &spec.mounts {
        assert!(is_absolute(&mount.container_path), "{mount:?}");
        assert!(
            mount.image.is_some() != is_absolute(&mount.host_path),
            "{mount:?}"
        );
    }
    for device in &spec.devices {
        assert!(is_absolute(&device.container_path) && is_absolute(&device.host_path));
    }
    assert!(!spec.log_path.starts_with('/') && !spec.log_path.split('/').any(|part| part == ".."));
    if let UserRequest::Uid(uid) = spec.security.user {
        assert!(u32::try_from(uid).is_ok_and(|uid| uid != u32::MAX), "{uid}");
    }
    for facts in [NodeFacts::default(), unified()] {
        drop(pod::plan::plan_resources(&spec.resources, &facts));
    }
}

/// Of the small requests those with more than an id.
///
/// # Panics
///
/// As [`sandbox`].
pub fn verbs(bytes: &[u8]) {
    if let Ok(asked) = cri::ExecSyncRequest::decode(bytes) {
        let command = request::command("cmd", asked.cmd);
        assert!(
            command.is_err()
                || request::seconds("timeout", asked.timeout).is_ok()
                || asked.timeout < 0
        );
    }
    if let Ok(asked) = cri::UpdateContainerResourcesRequest::decode(bytes)
        && let Ok(limits) = request::resources("linux", asked.linux.unwrap_or_default())
    {
        drop(pod::plan::plan_resources(&limits, &unified()));
    }
    if let Ok(asked) = cri::PullImageRequest::decode(bytes) {
        drop(request::image_name("image", asked.image));
        drop(asked.auth.map(request::credentials));
    }
    if let Ok(asked) = cri::UpdateRuntimeConfigRequest::decode(bytes) {
        let network = asked
            .runtime_config
            .and_then(|config| config.network_config);
        drop(request::networks(
            "pod_cidr",
            network.unwrap_or_default().pod_cidr,
        ));
    }
}

fn unified() -> NodeFacts {
    NodeFacts {
        cgroup_v2: true,
        ..Default::default()
    }
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}
