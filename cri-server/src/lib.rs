//! `wherryd`: the daemon, and the commands that talk to a running one.
//!
//! It translates and wires: [`rpc`] speaks CRI, [`control`] serves the operator, the engine does
//! the work. Nothing here knows how anything is done. It is a library with a `main` of one line, so
//! that [`judge`] can be fuzzed.

mod activation;
mod cli;
mod config;
mod connections;
mod containerd;
mod control;
mod inspection;
mod journal;
mod manual;
mod metrics;
mod migration;
mod operations;
mod pressure;
mod reload;
mod rpc;
mod serve;
mod socket;
mod traces;
mod version;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use cli::{Cli, Command};
use config::{LogFormat, Settings};
use reload::Reloading;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::reload::Layer;

/// What the daemon's files and folders are without at birth, whatever it was started from.
const UMASK: u32 = 0o022;
/// Threads for calls that may block (mounts, files of a slow disk); more wait for their turn.
const MAX_BLOCKING_THREADS: usize = 64;
/// How long calls that block may go on when the program is done.
const THREADS_PATIENCE: Duration = Duration::from_secs(2);
/// Threads that carry tasks, where the machine has as many CPUs.
const MAX_WORKERS: usize = 4;

pub use rpc::judge;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // It has neither configuration nor threads.
    if matches!(cli.command, Some(Command::UnpackWorker)) {
        return image::unpack_worker();
    }
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            say_why(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a program that failed"
)]
fn say_why(error: &anyhow::Error) {
    eprintln!("wherryd: {error:#}");
}

fn run(cli: &Cli) -> Result<ExitCode> {
    if let Some(told) = about_itself(cli) {
        return told.map(|()| ExitCode::SUCCESS);
    }
    if let Some(Command::Config { json, command }) = &cli.command {
        // A configuration that is refused is looked at with this, so it must not be needed.
        let text = config::print(command.as_ref(), *json, &cli.flags, &programs()?)?;
        std::io::stdout()
            .write_all(text.as_bytes())
            .context("printing")?;
        return Ok(ExitCode::SUCCESS);
    }
    let programs = programs()?;
    if let Some(Command::Migrate(wanted)) = &cli.command {
        return migration::migrate(wanted, &cli.flags, &programs);
    }
    let settings = config::load(&cli.flags, &programs)?;
    let (filter, log) = Layer::new(settings.log.clone());
    let mut watched = Watched::default();
    let mut sender = None;
    if let (None, Some(config)) = (&cli.command, &settings.traces) {
        let (tracer, of_it) = traces::new(config);
        (watched.tracer, sender) = (Some(Arc::new(tracer)), Some(of_it));
    }
    // A client's answer is its output and its exit code; the daemon's log is elsewhere.
    if !matches!(
        cli.command,
        Some(Command::Images(_) | Command::Debug { .. } | Command::Metrics { .. })
    ) {
        start_log(&settings, filter, &watched);
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    let runtime = runtime().context("starting threads")?;
    let result = runtime.block_on(async {
        match &cli.command {
            None => {
                let reloading = Reloading {
                    flags: cli.flags.clone(),
                    programs,
                    log,
                    values: settings.values.clone(),
                };
                let served = serve::serve(settings, reloading, &watched, sender).await;
                served.map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Images(command)) => {
                Box::pin(control::client::images(&settings, command)).await
            }
            Some(Command::Reset { keep_images }) => {
                let reset = control::reset::reset(settings, *keep_images).await;
                reset.map(|()| ExitCode::SUCCESS)
            }
            Some(Command::UnpackWorker) => unreachable!("that command has a way of its own"),
            Some(Command::Debug {
                command: Some(cli::Debug::Report { file }),
                ..
            }) => {
                let flags = &cli.flags;
                let told = control::report::report(&settings, flags, file.as_deref());
                Box::pin(told).await.map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Debug { json, .. }) => {
                let told = control::debug::debug(&settings, *json);
                Box::pin(told).await.map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Metrics { .. }) => {
                let told = control::client::metrics(&settings).await;
                told.map(|()| ExitCode::SUCCESS)
            }
            Some(Command::Check { json }) => inspection::print(&settings, *json),
            Some(
                Command::Config { .. }
                | Command::Migrate(_)
                | Command::Completion { .. }
                | Command::Man { .. },
            ) => Ok(ExitCode::SUCCESS),
        }
    });
    // Dropping it would wait for threads that a hung file system holds for good.
    runtime.shutdown_timeout(THREADS_PATIENCE);
    result
}

/// What needs neither a configuration nor a daemon; nothing if that was not asked for.
fn about_itself(cli: &Cli) -> Option<Result<()>> {
    match &cli.command {
        _ if cli.version => Some(programs().and_then(|folder| version::print(&folder))),
        Some(Command::Metrics { markdown: true }) => {
            Some(control::client::print(&metrics::markdown()))
        }
        Some(Command::Completion { shell }) => Some(manual::print_completion(*shell)),
        Some(Command::Man { folder }) => Some(manual::write_pages(folder)),
        _ => None,
    }
}

/// The folder of this program: its companions lie beside it.
fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding the folder of this program")?;
    Ok(program
        .parent()
        .context("this program lies in no folder")?
        .into())
}

/// What the daemon knows of its own work.
#[derive(Debug)]
struct Watched {
    operations: Arc<operations::Operations>,
    recorder: Arc<metrics::Recorder>,
    /// What runs short on the host.
    pressure: Arc<pressure::Pressure>,
    /// Where traces go, if they go anywhere.
    tracer: Option<Arc<traces::Tracer>>,
    /// The last lines of the log.
    journal: Arc<journal::Journal>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            operations: Arc::default(),
            recorder: Arc::new(metrics::Recorder::new()),
            pressure: Arc::default(),
            tracer: None,
            journal: Arc::default(),
        }
    }
}

/// Begins the log. Operations are spans: their ids are in every line, whatever the level.
fn start_log(settings: &Settings, filter: Layer<Targets, Registry>, watched: &Watched) {
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(journal::Writer(Arc::clone(&watched.journal)));
    let lines = match settings.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let watcher = operations::Watcher::new(watched);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(watcher.with_filter(operations::Watcher::filter()))
        .init();
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cpus = std::thread::available_parallelism()?.get();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
}
