//! `wherryd`: the daemon, and the commands that talk to a running one.
//!
//! It translates and wires: [`rpc`] speaks CRI, [`control`] serves the operator, the engine does
//! the work. Nothing here knows how anything is done. It is a library with a `main` of one line, so
//! that [`judge`] can be fuzzed.

mod cli;
mod config;
mod connections;
mod containerd;
mod control;
mod inspection;
mod manager;
mod manual;
mod migration;
mod reload;
mod rpc;
mod serve;
mod socket;
mod version;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use cli::{Cli, Command};
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
    // A client's answer is its output and its exit code; the daemon's log is elsewhere.
    if !matches!(cli.command, Some(Command::Images(_))) {
        start_log(filter);
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
                let served = serve::serve(settings, reloading).await;
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

fn start_log(filter: Layer<Targets, Registry>) {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
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
