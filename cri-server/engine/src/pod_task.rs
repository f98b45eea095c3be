//! The one task that owns a pod: it alone changes the pod and its containers.
//!
//! Commands come through a bounded queue and are carried out in their order; news of the shims
//! come beside them. What takes long on purpose (the grace of a stop) is a deadline of the task,
//! not a wait inside it, so that other commands of the pod go on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pod::lifecycle::{self, ContainerPhase, Making, Namesake, SandboxPhase, Stop};
use pod::{ContainerSpec, SandboxSpec};
use shim_api::{ExitRecord, Kill, Start, request};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::Error;
use crate::shim::{Launch, News, Shim};
use crate::store::{self, ContainerRecord, SandboxRecord};
use crate::view::{Container, Exit, Sandbox};
use crate::{Inner, LOCK, making, now, teardown};

/// Commands that may wait for a pod; a further one waits outside.
const QUEUE: usize = 64;

/// How long the kernel may take to end what was sent SIGKILL.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Ends a process without asking it (signal(7)).
const SIGKILL: i32 = 9;

/// Exit code of a container that could not be started.
const START_ERROR: i32 = 128;

/// Exit code of a container whose end nobody saw.
pub(crate) const UNKNOWN_CODE: i32 = 255;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

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
        spec: Box<ContainerSpec>,
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
}

/// How the rest of the engine reaches a pod's task.
#[derive(Debug)]
pub(crate) struct PodHandle {
    pub(crate) id: String,
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) queue: mpsc::Sender<Command>,
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

/// A container's living side.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) launch: Launch,
    /// The connection to its shim, until that has gone.
    pub(crate) shim: Option<Arc<Shim>>,
    /// Its init, until that has ended.
    pub(crate) pid: Option<i32>,
}

#[derive(Debug)]
pub(crate) struct OwnedContainer {
    pub(crate) record: ContainerRecord,
    pub(crate) process: Process,
    pub(crate) stopping: Option<Stopping>,
}

/// A stop under way. Moments are told on [`PodTask::clock`].
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    /// When SIGKILL is due; once it was sent: when waiting for its effect ends.
    kill_at: Option<Duration>,
    /// SIGKILL was sent.
    killed: bool,
    waiters: Vec<Answer<()>>,
}

#[derive(Debug)]
pub(crate) struct PodTask {
    pub(crate) engine: Arc<Inner>,
    pub(crate) record: SandboxRecord,
    pub(crate) spec: Arc<SandboxSpec>,
    /// The built-in init of a shared process id namespace.
    pub(crate) init: Option<Process>,
    pub(crate) containers: BTreeMap<String, OwnedContainer>,
    /// For shims to tell their news. Unbounded, but each connection says two things at most.
    pub(crate) teller: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
    queue: mpsc::Receiver<Command>,
    made: watch::Sender<Option<Result<(), Error>>>,
    began: Instant,
}

impl PodTask {
    pub(crate) fn new(engine: &Arc<Inner>, record: SandboxRecord) -> (Self, Arc<PodHandle>) {
        let (queue_sender, queue) = mpsc::channel(QUEUE);
        let (teller, news) = mpsc::unbounded_channel();
        let (made, made_receiver) = watch::channel(None);
        let spec = Arc::new(record.spec.clone());
        let handle = PodHandle {
            id: record.id.clone(),
            spec: Arc::clone(&spec),
            queue: queue_sender,
            made: made_receiver,
        };
        let task = Self {
            engine: Arc::clone(engine),
            record,
            spec,
            init: None,
            containers: BTreeMap::new(),
            teller,
            news,
            queue,
            made,
            began: Instant::now(),
        };
        (task, Arc::new(handle))
    }

    /// Makes the sandbox, then serves it to its end.
    pub(crate) async fn make_and_run(mut self) {
        if let Err(error) = making::sandbox(&mut self).await {
            if let Err(left) = teardown::pod(&mut self).await {
                tracing::error!(sandbox = self.record.id, error = %left, "undoing a sandbox");
            }
            self.engine.pods.lock().expect(LOCK).remove(&self.record.id);
            self.made.send_replace(Some(Err(error)));
            return;
        }
        self.publish();
        self.run().await;
    }

