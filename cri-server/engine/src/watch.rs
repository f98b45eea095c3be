//! Writable layers with a limit, watched: the file system is asked now and then what they use, and
//! who uses more than it may is ended.
//!
//! Between two looks a container can write more than its limit allows. What it has written too much
//! goes with it when its client removes it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pod::lifecycle::ContainerPhase;

use crate::pod_task::{Asked, Command};
use crate::view::Container;
use crate::{Inner, LOCK};

/// Time between two looks. The figures looked at are at most 10 seconds old
/// ([`image::Store::container_usage`]), so that who writes too much has 15 seconds and what the
/// measuring takes.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Watches as long as the engine lives.
pub(crate) fn start(engine: &Arc<Inner>) {
    let engine = Arc::downgrade(engine);
    #[expect(clippy::disallowed_methods, reason = "ends with the engine")]
    drop(tokio::spawn(watch(engine)));
}

async fn watch(engine: Weak<Inner>) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(engine) = engine.upgrade() else {
            return;
        };
        for container in engine.view.containers() {
            if let Some(why) = overuse(&engine, &container) {
                end(&engine, &container, why);
            }
        }
    }
}

/// Why a container has to end.
fn overuse(engine: &Inner, container: &Container) -> Option<String> {
    let limit = container.limits.writable_layer?;
    if container.phase != ContainerPhase::Running {
        return None;
    }
    let used = engine.images.container_usage(&container.id).bytes;
    (used > limit)
        .then(|| format!("its writable layer has {used} bytes, and may have no more than {limit}"))
}

/// Tells the container's pod. One whose queue is full is told at the next look.
fn end(engine: &Inner, container: &Container, why: String) {
    tracing::warn!(container = container.id, why, "ending a container");
    let pods = engine.pods.lock().expect(LOCK);
    if let Some(pod) = pods.by_id.get(&container.sandbox_id) {
        let id = container.id.clone();
        drop(pod.queue.try_send(Asked::new(Command::End { id, why })));
    }
}
