//! The one task that owns a pod: it alone changes the pod and its containers.
//!
//! Commands come through a bounded queue and are carried out in their order; news of the shims
//! come beside them and are heard at any time. What takes long on purpose (the grace of a stop) is
//! a deadline of the task, not a wait inside it, so that other commands of the pod go on meanwhile.
//! How things end is in [`crate::ending`].

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pod::container::{ContainerPidMode, Resources};
use pod::lifecycle::{self, Making, Namesake, SandboxPhase};
use pod::{ContainerSpec, SandboxSpec};
use shim_api::{Start, request};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::checkpoint::restore;
use crate::error::Error;
use crate::leaks::Leak;
use crate::making::{self, Place};
use crate::owned::{Answer, OwnedContainer, Pod};
use crate::plugins::{self, Moment, PodMoment};
use crate::shim::News;
use crate::store::SandboxRecord;
use crate::view::Budget;
use crate::{Inner, LOCK, now, update};

/// Commands that may wait for a pod; a further one waits outside.
const QUEUE: usize = 64;

/// What a pod's task can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    Stop {
        reply: Answer<()>,
    },
    Remove {
        reply: Answer<()>,
    },
    Create {
        spec: Arc<ContainerSpec>,
        reply: Answer<String>,
    },
    Start {
        id: String,
        reply: Answer<()>,
    },
    StopContainer {
        id: String,
        grace: Duration,
        reply: Answer<()>,
    },
    RemoveContainer {
        id: String,
        reply: Answer<()>,
    },
    Budget {
        budget: Box<Budget>,
        reply: Answer<()>,
    },
    /// Has left more on disk than it may.
    End {
        id: String,
        why: String,
    },
    Update {
        id: String,
        wanted: Box<Resources>,
        reply: Answer<()>,
    },
}

impl Command {
    /// The container that it is about, if it is about one that has an id.
    pub(crate) fn container(&self) -> Option<&str> {
        match self {
            Self::Start { id, .. }
            | Self::StopContainer { id, .. }
            | Self::RemoveContainer { id, .. }
            | Self::End { id, .. }
            | Self::Update { id, .. } => Some(id),
            Self::Create { .. } | Self::Stop { .. } | Self::Remove { .. } | Self::Budget { .. } => {
                None
            }
        }
    }
}

/// A command in the queue, with the operation that it belongs to.
#[derive(Debug)]
pub(crate) struct Asked {
    command: Command,
    operation: Span,
    /// The wait in the queue, a step of the operation until the task takes it up.
    _waiting: Span,
}

impl Asked {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            command,
            operation: Span::current(),
            _waiting: tracing::error_span!(target: "wherry::step", "queue"),
        }
    }

    /// The command, with the span in which it is to be carried out. It waits no longer.
    fn take_up(self) -> (Command, Span) {
        (self.command, self.operation)
    }
}

/// How the rest of the engine reaches a pod's task.
#[derive(Debug)]
pub(crate) struct PodHandle {
    pub(crate) id: String,
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) queue: mpsc::Sender<Asked>,
    /// For what plugins want, which the task hears at any time. Unbounded, but each waits for the
    /// answer to its last wish.
    pub(crate) urgent: mpsc::UnboundedSender<News>,
    made: watch::Receiver<Option<Result<(), Error>>>,
}

impl PodHandle {
    /// Waits until the sandbox is ready or has failed.
    pub(crate) async fn made(&self) -> Result<(), Error> {
        let mut made = self.made.clone();
        match made.wait_for(Option::is_some).await {
            Ok(result) => result.clone().expect("waited for it"),
            Err(_closed) => Err(Error::sandbox_not_found(&self.id)),
        }
    }
}

#[derive(Debug)]
pub(crate) struct PodTask {
    pub(crate) pod: Pod,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
    queue: mpsc::Receiver<Asked>,
    made: watch::Sender<Option<Result<(), Error>>>,
    began: Instant,
}

impl PodTask {
    pub(crate) fn new(engine: &Arc<Inner>, record: SandboxRecord) -> (Self, Arc<PodHandle>) {
        let (queue_sender, queue) = mpsc::channel(QUEUE);
        let (teller, news) = mpsc::unbounded_channel();
        let (made, made_receiver) = watch::channel(None);
        let handle = PodHandle {
            id: record.id.clone(),
            spec: Arc::clone(&record.spec),
            queue: queue_sender,
            urgent: teller.clone(),
            made: made_receiver,
        };
        let pod = Pod {
            engine: Arc::clone(engine),
            record,
            init: None,
            containers: BTreeMap::new(),
            teller,
        };
        let task = Self {
            pod,
            news,
            queue,
            made,
            began: Instant::now(),
        };
        (task, Arc::new(handle))
    }

