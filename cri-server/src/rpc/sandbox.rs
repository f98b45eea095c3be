//! Verbs on sandboxes.

use std::sync::Arc;

use cri_api as cri;
use engine::{Budget, Container, Engine, Error};

use super::{filter, info, missing_is_fine, now, reply, request};

pub(super) async fn run(
    engine: &Engine,
    asked: cri::RunPodSandboxRequest,
) -> Result<cri::RunPodSandboxResponse, Error> {
    let spec = request::sandbox(asked.config, asked.runtime_handler)?;
    let pod_sandbox_id = engine.run_sandbox(spec).await?;
    Ok(cri::RunPodSandboxResponse { pod_sandbox_id })
}

pub(super) async fn stop(
    engine: &Engine,
    asked: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse, Error> {
    missing_is_fine(engine.stop_sandbox(&asked.pod_sandbox_id).await)?;
    Ok(cri::StopPodSandboxResponse {})
}

pub(super) async fn remove(
    engine: &Engine,
    asked: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse, Error> {
    missing_is_fine(engine.remove_sandbox(&asked.pod_sandbox_id).await)?;
    Ok(cri::RemovePodSandboxResponse {})
}

/// Notes what the pod may take; its control group is the client's to limit.
pub(super) async fn update(
    engine: &Engine,
    asked: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse, Error> {
    let read = |field: &str, limits: Option<cri::LinuxContainerResources>| {
        limits
            .map(|limits| request::resources(field, limits))
            .transpose()
    };
    let budget = Budget {
        overhead: read("overhead", asked.overhead)?,
        resources: read("resources", asked.resources)?,
    };
    engine.budget_sandbox(&asked.pod_sandbox_id, budget).await?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}

pub(super) fn status(
    engine: &Engine,
    asked: &cri::PodSandboxStatusRequest,
) -> Result<cri::PodSandboxStatusResponse, Error> {
    let sandbox = engine.sandbox(&asked.pod_sandbox_id)?;
    let containers: Vec<Arc<Container>> = engine
        .containers()
        .into_iter()
        .filter(|container| container.sandbox_id == sandbox.id)
        .collect();
    let shown = asked.verbose.then(|| info::sandbox(&sandbox, &containers));
    Ok(cri::PodSandboxStatusResponse {
        status: Some(reply::sandbox_status(&sandbox)),
        info: shown.unwrap_or_default(),
        containers_statuses: containers
            .iter()
            .map(|c| reply::container_status(c))
            .collect(),
        timestamp: now(),
    })
}

pub(super) fn list(
    engine: &Engine,
    wanted: Option<cri::PodSandboxFilter>,
) -> Result<Vec<cri::PodSandbox>, Error> {
    let wanted = wanted.unwrap_or_default();
    if let Some(state) = wanted.state {
        request::known::<cri::PodSandboxState>("filter.state.state", state.state)?;
    }
    let sandboxes = engine.sandboxes();
    let shown = sandboxes
        .iter()
        .filter(|sandbox| filter::wants_sandbox(&wanted, sandbox));
    Ok(shown
        .map(|sandbox| reply::listed_sandbox(sandbox))
        .collect())
}
