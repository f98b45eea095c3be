//! Plugins of the Node Resource Interface: programs beside the engine that hear of pods and
//! containers, and change them.
//!
//! ```text
//! engine -a moment of a life-> Nri -one plugin after another-> answers -merge-> one adjustment
//! plugin -changes of its own--> Nri -> Runtime (the engine's side)
//! ```
//!
//! Here are the protocol, the plugins, their order, and what they want brought together. What a
//! container is, and how it is changed, is the engine's: it gives its pods and containers in the
//! words of the interface, and takes adjustments in them. Without a plugin each call is a look at one
//! atomic value.
//!
//! Plugins are asked one at a time and hear of one thing at a time, since they are written for that.
//! Each has a time limit; one that does not keep it is disconnected and delays nobody again.

mod connection;
mod error;
mod figures;
mod launch;
mod merge;
mod owners;
mod plugin;
mod requests;
mod validator;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nri_api::{
    Container, ContainerEviction, ContainerUpdate, PodSandbox, UpdateContainersRequest,
    UpdateContainersResponse,
};
use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

pub use error::{Error, StartError};
pub use figures::{BOUNDS, End, Figures, Outcome, Present, Question, Requests};
pub use owners::{Conflict, owners_of};
pub use requests::Created;
pub use validator::Validator;

use connection::{Incoming, code, status};
use figures::Tally;
use launch::Launched;
use plugin::{Origin, Plugin};

/// Connections that may be there at once, registered or not.
const MAX_CONNECTIONS: usize = 100;
/// How long one change that a plugin wants may take.
const UPDATE_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after an error of accept(2), which tends to come again (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What plugins are told, and where they are found.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether there are plugins at all.
    pub enable: bool,
    /// Folder with programs to start.
    pub plugin_path: PathBuf,
    /// Folder with their configurations.
    pub plugin_config_path: PathBuf,
    /// How long a connection may take to register.
    pub registration_timeout: Duration,
    /// How long a plugin may take to answer.
    pub request_timeout: Duration,
    /// The built-in validator.
    pub validator: Validator,
    /// The engine's name, as plugins hear it.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
}

/// Something that is being done.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The engine, as plugins reach it.
pub trait Runtime: Send + Sync {
    /// All pods and all containers that have not ended.
    fn snapshot(&self) -> Pending<'_, (Vec<PodSandbox>, Vec<Container>)>;

    /// Changes a container; the error says why it could not be.
    fn update<'a>(&'a self, update: &'a ContainerUpdate) -> Pending<'a, Result<(), String>>;

    /// Begins to stop a container.
    fn evict(&self, eviction: ContainerEviction);
}

/// The plugins of an engine. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Nri {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Somebody has to be asked.
    active: AtomicBool,
    /// In their order. Held while they are asked.
    plugins: Mutex<Vec<Arc<Plugin>>>,
    runtime: OnceLock<Arc<dyn Runtime>>,
    tally: Arc<Tally>,
    /// The processes of plugins that were started here, each until it has been reaped.
    launched: std::sync::Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

const LOCK: &str = "no thread panics while it holds this lock";

