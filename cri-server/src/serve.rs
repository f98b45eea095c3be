//! The daemon's life: check, open the engine, bind, serve, stop.
//!
//! Containers do not depend on it: when the daemon goes, by a signal or by being killed, they go on.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use engine::Engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;

use crate::activation::Passed;
use crate::config::{PluginSocket, Settings};
use crate::metrics::{self, http};
use crate::reload::Reloading;
use crate::socket::{self, Bound};
use crate::{
    Watched, activation, connections, containerd, control, operations, pressure, rpc, traces,
};

/// Mode of the CRI socket: root and its group.
const CRI_MODE: u32 = 0o660;
/// Mode of the operator's socket: root only.
const CONTROL_MODE: u32 = 0o600;
/// Mode of the socket for cAdvisor, which is part of a kubelet: root only.
const CONTAINERD_MODE: u32 = 0o600;
/// Mode of the socket for plugins, which can do whatever root can: root only.
const PLUGINS_MODE: u32 = 0o600;
/// How long requests that are under way at a stop may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Time between two looks for operations that are stuck.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Whether and why the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Not yet.
    No,
    /// A reset is under way: CRI is not served any more, the operator waits for the end.
    Resetting,
    /// A reset has ended, well or not.
    Reset,
    /// A signal says so.
    Signal,
}

/// A wish for a reset.
pub(crate) struct ResetWish {
    /// Images stay.
    pub(crate) keep_images: bool,
    /// Where to send its result.
    pub(crate) reply: oneshot::Sender<Result<(), engine::Error>>,
}

/// How long clients wait for images that are read at the start. A service manager gives the whole start
/// 90 seconds.
const PRELOAD_PATIENCE: Duration = Duration::from_secs(30);

/// Serves until SIGTERM, SIGINT or a reset.
///
/// # Errors
///
/// The configuration cannot be used here, a socket is taken, or the engine cannot be opened.
pub(crate) async fn serve(
    mut settings: Settings,
    reloading: Reloading,
    watched: &Watched,
    traces: Option<traces::Sender>,
) -> Result<()> {
    // From here on it asks for a reload, and does not end the daemon.
    let hangups = signal(SignalKind::hangup()).context("watching for SIGHUP")?;
    settings.engine.shim_open_files = raise_open_files();
    let operator_path = settings.engine.state.join(control_api::SOCKET);
    check_user()?;
    let places = Places {
        cri: settings.listen.clone(),
        operator: operator_path,
        containerd: settings.containerd.clone(),
    };
    let places = places.claim(Passed::take())?;
    let folders = Folders::of(&settings.engine);
    let engine = Arc::new(Box::pin(Engine::open(settings.engine)).await?);
    let sockets = places.bind()?;
    let metrics = match &settings.metrics {
        Some(address) => Some(http::Listener::bind(address).await?),
        None => None,
    };
    // Before a client is served: what plugins are to see, they see from the beginning.
    let mut plugins = plugin_socket(settings.plugins.as_ref())?;
    let listener = plugins.as_mut().and_then(Bound::take);
    engine.start_plugins(listener).await?;
    watched.pressure.warn_at(settings.thresholds);
    let preload = preload_early(&engine, settings.preload.as_deref()).await;
    tracing::info!(listen = ?settings.listen, root = ?folders.root, "serving");
    let streaming = streaming::Server::bind(settings.streaming).await;
    let streaming = Arc::new(streaming.context("serving exec, attach and port-forward")?);
    activation::ready(&settings.listen);
    let plan = Plan { preload, metrics };
    let reloading = reloading.at_each(hangups, &engine, &watched.pressure);
    let served = serve_all(&engine, &streaming, sockets, plan, watched);
    let why = tokio::select! {
        why = Box::pin(served) => why?,
        never = reloading => match never {},
        never = send_traces(traces) => match never {},
    };
    engine.stop_plugins().await;
    tracing::info!(?why, "stopped");
    drop(engine);
    if why == Stop::Reset {
        folders.remove_if_empty();
    }
    Ok(())
}

/// The socket for plugins. That another engine of the machine has the usual one is no error.
fn plugin_socket(wanted: Option<&PluginSocket>) -> Result<Option<Bound>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    match socket::bind(&wanted.path, PLUGINS_MODE) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if wanted.chosen => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "NRI plugins cannot connect; nri.socket names another socket");
            Ok(None)
        }
    }
}

/// Mounts and namespaces need root; saying so beats the first mount's EPERM.
pub(crate) fn check_user() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this program must run as root");
    }
    Ok(())
}

