//! What containers use.

use cri_api as cri;
use engine::{Engine, Error};
use pod::lifecycle::ContainerPhase;

use super::{filter, reply};

pub(super) async fn container(
    engine: &Engine,
    asked: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse, Error> {
    let container = engine.container(&asked.container_id)?;
    let stats = engine.container_stats(&container.id).await?;
    let mountpoint = engine.images().mountpoint();
    Ok(cri::ContainerStatsResponse {
        stats: Some(reply::container_stats(&container, &stats, mountpoint)),
    })
}

/// Figures of all that run. One that ends meanwhile is left out; it does not spoil the list.
pub(super) async fn list(
    engine: &Engine,
    asked: cri::ListContainerStatsRequest,
) -> cri::ListContainerStatsResponse {
    let wanted = asked.filter.unwrap_or_default();
    let mut stats = Vec::new();
    for container in engine.containers() {
        let running = container.phase == ContainerPhase::Running;
        if !running || !filter::wants_stats(&wanted, &container) {
            continue;
        }
        match engine.container_stats(&container.id).await {
            Ok(figures) => {
                let mountpoint = engine.images().mountpoint();
                stats.push(reply::container_stats(&container, &figures, mountpoint));
            }
            Err(error) => tracing::debug!(container = container.id, %error, "no figures"),
        }
    }
    cri::ListContainerStatsResponse { stats }
}
