//! The engine's values turned back into CRI messages.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cri_api as cri;
use engine::{Container, Exit, Sandbox};
use pod::container::{IdMap, IdMaps, Mount, Propagation, Resources};
use pod::lifecycle::{ContainerPhase, SandboxPhase};
use pod::sandbox::{IdRange, NamespaceMode, PidMode, SandboxNamespaces, UserNamespace};

/// A map as the wire has it.
pub(super) fn pairs(pairs: &BTreeMap<String, String>) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// A number that can be absent.
pub(super) fn number(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

// ---- sandboxes ----

pub(super) fn sandbox_state(sandbox: &Sandbox) -> cri::PodSandboxState {
    match sandbox.phase {
        SandboxPhase::Ready => cri::PodSandboxState::SandboxReady,
        SandboxPhase::Reserved | SandboxPhase::NotReady => cri::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn sandbox_metadata(sandbox: &Sandbox) -> cri::PodSandboxMetadata {
    let spec = &sandbox.spec;
    cri::PodSandboxMetadata {
        name: spec.name.clone(),
        uid: spec.uid.clone(),
        namespace: spec.namespace.clone(),
        attempt: spec.attempt,
    }
}

/// A sandbox as lists show it.
pub(super) fn listed_sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: Some(sandbox_metadata(sandbox)),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        labels: pairs(&sandbox.spec.labels),
        annotations: pairs(&sandbox.spec.annotations),
        runtime_handler: sandbox.spec.handler.clone(),
    }
}

/// A sandbox as its status shows it.
pub(super) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: Some(sandbox_metadata(sandbox)),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        network: Some(addresses(sandbox)),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(namespaces(sandbox.spec.namespaces)),
            }),
        }),
        labels: pairs(&sandbox.spec.labels),
        annotations: pairs(&sandbox.spec.annotations),
        runtime_handler: sandbox.spec.handler.clone(),
    }
}

fn addresses(sandbox: &Sandbox) -> cri::PodSandboxNetworkStatus {
    let mut ips = sandbox.ips.iter().map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    }
}

fn namespaces(namespaces: SandboxNamespaces) -> cri::NamespaceOption {
    let mode = |mode| match mode {
        NamespaceMode::Pod => cri::NamespaceMode::Pod,
        NamespaceMode::Node => cri::NamespaceMode::Node,
    };
    let pid = match namespaces.pid {
        PidMode::Pod => cri::NamespaceMode::Pod,
        PidMode::Container => cri::NamespaceMode::Container,
        PidMode::Node => cri::NamespaceMode::Node,
    };
    cri::NamespaceOption {
        network: mode(namespaces.network).into(),
        pid: pid.into(),
        ipc: mode(namespaces.ipc).into(),
        userns_options: namespaces.user.map(user_namespace),
        ..Default::default()
    }
}

fn user_namespace(user: UserNamespace) -> cri::UserNamespace {
    let mapping = |range: IdRange| cri::IdMapping {
        host_id: range.host,
        container_id: 0,
        length: range.length,
    };
    cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: vec![mapping(user.uids)],
        gids: vec![mapping(user.gids)],
    }
}

// ---- containers ----

pub(super) fn container_state(container: &Container) -> cri::ContainerState {
    match container.phase {
        ContainerPhase::Created => cri::ContainerState::ContainerCreated,
        ContainerPhase::Running => cri::ContainerState::ContainerRunning,
        ContainerPhase::Exited => cri::ContainerState::ContainerExited,
    }
}

pub(super) fn container_metadata(container: &Container) -> cri::ContainerMetadata {
    cri::ContainerMetadata {
        name: container.spec.name.clone(),
        attempt: container.spec.attempt,
    }
}

fn image_spec(container: &Container, name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.into(),
        annotations: pairs(&container.spec.image_notes.annotations),
        user_specified_image: container.spec.user_specified_image.clone(),
        runtime_handler: container.spec.image_notes.handler.clone(),
        ..Default::default()
    }
}

/// A container as lists show it: with the image as asked for.
pub(super) fn listed_container(container: &Container) -> cri::Container {
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox_id.clone(),
        metadata: Some(container_metadata(container)),
        image: Some(image_spec(container, &container.spec.image)),
        image_ref: container.image_id.clone(),
        state: container_state(container).into(),
        created_at: container.created_at,
        labels: pairs(&container.spec.labels),
        annotations: pairs(&container.spec.annotations),
        image_id: container.image_id.clone(),
    }
}