/// Takes as many descriptors as the system lets us have: a connection, a log and figures of each of
/// many containers need them. Gives back the limit before, which is right for everybody else:
/// programs that use select(2), or close all descriptors below the limit, suffer from a high one.
fn raise_open_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    before.current
}

/// Where the sockets of the daemon are to be.
struct Places<S> {
    cri: S,
    operator: S,
    containerd: Option<S>,
}

/// A socket's path, and the socket if a service manager has made it.
type Claimed = (PathBuf, Option<OwnedFd>);

impl Places<PathBuf> {
    /// Takes each from what was passed, or checks that it can be bound.
    fn claim(self, mut passed: Passed) -> Result<Places<Claimed>> {
        let mut claim = |path: PathBuf| -> Result<Claimed> {
            let socket = passed.at(&path);
            if socket.is_none() {
                socket::check_free(&path)?;
            }
            Ok((path, socket))
        };
        let claimed = Places {
            cri: claim(self.cri)?,
            operator: claim(self.operator)?,
            containerd: self.containerd.map(claim).transpose()?,
        };
        passed.warn_of_rest();
        Ok(claimed)
    }
}

impl Places<Claimed> {
    fn bind(self) -> Result<Sockets> {
        let bind = |(path, socket): Claimed, mode| match socket {
            Some(socket) => socket::adopt(&path, socket),
            None => socket::bind(&path, mode),
        };
        let containerd = self.containerd.map(|place| bind(place, CONTAINERD_MODE));
        Ok(Sockets {
            cri: bind(self.cri, CRI_MODE)?,
            operator: bind(self.operator, CONTROL_MODE)?,
            containerd: containerd.transpose()?,
        })
    }
}

/// Every socket of the daemon, bound.
struct Sockets {
    cri: Bound,
    operator: Bound,
    containerd: Option<Bound>,
}

/// What is not done yet.
type Rest<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What goes on beside serving.
struct Plan<'a> {
    /// Archives of images that are still being read.
    preload: Option<Rest<'a>>,
    metrics: Option<http::Listener>,
}

/// Serves clients, cAdvisor and the operator until told to stop; says why it stopped.
async fn serve_all(
    engine: &Arc<Engine>,
    streaming: &Arc<streaming::Server>,
    sockets: Sockets,
    plan: Plan<'_>,
    watched: &Watched,
) -> Result<Stop> {
    let (stop, stopped) = watch::channel(Stop::No);
    let (drained, is_drained) = watch::channel(false);
    let (wish, wishes) = mpsc::channel(1);
    let terminated = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let interrupted = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let sources = metrics::Sources {
        engine: Arc::clone(engine),
        operations: Arc::clone(&watched.operations),
        recorder: Arc::clone(&watched.recorder),
        journal: Arc::clone(&watched.journal),
        pressure: Arc::clone(&watched.pressure),
        tracer: watched.tracer.clone(),
    };
    let operator_routes = control::service::routes(&sources, wish);
    let cri = async {
        let begun = async {
            until(stopped.clone(), begun).await;
            // They would never end by themselves, and a stop waits for all requests.
            engine.close_events();
        };
        let routes = rpc::routes(engine, streaming, &watched.pressure);
        let served = serve_one(routes, sockets.cri, watched, begun).await;
        drained.send_replace(true);
        served
    };
    let operator = serve_one(
        operator_routes,
        sockets.operator,
        watched,
        until(stopped.clone(), ended),
    );
    let cadvisor = async {
        let Some(socket) = sockets.containerd else {
            return Ok(());
        };
        let begun = until(stopped.clone(), begun);
        serve_one(containerd::routes(engine), socket, watched, begun).await
    };
    tokio::select! {
        result = async { tokio::try_join!(cri, operator, cadvisor) } => { result?; }
        () = overdue(stopped.clone()) => tracing::warn!("requests still under way are cut off"),
        never = go_on(plan.preload) => match never {},
        never = serve_metrics(plan.metrics, &sources) => match never {},
        never = look_for_stuck(&watched.operations) => match never {},
        never = pressure::watch(engine, &watched.pressure) => match never {},
        never = reset_when_asked(engine, wishes, is_drained, &stop) => match never {},
        never = stop_on_signal(terminated, interrupted, &stop) => match never {},
    }
    let why = *stopped.borrow();
    Ok(why)
}

/// Reads the archives of a folder before clients are served, so that no pod of that moment goes to a
/// registry for what lies in them. For a huge folder readiness does not wait: what is left of the work
/// is answered, and goes on while clients are served.
async fn preload_early<'a>(engine: &'a Engine, folder: Option<&'a Path>) -> Option<Rest<'a>> {
    let folder = folder?;
    let mut rest: Rest<'a> = Box::pin(preload_images(engine, folder));
    match tokio::time::timeout(PRELOAD_PATIENCE, &mut rest).await {
        Ok(()) => None,
        Err(_elapsed) => {
            tracing::warn!(
                ?folder,
                "images are still being read after {PRELOAD_PATIENCE:?}; who needs one of them before it \
                 is there is sent to its registry"
            );
            Some(rest)
        }
    }
}

