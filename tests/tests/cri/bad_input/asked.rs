//! Requests that are right but for one thing, and what becomes of them.

use std::path::{Path, PathBuf};

use cri_api as cri;
use tests::traces::Traces;
use tests::{Client, Node, wait};
use tonic::{Code, Status};

/// A node with one pod; every change of a request is tried on it.
pub(super) struct Asked {
    /// The node.
    pub(super) node: Node,
    /// A client of its.
    pub(super) client: Client,
    /// The pod's configuration.
    pub(super) sandbox: cri::PodSandboxConfig,
    /// The pod's id.
    pub(super) id: String,
    /// What was not refused as it should be.
    wrong: Vec<String>,
}

/// Everything that the daemon has: on the kernel's lists, and in its folders.
type Everything = (Traces, Vec<PathBuf>);

impl Asked {
    /// Starts it; `None`, said so, if the machine lacks something.
    pub(super) fn start() -> Option<Asked> {
        let node = Node::start().unwrap()?;
        let client = node.daemon.client().unwrap();
        let sandbox = sandbox(&node, "right");
        node.crictl.ok(&["pull", &node.image]).unwrap();
        let id = run(&client, sandbox.clone()).unwrap();
        Some(Asked {
            node,
            client,
            sandbox,
            id,
            wrong: Vec::new(),
        })
    }

    /// A container that is right.
    pub(super) fn container(&self, name: &str) -> cri::CreateContainerRequest {
        let metadata = cri::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        };
        let config = cri::ContainerConfig {
            metadata: Some(metadata),
            image: Some(image(&self.node.image)),
            command: ["sleep", "1000"].map(String::from).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.sandbox.clone()),
        }
    }

    /// Makes a container.
    pub(super) fn create(&self, request: cri::CreateContainerRequest) -> Result<String, Status> {
        let created = self
            .client
            .call(async |mut cri| cri.create_container(request).await);
        created.map(|created| created.container_id)
    }

    /// Notes an answer that is not this refusal, naming that field.
    pub(super) fn expect<T>(&mut self, answer: Result<T, Status>, code: Code, field: &str) {
        let said = match answer {
            Ok(_) => "not refused".to_owned(),
            Err(status) if status.code() == code && status.message().contains(field) => return,
            Err(status) => format!("{:?}: {:.200}", status.code(), status.message()),
        };
        self.wrong.push(format!("{code:?} {field}: {said}"));
    }

    /// All that is there now.
    pub(super) fn everything(&self) -> Everything {
        let daemon = &self.node.daemon;
        let mut files = Vec::new();
        for folder in [daemon.root(), daemon.state(), daemon.scratch().join("logs")] {
            walk(&folder, &mut files);
        }
        // A pull ends before its layers are marked as durable.
        let layers = daemon.root().join("images/layers");
        files.retain(|file| !file.starts_with(&layers));
        (daemon.traces(), files)
    }

    /// The end: each was refused, and there is no more than before.
    pub(super) fn judge(self, before: &Everything) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        let same = wait::until("what was made for nothing to go", || {
            (self.everything() == *before).then_some(())
        });
        assert!(
            same.is_ok(),
            "{before:#?}\nis now\n{:#?}",
            self.everything()
        );
    }
}

/// A pod that is right.
pub(super) fn sandbox(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: name.into(),
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        attempt: 0,
    };
    let namespaces = cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        ..Default::default()
    };
    let scratch = node.daemon.scratch();
    let linux = cri::LinuxPodSandboxConfig {
        cgroup_parent: scratch.cgroup(),
        security_context: Some(security),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.into(),
        log_directory: scratch.join("logs").join(name).display().to_string(),
        linux: Some(linux),
        ..Default::default()
    }
}

/// Makes a pod.
pub(super) fn run(client: &Client, config: cri::PodSandboxConfig) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let made = client.call(async |mut cri| cri.run_pod_sandbox(request).await);
    made.map(|made| made.pod_sandbox_id)
}

/// An image by its name.
pub(super) fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.into(),
        ..Default::default()
    }
}

/// Options of a pod's namespaces, to be changed.
pub(super) fn namespaces(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, files);
        }
        files.push(path);
    }
}
