//! What every front end calls: pods kept alive, without knowing who asks.
//!
//! An [`Engine`] owns everything that lives: each pod has one task ([`pod_task`]), which alone
//! changes it. Requests go into the pod's queue; lists and status read a published, immutable
//! [`view`] and never wait. Operations belong to the engine: when the future of a caller is
//! dropped, the work goes on, and a retry of the same request gets its result.
//!
//! The truth lies on disk ([`store`]): a record is written by rename before the effect that it
//! announces, so that [`recovery`] can take up, or take down, whatever a killed daemon left.
//!
//! The engine never knows CRI, gRPC or HTTP, nor an OCI runtime's command line (that is the
//! shim's), nor a byte of a container's log.

/// Marks work as a step of the operation under way, for those who watch the daemon: a span of the
/// target `wherry::step`. The second number is how many milliseconds it may take beyond the usual.
macro_rules! step {
    ($name:literal, $work:expr) => {
        tracing::Instrument::instrument(
            $work,
            tracing::error_span!(target: "wherry::step", $name),
        )
    };
    ($name:literal, $allowed:expr, $work:expr) => {
        tracing::Instrument::instrument(
            $work,
            tracing::error_span!(target: "wherry::step", $name, allowed_ms = $allowed),
        )
    };
}

mod apparmor;
mod blockio;
mod cdi;
mod checkpoint;
mod classes;
mod elf;
mod ending;
mod error;
mod events;
mod exec;
mod facts;
mod figures;
mod handlers;
mod interfaces;
pub mod judge;
mod leaks;
mod load;
mod making;
mod namespaces;
mod owned;
mod plugins;
mod pod_task;
mod recovery;
mod relabel;
mod rootfs;
mod runtimes;
mod shim;
mod stats;
mod store;
mod streams;
mod teardown;
mod update;
mod view;
mod volumes;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use cgroup::{Cpu, Memory, Pressure, PressureLine};
pub use checkpoint::RestoredPod;
pub use classes::{ClassConfig, Classes};
pub use error::{Error, OpenError};
pub use events::{Change, Event};
pub use exec::ExecOutput;
pub use figures::{Disk, Figures, HugePages, Io};
pub use handlers::{Features, Handler};
pub use interfaces::{Interface, Traffic};
pub use leaks::{Leak, Leaks};
pub use load::{Load, PodLoad};
/// Which requests this daemon knows of those that a shim may.
pub use shim_api::PROTOCOL as SHIM_PROTOCOL;
pub use stats::{ContainerStats, SandboxStats, Usage};
pub use streams::{Attachment, ExecEnd, ExecSession, Followed, Resizer, Terminal};
pub use view::{Budget, Container, Exit, Sandbox};

use pod::container::Resources;
use pod::lifecycle::{self, Namesake, SandboxPhase};
use pod::plan::StorageLimits;
use pod::sandbox::NamespaceMode;
use pod::{ContainerSpec, NodeFacts, SandboxSpec};
use pod_task::{Asked, Command, PodHandle, PodTask};
use shim::{Launch, Shim};
use shim_api::{ReopenLog, request};
use store::{Paths, SandboxRecord};
use tokio::sync::{Semaphore, oneshot};
use view::View;

/// Configuration of an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for what must survive a reboot.
    pub root: PathBuf,
    /// Folder for what must not.
    pub state: PathBuf,
    /// OCI runtimes by the name of their handler.
    pub runtimes: BTreeMap<String, Runtime>,
    /// The handler meant by the empty name.
    pub default_runtime: String,
    /// The shim program.
    pub shim: PathBuf,
    /// Folders with vendors' files about devices (CDI); a later one outweighs an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Images.
    pub image: image::Config,
    /// Network.
    pub network: network::Config,
    /// Name of the present boot of the machine: whatever was alive under another is gone.
    pub boot_id: String,
    /// Soft limit of open files that shims get, where it is not the daemon's own.
    pub shim_open_files: Option<u64>,
    /// Whether systemd makes the control groups of new containers. By default it does where it is
    /// the init system and control groups are v2.
    pub systemd_cgroup: Option<bool>,
    /// Every pod gets a process of its own, for those who know a pod by one.
    pub pod_process: bool,
    /// How much any container may leave on disk.
    pub limits: StorageLimits,
    /// Classes of service that pods and plugins may name.
    pub classes: ClassConfig,
    /// Plugins of the node (NRI).
    pub plugins: nri::Config,
    /// Names the operation that work under way is part of, for the logs of other programs; empty if it
    /// is part of none.
    pub operation: fn() -> String,
}

