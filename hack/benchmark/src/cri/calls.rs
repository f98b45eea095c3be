//! What a kubelet sends for a pod that asks for nothing, and the calls of a pod's life.

use std::path::PathBuf;

use cri_api::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::Status;
use tonic::transport::Channel;

/// A client of the runtime service.
pub(crate) type Cri = RuntimeServiceClient<Channel>;

/// The image of all containers.
pub(crate) const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// Seconds that a call of ExecSync may take.
const EXEC_LIMIT: i64 = 30;

/// What is fixed for the pods of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Parent of the pods' control groups.
    pub(crate) parent: String,
    /// Folder of the pods' logs.
    pub(crate) logs: PathBuf,
}

impl Template {
    /// A pod on the pod network.
    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// A container that runs a command.
pub(crate) fn container(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            // Of a pod without requests and limits.
            resources: Some(LinuxContainerResources {
                cpu_period: 100_000,
                cpu_shares: 2,
                oom_score_adj: 1000,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(own_pids()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A container that stays.
pub(crate) fn idle(name: &str) -> ContainerConfig {
    container(name, &["sleep", "86400"])
}

fn own_pids() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}

/// Makes a pod; gives its id.
pub(crate) async fn run_pod(cri: &mut Cri, config: &PodSandboxConfig) -> Result<String, Status> {
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let made = cri.run_pod_sandbox(request).await?;
    Ok(made.into_inner().pod_sandbox_id)
}

/// Makes a container and starts it; gives its id.
pub(crate) async fn run_container(
    cri: &mut Cri,
    pod: &str,
    sandbox: &PodSandboxConfig,
    config: ContainerConfig,
) -> Result<String, Status> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    // The message is large, and with it whatever holds it.
    let created = Box::pin(cri.create_container(request)).await?;
    let container_id = created.into_inner().container_id;
    let request = StartContainerRequest {
        container_id: container_id.clone(),
    };
    cri.start_container(request).await?;
    Ok(container_id)
}

/// Runs `true` in a container.
pub(crate) async fn exec_true(cri: &mut Cri, container: &str) -> Result<(), Status> {
    let request = ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: vec!["true".to_owned()],
        timeout: EXEC_LIMIT,
    };
    let ended = cri.exec_sync(request).await?.into_inner();
    if ended.exit_code != 0 {
        return Err(Status::internal(format!(
            "true ended with {}",
            ended.exit_code
        )));
    }
    Ok(())
}

/// Kills a container and removes it.
pub(crate) async fn remove_container(cri: &mut Cri, container: &str) -> Result<(), Status> {
    let request = StopContainerRequest {
        container_id: container.to_owned(),
        timeout: 0,
    };
    cri.stop_container(request).await?;
    let request = RemoveContainerRequest {
        container_id: container.to_owned(),
    };
    cri.remove_container(request).await?;
    Ok(())
}

/// Stops a pod and removes it.
pub(crate) async fn remove_pod(cri: &mut Cri, pod: &str) -> Result<(), Status> {
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    cri.stop_pod_sandbox(request).await?;
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    cri.remove_pod_sandbox(request).await?;
    Ok(())
}
