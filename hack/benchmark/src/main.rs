//! `bench runtime`: OCI runtimes beside each other, the same work in interleaved rounds.
//!
//! Every round runs each runtime once, in rotating order, so that a drift of the machine's speed
//! hits all alike; figures are medians. Nothing is measured of the programs inside the container:
//! they are this binary under other names, which end at once or wait for ever.

mod bundle;
mod inside;
mod measure;
mod memory;
mod report;
mod runtime;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use runtime::Runtime;

const USAGE: &str = "usage: bench runtime [-n ROUNDS] [--state FOLDER] --runtime NAME=PATH [--runtime NAME=PATH]...";
/// Rounds unless told.
const ROUNDS: usize = 50;

fn main() -> anyhow::Result<()> {
    if inside::run() {
        return Ok(());
    }
    if memory::tell_peak()? {
        return Ok(());
    }
    let request = parse()?;
    let tables = runtime::compare(&request.runtimes, request.rounds, &request.state)?;
    std::io::stdout()
        .write_all(tables.as_bytes())
        .context("print the tables")
}

struct Request {
    rounds: usize,
    /// Where the runtimes keep what they keep below /run.
    state: PathBuf,
    runtimes: Vec<Runtime>,
}

fn parse() -> anyhow::Result<Request> {
    use lexopt::prelude::*;
    let mut request = Request {
        rounds: ROUNDS,
        state: PathBuf::from("/run"),
        runtimes: Vec::new(),
    };
    let mut subject = None;
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Short('n') | Long("rounds") => request.rounds = args.value()?.parse()?,
            Long("state") => request.state = PathBuf::from(args.value()?),
            Long("runtime") => {
                let value = args.value()?.string()?;
                let (name, path) = value.split_once('=').context(USAGE)?;
                let path = PathBuf::from(path);
                request.runtimes.push(Runtime {
                    name: name.to_owned(),
                    path,
                });
            }
            Value(value) if subject.is_none() => subject = Some(value.string()?),
            other => return Err(other.unexpected()).context(USAGE),
        }
    }
    if subject.as_deref() != Some("runtime") || request.runtimes.is_empty() || request.rounds == 0 {
        bail!(USAGE);
    }
    Ok(request)
}
