//! `wherry-shim`: one small process for each container.
//!
//! It holds the container's standard streams, writes its log, reaps it and records how it ended,
//! whether or not a daemon is there. It is told what to do over a socket (`shim-api`) and makes
//! containers by the command line of an OCI runtime. It is not told what the container is for: it
//! knows neither pods nor images nor what is inside the bundle.
//!
//! ```text
//!   daemon <- connection.rs -> service.rs -> machine.rs     what to do (pure)
//!                                 |
//!            runtime.rs  stdio.rs  terminal.rs  attach.rs  log.rs  exit.rs     doing it
//! ```
//!
//! One thread, one epoll set, no allocation worth naming while a container merely runs.

mod attach;
mod cli;
mod connection;
mod descendants;
mod exit;
mod failure;
mod init;
mod log;
mod machine;
mod namespaces;
mod oom;
mod poller;
mod runtime;
mod service;
mod spawn;
mod stdio;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::Command;
use crate::failure::Failure;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(Command::Serve(options)) => service::run(&options),
        Ok(Command::Delete(options)) => runtime::delete_and_wait(&options),
        Ok(Command::Init) => init::run(),
        Ok(Command::Namespaces(flags)) => namespaces::hold(flags),
        Ok(Command::Features(program)) => runtime::say_features(&program),
        Ok(Command::Version) => say_version(),
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell when standard error cannot be written.
            drop(writeln!(std::io::stderr(), "wherry-shim: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// What `wherryd --version` reads too.
fn say_version() -> Result<(), Failure> {
    let (version, protocol) = (env!("CARGO_PKG_VERSION"), shim_api::PROTOCOL);
    let text = format!("wherry-shim version {version}\nprotocol: {protocol}\n");
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::other("print the version", error))
}
