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

mod content;
mod mounts;
mod peer;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tests::{Registry, Scratch};

use content::{Form, Work};
use peer::Peer;
use table::Table;

const USAGE: &str = "usage: bench-images [-n ROUNDS] [--containerd PATH] [--quick]";
/// Rounds unless told.
const ROUNDS: usize = 5;
/// How many pods ask at once.
const TOGETHER: usize = 10;

fn main() -> Result<()> {
    let request = parse()?;
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch.join("registry"))?.context("needs docker-registry")?;
    let works = publish(&registry, request.quick)?;
    let mut peers = vec![Peer::wherryd()?];
    if let Some(program) = &request.containerd {
        peers.push(Peer::containerd(program, &registry)?);
    }
    let mut table = Table::default();
    let measured = measure(&peers, &works, &request, &mut table);
    let mounted = mounts::measure(&scratch, &registry, &mut table);
    for peer in peers {
        peer.finish()?;
    }
    measured.and(mounted)?;
    let mut out = std::io::stdout();
    out.write_all(table.text().as_bytes())
        .context("print the table")
}

struct Request {
    rounds: usize,
    containerd: Option<PathBuf>,
    quick: bool,
}

fn parse() -> Result<Request> {
    use lexopt::prelude::*;
    let mut request = Request {
        rounds: ROUNDS,
        containerd: None,
        quick: false,
    };
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Short('n') | Long("rounds") => request.rounds = args.value()?.parse()?,
            Long("containerd") => request.containerd = Some(args.value()?.into()),
            Long("quick") => request.quick = true,
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
fn measure(peers: &[Peer], works: &[Work], request: &Request, table: &mut Table) -> Result<()> {
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
            table.add(
                &format!("{TOGETHER} at once, {}", work.title),
                peer.name(),
                &sample,
            );
        }
    }
    for peer in peers {
        peer.remove_all(works)?;
    }
    Ok(())
}

fn one_pull(peer: &Peer, work: &Work, table: &mut Table) -> Result<()> {
    // Equal layers in another image would spare their unpacking.
    peer.remove_all(std::slice::from_ref(work))?;
    peer.settle()?;
    let sample = peer.sampled(|| peer.pull(&work.reference, 1))?;
    table.add(&format!("pull, {}", work.title), peer.name(), &sample);
    let before = Instant::now();
    peer.remove(&work.reference)?;
    table.add_time(
        &format!("removal, {}", work.title),
        peer.name(),
        before.elapsed(),
    );
    Ok(())
}

/// Tells on stderr what is being done.
fn tell(what: &str) {
    // Nobody reads it: measure on.
    drop(writeln!(std::io::stderr(), "bench: {what}"));
}
