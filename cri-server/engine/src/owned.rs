//! What a pod's task owns: the pod's record, its containers, and their living sides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pod::lifecycle::ContainerPhase;
use shim_api::{ExitRecord, Kill, request};
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::shim::{Launch, News, Shim};
use crate::store::{ContainerRecord, SandboxRecord};
use crate::view::{Container, Exit, Sandbox};
use crate::{Inner, now};

/// Ends a process without asking it (signal(7)).
const SIGKILL: i32 = 9;

/// Exit code of a container that could not be started.
const START_ERROR: i32 = 128;

/// Exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;

/// Where an answer goes. Whoever asked may have gone; then it is dropped.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) engine: Arc<Inner>,
    pub(crate) record: SandboxRecord,
    /// The built-in init: of a shared process id namespace, or only to be seen.
    pub(crate) init: Option<Process>,
    pub(crate) containers: BTreeMap<String, OwnedContainer>,
    /// For shims to tell their news. Unbounded, but each connection says two things at most.
    pub(crate) teller: mpsc::UnboundedSender<News>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct OwnedContainer {
    pub(crate) record: ContainerRecord,
    pub(crate) process: Process,
    pub(crate) stopping: Option<Stopping>,
    /// Plugins need not be told any more that it has ended.
    pub(crate) end_told: bool,
}

/// A container's living side.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) launch: Launch,
    /// The connection to its shim, until that has gone.
    pub(crate) shim: Option<Arc<Shim>>,
    /// Its init, until that has ended.
    pub(crate) pid: Option<i32>,
}

/// A stop under way. Moments are told on the clock of the pod's task.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    /// When SIGKILL is due; once it was sent: when waiting for its effect ends.
    pub(crate) kill_at: Option<Duration>,
    /// SIGKILL was sent.
    pub(crate) killed: bool,
    pub(crate) waiters: Vec<Answer<()>>,
}

impl Pod {
    /// Publishes the sandbox as it is now.
    pub(crate) fn publish(&self) {
        self.engine.view.put_sandbox(self.picture());
    }

    /// The sandbox as it is now.
    pub(crate) fn picture(&self) -> Sandbox {
        let pid = self.init.as_ref().and_then(|init| init.pid);
        sandbox_picture(&self.engine, &self.record, pid)
    }

    /// Publishes a container as it is now.
    pub(crate) fn publish_container(&self, id: &str) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        let picture = picture(&self.engine, &self.record, container);
        self.engine.view.put_container(picture);
    }
}

impl OwnedContainer {
    pub(crate) fn phase(&self) -> ContainerPhase {
        match (&self.record.exit, self.record.started_at) {
            (Some(_), _) => ContainerPhase::Exited,
            (None, 0) => ContainerPhase::Created,
            (None, _) => ContainerPhase::Running,
        }
    }

    /// Something of it lives, or nobody knows yet that it does not.
    pub(crate) fn is_alive(&self) -> bool {
        self.record.exit.is_none() || self.process.shim.is_some()
    }

    /// Takes over what its shim has recorded of its end.
    pub(crate) fn settle(&mut self, ended: &ExitRecord) {
        if ended.started_at != 0 {
            self.record.started_at = ended.started_at;
        }
        self.record.exit = Some(match &self.record.start_error {
            Some(message) => start_error(message, ended.finished_at),
            None => exit(ended, self.record.overuse.as_deref()),
        });
        self.process.pid = None;
    }

    /// Takes note that it has ended, nobody knows how.
    pub(crate) fn settle_unknown(&mut self, message: &str) {
        self.record.exit = Some(match &self.record.start_error {
            Some(message) => start_error(message, now()),
            None => unknown(message),
        });
        self.process.pid = None;
    }
}

impl Process {
    pub(crate) fn new(launch: Launch) -> Self {
        Self {
            launch,
            shim: None,
            pid: None,
        }
    }

    /// Sends a signal to init. Does not wait: a shim that hangs holds up nobody else, and whether
    /// the signal had its effect is told by the container's end.
    pub(crate) fn signal(&self, signal: i32) {
        self.send(Kill { signal, all: false });
    }

    /// Ends all processes without asking them, in the same way.
    pub(crate) fn kill(&self) {
        self.send(Kill {
            signal: SIGKILL,
            all: true,
        });
    }

    fn send(&self, kill: Kill) {
        let Some(shim) = self.shim.clone() else {
            return;
        };
        let container = self.launch.container.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with one answer of the shim, or its patience"
        )]
        drop(tokio::spawn(async move {
            if let Err(error) = shim.call(request::Call::Kill(kill), &[]).await {
                tracing::debug!(container, signal = kill.signal, %error, "signalling");
            }
        }));
    }
}

/// A sandbox as the view shows it.
pub(crate) fn sandbox_picture(
    engine: &Inner,
    record: &SandboxRecord,
    init_pid: Option<i32>,
) -> Sandbox {
    Sandbox {
        id: record.id.clone(),
        spec: Arc::clone(&record.spec),
        phase: record.phase,
        created_at: record.created_at,
        ips: record.ips.clone(),
        cni_result: record.cni_result.clone(),
        namespaces: engine.paths.namespaces(&record.id),
        init_pid,
        budget: record.budget.clone(),
    }
}

/// A container as the view shows it.
pub(crate) fn picture(
    engine: &Inner,
    sandbox: &SandboxRecord,
    container: &OwnedContainer,
) -> Container {
    let record = &container.record;
    Container {
        id: record.id.clone(),
        sandbox_id: record.sandbox_id.clone(),
        spec: Arc::clone(&record.spec),
        phase: container.phase(),
        image_id: record.image_id.clone(),
        image_name: record.image_name.clone(),
        image_ref: record.image_ref.clone(),
        volume_refs: record.volume_refs.clone(),
        created_at: record.created_at,
        started_at: record.started_at,
        exit: record.exit.clone(),
        pid: container.process.pid,
        log_path: record.spec.log_file(sandbox.spec.log_directory()),
        uid: record.uid,
        gid: record.gid,
        supplemental_groups: record.supplemental_groups.clone(),
        stop_signal: record.stop_signal_name.clone(),
        cgroup: record.cgroup.clone(),
        limits: record.limits,
        bundle: engine.paths.bundle(&record.id),
    }
}

fn exit(record: &ExitRecord, overuse: Option<&str>) -> Exit {
    let reason = match record.exit_code {
        _ if overuse.is_some() => "WritableLayerLimit",
        _ if record.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Exit {
        code: record.exit_code,
        finished_at: record.finished_at,
        reason: reason.into(),
        message: overuse.unwrap_or_default().into(),
    }
}

fn start_error(message: &str, finished_at: i64) -> Exit {
    Exit {
        code: START_ERROR,
        finished_at,
        reason: "StartError".into(),
        message: message.into(),
    }
}

/// The exit of a container whose end nobody saw.
pub(crate) fn unknown(message: &str) -> Exit {
    Exit {
        code: UNKNOWN_CODE,
        finished_at: now(),
        reason: "Unknown".into(),
        message: message.into(),
    }
}
