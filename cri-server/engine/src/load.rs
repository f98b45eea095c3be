//! How busy the engine is at a moment: pods and containers by state, queues, permits. Reads what is
//! published, and waits for nobody.

use std::sync::Arc;

use pod::lifecycle::{ContainerPhase, SandboxPhase};

use crate::leaks::Leaks;
use crate::making::MAX_LOOKUPS;
use crate::view::Container;
use crate::{Engine, LOCK};

/// An engine at a moment.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// All pods that have a task, those that are being made included.
    pub pods: Vec<PodLoad>,
    /// Shims that the daemon has a connection to.
    pub shims: usize,
    /// Commands that run in containers beside their own process.
    pub exec_sessions: usize,
    /// How many containers may be looked up at once, and how many are.
    pub lookups: (usize, usize),
}

/// A pod at a moment.
#[derive(Clone, Debug)]
pub struct PodLoad {
    /// Its id.
    pub id: String,
    /// Its namespace and name.
    pub name: String,
    /// How far it is.
    pub phase: SandboxPhase,
    /// Commands that wait for its task.
    pub queued: usize,
    /// Its containers.
    pub containers: Vec<Arc<Container>>,
}

impl PodLoad {
    /// Its containers that are this far.
    #[must_use]
    pub fn count(&self, phase: ContainerPhase) -> usize {
        let there = self.containers.iter();
        there.filter(|container| container.phase == phase).count()
    }
}

impl Engine {
    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        let inner = &self.inner;
        let shims: Vec<_> = inner.shims.lock().expect(LOCK).values().cloned().collect();
        let alive = || shims.iter().filter(|shim| !shim.is_gone());
        Load {
            pods: self.pod_loads(),
            shims: alive().count(),
            exec_sessions: alive().map(|shim| shim.exec_sessions()).sum(),
            lookups: (
                MAX_LOOKUPS,
                MAX_LOOKUPS - inner.lookups.available_permits().min(MAX_LOOKUPS),
            ),
        }
    }

    fn pod_loads(&self) -> Vec<PodLoad> {
        let handles: Vec<_> = {
            let pods = self.inner.pods.lock().expect(LOCK);
            pods.by_id.values().cloned().collect()
        };
        let mut of_pod = std::collections::HashMap::<_, Vec<_>>::new();
        for container in self.containers() {
            let all = of_pod.entry(container.sandbox_id.clone()).or_default();
            all.push(container);
        }
        let load = |handle: Arc<crate::pod_task::PodHandle>| PodLoad {
            id: handle.id.clone(),
            name: format!("{}/{}", handle.spec.namespace, handle.spec.name),
            // What is not published yet is being made.
            phase: self
                .sandbox(&handle.id)
                .map_or(SandboxPhase::Reserved, |sandbox| sandbox.phase),
            queued: handle.queue.max_capacity() - handle.queue.capacity(),
            containers: of_pod.remove(&handle.id).unwrap_or_default(),
        };
        let mut loads: Vec<_> = handles.into_iter().map(load).collect();
        loads.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        loads
    }

    /// What was found that nobody has asked for, since the start.
    #[must_use]
    pub fn leaks(&self) -> &Leaks {
        &self.inner.leaks
    }
}
