//! Verbs on containers, but for what runs in them.

use std::path::PathBuf;

use cri_api as cri;
use engine::{Engine, Error};

use super::{filter, info, missing_is_fine, reply, request};

pub(super) async fn create(
    engine: &Engine,
    asked: cri::CreateContainerRequest,
) -> Result<cri::CreateContainerResponse, Error> {
    let sandbox = engine.sandbox(&asked.pod_sandbox_id)?;
    let spec = request::container(asked.config, sandbox.spec.namespaces)?;
    let container_id = engine.create_container(&sandbox.id, spec).await?;
    Ok(cri::CreateContainerResponse { container_id })
}

pub(super) async fn start(
    engine: &Engine,
    asked: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse, Error> {
    engine.start_container(&asked.container_id).await?;
    Ok(cri::StartContainerResponse {})
}

pub(super) async fn stop(
    engine: &Engine,
    asked: cri::StopContainerRequest,
) -> Result<cri::StopContainerResponse, Error> {
    let grace = request::seconds("timeout", asked.timeout)?;
    missing_is_fine(engine.stop_container(&asked.container_id, grace).await)?;
    Ok(cri::StopContainerResponse {})
}

pub(super) async fn remove(
    engine: &Engine,
    asked: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse, Error> {
    missing_is_fine(engine.remove_container(&asked.container_id).await)?;
    Ok(cri::RemoveContainerResponse {})
}

/// The filter of a list, if its state is one that exists.
pub(super) fn checked(filter: Option<cri::ContainerFilter>) -> Result<cri::ContainerFilter, Error> {
    let filter = filter.unwrap_or_default();
    if let Some(state) = filter.state {
        request::known::<cri::ContainerState>("filter.state.state", state.state)?;
    }
    Ok(filter)
}

pub(super) fn list(
    engine: &Engine,
    wanted: Option<cri::ContainerFilter>,
) -> Result<Vec<cri::Container>, Error> {
    let wanted = checked(wanted)?;
    let containers = engine.containers();
    let shown = containers
        .iter()
        .filter(|container| filter::wants_container(&wanted, container));
    Ok(shown
        .map(|container| reply::listed_container(container))
        .collect())
}

pub(super) async fn status(
    engine: &Engine,
    asked: cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Error> {
    let container = engine.container(&asked.container_id)?;
    let mut response = cri::ContainerStatusResponse {
        status: Some(reply::container_status(&container)),
        ..Default::default()
    };
    if asked.verbose {
        let privileged = container.spec.security.privileged;
        let spec = read_spec(container.bundle.join("config.json")).await;
        let log_bytes = log_bytes(container.log_path.clone()).await;
        response.info = info::container(&container, &spec, privileged, log_bytes);
    }
    Ok(response)
}

/// The size of a log file; nothing where there is none.
async fn log_bytes(path: Option<PathBuf>) -> Option<u64> {
    let metadata = tokio::fs::metadata(path?).await.ok()?;
    Some(metadata.len())
}

/// The OCI specification of a bundle; null where it cannot be had, which is not worth an error.
async fn read_spec(path: PathBuf) -> serde_json::Value {
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    match read {
        Ok(Ok(text)) => serde_json::from_slice(&text).unwrap_or_default(),
        _ => serde_json::Value::Null,
    }
}

/// Changes limits. There is nothing to do where no limit of Linux is named. The annotations are
/// hints for plugins, of which there are none.
pub(super) async fn update(
    engine: &Engine,
    asked: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse, Error> {
    if asked.windows.is_some() {
        return Err(request::not_windows("windows").into());
    }
    let wanted = request::resources("linux", asked.linux.unwrap_or_default())?;
    engine.update_container(&asked.container_id, wanted).await?;
    Ok(cri::UpdateContainerResourcesResponse {})
}

pub(super) async fn reopen_log(
    engine: &Engine,
    asked: cri::ReopenContainerLogRequest,
) -> Result<cri::ReopenContainerLogResponse, Error> {
    engine.reopen_log(&asked.container_id).await?;
    Ok(cri::ReopenContainerLogResponse {})
}
