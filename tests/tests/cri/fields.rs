//! Fields of CRI, one by one: what is asked for is done in the container, and told as it was asked.

mod confinement;
mod limits;
mod signals;

use std::collections::HashMap;

use cri_api as cri;
use tests::{Client, Node};
use tonic::Status;

/// A pod made by messages, with what is needed to make containers in it.
struct Pod {
    // Closed before the daemon ends, which else waits for it.
    client: Client,
    node: Node,
    config: cri::PodSandboxConfig,
    id: String,
}

impl Pod {
    /// Runs it; `None`, said so, if the machine lacks something.
    fn start(change: impl FnOnce(&mut cri::PodSandboxConfig)) -> Option<Pod> {
        // The parents of control groups are named as cgroupfs has them, also where systemd is init.
        let node = Node::start_with(|setup| setup.cgroup_driver("cgroupfs")).unwrap()?;
        node.crictl.ok(&["pull", &node.image]).unwrap();
        let client = node.daemon.client().unwrap();
        let mut config = sandbox(&node, "pod");
        change(&mut config);
        let id = run(&client, config.clone()).unwrap();
        Some(Pod {
            client,
            node,
            config,
            id,
        })
    }

    /// A container that runs a shell script.
    fn container(&self, name: &str, script: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: self.node.image.clone(),
                ..Default::default()
            }),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn create(&self, config: cri::ContainerConfig) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let made = self
            .client
            .call(async |mut cri| cri.create_container(request).await);
        made.map(|made| made.container_id)
    }

    fn run(&self, config: cri::ContainerConfig) -> String {
        let container_id = self.create(config).unwrap();
        self.node.crictl.ok(&["start", &container_id]).unwrap();
        container_id
    }

    fn status(&self, container: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            ..Default::default()
        };
        let client = self.node.daemon.client().unwrap();
        let answer = client.call(async |mut cri| cri.container_status(request).await);
        answer.unwrap().status.unwrap()
    }

    fn exec(&self, container: &str, script: &str) -> String {
        self.node.exec(container, script).unwrap()
    }
}

fn sandbox(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let scratch = node.daemon.scratch();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: scratch.join("logs").join(name).display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: scratch.cgroup(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn run(client: &Client, config: cri::PodSandboxConfig) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let made = client.call(async |mut cri| cri.run_pod_sandbox(request).await);
    made.map(|made| made.pod_sandbox_id)
}

/// The container's security, to be changed.
fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// The container's limits, to be changed.
fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    let linux = config.linux.get_or_insert_default();
    linux.resources.get_or_insert_default()
}

fn texts(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    pairs.iter().map(own).collect()
}

/// A configuration in which nothing is at its zero value that a status tells.
fn full(pod: &Pod) -> cri::ContainerConfig {
    let source = pod.node.daemon.scratch().join("volume");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let host_path = source.display().to_string();
    let mut config = pod.container("full", "sleep 1000");
    config.metadata.as_mut().unwrap().attempt = 3;
    let image = config.image.as_mut().unwrap();
    image.user_specified_image = "busybox:as-written".into();
    image.annotations = texts(&[("image.example/note", "yes")]);
    image.runtime_handler = "wrun".into();
    config.labels = texts(&[("a.b/c", "d.e/f"), ("empty", "")]);
    config.annotations = texts(&[("x.y/z", "{\"json\": [1]}")]);
    config.mounts = vec![
        cri::Mount {
            container_path: "/volume".into(),
            host_path: host_path.clone(),
            propagation: cri::MountPropagation::PropagationPrivate.into(),
            mount_options: vec!["noexec".into(), "nodev".into()],
            ..Default::default()
        },
        cri::Mount {
            container_path: "/fixed".into(),
            host_path,
            readonly: true,
            recursive_read_only: true,
            ..Default::default()
        },
        cri::Mount {
            container_path: "/image".into(),
            readonly: true,
            image: Some(cri::ImageSpec {
                image: pod.node.image.clone(),
                annotations: texts(&[("volume.example/note", "no")]),
                user_specified_image: "busybox:volume".into(),
                runtime_handler: "wrun".into(),
                ..Default::default()
            }),
            image_sub_path: "bin".into(),
            ..Default::default()
        },
    ];
    config.stop_signal = cri::Signal::Sigrtminplus3.into();
    *resources(&mut config) = cri::LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 3,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        // Every size is named by kubelet, whatever the node has.
        hugepage_limits: ["2MB", "1GB", "64KB"]
            .map(|size| cri::HugepageLimit {
                page_size: size.into(),
                limit: 0,
            })
            .to_vec(),
        ..Default::default()
    };
    let security = security(&mut config);
    security.run_as_user = Some(cri::Int64Value { value: 1234 });
    security.run_as_group = Some(cri::Int64Value { value: 2345 });
    security.supplemental_groups = vec![77, 78];
    security.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
    config
}