/// A container as its status shows it: with the image by its name.
pub(super) fn container_status(container: &Container) -> cri::ContainerStatus {
    let spec = &container.spec;
    let exit = container.exit.as_ref();
    cri::ContainerStatus {
        id: container.id.clone(),
        metadata: Some(container_metadata(container)),
        state: container_state(container).into(),
        created_at: container.created_at,
        started_at: container.started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(image_spec(container, &container.image_name)),
        image_ref: container.image_ref.clone(),
        image_id: container.image_id.clone(),
        reason: exit.map(reason).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: pairs(&spec.labels),
        annotations: pairs(&spec.annotations),
        mounts: mounts(container),
        log_path: log_path(container.log_path.as_deref()),
        resources: Some(cri::ContainerResources {
            linux: Some(resources(&spec.resources)),
            ..Default::default()
        }),
        user: Some(cri::ContainerUser {
            linux: Some(user(container)),
        }),
        stop_signal: stop_signal(&container.stop_signal).into(),
    }
}

fn reason(exit: &Exit) -> String {
    exit.reason.clone()
}

fn log_path(path: Option<&Path>) -> String {
    path.map(|path| path.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn mounts(container: &Container) -> Vec<cri::Mount> {
    let refs = container.volume_refs.iter().map(String::as_str);
    let refs = refs.chain(std::iter::repeat(""));
    let mounts = container.spec.mounts.iter().zip(refs);
    mounts
        .map(|(asked, image_ref)| mount(asked, image_ref))
        .collect()
}

/// A mount exactly as it was asked for, with the digest name of its image.
fn mount(mount: &Mount, image_ref: &str) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        image: mount.image.as_ref().map(|volume| cri::ImageSpec {
            image: volume.image.clone(),
            annotations: pairs(&volume.notes.annotations),
            user_specified_image: volume.user_specified_image.clone(),
            runtime_handler: volume.notes.handler.clone(),
            image_ref: image_ref.to_owned(),
        }),
        image_sub_path: mount
            .image
            .as_ref()
            .map(|volume| volume.sub_path.clone())
            .unwrap_or_default(),
        uid_mappings: id_maps(mount, |maps| &maps.uids),
        gid_mappings: id_maps(mount, |maps| &maps.gids),
        mount_options: mount
            .restrictions
            .iter()
            .map(|one| one.name().to_owned())
            .collect(),
    }
}

fn id_maps(mount: &Mount, which: impl Fn(&IdMaps) -> &[IdMap]) -> Vec<cri::IdMapping> {
    let maps = mount.id_maps.as_ref().map(which).unwrap_or_default();
    maps.iter()
        .map(|map| cri::IdMapping {
            host_id: map.to,
            container_id: map.from,
            length: map.length,
        })
        .collect()
}

/// Limits as they were set, not as the kernel rounds them: a kubelet compares.
fn resources(resources: &Resources) -> cri::LinuxContainerResources {
    let huge = |(size, limit): &(String, u64)| cri::HugepageLimit {
        page_size: size.clone(),
        limit: *limit,
    };
    cri::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.hugepages.iter().map(huge).collect(),
        unified: pairs(&resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit,
    }
}

fn user(container: &Container) -> cri::LinuxContainerUser {
    let groups = container.supplemental_groups.iter();
    cri::LinuxContainerUser {
        uid: container.uid.into(),
        gid: container.gid.into(),
        supplemental_groups: groups.map(|&group| group.into()).collect(),
    }
}

/// The signal of that name; one that the interface has no name for is the runtime's own matter.
fn stop_signal(name: &str) -> cri::Signal {
    let name = name.replace('+', "PLUS").replace('-', "MINUS");
    cri::Signal::from_str_name(&format!("SIGNAL_{name}"))
        .or_else(|| cri::Signal::from_str_name(&name))
        .unwrap_or(cri::Signal::RuntimeDefault)
}

// ---- images ----

/// An image as lists and its status show it.
pub(super) fn image(image: &image::Image) -> cri::Image {
    let user = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.user().as_deref());
    let (uid, username) = image_user(user.unwrap_or_default());
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        // Clients take an image without a size for a broken answer.
        size: image.size.max(1),
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: Some(cri::ImageSpec {
            image: image.id.clone(),
            annotations: pairs(&image.annotations),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// The user of `user[:group]`: a number or a name, never both.
fn image_user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.into()),
    }
}

#[cfg(test)]
pub(super) mod samples {
    //! A sandbox and a container to turn into messages.

    use std::sync::Arc;

    use pod::{ContainerSpec, SandboxSpec};

    use super::*;

    pub(in crate::rpc) fn sandbox() -> Sandbox {
        Sandbox {
            id: "a1".repeat(32),
            spec: Arc::new(SandboxSpec {
                name: "web".into(),
                uid: "u1".into(),
                namespace: "shop".into(),
                attempt: 2,
                labels: BTreeMap::from([("app".into(), "web".into())]),
                handler: "runc".into(),
                ..Default::default()
            }),
            phase: SandboxPhase::Ready,
            created_at: 11,
            ips: vec!["10.1.2.3".parse().unwrap(), "fd00::1".parse().unwrap()],
            cni_result: String::new(),
            namespaces: "/run/x/ns".into(),
            init_pid: None,
            budget: engine::Budget::default(),
        }
    }

