//! `bench-images`: pulls, removals and mounts of images, this daemon beside containerd.
//!
//! Both are real daemons in folders of their own and are asked over CRI; both pull from one
//! registry on loopback, in turn within each round, after the disk has become quiet. Wall time is
//! that of the call; processor time and peak memory are the daemon's own.
//!
//! ```text
//! content (/usr/lib) -> 8 layers -> Registry <- Peer: wherryd      \ wall, cpu, peak RSS
//!                       gzip, zstd           <- Peer: containerd   / medians, ratio
//! ```
//!
//! With `--forms` it compares the forms that a layer can have instead, without daemons.

mod content;
mod forms;
mod mounts;
mod peer;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bench::machine::{self, Machine};
use bench::page;
use bench::progress::tell;
use bench::results::{Bar, Subject, Unit};
use bench::samples::{Sample, Samples};
use tests::{Registry, Scratch};

use content::{Form, Work};
use peer::Peer;

const USAGE: &str = "usage: bench-images [-n ROUNDS] [--containerd PATH] [--quick] [--forms] [--docs FOLDER] [--version TEXT]...";
/// Rounds unless told.
const ROUNDS: usize = 5;
/// How many pods ask at once.
const TOGETHER: usize = 10;
/// Rows that are made of others.
const PEAK: &str = "peak of resident memory, 2 GB layer";
const OF_ONE: &str = "10 at once, against one pull";

fn main() -> Result<()> {
    let request = parse()?;
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch.join("registry"))?.context("needs docker-registry")?;
    if request.forms {
        return measure_forms(&scratch, &registry, request);
    }
    let works = publish(&registry, request.quick)?;
    let mut peers = vec![Peer::wherryd()?];
    if let Some(program) = &request.containerd {
        peers.push(Peer::containerd(program, &registry)?);
    }
    let mut machine = Machine::here();
    let mut table = expected(&works);
    let measured = measure(&peers, &works, &request, &mut table);
    let mounted = mounts::measure(&scratch, &registry, &mut table);
    for peer in peers {
        peer.finish()?;
    }
    measured.and(mounted)?;
    machine.finish();
    let subject = Subject {
        name: "images".to_owned(),
        date: machine::today(),
        machine,
        versions: request.versions,
        rounds: request.rounds,
        own: "wherryd".to_owned(),
        yardstick: "containerd".to_owned(),
        rows: table.rows(),
    };
    page::print(&subject)?;
    request
        .docs
        .map_or(Ok(()), |docs| page::publish(&subject, &docs))
}

/// The forms of a layer, beside each other.
fn measure_forms(scratch: &Scratch, registry: &Registry, request: Request) -> Result<()> {
    let mut machine = Machine::here();
    let table = forms::measure(scratch, registry, request.rounds)?;
    machine.finish();
    let subject = Subject {
        name: "layers".to_owned(),
        date: machine::today(),
        machine,
        versions: vec!["one store of each form".to_owned()],
        rounds: request.rounds,
        own: forms::OWN.to_owned(),
        yardstick: forms::YARDSTICK.to_owned(),
        rows: table.rows(),
    };
    page::print(&subject)?;
    let docs = request.docs;
    docs.map_or(Ok(()), |docs| page::publish(&subject, &docs))
}

/// The works in the order of the table, with their bars.
fn expected(works: &[Work]) -> Samples {
    let mut samples = Samples::default();
    for work in works {
        let bar = match work.form {
            Form::Gzip => Some(Bar::Ratio(1.0 / 3.0)),
            Form::Zstd if !work.once => Some(Bar::Ratio(0.5)),
            Form::Zstd => None,
        };
        samples.expect(&pull_of(work), Unit::Milliseconds, bar);
        if work.once {
            samples.expect(PEAK, Unit::Megabytes, Bar::Value(100.0));
        }
        samples.expect(&removal_of(work), Unit::Milliseconds, Bar::Value(10.0));
    }
    if let Some(work) = works.first() {
        samples.expect(&together_of(work), Unit::Milliseconds, None);
        samples.expect(OF_ONE, Unit::Times, Bar::Value(1.1));
    }
    samples.expect(mounts::WORK, Unit::Milliseconds, Bar::Value(2.0));
    samples
}