    /// Serves the pod to its end.
    pub(crate) async fn run(mut self) {
        self.made.send_replace(Some(Ok(())));
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => self.hear(news).await,
                () = sleep_until(deadline) => self.on_deadline().await,
                command = self.queue.recv() => match command {
                    Some(command) => if self.carry_out(command).await { return },
                    None => return,
                },
            }
        }
    }

    /// Carries a command out; true once the pod is no more.
    async fn carry_out(&mut self, command: Command) -> bool {
        // Whoever asked may have gone; the work is done all the same.
        match command {
            Command::Stop { reply } => drop(reply.send(self.stop().await)),
            Command::Create { spec, reply } => drop(reply.send(self.create(*spec).await)),
            Command::Start { id, reply } => drop(reply.send(self.start(&id).await)),
            Command::StopContainer { id, grace, reply } => {
                self.stop_container(&id, grace, reply).await;
            }
            Command::RemoveContainer { id, reply } => {
                drop(reply.send(self.remove_container(&id).await));
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

    async fn create(&mut self, spec: ContainerSpec) -> Result<String, Error> {
        let known = self.namesake(&spec);
        let namesake = known.map(|container| Namesake {
            phase: phase(&container.record),
            same_request: container.record.spec == spec,
        });
        let decided = lifecycle::make_container(self.record.phase, namesake);
        let making = decided.map_err(|refusal| {
            let there = known.map(|container| format!(" (there is {})", container.record.id));
            let there = there.unwrap_or_default();
            Error::refused(refusal, format!("container {:?}{there}", spec.name))
        })?;
        if let (Making::Join, Some(container)) = (making, known) {
            return Ok(container.record.id.clone());
        }
        let container = making::container(self, spec).await?;
        let id = container.record.id.clone();
        self.containers.insert(id.clone(), container);
        self.publish_container(&id);
        Ok(id)
    }

    fn namesake(&self, spec: &ContainerSpec) -> Option<&OwnedContainer> {
        self.containers.values().find(|container| {
            let known = &container.record.spec;
            known.name == spec.name && known.attempt == spec.attempt
        })
    }

    async fn start(&mut self, id: &str) -> Result<(), Error> {
        let container = self
            .containers
            .get(id)
            .ok_or_else(|| Error::container_not_found(id))?;
        lifecycle::start(self.record.phase, phase(&container.record))
            .map_err(|refusal| Error::refused(refusal, format!("container {id}")))?;
        let shim = container.process.shim.clone();
        let shim = shim.ok_or_else(|| Error::WrongState(format!("container {id} has ended")))?;
        let result = shim.call(request::Call::Start(Start {}), &[]).await;
        let container = self
            .containers
            .get_mut(id)
            .expect("only this task removes it");
        container.record.started_at = now();
        if let Err(error) = &result {
            container.record.exit = Some(start_error(error));
            container.process.pid = None;
        }
        self.keep_container(id).await;
        result.map(drop)
    }

    async fn stop_container(&mut self, id: &str, grace: Duration, reply: Answer<()>) {
        let now = self.clock();
        let Some(container) = self.containers.get_mut(id) else {
            return drop(reply.send(Err(Error::container_not_found(id))));
        };
        let under_way = container.stopping.as_ref().and_then(|stop| stop.kill_at);
        let (kill_at, ask) = match lifecycle::stop(phase(&container.record), now, grace, under_way)
        {
            Stop::Done => return drop(reply.send(Ok(()))),
            Stop::Kill => (now, false),
            Stop::Ask { kill_at } => (kill_at, container.stopping.is_none()),
            Stop::Wait { kill_at } => (kill_at, false),
        };
        let stopping = container.stopping.get_or_insert_default();
        stopping.waiters.push(reply);
        if !stopping.killed {
            stopping.kill_at = Some(kill_at);
        }
        if ask {
            let signal = container.record.stop_signal;
            signal_process(&container.process, signal, false).await;
        }
        self.on_deadline().await;
    }

    async fn remove_container(&mut self, id: &str) -> Result<(), Error> {
        if !self.containers.contains_key(id) {
            return Err(Error::container_not_found(id));
        }
        self.kill_and_wait(&[id.to_owned()]).await?;
        let container = self.containers.get(id).expect("only this task removes it");
        teardown::container(&self.engine, &container.record, &container.process.launch).await?;
        self.containers.remove(id);
        self.engine.view.drop_container(id);
        self.engine.rates.forget(id);
        Ok(())
    }

    /// Ends containers that live, and waits until nothing of them is left but files.
    pub(crate) async fn kill_and_wait(&mut self, ids: &[String]) -> Result<(), Error> {
        for id in ids {
            if let Some(container) = self.containers.get(id) {
                signal_process(&container.process, SIGKILL, true).await;
            }
        }
        let until = Instant::now() + KILL_PATIENCE;
        while let Some(id) = self.first_alive(ids) {
            let Ok(news) = tokio::time::timeout_at(until, self.news.recv()).await else {
                return Err(Error::Failed(self.why_alive(&id)));
            };
            self.hear(news.expect("this task holds a sender itself"))
                .await;
        }
        Ok(())
    }

    fn first_alive(&self, ids: &[String]) -> Option<String> {
        let alive = |id: &&String| {
            self.containers
                .get(*id)
                .is_some_and(|container| container.process.shim.is_some())
        };
        ids.iter().find(alive).cloned()
    }

    fn why_alive(&self, id: &str) -> String {
        let pid = self
            .containers
            .get(id)
            .and_then(|container| container.process.pid);
        let state = pid.map_or_else(String::new, |pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = status
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            let wait = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            format!(
                ": process {pid} is in state {} in {wait:?}",
                state.unwrap_or('?')
            )
        });
        format!("container {id} did not end within {KILL_PATIENCE:?} of SIGKILL{state}")
    }

    /// Ends all containers, frees the network and the namespaces.
    async fn stop(&mut self) -> Result<(), Error> {
        let alive: Vec<String> = self.containers.keys().cloned().collect();
        self.kill_and_wait(&alive).await?;
        if self.record.phase != SandboxPhase::NotReady {
            self.record.phase = SandboxPhase::NotReady;
            self.record.ips.clear();
            self.keep().await?;
        }
        teardown::namespaces(self).await
    }

    async fn remove(&mut self) -> Result<(), Error> {
        self.stop().await?;
        for id in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.remove_container(&id).await?;
        }
        teardown::pod(self).await?;
        self.engine.view.drop_sandbox(&self.record.id);
        self.engine.pods.lock().expect(LOCK).remove(&self.record.id);
        Ok(())
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Exited(id) => self.exited(&id).await,
            News::Gone(id) if id == self.record.id => self.init_gone().await,
            News::Gone(id) => self.gone(&id).await,
        }
    }

    /// Takes over the exit record of a container.
    async fn exited(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.process.pid = None;
        if container.record.exit.is_none() {
            match crate::shim::exit_record(&container.process.launch.bundle) {
                Ok(Some(record)) => container.record.exit = Some(exit(&record)),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(container = id, %error, "reading an exit record");
                    container.record.exit = Some(unknown("its exit record cannot be read"));
                }
            }
        }
        if let Some(stopping) = container.stopping.take() {
            for waiter in stopping.waiters {
                drop(waiter.send(Ok(())));
            }
        }
        self.keep_container(id).await;
    }

    /// A shim has gone; without an exit record it was lost, and its container with it.
    async fn gone(&mut self, id: &str) {
        self.engine.shims.lock().expect(LOCK).remove(id);
        self.exited(id).await;
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.process.shim = None;
        if container.record.exit.is_none() {
            container.record.exit = Some(unknown("its shim was lost"));
            let (record, launch) = (container.record.clone(), container.process.launch.clone());
            if let Err(error) = teardown::lost(&self.engine, &record.cgroup, &launch).await {
                tracing::error!(container = id, %error, "ending a container without its shim");
            }
            self.exited(id).await;
        }
    }

    /// The built-in init has gone, and with it every process of the shared namespace.
    async fn init_gone(&mut self) {
        if let Some(init) = &mut self.init {
            (init.shim, init.pid) = (None, None);
        }
        if self.record.phase == SandboxPhase::Ready {
            tracing::warn!(sandbox = self.record.id, "the pod's init has ended");
            self.record.phase = SandboxPhase::NotReady;
            if let Err(error) = self.keep().await {
                tracing::error!(sandbox = self.record.id, %error, "keeping a record");
            }
        }
    }

    /// Ends the built-in init and waits until it has gone.
    pub(crate) async fn end_init(&mut self) -> Result<(), Error> {
        let Some(init) = &self.init else {
            return Ok(());
        };
        signal_process(init, SIGKILL, true).await;
        let until = Instant::now() + KILL_PATIENCE;
        while self.init.as_ref().is_some_and(|init| init.shim.is_some()) {
            let Ok(news) = tokio::time::timeout_at(until, self.news.recv()).await else {
                return Err(Error::Failed(format!(
                    "the init of sandbox {} did not end within {KILL_PATIENCE:?}",
                    self.record.id
                )));
            };
            // Boxed: it may come back here.
            Box::pin(self.hear(news.expect("this task holds a sender itself"))).await;
        }
        Ok(())
    }

    /// The task's clock: it begins with the task and only goes forward.
    fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stopping = self
            .containers
            .values()
            .filter_map(|container| container.stopping.as_ref());
        let next = stopping.filter_map(|stopping| stopping.kill_at).min()?;
        // A moment beyond what the clock can tell never comes.
        self.began.checked_add(next)
    }

    /// Sends the SIGKILLs that are due, and gives up on those who do not end.
    async fn on_deadline(&mut self) {
        let now = self.clock();
        let mut stuck = Vec::new();
        for (id, container) in &mut self.containers {
            let Some(stopping) = &mut container.stopping else {
                continue;
            };
            if stopping.kill_at.is_none_or(|moment| moment > now) {
                continue;
            }
            if stopping.killed {
                stuck.push(id.clone());
            } else {
                stopping.killed = true;
                stopping.kill_at = Some(now + KILL_PATIENCE);
                signal_process(&container.process, SIGKILL, true).await;
            }
        }
        for id in stuck {
            let error = Error::Failed(self.why_alive(&id));
            let container = self.containers.get_mut(&id).expect("it was just there");
            for waiter in container.stopping.take().unwrap_or_default().waiters {
                drop(waiter.send(Err(error.clone())));
            }
        }
    }

    /// Writes the sandbox's record and publishes it.
    async fn keep(&mut self) -> Result<(), Error> {
        let result = making::keep_sandbox(&self.engine, &self.record).await;
        self.publish();
        result
    }

    pub(crate) fn publish(&self) {
        let record = &self.record;
        self.engine.view.put_sandbox(Sandbox {
            id: record.id.clone(),
            spec: Arc::clone(&self.spec),
            phase: record.phase,
            created_at: record.created_at,
            ips: record.ips.clone(),
            cni_result: record.cni_result.clone(),
            namespaces: self.engine.paths.namespaces(&record.id),
            init_pid: self.init.as_ref().and_then(|init| init.pid),
        });
    }

    /// Writes a container's record and publishes it. A disk that is full costs nothing but memory
    /// of the change over a restart.
    async fn keep_container(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        let (paths, record) = (self.engine.paths.clone(), container.record.clone());
        let written = crate::blocking(move || store::put_container(&paths, &record)).await;
        if let Err(error) = written {
            tracing::error!(container = id, %error, "keeping a record");
        }
        self.publish_container(id);
    }

    pub(crate) fn publish_container(&self, id: &str) {
        let Some(container) = self.containers.get(id) else {
            return;
        };
        self.engine
            .view
            .put_container(picture(&self.engine, &self.record, container));
    }
}

