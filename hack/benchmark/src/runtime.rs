//! The work: `run` of a program that ends at once, and the steps of a container's life alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bench::progress::Progress;
use bench::results::{Bar, Unit};
use bench::samples::{Sample, Samples};
use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

use crate::bundle::{self, Kind};
use crate::inside;
use crate::measure;
use crate::memory;

/// Rounds before those that count: files get into the page cache.
const WARM_UP: usize = 3;
/// How long a killed container may take to be dead.
const DEATH: Duration = Duration::from_secs(10);
/// How many containers start at once, and how many rounds of one are worth one round of that.
const AT_ONCE: usize = 64;
const ROUNDS_OF_ONE: usize = 10;
/// The part of crun's time that each work may take.
const PART: f64 = 0.5;

/// A container's life.
const STEPS: [&str; 6] = ["create", "start", "state", "exec", "kill", "delete"];

/// An OCI runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// One container of one runtime.
pub(crate) struct Container<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) root: String,
    pub(crate) id: String,
}

impl Container<'_> {
    pub(crate) fn call(&self, args: &[&str]) -> anyhow::Result<Sample> {
        measure::run(
            &self.runtime.path,
            &[&["--root", self.root.as_str()], args].concat(),
        )
    }

    /// After a failure: whatever is left of it.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        self.call(&["delete", "--force", &self.id]).map(drop)
    }
}

/// Measures `runtimes` over `rounds` rounds of each work, with their state below `state`.
pub(crate) fn compare(
    runtimes: &[Runtime],
    rounds: usize,
    state: &Path,
) -> anyhow::Result<Samples> {
    // Containers outlive the command that creates them; they become ours to reap.
    set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
    let folder = tempfile::tempdir().context("create a working folder")?;
    let state = tempfile::tempdir_in(state).context("create a folder for states")?;
    let mut report = expected();
    for (work, kind) in [
        ("run, minimal", Kind::Minimal),
        ("run, engine", Kind::Engine),
    ] {
        let bundle = bundle::write(folder.path(), kind, inside::TRUE)?;
        rounds_of(work, runtimes, rounds, state.path(), |container, counts| {
            let sample = container.call(&["run", "--bundle", text(&bundle)?, &container.id])?;
            if sample.failure.is_some() {
                container.clear()?;
            }
            if counts {
                report.add(work, &container.runtime.name, sample);
            }
            Ok(())
        })?;
    }
    let bundle = bundle::write(folder.path(), Kind::Engine, inside::WAIT)?;
    rounds_of(
        "steps, engine",
        runtimes,
        rounds,
        state.path(),
        |container, counts| {
            for (step, sample) in life(container, &bundle)? {
                if counts {
                    report.add(step, &container.runtime.name, sample);
                }
            }
            Ok(())
        },
    )?;
    let minimal = bundle::write(folder.path(), Kind::Minimal, inside::TRUE)?;
    rounds_of(
        "64 at once",
        runtimes,
        rounds.div_ceil(ROUNDS_OF_ONE),
        state.path(),
        |container, counts| {
            let sample = at_once(container, text(&minimal)?)?;
            if counts {
                report.add("64 at once", &container.runtime.name, sample);
            }
            Ok(())
        },
    )?;
    memory::measure(runtimes, folder.path(), state.path(), &mut report)?;
    Ok(report)
}

/// The works in the order of the table.
fn expected() -> Samples {
    let mut samples = Samples::default();
    for work in ["run, minimal", "run, engine"] {
        samples.expect(work, Unit::Milliseconds, Bar::RatioAndCpu(PART));
    }
    for step in STEPS {
        samples.expect(step, Unit::Milliseconds, Bar::Ratio(PART));
    }
    samples.expect("64 at once", Unit::Milliseconds, Bar::Ratio(PART));
    memory::expect(&mut samples);
    samples
}

fn at_once(container: &Container<'_>, bundle: &str) -> anyhow::Result<Sample> {
    let ids: Vec<String> = (0..AT_ONCE)
        .map(|n| format!("{}-{n}", container.id))
        .collect();
    let root = container.root.as_str();
    let commands: Vec<Vec<&str>> = ids
        .iter()
        .map(|id| vec!["--root", root, "run", "--bundle", bundle, id])
        .collect();
    let sample = measure::run_at_once(&container.runtime.path, &commands)?;
    if sample.failure.is_some() {
        for id in ids {
            Container {
                runtime: container.runtime,
                root: root.to_owned(),
                id,
            }
            .clear()?;
        }
    }
    Ok(sample)
}

/// Calls `each` once a round for each runtime, in rotating order, first without counting.
fn rounds_of(
    work: &'static str,
    runtimes: &[Runtime],
    rounds: usize,
    folder: &Path,
    mut each: impl FnMut(&Container<'_>, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let progress = Progress::new(work, rounds);
    for round in 0..WARM_UP + rounds {
        let first = round % runtimes.len();
        for runtime in runtimes[first..].iter().chain(&runtimes[..first]) {
            let root = text(&folder.join(format!("state-{}", runtime.name)))?.to_owned();
            let id = format!(
                "wherry-bench-{}-{}-{round}",
                runtime.name,
                std::process::id()
            );
            each(&Container { runtime, root, id }, round >= WARM_UP)?;
        }
        if let Some(done) = (round + 1).checked_sub(WARM_UP) {
            progress.tell(done);
        }
    }
    Ok(())
}

/// A container from create to delete: a sample for each step, up to the first that fails.
fn life(container: &Container<'_>, bundle: &Path) -> anyhow::Result<Vec<(&'static str, Sample)>> {
    let id = container.id.as_str();
    let pid_file = format!("{}-pid", container.root);
    let create = [
        "create",
        "--bundle",
        text(bundle)?,
        "--pid-file",
        &pid_file,
        id,
    ];
    let steps: [&[&str]; 6] = [
        &create,
        &["start", id],
        &["state", id],
        &["exec", id, "/bin/true"],
        &["kill", id, "KILL"],
        &["delete", id],
    ];
    let mut samples = Vec::with_capacity(steps.len());
    let mut init = None;
    for (step, args) in STEPS.into_iter().zip(steps) {
        let sample = container.call(args)?;
        let failed = sample.failure.is_some();
        samples.push((step, sample));
        if failed {
            container.clear()?;
            break;
        }
        match step {
            "create" => init = Some(read_pid(&pid_file)?),
            "kill" => wait_for_death(init)?,
            _ => {}
        }
    }
    if let Some(init) = init {
        reap(init)?;
    }
    Ok(samples)
}

pub(crate) fn read_pid(file: &str) -> anyhow::Result<Pid> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    pid.with_context(|| format!("{file} holds no process id: {text:?}"))
}

fn wait_for_death(init: Option<Pid>) -> anyhow::Result<()> {
    let Some(init) = init else { return Ok(()) };
    if !measure::wait_for_end(init, DEATH)? {
        bail!(
            "a killed container lives on as process {}",
            init.as_raw_nonzero()
        );
    }
    Ok(())
}

/// Takes the container's first process off the process table, if it became our child.
pub(crate) fn reap(init: Pid) -> anyhow::Result<()> {
    wait_for_death(Some(init))?;
    match waitpid(Some(init), WaitOptions::NOHANG) {
        Ok(_) | Err(rustix::io::Errno::CHILD) => Ok(()),
        Err(errno) => Err(errno).context("reap a container's process"),
    }
}

pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the working folder's name is text")
}
