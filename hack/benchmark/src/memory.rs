//! Memory: of the program's file, of a whole `run`, of the process that waits to be started, and how
//! little a container may be given.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use bench::results::{Bar, Unit};
use bench::samples::Samples;
use nix::sys::resource::{UsageWho, getrusage};

use crate::bundle::{self, Kind};
use crate::inside;
use crate::runtime::{Container, Runtime, read_pid, reap, text};

/// The word that makes this program run another one and print its peak.
const PEAK: &str = "peak";
/// Limits that are tried, KiB: powers of two, then the steps between the last two.
const LEAST: u64 = 128;
const MOST: u64 = 64 << 10;
/// Runs under one limit: it holds if all of them do.
const TRIES: usize = 3;

/// With `peak PROGRAM ARGS` as arguments: runs that, prints the most memory that it or any process
/// that it waited for had, KiB. Says whether that was asked for.
pub(crate) fn tell_peak() -> anyhow::Result<bool> {
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(PEAK.as_ref()) {
        return Ok(false);
    }
    let all: Vec<OsString> = args.collect();
    let (program, args) = all.split_first().context("peak of what?")?;
    let status = command(program.as_ref(), args).status().context("run it")?;
    if !status.success() {
        bail!("{program:?}: {status}");
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the children's usage")?;
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{}", usage.max_rss()).context("print the peak")?;
    Ok(true)
}

#[expect(clippy::disallowed_methods, reason = "the commands that are measured")]
fn command(program: &Path, args: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

const PROGRAM: &str = "program";
const PEAK_OF_RUN: &str = "peak memory of run, engine";
const WAITING: &str = "private memory of the waiting init";
const LEAST_LIMIT: &str = "least memory limit that run works under";

/// Makes the rows known.
pub(crate) fn expect(samples: &mut Samples) {
    for (work, bar) in [
        (PROGRAM, 2048.0),
        (PEAK_OF_RUN, 2048.0),
        (WAITING, 300.0),
        (LEAST_LIMIT, 1024.0),
    ] {
        samples.expect(work, Unit::Kibibytes, Bar::Value(bar));
    }
}

/// Measures each runtime once.
pub(crate) fn measure(
    runtimes: &[Runtime],
    work: &Path,
    state: &Path,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    for runtime in runtimes {
        let container = Container {
            runtime,
            root: text(&state.join(format!("memory-{}", runtime.name)))?.to_owned(),
            id: format!("wherry-bench-memory-{}", std::process::id()),
        };
        let program = fs::metadata(&runtime.path).context("look at the program")?;
        let mut add = |work: &str, kibibytes: u64| {
            let kibibytes = u32::try_from(kibibytes).unwrap_or(u32::MAX);
            samples.add_value(work, &runtime.name, f64::from(kibibytes));
        };
        add(PROGRAM, program.len() >> 10);
        add(PEAK_OF_RUN, peak(&container, work)?);
        add(WAITING, waiting(&container, work)?);
        if let Some(limit) = least(&container, work)? {
            add(LEAST_LIMIT, limit);
        }
    }
    Ok(())
}

fn peak(container: &Container<'_>, work: &Path) -> anyhow::Result<u64> {
    let bundle = bundle::write(work, Kind::Engine, inside::TRUE)?;
    let own = std::env::current_exe().context("find this program")?;
    let program = text(&container.runtime.path)?;
    let words = [
        PEAK,
        program,
        "--root",
        &container.root,
        "run",
        "--bundle",
        text(&bundle)?,
        &container.id,
    ];
    let output = command(&own, &words.map(OsString::from))
        .arg0("bench")
        .stdout(Stdio::piped())
        .output()
        .context("measure a peak")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    said.parse().with_context(|| {
        format!(
            "peak of {program}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Private memory of the first process between create and start, KiB.
fn waiting(container: &Container<'_>, work: &Path) -> anyhow::Result<u64> {
    let bundle = bundle::write(work, Kind::Engine, inside::WAIT)?;
    let pid_file = format!("{}-pid", container.root);
    let create = [
        "create",
        "--bundle",
        text(&bundle)?,
        "--pid-file",
        &pid_file,
        &container.id,
    ];
    if let Some(failure) = container.call(&create)?.failure {
        bail!("create: {failure}");
    }
    let pid = read_pid(&pid_file)?;
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))
        .context("read the first process's memory")?;
    container.clear()?;
    reap(pid)?;
    let written = rollup.lines().find_map(|line| {
        line.strip_prefix("Private_Dirty:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    });
    written.context("smaps_rollup has Private_Dirty")
}

/// The least limit under which `run` works, KiB, to an eighth of it.
fn least(container: &Container<'_>, work: &Path) -> anyhow::Result<Option<u64>> {
    let folder = work.join(format!("least-{}", container.runtime.name));
    fs::create_dir(&folder).context("create a folder")?;
    let bundle = bundle::write(&folder, Kind::Minimal, inside::TRUE)?;
    let mut limit = LEAST;
    while !holds(container, &bundle, limit)? {
        limit *= 2;
        if limit > MOST {
            return Ok(None);
        }
    }
    if limit == LEAST {
        return Ok(Some(limit));
    }
    for eighths in 5..8 {
        let between = limit / 8 * eighths;
        if holds(container, &bundle, between)? {
            return Ok(Some(between));
        }
    }
    Ok(Some(limit))
}

fn holds(container: &Container<'_>, bundle: &Path, limit: u64) -> anyhow::Result<bool> {
    bundle::limit_memory(bundle, limit << 10)?;
    for _ in 0..TRIES {
        let run = ["run", "--bundle", text(bundle)?, &container.id];
        if container.call(&run)?.failure.is_some() {
            container.clear()?;
            return Ok(false);
        }
    }
    Ok(true)
}