    pub(in crate::rpc) fn container() -> Container {
        Container {
            id: "b2".repeat(32),
            sandbox_id: "a1".repeat(32),
            spec: Arc::new(ContainerSpec {
                name: "main".into(),
                attempt: 4,
                image: "busybox".into(),
                user_specified_image: "busybox:1".into(),
                mounts: vec![Mount {
                    container_path: "/c".into(),
                    host_path: "/link/to/h".into(),
                    propagation: Propagation::HostToContainer,
                    ..Default::default()
                }],
                labels: BTreeMap::from([("tier".into(), "front".into())]),
                resources: Resources {
                    cpu_shares: 2,
                    ..Default::default()
                },
                ..Default::default()
            }),
            phase: ContainerPhase::Exited,
            image_id: "sha256:1".into(),
            image_name: "docker.io/library/busybox:latest".into(),
            image_ref: "docker.io/library/busybox@sha256:2".into(),
            volume_refs: vec![],
            created_at: 21,
            started_at: 22,
            exit: Some(Exit {
                code: 137,
                finished_at: 23,
                reason: "OOMKilled".into(),
                message: "too much".into(),
            }),
            pid: None,
            log_path: Some("/log/main/4.log".into()),
            uid: 7,
            gid: 8,
            supplemental_groups: vec![9],
            stop_signal: "SIGRTMIN+3".into(),
            cgroup: "/x".into(),
            limits: Default::default(),
            bundle: "/run/x/b".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{container, sandbox};
    use super::*;

    #[test]
    fn the_status_of_a_sandbox() {
        let status = sandbox_status(&sandbox());
        assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
        assert_eq!(status.metadata.unwrap().attempt, 2);
        let network = status.network.unwrap();
        assert_eq!(network.ip, "10.1.2.3");
        assert_eq!(
            network.additional_ips,
            [cri::PodIp {
                ip: "fd00::1".into()
            }]
        );
        assert_eq!(status.runtime_handler, "runc");
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.pid(), cri::NamespaceMode::Container);
    }

    #[test]
    fn a_stopped_sandbox_has_no_address() {
        let sandbox = Sandbox {
            ips: vec![],
            phase: SandboxPhase::NotReady,
            ..sandbox()
        };
        let status = sandbox_status(&sandbox);
        assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
        assert_eq!(status.network.unwrap().ip, "");
    }

    #[test]
    fn the_status_of_an_ended_container() {
        let status = container_status(&container());
        assert_eq!(status.state(), cri::ContainerState::ContainerExited);
        assert_eq!(
            (status.started_at, status.finished_at, status.exit_code),
            (22, 23, 137)
        );
        assert_eq!(
            (status.reason.as_str(), status.message.as_str()),
            ("OOMKilled", "too much")
        );
        let image = status.image.clone().unwrap();
        assert_eq!(image.image, "docker.io/library/busybox:latest");
        assert_eq!(image.user_specified_image, "busybox:1");
        assert_eq!(status.image_ref, "docker.io/library/busybox@sha256:2");
        assert_eq!(status.image_id, "sha256:1");
        assert_eq!(status.log_path, "/log/main/4.log");
        assert_eq!(status.stop_signal(), cri::Signal::Sigrtminplus3);
        assert_eq!(status.user.unwrap().linux.unwrap().supplemental_groups, [9]);
        assert_eq!(status.resources.unwrap().linux.unwrap().cpu_shares, 2);
        assert_eq!(status.mounts.len(), 1);
        assert_eq!(status.mounts[0].host_path, "/link/to/h");
    }

    #[test]
    fn a_container_that_never_ran_has_no_end() {
        let container = Container {
            phase: ContainerPhase::Created,
            exit: None,
            started_at: 0,
            ..container()
        };
        let status = container_status(&container);
        assert_eq!(
            (status.started_at, status.finished_at, status.exit_code),
            (0, 0, 0)
        );
        assert_eq!(status.reason, "");
    }

    #[test]
    fn a_listed_container_has_its_image_as_asked_for() {
        let listed = listed_container(&container());
        assert_eq!(listed.image.unwrap().image, "busybox");
        assert_eq!(listed.image_ref, "sha256:1");
        assert_eq!(listed.image_id, "sha256:1");
    }

    #[test]
    fn signals() {
        assert_eq!(stop_signal("SIGTERM"), cri::Signal::Sigterm);
        assert_eq!(stop_signal("SIGRTMAX-1"), cri::Signal::Sigrtmaxminus1);
        assert_eq!(stop_signal("63"), cri::Signal::RuntimeDefault);
    }

    #[test]
    fn users_of_images() {
        assert_eq!(image_user("1002"), (Some(1002), String::new()));
        assert_eq!(image_user("1002:5"), (Some(1002), String::new()));
        assert_eq!(image_user("www-data:5"), (None, "www-data".into()));
        assert_eq!(image_user(""), (None, String::new()));
    }
}
