//! What containers and pods use.

use std::sync::Arc;

use cri_api as cri;
use engine::{Container, Engine, Error, Sandbox};
use pod::lifecycle::{ContainerPhase, SandboxPhase};

use super::{filter, usage};

pub(super) async fn container(
    engine: &Engine,
    asked: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse, Error> {
    let container = engine.container(&asked.container_id)?;
    Ok(cri::ContainerStatsResponse {
        stats: Some(of_container(engine, &container).await?),
    })
}

async fn of_container(
    engine: &Engine,
    container: &Container,
) -> Result<cri::ContainerStats, Error> {
    let stats = engine.container_stats(&container.id).await?;
    let mountpoint = engine.images().mountpoint();
    Ok(usage::container(container, &stats, mountpoint))
}

/// Figures of all that run. One that ends meanwhile is left out; it does not spoil the list.
pub(super) async fn containers(
    engine: &Engine,
    wanted: Option<cri::ContainerStatsFilter>,
) -> Vec<cri::ContainerStats> {
    let wanted = wanted.unwrap_or_default();
    let mut all = Vec::new();
    for container in engine.containers() {
        let running = container.phase == ContainerPhase::Running;
        if !running || !filter::wants_stats(&wanted, &container) {
            continue;
        }
        match of_container(engine, &container).await {
            Ok(stats) => all.push(stats),
            Err(error) => tracing::debug!(container = container.id, %error, "no figures"),
        }
    }
    all
}

pub(super) async fn sandbox(
    engine: &Engine,
    asked: cri::PodSandboxStatsRequest,
) -> Result<cri::PodSandboxStatsResponse, Error> {
    let sandbox = engine.sandbox(&asked.pod_sandbox_id)?;
    Ok(cri::PodSandboxStatsResponse {
        stats: Some(of_sandbox(engine, &sandbox).await?),
    })
}

async fn of_sandbox(engine: &Engine, sandbox: &Sandbox) -> Result<cri::PodSandboxStats, Error> {
    let stats = engine.sandbox_stats(&sandbox.id).await?;
    let mountpoint = engine.images().mountpoint();
    Ok(usage::sandbox(sandbox, &stats, mountpoint))
}

/// Figures of all sandboxes that are ready.
pub(super) async fn sandboxes(
    engine: &Engine,
    wanted: Option<cri::PodSandboxStatsFilter>,
) -> Vec<cri::PodSandboxStats> {
    let wanted = wanted.unwrap_or_default();
    let mut all = Vec::new();
    for sandbox in ready(engine) {
        if !filter::wants_sandbox_stats(&wanted, &sandbox) {
            continue;
        }
        match of_sandbox(engine, &sandbox).await {
            Ok(stats) => all.push(stats),
            Err(error) => tracing::debug!(sandbox = sandbox.id, %error, "no figures"),
        }
    }
    all
}

/// The sandboxes that use something.
pub(super) fn ready(engine: &Engine) -> Vec<Arc<Sandbox>> {
    let mut sandboxes = engine.sandboxes();
    sandboxes.retain(|sandbox| sandbox.phase == SandboxPhase::Ready);
    sandboxes
}
