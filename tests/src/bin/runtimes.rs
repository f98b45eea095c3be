//! Runs critest through containerd, once with runc and once with `wrun` in its place, and fails if
//! any spec ends otherwise with the one than with the other.
//!
//! `hack/conformance --containerd` builds what this needs and gives it a network of its own, so
//! that two containerds and their host ports are in nobody's way.

#![expect(clippy::print_stdout, reason = "its output is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tests::conformance::expectations::{Outcome, Spec};
use tests::conformance::{critest, images};
use tests::engines::Containerd;
use tests::{Registry, daemon, peers};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == "--fetch") {
        // In the network of its own nothing could be fetched.
        return images::fetch();
    }
    let out = PathBuf::from(arguments.next().context("wants a folder for the logs")?);
    let flags: Vec<String> = arguments.collect();
    let program = peers::peer("bin/critest").context("critest is missing")?;
    let runc = peers::peer("bin/runc").context("runc is missing")?;
    let folder = tempfile::Builder::new()
        .prefix("wherry-runtimes.")
        .tempdir_in("/var/tmp")?;
    println!("conformance: making images");
    let registry = Registry::start(&folder.path().join("registry"))?
        .context("docker-registry is not installed")?;
    let digest = images::push_all(&registry)?;
    let adapted = folder.path().join("critest");
    images::adapt_critest(&program, &adapted, &digest)?;

    let wrun = daemon::programs().join("wrun");
    let [of_runc, of_wrun] =
        [("runc", &runc), ("wrun", &wrun)].map(|(name, runtime)| -> Result<_> {
            let out = out.join(name);
            fs::create_dir_all(&out)?;
            run(&registry, runtime, &adapted, &out, &flags).with_context(|| name.to_owned())
        });
    compare(&of_runc?, &of_wrun?)
}

/// critest through a containerd of its own with one runtime.
fn run(
    registry: &Registry,
    runtime: &Path,
    program: &Path,
    out: &Path,
    flags: &[String],
) -> Result<BTreeMap<String, Spec>> {
    let engine = Containerd::start(registry, runtime)?.context("containerd is missing")?;
    println!("conformance: {}", engine.versions()?);
    let start = Instant::now();
    let specs = critest::run(program, &engine.socket(), out, flags);
    fs::copy(engine.log(), out.join("containerd.log"))?;
    let specs = specs?;
    for (name, spec) in specs
        .iter()
        .filter(|(_, spec)| spec.outcome != Outcome::Passed)
    {
        let message = spec.message.lines().next().unwrap_or_default();
        println!("  {:?} {name}: {message}", spec.outcome);
    }
    let seconds = start.elapsed().as_secs();
    println!("conformance: {} in {seconds} s", critest::figures(&specs));
    Ok(specs)
}

/// Fails on any difference.
fn compare(of_runc: &BTreeMap<String, Spec>, of_wrun: &BTreeMap<String, Spec>) -> Result<()> {
    if of_runc.is_empty() {
        bail!("no spec was run");
    }
    let names: BTreeSet<&String> = of_runc.keys().chain(of_wrun.keys()).collect();
    let outcome = |of: &BTreeMap<String, Spec>, name: &String| of.get(name).map(|s| s.outcome);
    let mut differences = 0;
    for name in names {
        let (a, b) = (outcome(of_runc, name), outcome(of_wrun, name));
        if a != b {
            differences += 1;
            println!("  DIFFERENT {name}: {a:?} with runc, {b:?} with wrun");
        }
    }
    if differences > 0 {
        bail!("{differences} specs end otherwise with wrun than with runc");
    }
    println!("conformance: the same with wrun as with runc");
    Ok(())
}