/// An OCI runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Its program.
    pub path: PathBuf,
}

/// How the engine is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Why pods can't get a network now, if so.
    pub network: Result<(), String>,
    /// The runtime handlers, the default one first.
    pub handlers: Vec<Handler>,
    /// Control groups are driven through systemd.
    pub systemd_cgroup: bool,
}

/// A node engine. Cheap to clone; all clones are the same engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What the tasks of all pods share.
#[derive(Debug)]
pub(crate) struct Inner {
    config: Config,
    paths: Paths,
    facts: NodeFacts,
    /// What each runtime handler can do, by its name.
    features: BTreeMap<String, Features>,
    cgroups: cgroup::Host,
    images: Arc<image::Store>,
    network: Arc<network::Network>,
    view: View,
    pods: Mutex<Pods>,
    shims: Mutex<HashMap<String, Arc<Shim>>>,
    rates: stats::Rates,
    /// What any container that is made from now on may leave on disk.
    limits: Mutex<StorageLimits>,
    /// Classes of service that containers get from now on.
    classes: Mutex<Arc<Classes>>,
    /// Which pods a checkpoint is being taken of.
    checkpoints: checkpoint::Places,
    /// Permits to look at what containers want of the host, each held until the host has answered.
    lookups: Arc<Semaphore>,
    /// What was found of earlier runs, or would not go.
    leaks: Leaks,
    /// Plugins of the node.
    plugins: nri::Nri,
    /// Held as long as the engine lives: nobody else uses the folders.
    _locks: [OwnedFd; 2],
}

/// The pods' tasks.
#[derive(Debug, Default)]
struct Pods {
    by_key: HashMap<String, Arc<PodHandle>>,
    by_id: HashMap<String, Arc<PodHandle>>,
}

const LOCK: &str = "no thread panics while it holds this lock";