fn pull_of(work: &Work) -> String {
    format!("pull, {}", work.title)
}

fn removal_of(work: &Work) -> String {
    format!("removal, {}", work.title)
}

fn together_of(work: &Work) -> String {
    format!("{TOGETHER} at once, {}", work.title)
}

struct Request {
    rounds: usize,
    containerd: Option<PathBuf>,
    quick: bool,
    /// Compare the forms of layers instead.
    forms: bool,
    /// Where the page is written; only printed otherwise.
    docs: Option<PathBuf>,
    versions: Vec<String>,
}

fn parse() -> Result<Request> {
    use lexopt::prelude::*;
    let mut request = Request {
        rounds: ROUNDS,
        containerd: None,
        quick: false,
        forms: false,
        docs: None,
        versions: Vec::new(),
    };
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Short('n') | Long("rounds") => request.rounds = args.value()?.parse()?,
            Long("containerd") => request.containerd = Some(args.value()?.into()),
            Long("docs") => request.docs = Some(args.value()?.into()),
            Long("version") => request.versions.push(args.value()?.string()?),
            Long("quick") => request.quick = true,
            Long("forms") => request.forms = true,
            other => return Err(other.unexpected()).context(USAGE),
        }
    }
    if request.rounds == 0 {
        bail!(USAGE);
    }
    Ok(request)
}

/// Makes the images and gives them to the registry.
fn publish(registry: &Registry, quick: bool) -> Result<Vec<Work>> {
    tell("making the images of this machine's /usr/lib");
    let layers = content::layers()?;
    let mut works = Vec::new();
    for form in [Form::Gzip, Form::Zstd] {
        tell(&format!(
            "compressing and pushing 8 layers, {}",
            form.name()
        ));
        works.push(content::publish(registry, form, &layers)?);
    }
    if !quick {
        tell("compressing and pushing one layer of 2 GB");
        works.push(content::publish_large(registry, &layers)?);
    }
    Ok(works)
}

/// All rounds; what takes long is done in the first only.
fn measure(peers: &[Peer], works: &[Work], request: &Request, table: &mut Samples) -> Result<()> {
    for round in 0..request.rounds {
        for work in works.iter().filter(|work| round == 0 || !work.once) {
            for turn in 0..peers.len() {
                let peer = &peers[(round + turn) % peers.len()];
                tell(&format!(
                    "round {} of {}: {} by {}",
                    round + 1,
                    request.rounds,
                    work.title,
                    peer.name()
                ));
                one_pull(peer, work, table)?;
            }
        }
    }
    let work = &works[0];
    for round in 0..request.rounds {
        for peer in peers {
            tell(&format!(
                "{TOGETHER} at once, round {}: {}",
                round + 1,
                peer.name()
            ));
            peer.remove_all(works)?;
            peer.settle()?;
            let sample = peer.sampled(|| peer.pull(&work.reference, TOGETHER))?;
            table.add(&together_of(work), peer.name(), sample);
        }
    }
    for peer in peers {
        let one = table.median(&pull_of(work), peer.name());
        let all = table.median(&together_of(work), peer.name());
        if let Some((one, all)) = one.zip(all) {
            table.add_value(OF_ONE, peer.name(), all / one);
        }
    }
    for peer in peers {
        peer.remove_all(works)?;
    }
    Ok(())
}

fn one_pull(peer: &Peer, work: &Work, table: &mut Samples) -> Result<()> {
    // Equal layers in another image would spare their unpacking.
    peer.remove_all(std::slice::from_ref(work))?;
    peer.settle()?;
    let sample = peer.sampled(|| peer.pull(&work.reference, 1))?;
    if let (true, Some(peak)) = (work.once, sample.peak) {
        table.add_value(PEAK, peer.name(), peak);
    }
    table.add(&pull_of(work), peer.name(), sample);
    let before = Instant::now();
    peer.remove(&work.reference)?;
    let removal = Sample {
        wall: before.elapsed(),
        ..Sample::default()
    };
    table.add(&removal_of(work), peer.name(), removal);
    Ok(())
}
