//! `bench-cri`: pods and containers, this daemon beside containerd with runc.
//!
//! Both are real daemons in folders of their own, with pods on a bridge of their own, and are asked
//! over CRI by one client, in turn within each round. Then both hold many containers: what they
//! weigh, how fast they list them, and how soon they are back after a restart.
//!
//! ```text
//! Registry <- Peer: wherryd    \   life (a pod's steps), crowd (many at once), log, suite (critest)
//!          <- Peer: containerd /   wall, processor time of an Account (control group), PSS
//! ```

mod account;
mod calls;
mod crowd;
mod life;
mod log;
mod peer;
mod suite;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use bench::machine::{self, Machine};
use bench::page;
use bench::progress::tell;
use bench::results::Subject;
use bench::samples::Samples;
use tests::conformance::images;
use tests::{Registry, Scratch};

use peer::Peer;

const USAGE: &str = "usage: bench-cri [-n ROUNDS] [--pods N] [--containers N] [--only life|crowd|log|suite]... \
    [--runc PATH] [--docs FOLDER] [--version TEXT]... | bench-cri --fetch";

fn main() -> Result<()> {
    let Some(request) = parse()? else {
        // In a network of its own nothing could be fetched.
        return images::fetch();
    };
    account::hurry()?;
    let scratch = Scratch::new()?;
    tell("making the images");
    let registry = Registry::start(&scratch.join("registry"))?.context("needs docker-registry")?;
    images::push_busybox(&registry, &images::busybox()?)?;
    images::push_pause(&registry)?;
    let mut peers = vec![Peer::wherryd(&registry)?];
    if let Some(runc) = &request.runc {
        peers.push(Peer::containerd(&registry, runc)?);
    }
    let client = format!("bench-client-{}", scratch.name());
    account::Account::enter_client(&client)?;
    let mut machine = Machine::here();
    let mut samples = Samples::default();
    let measured = measure(&mut peers, &request, &scratch, &mut samples);
    machine.finish();
    account::Account::leave_client(&client)?;
    if measured.is_err() {
        peers.iter().for_each(Peer::explain);
    }
    for peer in peers {
        peer.finish()?;
    }
    measured?;
    let subject = Subject {
        name: "cri".to_owned(),
        date: machine::today(),
        machine,
        versions: request.versions,
        rounds: request.rounds,
        own: "wherryd".to_owned(),
        yardstick: "containerd".to_owned(),
        rows: samples.rows(),
    };
    page::print(&subject)?;
    request
        .docs
        .map_or(Ok(()), |docs| page::publish(&subject, &docs))
}

/// Parts that can be measured alone.
const PARTS: [&str; 4] = ["life", "crowd", "log", "suite"];

#[derive(Debug)]
struct Request {
    rounds: usize,
    /// How many pods are asked for at once.
    pods: usize,
    /// How many containers there are in the end.
    containers: usize,
    /// What is measured; all of [`PARTS`] if empty.
    only: Vec<String>,
    /// containerd's OCI runtime; without it wherryd is measured alone.
    runc: Option<PathBuf>,
    /// Where the page is written; only printed otherwise.
    docs: Option<PathBuf>,
    versions: Vec<String>,
}

impl Request {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn parse() -> Result<Option<Request>> {
    use lexopt::prelude::*;
    let mut request = Request {
        rounds: 30,
        pods: 100,
        containers: 1000,
        only: Vec::new(),
        runc: None,
        docs: None,
        versions: Vec::new(),
    };
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Short('n') | Long("rounds") => request.rounds = args.value()?.parse()?,
            Long("pods") => request.pods = args.value()?.parse()?,
            Long("containers") => request.containers = args.value()?.parse()?,
            Long("only") => request.only.push(args.value()?.string()?),
            Long("runc") => request.runc = Some(args.value()?.into()),
            Long("docs") => request.docs = Some(args.value()?.into()),
            Long("version") => request.versions.push(args.value()?.string()?),
            Long("fetch") => return Ok(None),
            other => return Err(other.unexpected()).context(USAGE),
        }
    }
    let known = |part: &String| PARTS.contains(&part.as_str());
    if request.rounds == 0 || request.pods == 0 || !request.only.iter().all(known) {
        bail!(USAGE);
    }
    Ok(Some(request))
}

fn measure(
    peers: &mut [Peer],
    request: &Request,
    scratch: &Scratch,
    samples: &mut Samples,
) -> Result<()> {
    life::expect(samples);
    crowd::expect(samples, request.pods, request.containers);
    log::expect(samples);
    for peer in peers.iter() {
        peer.pull()?;
    }
    if request.wants("crowd") {
        crowd::weigh_few(peers, samples)?;
    }
    if request.wants("life") {
        life::measure(peers, request.rounds, samples)?;
    }
    if request.wants("log") {
        log::measure(peers, scratch, samples)?;
    }
    if request.wants("suite") {
        suite::measure(peers, request.rounds, scratch, samples)?;
    }
    if request.wants("crowd") {
        crowd::measure(peers, request.pods, request.containers, samples)?;
    }
    Ok(())
}