impl Engine {
    /// Opens an engine: takes its folders, and takes up or takes down what an earlier run left.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Pods that cannot be recovered are no error; they are taken down.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let inner = recovery::open(config).await?;
        watch::start(&inner);
        Ok(Self { inner })
    }

    /// The images of this node.
    #[must_use]
    pub fn images(&self) -> &Arc<image::Store> {
        &self.inner.images
    }

    /// Facts of the node.
    #[must_use]
    pub fn facts(&self) -> &NodeFacts {
        &self.inner.facts
    }

    /// The configuration that the engine was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// How the engine is.
    #[must_use]
    pub fn status(&self) -> Status {
        let config = &self.inner.config;
        let default = &config.default_runtime;
        let others = config.runtimes.keys().filter(|name| *name != default);
        let handler = |name: &String| Handler {
            name: name.clone(),
            features: self.inner.features.get(name).copied().unwrap_or_default(),
        };
        Status {
            network: self
                .inner
                .network
                .status()
                .map_err(|error| error.to_string()),
            handlers: std::iter::once(default)
                .chain(others)
                .map(handler)
                .collect(),
            systemd_cgroup: self.inner.facts.systemd_cgroup,
        }
    }

    /// Makes a sandbox; answers with its id when it is ready. The same request again joins the
    /// running one, and gets the same id once that is done.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if another sandbox has this name, namespace, uid and attempt.
    pub async fn run_sandbox(&self, spec: SandboxSpec) -> Result<String, Error> {
        let runtime = self.inner.runtime(&spec.handler)?.to_path_buf();
        about(&spec, None);
        let handle = self.find_or_make(spec, runtime)?;
        handle.made().await?;
        Ok(handle.id.clone())
    }

    fn find_or_make(&self, spec: SandboxSpec, runtime: PathBuf) -> Result<Arc<PodHandle>, Error> {
        let mut pods = self.inner.pods.lock().expect(LOCK);
        if let Some(handle) = pods.by_key.get(&spec.key()) {
            return self
                .same_sandbox(handle, &spec)
                .map(|()| Arc::clone(handle));
        }
        let record = SandboxRecord::reserved(new_id(), spec, runtime, now());
        let (task, handle) = PodTask::new(&self.inner, record);
        pods.insert(&handle);
        drop(pods);
        #[expect(clippy::disallowed_methods, reason = "the one task that owns this pod")]
        drop(tokio::spawn(task.make_and_run(tracing::Span::current())));
        Ok(handle)
    }

    /// Whether a request for a sandbox that exists may be answered with it.
    fn same_sandbox(&self, handle: &PodHandle, spec: &SandboxSpec) -> Result<(), Error> {
        // What is not published yet is being made.
        let phase = self.sandbox(&handle.id).map(|sandbox| sandbox.phase);
        let namesake = Namesake {
            phase: phase.unwrap_or(SandboxPhase::Reserved),
            same_request: *handle.spec == *spec,
        };
        lifecycle::make_sandbox(Some(namesake)).map_err(|refusal| {
            let (name, id) = (&spec.name, &handle.id);
            Error::refused(refusal, format!("sandbox {name:?} (there is {id})"))
        })?;
        Ok(())
    }

    /// Stops all that runs in a sandbox and frees its network. Stopped already is fine.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Failed`] with what would not go, to be tried again.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        self.ask(&sandbox.id, |reply| Command::Stop { reply }).await
    }

    /// Removes a sandbox with all its containers, stopping what runs.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Failed`] with what would not go, to be tried again.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        self.ask(&sandbox.id, |reply| Command::Remove { reply })
            .await
    }

    /// Notes what a client says of a sandbox's resources.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Failed`] if its record cannot be written.
    pub async fn budget_sandbox(&self, id: &str, budget: Budget) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        let budget = Box::new(budget);
        self.ask(&sandbox.id, |reply| Command::Budget { budget, reply })
            .await
    }

    /// Notes from which addresses a client gives to the pods of this node. Nothing depends on it:
    /// the network's own configuration says what pods get.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if it cannot be written.
    pub async fn set_pod_cidr(&self, cidr: String) -> Result<(), Error> {
        let path = self.inner.paths.pod_cidr();
        blocking(move || store::replace_bytes(&path, cidr.as_bytes()))
            .await
            .map_err(|error| Error::failed("writing the pods' addresses", error))
    }

    /// What [`Engine::set_pod_cidr`] has noted, also in an earlier run; often empty.
    pub async fn pod_cidr(&self) -> String {
        let path = self.inner.paths.pod_cidr();
        blocking(move || std::fs::read_to_string(path).unwrap_or_default()).await
    }

    /// Looks a sandbox up by its id or an unambiguous start of it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::Invalid`].
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        self.inner.view.sandbox(id)
    }

    /// All sandboxes that were handed out.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.inner.view.sandboxes()
    }

    /// Makes a container in a sandbox that is ready; answers with its id. The same request again
    /// gets the same id as long as the container has not been started.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] of the sandbox or the image, [`Error::Invalid`] naming the field,
    /// [`Error::Exists`] if another container of the pod has this name and attempt.
    pub async fn create_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox(sandbox)?;
        let spec = Arc::new(spec);
        self.ask(&sandbox.id, |reply| Command::Create { spec, reply })
            .await
    }

    /// Releases a container's process.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it was just made; [`Error::Failed`] with the OCI runtime's text
    /// if the program cannot be executed (the container has then exited with 128).
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let id = container.id.clone();
        self.ask(&container.sandbox_id, |reply| Command::Start { id, reply })
            .await
    }

    /// Asks a container to stop, and ends it after `grace`. Returns when its exit is recorded. A
    /// call with a shorter grace shortens one that is under way.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if the kernel cannot end it, with the reason.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let container = self.container(id)?;
        // Inside of the step it would not be heard.
        self.about_container(&container);
        let id = container.id.clone();
        let stopped = self.ask(&container.sandbox_id, |reply| Command::StopContainer {
            id,
            grace,
            reply,
        });
        step!("stop", exec::milliseconds(grace), stopped).await
    }

    /// Removes a container, ending it if it runs. Its log stays.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Failed`] with what would not go, to be tried again.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let id = container.id.clone();
        self.ask(&container.sandbox_id, |reply| Command::RemoveContainer {
            id,
            reply,
        })
        .await
    }

    /// Changes what any container that is made from now on may leave on disk.
    pub fn limit_storage(&self, limits: StorageLimits) {
        *self.inner.limits.lock().expect(LOCK) = limits;
    }

    /// Changes the limits of a container that has not ended; what `wanted` does not name stays.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the field; [`Error::WrongState`] if it has ended, or uses more
    /// memory than it would be left.
    pub async fn update_container(&self, id: &str, wanted: Resources) -> Result<(), Error> {
        let container = self.container(id)?;
        let (id, wanted) = (container.id.clone(), Box::new(wanted));
        self.ask(&container.sandbox_id, |reply| Command::Update {
            id,
            wanted,
            reply,
        })
        .await
    }

    /// Looks a container up by its id or an unambiguous start of it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::Invalid`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        self.inner.view.container(id)
    }

    /// A container by its whole id, also one that is being made: then without process and phase of
    /// its own yet.
    #[must_use]
    pub fn announced_container(&self, id: &str) -> Option<Arc<Container>> {
        self.inner.view.announced(id)
    }

    /// What was asked for in a sandbox, by its whole id, also in one that is being made.
    #[must_use]
    pub fn announced_sandbox(&self, id: &str) -> Option<Arc<SandboxSpec>> {
        let pods = self.inner.pods.lock().expect(LOCK);
        pods.by_id.get(id).map(|handle| Arc::clone(&handle.spec))
    }

    /// The OCI specification, as JSON, of a container or of a sandbox's own process.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if nothing of that id has one.
    pub async fn oci_spec(&self, id: &str) -> Result<Vec<u8>, Error> {
        let known = self.announced_container(id).is_some() || self.announced_sandbox(id).is_some();
        let config = self.inner.paths.bundle(id).join("config.json");
        let read = move || known.then(|| std::fs::read(config).ok()).flatten();
        blocking(read)
            .await
            .ok_or_else(|| Error::container_not_found(id))
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.inner.view.containers()
    }

    /// Runs a command in a running container to its end.
    ///
    /// # Errors
    ///
    /// [`Error::DeadlineExceeded`] if `timeout` passed: the command and all that it started have
    /// been ended.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let container = self.container(id)?;
        let shim = self.running(&container)?;
        let process = process_of(&container, &command, false).await?;
        self.about_container(&container);
        let root = self.root_of(&container);
        let allowed = timeout.map_or(ANY_TIME_MS, exec::milliseconds);
        let run = exec::run(&shim, new_id(), process, root, timeout);
        step!("exec", allowed, run).await
    }

    /// Starts a command in a running container, its streams to be followed.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless the container runs; [`Error::Failed`] with the OCI runtime's
    /// text if the program cannot be executed.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        followed: Followed,
    ) -> Result<ExecSession, Error> {
        let container = self.container(id)?;
        let shim = self.running(&container)?;
        let process = process_of(&container, command, followed.tty).await?;
        let root = self.root_of(&container);
        streams::exec(&shim, new_id(), process, root, followed).await
    }

    /// Connects to the streams of a running container.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless the container runs.
    pub async fn attach(&self, id: &str, followed: Followed) -> Result<Attachment, Error> {
        let container = self.container(id)?;
        let shim = self.running(&container)?;
        streams::attach(&shim, followed).await
    }

    /// Connects to a port of localhost as a pod sees it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless the pod is ready; [`Error::Failed`] if nobody listens.
    pub async fn dial(&self, sandbox: &str, port: u16) -> Result<tokio::net::TcpStream, Error> {
        let sandbox = self.sandbox(sandbox)?;
        if sandbox.phase != SandboxPhase::Ready {
            let id = &sandbox.id;
            return Err(Error::WrongState(format!("sandbox {id} is not ready")));
        }
        let own = sandbox.spec.namespaces.network == NamespaceMode::Pod;
        let netns = own.then(|| sandbox.namespaces.join("net"));
        let dialled = blocking(move || streams::dial(netns.as_deref(), port)).await;
        dialled
            .and_then(streams::adopt)
            .map_err(|error| Error::failed(format!("connecting to port {port}"), error))
    }

    /// Opens a container's log file anew; it exists when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless the container runs.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let shim = self.running(&container)?;
        shim.call(request::Call::ReopenLog(ReopenLog {}), &[])
            .await
            .map(drop)
    }

    /// User and group id on the host of who is root in a container.
    fn root_of(&self, container: &Container) -> (u32, u32) {
        let sandbox = self.sandbox(&container.sandbox_id);
        sandbox.map_or((0, 0), |sandbox| sandbox.spec.namespaces.root())
    }

    fn about_container(&self, container: &Container) {
        if let Ok(sandbox) = self.sandbox(&container.sandbox_id) {
            about(&sandbox.spec, Some(&container.id));
        }
    }

    fn running(&self, container: &Container) -> Result<Arc<Shim>, Error> {
        let what = || format!("container {}", container.id);
        lifecycle::in_use(container.phase).map_err(|refusal| Error::refused(refusal, what()))?;
        let shims = self.inner.shims.lock().expect(LOCK);
        let shim = shims.get(&container.id).cloned();
        shim.ok_or_else(|| Error::WrongState(format!("{}: it has just ended", what())))
    }

    /// What a container that runs uses.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless its process is alive.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats, Error> {
        let container = self.container(id)?;
        if container.exit.is_some() {
            return Err(Error::WrongState(format!(
                "container {} has exited",
                container.id
            )));
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || stats::read(&inner, &container)).await
    }

    /// What a sandbox that is ready uses, with its containers that run.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] unless it is ready.
    pub async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats, Error> {
        let sandbox = self.sandbox(id)?;
        if sandbox.phase != SandboxPhase::Ready {
            let text = format!("sandbox {} is not ready", sandbox.id);
            return Err(Error::Unavailable(text));
        }
        let inner = Arc::clone(&self.inner);
        Ok(blocking(move || stats::read_sandbox(&inner, &sandbox)).await)
    }

    /// What else is known of a container that runs, for monitoring.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] if its control group cannot be read.
    pub async fn figures(&self, container: &Arc<Container>) -> Result<Figures, Error> {
        let (inner, container) = (Arc::clone(&self.inner), Arc::clone(container));
        blocking(move || figures::read(&inner, &container)).await
    }

    /// What changes from now on. The end of the events means that some were lost because they were
    /// not taken in time, or that the engine stops.
    #[must_use]
    pub fn events(&self) -> tokio::sync::mpsc::Receiver<Event> {
        self.inner.view.listeners.join()
    }

    /// Ends all [`Engine::events`].
    pub fn close_events(&self) {
        self.inner.view.listeners.close();
    }

    /// Stops all, and removes every link, rule, mount and file of this engine, but for the images if
    /// they are to be kept. It is of no use afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the first thing that would not go; what can go is gone.
    pub async fn reset(&self, keep_images: bool) -> Result<(), Error> {
        teardown::everything(self, keep_images).await
    }

    async fn ask<T>(
        &self,
        sandbox: &str,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let handle = self
            .inner
            .pods
            .lock()
            .expect(LOCK)
            .by_id
            .get(sandbox)
            .cloned();
        let handle = handle.ok_or_else(|| Error::sandbox_not_found(sandbox))?;
        let (sender, receiver) = oneshot::channel();
        let ended = || Error::sandbox_not_found(sandbox);
        let command = command(sender);
        about(&handle.spec, command.container());
        handle
            .queue
            .send(Asked::new(command))
            .await
            .map_err(|_closed| ended())?;
        receiver.await.map_err(|_closed| ended())?
    }
}