async fn preload_images(engine: &Engine, folder: &Path) {
    match engine.images().preload(folder).await {
        Ok(images) => tracing::info!(?folder, images, "images of the folder are there"),
        Err(error) => tracing::warn!(?folder, %error, "images could not be preloaded"),
    }
}

/// Carries on what is not done.
async fn go_on(rest: Option<Rest<'_>>) -> Infallible {
    if let Some(rest) = rest {
        rest.await;
    }
    std::future::pending().await
}

/// Sends traces where there is a collector.
async fn send_traces(sender: Option<traces::Sender>) -> Infallible {
    if let Some(sender) = sender {
        sender.run().await;
    }
    std::future::pending().await
}

/// Serves metrics where there is an address for them.
async fn serve_metrics(listener: Option<http::Listener>, sources: &metrics::Sources) -> Infallible {
    match listener {
        Some(listener) => listener.serve(sources).await,
        None => std::future::pending().await,
    }
}

/// Tells of operations that take too long, now and then.
async fn look_for_stuck(operations: &operations::Operations) -> Infallible {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        operations::tell_stuck(operations, Instant::now());
    }
}

async fn serve_one(
    routes: Routes,
    mut bound: Bound,
    watched: &Watched,
    stopped: impl Future<Output = ()>,
) -> Result<()> {
    let listener = bound.take().context("a socket is served once")?;
    connections::serve(listener, routes, &watched.recorder, stopped).await;
    Ok(())
}

/// CRI ends as soon as a stop or a reset begins.
fn begun(stop: Stop) -> bool {
    stop != Stop::No
}

/// The operator's socket is served until a reset has ended.
fn ended(stop: Stop) -> bool {
    matches!(stop, Stop::Reset | Stop::Signal)
}

/// Ends when the stop is as far as `far_enough` says (or nobody is left who could stop).
async fn until(mut stopped: watch::Receiver<Stop>, far_enough: fn(Stop) -> bool) {
    drop(
        stopped
            .wait_for(|stop| far_enough(*stop))
            .await
            .map(|stop| *stop),
    );
}

/// Ends when a stop was asked for and its time is over.
async fn overdue(stopped: watch::Receiver<Stop>) {
    until(stopped, ended).await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// Resets when the operator asks, whether or not he stays to hear of it. Whoever speaks CRI is shut
/// out first, or a kubelet would make anew what is being removed. The daemon ends afterwards, also
/// if something would not go: the next start takes up what is left, or the next reset.
async fn reset_when_asked(
    engine: &Engine,
    mut wishes: mpsc::Receiver<ResetWish>,
    mut drained: watch::Receiver<bool>,
    stop: &watch::Sender<Stop>,
) -> Infallible {
    let Some(ResetWish { keep_images, reply }) = wishes.recv().await else {
        return std::future::pending().await;
    };
    // One is enough: whoever else wishes is told so.
    drop(wishes);
    tracing::info!("reset: everything gets stopped and removed");
    activation::stopping();
    stop.send_replace(Stop::Resetting);
    if tokio::time::timeout(STOP_GRACE, drained.wait_for(|drained| *drained))
        .await
        .is_err()
    {
        tracing::warn!("clients of CRI still wait; the reset goes on");
    }
    drop(reply.send(engine.reset(keep_images).await));
    stop.send_replace(Stop::Reset);
    std::future::pending().await
}

/// Asks for a stop at each signal, for ever.
async fn stop_on_signal(
    mut terminated: Signal,
    mut interrupted: Signal,
    stop: &watch::Sender<Stop>,
) -> Infallible {
    loop {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        activation::stopping();
        stop.send_replace(Stop::Signal);
    }
}

/// The daemon's own folders.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    state: PathBuf,
}

impl Folders {
    pub(crate) fn of(config: &engine::Config) -> Self {
        Self {
            root: config.root.clone(),
            state: config.state.clone(),
        }
    }

    /// After a reset the folders go too, unless they hold what is not ours.
    pub(crate) fn remove_if_empty(&self) {
        for folder in [&self.root, &self.state] {
            remove_if_empty(folder);
        }
    }
}

fn remove_if_empty(folder: &Path) {
    match std::fs::remove_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::info!(?folder, %error, "the folder stays"),
    }
}
