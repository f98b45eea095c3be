//! `bench runtime`: OCI runtimes beside each other, the same work in interleaved rounds.
//!
//! Every round runs each runtime once, in rotating order, so that a drift of the machine's speed
//! hits all alike; figures are medians. Nothing is measured of the programs inside the container:
//! they are this binary under other names, which end at once or wait for ever.

mod bundle;
mod inside;
mod measure;
mod memory;
mod runtime;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bench::machine::{self, Machine};
use bench::page;
use bench::results::Subject;

use runtime::Runtime;

const USAGE: &str = "usage: bench runtime [-n ROUNDS] [--state FOLDER] [--docs FOLDER] [--version TEXT]... --runtime NAME=PATH [--runtime NAME=PATH]...";
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
    let mut machine = Machine::here();
    let samples = runtime::compare(&request.runtimes, request.rounds, &request.state)?;
    machine.finish();
    let subject = Subject {
        name: "runtime".to_owned(),
        date: machine::today(),
        machine,
        versions: request.versions,
        rounds: request.rounds,
        own: "wrun".to_owned(),
        yardstick: "crun".to_owned(),
        rows: samples.rows(),
    };
    page::print(&subject)?;
    request
        .docs
        .map_or(Ok(()), |docs| page::publish(&subject, &docs))
}

struct Request {
    rounds: usize,
    /// Where the runtimes keep what they keep below /run.
    state: PathBuf,
    /// Where the page is written; only printed otherwise.
    docs: Option<PathBuf>,
    versions: Vec<String>,
    runtimes: Vec<Runtime>,
}

fn parse() -> anyhow::Result<Request> {
    use lexopt::prelude::*;
    let mut request = Request {
        rounds: ROUNDS,
        state: PathBuf::from("/run"),
        docs: None,
        versions: Vec::new(),
        runtimes: Vec::new(),
    };
    let mut subject = None;
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Short('n') | Long("rounds") => request.rounds = args.value()?.parse()?,
            Long("state") => request.state = PathBuf::from(args.value()?),
            Long("docs") => request.docs = Some(args.value()?.into()),
            Long("version") => request.versions.push(args.value()?.string()?),
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
