//! The daemon's life: check, open the engine, bind, serve, stop.
//!
//! Containers do not depend on it: when the daemon goes, by a signal or by being killed, they go on.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use engine::Engine;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::config::Settings;
use crate::socket::{self, Bound};
use crate::{control, rpc};

/// Mode of the CRI socket: root and its group.
const CRI_MODE: u32 = 0o660;
/// Mode of the operator's socket: root only.
const CONTROL_MODE: u32 = 0o600;
/// How long requests that are under way at a stop may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What an HTTP/2 stream may send before it waits, bytes: a list of 500 containers is larger than
/// the protocol's 64 KiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for a connection.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Largest HTTP/2 frame, bytes.
const MAX_FRAME: u32 = 256 * 1024;
/// Streams that a client may reset before we saw them; a kubelet cancels in bursts.
const MAX_PENDING_RESETS: usize = 1024;

/// Whether and why the daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Not yet.
    No,
    /// A signal says so.
    Signal,
    /// Everything was removed at the operator's wish.
    Reset,
}

/// Serves until SIGTERM, SIGINT or a reset.
///
/// # Errors
///
/// The configuration cannot be used here, a socket is taken, or the engine cannot be opened.
pub(crate) async fn serve(settings: Settings) -> Result<()> {
    let operator_path = settings.engine.state.join(control_api::SOCKET);
    check_user()?;
    socket::check_free(&settings.listen)?;
    socket::check_free(&operator_path)?;
    let folders = Folders::of(&settings.engine);
    let engine = Arc::new(Box::pin(Engine::open(settings.engine)).await?);
    let cri = socket::bind(&settings.listen, CRI_MODE)?;
    let operator = socket::bind(&operator_path, CONTROL_MODE)?;
    tracing::info!(listen = ?settings.listen, root = ?folders.root, "serving");
    let why = serve_both(&engine, cri, operator).await?;
    tracing::info!(?why, "stopped");
    drop(engine);
    if why == Stop::Reset {
        folders.remove_if_empty();
    }
    Ok(())
}

/// Mounts and namespaces need root; saying so beats the first mount's EPERM.
pub(crate) fn check_user() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this program must run as root");
    }
    Ok(())
}

/// Serves CRI and the operator until told to stop; says why it stopped.
async fn serve_both(engine: &Arc<Engine>, cri: Bound, operator: Bound) -> Result<Stop> {
    let (stop, stopped) = watch::channel(Stop::No);
    let terminated = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let interrupted = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let operator_routes = control::service::routes(engine, stop.clone());
    let served = async {
        tokio::try_join!(
            serve_one(rpc::routes(engine), cri, stopped.clone()),
            serve_one(operator_routes, operator, stopped.clone()),
        )
    };
    tokio::select! {
        result = served => { result?; }
        () = overdue(stopped.clone()) => tracing::warn!("requests still under way are cut off"),
        never = stop_on_signal(terminated, interrupted, stop) => match never {},
    }
    let why = *stopped.borrow();
    Ok(why)
}

async fn serve_one(
    routes: Routes,
    mut bound: Bound,
    mut stopped: watch::Receiver<Stop>,
) -> Result<()> {
    let listener = bound.take().context("a socket is served once")?;
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop_said(&mut stopped))
        .await
        .context("serving a socket")
}

/// Ends when a stop is asked for (or nobody is left who could).
async fn stop_said(stopped: &mut watch::Receiver<Stop>) {
    drop(
        stopped
            .wait_for(|stop| *stop != Stop::No)
            .await
            .map(|stop| *stop),
    );
}

/// Ends when a stop was asked for and its time is over.
async fn overdue(mut stopped: watch::Receiver<Stop>) {
    stop_said(&mut stopped).await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// Asks for a stop at each signal, for ever.
async fn stop_on_signal(
    mut terminated: Signal,
    mut interrupted: Signal,
    stop: watch::Sender<Stop>,
) -> Infallible {
    loop {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
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