#[test]
fn a_status_tells_what_was_asked_for() {
    let Some(mut pod) = Pod::start(|_| {}) else {
        return;
    };
    let asked = full(&pod);
    let id = pod.run(asked.clone());
    let check = |status: &cri::ContainerStatus| {
        assert_eq!(status.metadata, asked.metadata);
        assert_eq!(status.labels, asked.labels);
        assert_eq!(status.annotations, asked.annotations);
        let (image, wanted) = (status.image.clone().unwrap(), asked.image.clone().unwrap());
        assert_eq!(image.image, wanted.image);
        assert_eq!(image.user_specified_image, wanted.user_specified_image);
        assert_eq!(image.annotations, wanted.annotations);
        assert_eq!(image.runtime_handler, wanted.runtime_handler);
        assert!(status.image_ref.contains("@sha256:"), "{status:?}");
        assert!(status.image_id.starts_with("sha256:"), "{status:?}");
        let mut mounts = status.mounts.clone();
        let volume = mounts[2].image.as_mut().unwrap();
        assert_eq!(std::mem::take(&mut volume.image_ref), status.image_ref);
        assert_eq!(mounts, asked.mounts);
        let limits = status.resources.clone().unwrap().linux;
        assert_eq!(limits, asked.linux.as_ref().unwrap().resources);
        assert_eq!(status.stop_signal(), cri::Signal::Sigrtminplus3);
        let user = status.user.clone().unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (1234, 2345));
        assert_eq!(user.supplemental_groups, [77, 78, 2345]);
        assert!(status.log_path.ends_with("/logs/pod/full.log"));
        assert!(status.created_at > 0 && status.started_at >= status.created_at);
        assert_eq!((status.finished_at, status.exit_code), (0, 0));
    };
    check(&pod.status(&id));
    assert_eq!(
        pod.exec(&id, "id -u; id -g; id -G"),
        "1234\n2345\n2345 77 78"
    );
    let listed = cri::ListContainersRequest::default();
    let listed = pod
        .client
        .call(async |mut cri| cri.list_containers(listed).await);
    let listed = listed.unwrap().containers.remove(0);
    assert_eq!(listed.image, asked.image);
    assert_eq!(listed.metadata, asked.metadata);
    assert_eq!(listed.image_ref, listed.image_id);

    // What is on record says the same.
    pod.node.daemon.kill();
    pod.node.daemon.start().unwrap();
    check(&pod.status(&id));
    let info = pod.node.crictl.json(&["inspect", &id]).unwrap();
    let config = &info["info"]["config"];
    assert_eq!(config["image"]["runtime_handler"], "wrun");
    assert_eq!(config["linux"]["resources"]["cpu_shares"], 3);
    assert_eq!(config["stop_signal"], "SIGRTMIN+3");
}

#[test]
fn a_pod_tells_what_was_asked_for_and_how_its_containers_are() {
    let limits = |memory_limit_in_bytes| {
        Some(cri::LinuxContainerResources {
            memory_limit_in_bytes,
            ..Default::default()
        })
    };
    let Some(mut pod) = Pod::start(|config| {
        let linux = config.linux.as_mut().unwrap();
        (linux.overhead, linux.resources) = (limits(5), limits(7));
        config.labels = texts(&[("a.b/c", "d.e/f")]);
        config.annotations = texts(&[("x.y/z", "{\"json\": [1]}")]);
        config.metadata.as_mut().unwrap().attempt = 2;
    }) else {
        return;
    };
    let container = pod.run(pod.container("main", "exit 3"));
    pod.node
        .crictl
        .ok(&["stop", "-t", "5", &container])
        .unwrap();
    pod.node.daemon.kill();
    pod.node.daemon.start().unwrap();
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    };
    let client = pod.node.daemon.client().unwrap();
    let answer = client.call(async |mut cri| cri.pod_sandbox_status(request).await);
    let answer = answer.unwrap();
    let status = answer.status.unwrap();
    assert_eq!(status.metadata, pod.config.metadata);
    assert_eq!(status.labels, pod.config.labels);
    assert_eq!(status.annotations, pod.config.annotations);
    let security = pod.config.linux.clone().unwrap().security_context.unwrap();
    let namespaces = status.linux.unwrap().namespaces.unwrap().options;
    assert_eq!(namespaces, security.namespace_options);
    assert!(answer.timestamp > status.created_at);
    let [of_container] = &answer.containers_statuses[..] else {
        panic!("{:?}", answer.containers_statuses);
    };
    assert_eq!(*of_container, pod.status(&container));
    assert_eq!(of_container.reason, "Error");
    let info = pod.node.crictl.json(&["inspectp", &pod.id]).unwrap();
    let memory = |what: &str| info["info"][what]["memory_limit_in_bytes"].as_i64();
    assert_eq!(
        [memory("overhead"), memory("resources")],
        [Some(5), Some(7)]
    );
}

#[test]
fn attempts_are_what_tells_namesakes_apart() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let with = |attempt, script: &str| {
        let mut config = pod.container("main", script);
        config.metadata.as_mut().unwrap().attempt = attempt;
        config
    };
    let first = pod.create(with(0, "exit 0")).unwrap();
    assert_eq!(pod.create(with(0, "exit 0")).unwrap(), first);
    let other = pod.create(with(0, "exit 1")).unwrap_err();
    assert_eq!(other.code(), tonic::Code::AlreadyExists, "{other:?}");
    assert_ne!(pod.create(with(1, "exit 0")).unwrap(), first);
}
