//! How plugins reach the engine by themselves: what is there, changes, evictions.
//!
//! Changes go to the task of the pod beside its queue, and are carried out also while the task waits
//! for plugins; so what a plugin answers about one container can change another of the same pod.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nri::Pending;
use nri_api::{Container, ContainerEviction, ContainerUpdate, PodSandbox};
use pod::lifecycle::{ContainerPhase, SandboxPhase};

use super::{change, read_spec, told, wanted};
use crate::store::SandboxRecord;
use crate::{Engine, Inner, LOCK, owned};

/// The engine, as plugins see it.
pub(super) struct Reach(Weak<Inner>);

impl Reach {
    pub(super) fn new(engine: &Arc<Inner>) -> Self {
        Self(Arc::downgrade(engine))
    }
}

impl nri::Runtime for Reach {
    fn snapshot(&self) -> Pending<'_, (Vec<PodSandbox>, Vec<Container>)> {
        Box::pin(async {
            match self.0.upgrade() {
                Some(engine) => (pods(&engine), containers(&engine).await),
                None => Default::default(),
            }
        })
    }

    fn update<'a>(&'a self, update: &'a ContainerUpdate) -> Pending<'a, Result<(), String>> {
        Box::pin(async {
            let engine = self.0.upgrade().ok_or("the engine goes")?;
            let resources = update
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.as_ref());
            let wanted = wanted::limits(resources.unwrap_or(&Default::default()))?;
            let id = update.container_id.clone();
            let sender = {
                let known = engine.view.announced(&id);
                let pods = engine.pods.lock().expect(LOCK);
                let handle = known.and_then(|one| pods.by_id.get(&one.sandbox_id));
                handle.map(|handle| handle.urgent.clone())
            };
            let sender = sender.ok_or_else(|| format!("container {id:?} not found"))?;
            let (news, answer) = change(id, wanted);
            let gone = || "its pod is gone".to_owned();
            sender.send(news).map_err(|_closed| gone())?;
            let done = answer.await.map_err(|_closed| gone())?;
            done.map_err(|error| error.to_string())
        })
    }

    fn evict(&self, eviction: ContainerEviction) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        let engine = Engine { inner };
        #[expect(clippy::disallowed_methods, reason = "ends with the container")]
        drop(tokio::spawn(async move {
            let id = eviction.container_id;
            if let Err(error) = engine.stop_container(&id, Duration::ZERO).await {
                tracing::warn!(container = id, %error, "evicting");
            }
        }));
    }
}

/// All pods, also those that are being made: one that is not ready yet is told of once more when
/// it is.
fn pods(engine: &Arc<Inner>) -> Vec<PodSandbox> {
    let sandboxes = engine.view.sandboxes();
    let known: BTreeSet<&str> = sandboxes.iter().map(|one| one.id.as_str()).collect();
    let pods = engine.pods.lock().expect(LOCK);
    let making: Vec<PodSandbox> = pods
        .by_id
        .values()
        .filter(|handle| !known.contains(handle.id.as_str()))
        .map(|handle| {
            let spec = handle.spec.as_ref().clone();
            let record = SandboxRecord::reserved(handle.id.clone(), spec, Default::default(), 0);
            told::pod(&owned::sandbox_picture(engine, &record, None))
        })
        .collect();
    drop(pods);
    let there = sandboxes
        .iter()
        .filter(|one| one.phase != SandboxPhase::Reserved)
        .map(|one| told::pod(one));
    there.chain(making).collect()
}

/// All containers that have not ended, also those that are being made.
async fn containers(engine: &Arc<Inner>) -> Vec<Container> {
    let mut all = Vec::new();
    for container in engine.view.all_containers() {
        if container.phase != ContainerPhase::Exited {
            let spec = read_spec(&container.bundle).await;
            all.push(told::container(
                &container,
                &container.spec.resources,
                &spec,
            ));
        }
    }
    all
}