    /// Makes the sandbox, then serves it to its end. What could not be undone of a failure stays
    /// visible, not ready, for its client to remove.
    pub(crate) async fn make_and_run(mut self, operation: Span) {
        let making = Box::pin(making::sandbox(&mut self.pod)).instrument(operation.clone());
        let Err(error) = making.await else {
            drop(operation);
            self.pod.publish();
            return self.run().await;
        };
        let undone = self.undo().instrument(operation).await;
        Box::pin(plugins::undo_pod(&self.pod)).await;
        let id = &self.pod.record.id;
        if let Err(left) = undone {
            tracing::error!(sandbox = id, error = %left, "undoing a sandbox");
            self.pod.engine.leaks.found(Leak::Stuck);
            self.made.send_replace(Some(Err(error)));
            return self.run_unready().await;
        }
        self.pod.engine.pods.lock().expect(LOCK).remove(id);
        self.made.send_replace(Some(Err(error)));
    }

    /// Serves a pod of which something is left that would not go.
    pub(crate) async fn run_unready(mut self) {
        self.pod.record.phase = SandboxPhase::NotReady;
        self.pod.record.ips.clear();
        self.keep_or_log().await;
        self.run().await;
    }

    /// Serves the pod to its end.
    pub(crate) async fn run(mut self) {
        self.made.send_if_modified(|made| {
            let unknown = made.is_none();
            made.get_or_insert(Ok(())).is_ok() && unknown
        });
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => Box::pin(self.hear(news)).await,
                () = sleep_until(deadline) => self.on_deadline(),
                asked = self.queue.recv() => match asked.map(Asked::take_up) {
                    // Boxed: what a pod costs while it is idle is this loop.
                    Some((command, operation)) => {
                        if Box::pin(self.carry_out(command)).instrument(operation).await {
                            return;
                        }
                    }
                    None => return,
                },
            }
        }
    }

    /// Carries a command out; true once the pod is no more.
    async fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Stop { reply } => drop(reply.send(self.stop().await)),
            Command::Create { spec, reply } => drop(reply.send(self.create(spec).await)),
            Command::Start { id, reply } => drop(reply.send(self.start(&id).await)),
            Command::StopContainer { id, grace, reply } => self.stop_container(&id, grace, reply),
            Command::RemoveContainer { id, reply } => {
                drop(reply.send(self.remove_container(&id).await));
            }
            Command::End { id, why } => self.end_overuse(&id, why).await,
            Command::Budget { budget, reply } => drop(reply.send(self.note(*budget).await)),
            Command::Update { id, wanted, reply } => {
                drop(reply.send(self.update(&id, &wanted).await));
            }
            Command::Remove { reply } => {
                let result = self.remove().await;
                let removed = result.is_ok();
                drop(reply.send(result));
                return removed;
            }
        }
        false
    }

    /// Waits for work that does not touch the pod; news are heard and deadlines kept meanwhile.
    pub(crate) async fn attend<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(news) = self.news.recv() => Box::pin(self.hear(news)).await,
                () = sleep_until(deadline) => self.on_deadline(),
            }
        }
    }

    async fn create(&mut self, spec: Arc<ContainerSpec>) -> Result<String, Error> {
        let known = self.namesake(&spec);
        let namesake = known.map(|container| Namesake {
            phase: container.phase(),
            same_request: container.record.spec == spec,
        });
        let decided = lifecycle::make_container(self.pod.record.phase, namesake);
        let making = decided.map_err(|refusal| {
            let there = known.map(|container| format!(" (there is {})", container.record.id));
            let there = there.unwrap_or_default();
            Error::refused(refusal, format!("container {:?}{there}", spec.name))
        })?;
        if let (Making::Join, Some(container)) = (making, known) {
            return Ok(container.record.id.clone());
        }
        let place = Place {
            engine: Arc::clone(&self.pod.engine),
            sandbox: self.pod.record.clone(),
            teller: self.pod.teller.clone(),
            target_pid: self.target_pid(&spec.security.pid)?,
        };
        let made = self.attend(Box::pin(making::container(&place, spec))).await;
        let (container, result) = match made {
            Ok(container) => (container, Ok(())),
            Err(failed) => match failed.left {
                None => return Err(failed.error),
                Some(left) => (*left, Err(failed.error)),
            },
        };
        let id = container.record.id.clone();
        let shim = container.process.shim.clone();
        self.pod.containers.insert(id.clone(), container);
        self.pod.publish_container(&id);
        if shim.is_some_and(|shim| shim.is_gone()) {
            // Said before there was a container to say it of; it would not be said again.
            drop(self.pod.teller.send(News::Gone(id.clone())));
        }
        if result.is_ok() {
            self.tell(&id, Moment::Created).await;
        }
        result.map(|()| id)
    }

    fn namesake(&self, spec: &ContainerSpec) -> Option<&OwnedContainer> {
        self.pod.containers.values().find(|container| {
            let known = &container.record.spec;
            known.name == spec.name && known.attempt == spec.attempt
        })
    }

    /// The init of the container whose process ids are shared: it must run, in the same pod.
    fn target_pid(&self, mode: &ContainerPidMode) -> Result<Option<i32>, Error> {
        let ContainerPidMode::Target(id) = mode else {
            return Ok(None);
        };
        let target = self.pod.engine.view.container(id)?;
        let owned = self.pod.containers.get(&target.id);
        let running = owned.filter(|owned| lifecycle::in_use(owned.phase()).is_ok());
        let pid = running.and_then(|owned| owned.process.pid);
        pid.map(Some).ok_or_else(|| {
            Error::Invalid(format!(
                "linux.security_context.namespace_options.target_id: container {id} does not run \
                 in this pod"
            ))
        })
    }

    async fn start(&mut self, id: &str) -> Result<(), Error> {
        let container = self.pod.containers.get(id);
        let container = container.ok_or_else(|| Error::container_not_found(id))?;
        lifecycle::start(self.pod.record.phase, container.phase())
            .map_err(|refusal| Error::refused(refusal, format!("container {id}")))?;
        let shim = container.process.shim.clone();
        let shim = shim.ok_or_else(|| Error::WrongState(format!("container {id} has ended")))?;
        let (engine, record) = (Arc::clone(&self.pod.engine), container.record.clone());
        let permitted = self.ask_start(id).await;
        let result = match record.restored {
            _ if permitted.is_err() => permitted.map(|()| None),
            true => self.attend(restore::start(&engine, &record, &shim)).await,
            false => {
                let call = request::Call::Start(Start {});
                let started = step!("runtime_start", shim.call(call, &[]));
                self.attend(started).await.map(|_done| None)
            }
        };
        let Some(container) = self.pod.containers.get_mut(id) else {
            return result.map(drop);
        };
        if let Ok(Some(pid)) = &result {
            container.process.pid = Some(*pid);
        }
        if container.record.started_at == 0 {
            container.record.started_at = now();
        }
        if let Err(error) = &result {
            // It may run for all we know: it has ended when its shim says so.
            container.record.start_error = Some(error.to_string());
            if let Err(left) = self.end(&[id.to_owned()]).await {
                tracing::error!(container = id, error = %left, "ending a failed container");
            }
        }
        self.keep_container(id).await;
        if result.is_ok() {
            self.tell(id, Moment::Started).await;
        }
        result.map(drop)
    }

    /// Notes what a client says of the pod's resources.
    async fn note(&mut self, budget: Budget) -> Result<(), Error> {
        self.ask_budget(&budget).await?;
        self.pod.record.budget = budget;
        self.keep().await?;
        self.tell_pod(PodMoment::Updated).await;
        Ok(())
    }

    async fn update(&mut self, id: &str, wanted: &Resources) -> Result<(), Error> {
        let container = self.pod.containers.get(id);
        let container = container.ok_or_else(|| Error::container_not_found(id))?;
        lifecycle::update(container.phase())
            .map_err(|refusal| Error::refused(refusal, format!("container {id}")))?;
        let wanted = self.ask_update(id, wanted).await?;
        self.change(id, &wanted).await?;
        self.tell(id, Moment::Updated).await;
        Ok(())
    }

    /// Changes the limits of a container, whoever wants it.
    pub(crate) async fn change(&mut self, id: &str, wanted: &Resources) -> Result<(), Error> {
        let container = self.pod.containers.get(id);
        let container = container.ok_or_else(|| Error::container_not_found(id))?;
        lifecycle::update(container.phase())
            .map_err(|refusal| Error::refused(refusal, format!("container {id}")))?;
        let shim = container.process.shim.clone();
        let shim = shim.ok_or_else(|| Error::WrongState(format!("container {id} has ended")))?;
        let (engine, record) = (Arc::clone(&self.pod.engine), container.record.clone());
        let work = update::limits(&engine, &record, &shim, wanted);
        let (limits, block_io) = self.attend(work).await?;
        if let Some(container) = self.pod.containers.get_mut(id) {
            Arc::make_mut(&mut container.record.spec).resources = limits;
            container.record.tuned = None;
            container.record.block_io = block_io;
        }
        self.keep_container(id).await;
        Ok(())
    }

    /// Writes the sandbox's record and publishes it.
    pub(crate) async fn keep(&self) -> Result<(), Error> {
        let result = making::keep_sandbox(&self.pod.engine, &self.pod.record).await;
        self.pod.publish();
        result
    }

    pub(crate) async fn keep_or_log(&self) {
        if let Err(error) = self.keep().await {
            tracing::error!(sandbox = self.pod.record.id, %error, "keeping a record");
        }
    }

    /// Writes a container's record and publishes it. A disk that is full costs nothing but memory
    /// of the change over a restart.
    pub(crate) async fn keep_container(&self, id: &str) {
        let Some(container) = self.pod.containers.get(id) else {
            return;
        };
        let written = making::keep_container(&self.pod.engine, &container.record).await;
        if let Err(error) = written {
            tracing::error!(container = id, %error, "keeping a record");
        }
        self.pod.publish_container(id);
    }

    /// The task's clock: it begins with the task and only goes forward.
    pub(crate) fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let containers = self.pod.containers.values();
        let stopping = containers.filter_map(|container| container.stopping.as_ref());
        let next = stopping.filter_map(|stopping| stopping.kill_at).min()?;
        // A moment beyond what the clock can tell never comes.
        self.began.checked_add(next)
    }
}

/// Waits for a moment; for ever, if there is none.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