impl Nri {
    /// The plugins of an engine, of which none is there yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let active = AtomicBool::new(config.enable && config.validator.enable);
        Self {
            inner: Arc::new(Inner {
                config,
                active,
                plugins: Mutex::default(),
                runtime: OnceLock::new(),
                tally: Arc::default(),
                launched: std::sync::Mutex::default(),
            }),
        }
    }

    /// Whether anybody has to be asked about anything.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.inner.active.load(Ordering::Acquire)
    }

    /// Starts the plugins of the folder, and waits until each is there or has failed; then takes
    /// connections of others from `listener` for ever.
    ///
    /// # Errors
    ///
    /// The folder cannot be read. A plugin that fails is no error.
    pub async fn start(
        &self,
        runtime: Arc<dyn Runtime>,
        listener: Option<UnixListener>,
    ) -> Result<(), StartError> {
        let config = &self.inner.config;
        if !config.enable {
            return Ok(());
        }
        drop(self.inner.runtime.set(runtime));
        let (plugins, configs) = (
            config.plugin_path.clone(),
            config.plugin_config_path.clone(),
        );
        let found = tokio::task::spawn_blocking(move || launch::discover(&plugins, &configs))
            .await
            .expect("it neither panics nor is it cancelled");
        let found = found.map_err(|cause| StartError {
            folder: config.plugin_path.clone(),
            cause,
        })?;
        let mut starting = JoinSet::new();
        for plugin in found {
            let nri = self.clone();
            starting.spawn(async move { nri.launch(plugin).await });
        }
        while starting.join_next().await.is_some() {}
        if let Some(listener) = listener {
            #[expect(clippy::disallowed_methods, reason = "ends with the daemon")]
            drop(tokio::spawn(self.clone().accept(listener)));
        }
        Ok(())
    }

    /// Tells all plugins that the engine goes, and ends those that were started here.
    pub async fn stop(&self) {
        let plugins = std::mem::take(&mut *self.inner.plugins.lock().await);
        self.note(&[]);
        let mut going = JoinSet::new();
        for plugin in plugins {
            going.spawn(async move { plugin.shut_down().await });
        }
        while going.join_next().await.is_some() {}
        let mut launched = std::mem::take(&mut *self.inner.launched.lock().expect(LOCK));
        while launched.join_next().await.is_some() {}
    }

    /// Names of the plugins that are there, in their order.
    pub async fn names(&self) -> Vec<String> {
        let plugins = self.inner.plugins.lock().await;
        plugins.iter().map(|plugin| plugin.name()).collect()
    }

    /// What is known of plugins now. Waits for nobody.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.inner.tally.figures()
    }

    async fn launch(&self, found: launch::Found) {
        let name = format!("{}-{}", found.index, found.base);
        let started = launch::launch(&found).and_then(|(socket, process)| {
            let socket = UnixStream::from_std(socket)?;
            Ok((socket, process))
        });
        let (socket, process) = match started {
            Ok(started) => started,
            Err(error) => return tracing::warn!(plugin = name, %error, "starting an NRI plugin"),
        };
        let origin = Origin::Launched {
            index: found.index,
            base: found.base,
            config: found.config,
        };
        let end = match self.take(socket, origin).await {
            Ok(plugin) => Some(plugin),
            Err(reason) => {
                tracing::warn!(plugin = name, reason, "an NRI plugin is not used");
                None
            }
        };
        let mut launched = self.inner.launched.lock().expect(LOCK);
        launched.spawn(reap(process, end));
    }

    async fn accept(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("nobody closes the semaphore");
            match listener.accept().await {
                Ok((socket, _)) => {
                    let nri = self.clone();
                    #[expect(clippy::disallowed_methods, reason = "ends with the connection")]
                    drop(tokio::spawn(async move {
                        match nri.take(socket, Origin::External).await {
                            Ok(plugin) => plugin.connection.ended().await,
                            Err(reason) => tracing::warn!(reason, "an NRI plugin is not used"),
                        }
                        drop(place);
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting an NRI plugin");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes a connection as a plugin: it registers, is synchronized, and takes part from then on.
    async fn take(&self, socket: UnixStream, origin: Origin) -> Result<Arc<Plugin>, String> {
        let (plugin, incoming) =
            plugin::admit(socket, origin, &self.inner.config, &self.inner.tally).await?;
        let plugin = Arc::new(plugin);
        // From here on its own requests are heard: it may want changes while it is synchronized.
        #[expect(clippy::disallowed_methods, reason = "ends with the connection")]
        drop(tokio::spawn(
            self.clone().attend(Arc::clone(&plugin), incoming),
        ));
        let result = self.synchronize(&plugin).await;
        if let Err(reason) = result {
            plugin.connection.close(End::Synchronization);
            return Err(format!("synchronizing {}: {reason}", plugin.name()));
        }
        tracing::info!(plugin = plugin.name(), "an NRI plugin takes part");
        Ok(plugin)
    }

    /// Nobody is asked about anything meanwhile: what comes later reaches this plugin too.
    async fn synchronize(&self, plugin: &Arc<Plugin>) -> Result<(), String> {
        let runtime = self.runtime();
        let mut plugins = self.inner.plugins.lock().await;
        // First: what begins during the snapshot waits, and asks this plugin too.
        self.inner.active.store(true, Ordering::Release);
        let (pods, containers) = runtime.snapshot().await;
        let updates = plugin.synchronize(pods, containers).await;
        if updates.is_ok() && !plugin.connection.is_closed() {
            plugins.push(Arc::clone(plugin));
            plugins.sort_by(|one, other| one.index.cmp(&other.index));
        }
        self.note(&plugins);
        let updates = updates?;
        self.apply(updates).await;
        Ok(())
    }

    /// Hears a plugin's own requests to the end of its connection, then forgets it.
    async fn attend(self, plugin: Arc<Plugin>, mut incoming: mpsc::Receiver<Incoming>) {
        while let Some(request) = incoming.recv().await {
            let answer = self.unsolicited(&plugin, &request).await;
            plugin.connection.answer(&request, answer);
        }
        let why = plugin.connection.why();
        self.inner.tally.ended(why);
        let (plugin_name, why) = (plugin.name(), why.name());
        tracing::info!(plugin = plugin_name, why, "an NRI plugin has gone");
        let mut plugins = self.inner.plugins.lock().await;
        plugins.retain(|one| !Arc::ptr_eq(one, &plugin));
        self.note(&plugins);
    }

    /// Plugins need not be asked about what one of them wants; so it may want it at any time, also
    /// while it is asked itself.
    async fn unsolicited(
        &self,
        plugin: &Plugin,
        incoming: &Incoming,
    ) -> Result<Vec<u8>, nri_api::ttrpc::Status> {
        let request = &incoming.request;
        if request.service != nri_api::RUNTIME_SERVICE {
            let text = format!("no service {:?}", request.service);
            return Err(status(code::UNIMPLEMENTED, text));
        }
        match request.method.as_str() {
            "UpdateContainers" => {}
            "RegisterPlugin" => {
                return Err(status(code::FAILED_PRECONDITION, "it has registered"));
            }
            other => return Err(status(code::UNIMPLEMENTED, format!("no method {other:?}"))),
        }
        let wanted = UpdateContainersRequest::decode(&*request.payload)
            .map_err(|error| status(code::INVALID_ARGUMENT, error.to_string()))?;
        tracing::debug!(
            plugin = plugin.name(),
            "an NRI plugin wants containers changed"
        );
        let failed = self.apply(wanted.update).await;
        self.evict(wanted.evict);
        Ok(UpdateContainersResponse { failed }.encode_to_vec())
    }

    /// Carries out what plugins want of containers; answers with what has failed and should not have.
    async fn apply(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        let runtime = self.runtime();
        let mut failed = Vec::new();
        for update in updates {
            let done = tokio::time::timeout(UPDATE_PATIENCE, runtime.update(&update)).await;
            let done = done.unwrap_or_else(|_| Err(format!("not within {UPDATE_PATIENCE:?}")));
            if let Err(reason) = done {
                let container = &update.container_id;
                tracing::warn!(container, reason, "a change that an NRI plugin wants");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }

    fn evict(&self, evictions: Vec<ContainerEviction>) {
        let mut seen = BTreeMap::new();
        for eviction in evictions {
            seen.entry(eviction.container_id.clone())
                .or_insert(eviction);
        }
        let runtime = self.runtime();
        seen.into_values().for_each(|eviction| {
            let (container, reason) = (&eviction.container_id, &eviction.reason);
            tracing::info!(container, reason, "an NRI plugin evicts a container");
            runtime.evict(eviction);
        });
    }

    fn runtime(&self) -> &Arc<dyn Runtime> {
        let runtime = self.inner.runtime.get();
        runtime.expect("plugins are taken, and asked for more, once it is set")
    }

    /// Notes whether anybody has to be asked.
    fn note(&self, plugins: &[Arc<Plugin>]) {
        let active = self.inner.config.validator.enable || !plugins.is_empty();
        self.inner.active.store(active, Ordering::Release);
        let present = plugins.iter().map(|plugin| (plugin.name(), plugin.since));
        self.inner.tally.present(present.collect());
    }
}

/// Waits for the end of a plugin that was started here.
async fn reap(process: Launched, plugin: Option<Arc<Plugin>>) {
    if let Some(plugin) = plugin {
        plugin.connection.ended().await;
    }
    let ended = tokio::task::spawn_blocking(|| process.end()).await;
    ended.expect("it neither panics nor is it cancelled");
}