impl Inner {
    /// The program of a runtime handler.
    fn runtime(&self, handler: &str) -> Result<&Path, Error> {
        let name = self.handler(handler);
        let known = self
            .config
            .runtimes
            .get(name)
            .map(|runtime| runtime.path.as_path());
        known.ok_or_else(|| {
            Error::Invalid(format!(
                "runtime_handler: no runtime for {name:?} is configured"
            ))
        })
    }

    /// The name of a handler; the empty one means the default.
    fn handler<'a>(&'a self, handler: &'a str) -> &'a str {
        if handler.is_empty() {
            &self.config.default_runtime
        } else {
            handler
        }
    }

    /// Facts of the node for pods of a handler.
    fn facts_of(&self, handler: &str) -> NodeFacts {
        let features = self.features.get(self.handler(handler));
        let features = features.copied().unwrap_or_default();
        NodeFacts {
            recursive_read_only: features.recursive_read_only,
            user_namespaces: features.user_namespaces,
            ..self.facts.clone()
        }
    }

    /// A control group as records name it. A name with colons is one of systemd's, whoever makes
    /// those of new containers.
    fn group(&self, name: &str) -> Result<cgroup::Group, cgroup::Error> {
        let driver = if name.contains(':') {
            cgroup::Driver::Systemd
        } else {
            cgroup::Driver::Cgroupfs
        };
        self.cgroups.group_by(driver, name)
    }

