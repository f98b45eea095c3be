//! Runs critest against a `wherryd` of its own and compares with the list of expectations.
//!
//! `hack/conformance` builds what this needs. Images come from a registry on loopback.

#![expect(clippy::print_stdout, reason = "its output is the report")]

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use tests::conformance::expectations::{Expectations, Feature, Outcome, Spec};
use tests::conformance::{critest, images};
use tests::{Daemon, Registry, peers};

/// Failures that are shown in full.
const SHOWN: usize = 40;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let critest = peers::peer("bin/critest").context("critest is missing")?;
    let expectations = Expectations::parse(&fs::read_to_string(
        tests::checkout().join("tests/conformance/expectations.toml"),
    )?)?
    .on(Feature::is_here);
    let folder = tempfile::Builder::new()
        .prefix("wherry-conformance.")
        .tempdir_in("/var/tmp")?;
    println!("conformance: making images");
    let registry = Registry::start(&folder.path().join("registry"))?
        .context("docker-registry is not installed")?;
    let digest = images::push_all(&registry)?;
    let program = folder.path().join("critest");
    images::adapt_critest(&critest, &program, &digest)?;
    let setup = match &options.cgroup_driver {
        Some(driver) => Daemon::setup().cgroup_driver(driver),
        None => Daemon::setup(),
    };
    let daemon = images::HOSTS
        .iter()
        .fold(setup, |setup, host| setup.mirror(host, &registry))
        .config(&options.config)
        .start()?;
    println!("conformance: critest {}", options.describe());
    let mut outcome = Ok(());
    for round in 1..=options.rounds {
        let out = options.folder(round)?;
        let run = critest::run(&program, &daemon.socket(), &out, &options.critest);
        outcome = outcome.and(run.and_then(|specs| report(&specs, &expectations)));
    }
    fs::copy(
        daemon.scratch().join("log"),
        options.out.join("wherryd.log"),
    )
    .ok();
    outcome.and(daemon.finish())
}

/// What is run and how.
#[derive(Debug, Default)]
struct Options {
    /// How often, on the same daemon.
    rounds: u32,
    /// Given to critest as they are.
    critest: Vec<String>,
    /// More configuration for the daemon.
    config: String,
    /// Who makes the control groups, if not by the daemon's own choice.
    cgroup_driver: Option<String>,
    /// Where logs and report are kept.
    out: std::path::PathBuf,
}

impl Options {
    /// `--runc PATH` makes that the default runtime; `--cgroup-driver NAME` the maker of control
    /// groups; `--repeat N` runs it that often; `--parallel N` with so many specs at a time;
    /// `--websocket` has streams of that protocol; `--out FOLDER` keeps the logs; the rest is
    /// critest's.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            out: "target/conformance".into(),
            rounds: 1,
            ..Options::default()
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--runc" => {
                    let path = arguments.next().context("--runc wants a path")?;
                    // The key of the whole file has to come before its tables; a dotted one may not.
                    options.config = format!("[runtimes.runc]\npath = {path:?}\n");
                    options.critest.push("--runtime-handler=runc".into());
                }
                "--cgroup-driver" => {
                    let name = arguments.next().context("--cgroup-driver wants a name")?;
                    options.cgroup_driver = Some(name);
                }
                "--repeat" => {
                    let rounds = arguments.next().context("--repeat wants a number")?;
                    options.rounds = rounds.parse().context("--repeat wants a number")?;
                }
                "--parallel" => {
                    let nodes = arguments.next().context("--parallel wants a number")?;
                    peers::peer("bin/ginkgo").context("--parallel needs hack/peers ginkgo")?;
                    options.critest.push(format!("--parallel={nodes}"));
                }
                "--websocket" => {
                    let flags = ["exec", "attach", "portforward"];
                    let flags = flags.map(|verb| format!("--websocket-{verb}"));
                    options.critest.extend(flags);
                }
                "--out" => options.out = arguments.next().context("--out wants a folder")?.into(),
                _ => options.critest.push(argument),
            }
        }
        fs::create_dir_all(&options.out)?;
        Ok(options)
    }

    /// Where the logs of one round are kept.
    fn folder(&self, round: u32) -> Result<std::path::PathBuf> {
        let folder = match self.rounds {
            1 => self.out.clone(),
            _ => self.out.join(format!("round-{round}")),
        };
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn describe(&self) -> String {
        self.critest.join(" ")
    }
}

/// Prints the outcome; fails on any difference from the list.
fn report(specs: &BTreeMap<String, Spec>, expectations: &Expectations) -> Result<()> {
    for (name, spec) in specs
        .iter()
        .filter(|(_, spec)| spec.outcome != Outcome::Passed)
    {
        let known = if expectations.of(name) == spec.outcome {
            "expected"
        } else {
            "UNEXPECTED"
        };
        println!(
            "  {:?} ({known}) {name}: {}",
            spec.outcome,
            first_line(&spec.message)
        );
    }
    println!("conformance: {}", critest::figures(specs));
    let differences = expectations.differences(specs);
    if specs.is_empty() {
        bail!("no spec was run");
    }
    if !differences.is_empty() {
        let shown: Vec<String> = differences.iter().take(SHOWN).cloned().collect();
        bail!(
            "{} specs differ from what is expected:\n{}",
            differences.len(),
            shown.join("\n")
        );
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