/// A container as the view shows it.
fn picture(engine: &Inner, sandbox: &SandboxRecord, container: &OwnedContainer) -> Container {
    let record = &container.record;
    Container {
        id: record.id.clone(),
        sandbox_id: record.sandbox_id.clone(),
        spec: Arc::new(record.spec.clone()),
        phase: phase(record),
        image_id: record.image_id.clone(),
        image_name: record.image_name.clone(),
        image_ref: record.image_ref.clone(),
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
        bundle: engine.paths.bundle(&record.id),
    }
}

fn phase(record: &ContainerRecord) -> ContainerPhase {
    match (&record.exit, record.started_at) {
        (Some(_), _) => ContainerPhase::Exited,
        (None, 0) => ContainerPhase::Created,
        (None, _) => ContainerPhase::Running,
    }
}

/// Sends a signal; a process that has gone already is what was wanted.
async fn signal_process(process: &Process, signal: i32, all: bool) {
    let Some(shim) = &process.shim else { return };
    if let Err(error) = shim
        .call(request::Call::Kill(Kill { signal, all }), &[])
        .await
    {
        tracing::debug!(container = process.launch.container, signal, %error, "signalling");
    }
}

fn exit(record: &ExitRecord) -> Exit {
    let reason = match record.exit_code {
        _ if record.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    Exit {
        code: record.exit_code,
        finished_at: record.finished_at,
        reason: reason.into(),
        message: String::new(),
    }
}

fn start_error(error: &Error) -> Exit {
    Exit {
        code: START_ERROR,
        finished_at: now(),
        reason: "StartError".into(),
        message: error.to_string(),
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

/// Waits for a moment; for ever, if there is none.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