    /// How the shim of a container is started. `recorded` is the runtime's program for a handler
    /// that is not configured any more.
    fn launch(&self, handler: &str, recorded: &Path, container: &str) -> Launch {
        Launch {
            program: self.config.shim.clone(),
            container: container.into(),
            bundle: self.paths.bundle(container),
            runtime: self.runtime(handler).unwrap_or(recorded).into(),
            runtime_root: self.paths.runtime_root(self.handler(handler)),
            systemd_cgroup: self.facts.systemd_cgroup,
            open_files: self.config.shim_open_files,
            operation: self.config.operation,
        }
    }

    /// How the shim of a container of this sandbox is started.
    fn launch_in(&self, sandbox: &SandboxRecord, container: &str) -> Launch {
        self.launch(&sandbox.spec.handler, &sandbox.runtime, container)
    }
}

impl Pods {
    fn insert(&mut self, handle: &Arc<PodHandle>) {
        self.by_key.insert(handle.spec.key(), Arc::clone(handle));
        self.by_id.insert(handle.id.clone(), Arc::clone(handle));
    }

    fn remove(&mut self, id: &str) {
        if let Some(handle) = self.by_id.remove(id) {
            self.by_key.remove(&handle.spec.key());
        }
    }
}

/// The OCI process of another command in a container.
async fn process_of(
    container: &Container,
    command: &[String],
    terminal: bool,
) -> Result<Vec<u8>, Error> {
    let config = container.bundle.join("config.json");
    let config = blocking(move || std::fs::read(config))
        .await
        .map_err(|error| Error::failed("reading the container's config", error))?;
    exec::process(&config, command, terminal)
}

/// What a step may take that ends in its own good time, ms.
const ANY_TIME_MS: u64 = 30 * 24 * 3600 * 1000;

/// Says of the operation under way what it is about, for those who watch the daemon.
fn about(pod: &SandboxSpec, container: Option<&str>) {
    let (namespace, name) = (&pod.namespace, &pod.name);
    let between = if container.is_some() { " " } else { "" };
    let id = container.unwrap_or_default();
    let subject = format_args!("{namespace}/{name}{between}{id}");
    tracing::Span::current().record("subject", tracing::field::display(subject));
}

/// Runs what may block on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let operation = tracing::Span::current();
    tokio::task::spawn_blocking(move || operation.in_scope(work))
        .await
        .expect("it neither panics nor is it cancelled")
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    // A clock that stands before 1970 stands at its beginning.
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// 64 random hexadecimal digits.
fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(
        filled,
        Ok(bytes.len()),
        "getrandom(2) fills 32 bytes once the kernel has booted"
    );
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
