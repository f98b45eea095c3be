//! One command: its wall time, and the processor time of it and all that it waited for.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::samples::Sample;
use nix::sys::resource::{UsageWho, getrusage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long one command may take before it counts as hung and is killed.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs `program`. There must be no other child of this process that could end meanwhile.
pub(crate) fn run(program: &Path, args: &[&str]) -> anyhow::Result<Sample> {
    let mut said = tempfile::tempfile().context("create a file for what the command says")?;
    let before = children_cpu()?;
    let started = Instant::now();
    let mut child = spawn(program, args, &said)?;
    let pid = Pid::from_child(&child);
    let in_time = wait_for_end(pid, LIMIT)?;
    if !in_time {
        child.kill().context("kill a hung command")?;
    }
    let status = child.wait().context("wait for a command")?;
    let wall = started.elapsed();
    let cpu = children_cpu()?.saturating_sub(before);
    let failure = match (in_time, status.success()) {
        (true, true) => None,
        (false, _) => Some(format!("{} hung", args.join(" "))),
        (true, false) => Some(format!(
            "{}: {status}: {}",
            args.join(" "),
            last_line(&mut said)?
        )),
    };
    Ok(Sample {
        wall,
        cpu: Some(cpu),
        failure,
        ..Sample::default()
    })
}

/// Runs `program` once with each of `all`, at the same time; wall is until the last one has ended.
pub(crate) fn run_at_once(program: &Path, all: &[Vec<&str>]) -> anyhow::Result<Sample> {
    let mut said = tempfile::tempfile().context("create a file for what the commands say")?;
    let before = children_cpu()?;
    let started = Instant::now();
    let mut children = Vec::with_capacity(all.len());
    for args in all {
        children.push(spawn(program, args, &said)?);
    }
    let mut failed = 0_usize;
    for child in &mut children {
        if !wait_for_end(Pid::from_child(child), LIMIT)? {
            child.kill().context("kill a hung command")?;
        }
        failed += usize::from(!child.wait().context("wait for a command")?.success());
    }
    let wall = started.elapsed();
    let cpu = children_cpu()?.saturating_sub(before);
    let failure = match failed {
        0 => None,
        _ => Some(format!("{failed} failed: {}", last_line(&mut said)?)),
    };
    Ok(Sample {
        wall,
        cpu: Some(cpu),
        failure,
        ..Sample::default()
    })
}

#[expect(clippy::disallowed_methods, reason = "the commands that are measured")]
fn spawn(program: &Path, args: &[&str], said: &File) -> anyhow::Result<Child> {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("run {}", program.display()))
}

/// Waits until the process is dead (it may still be a zombie); says whether that was in time.
pub(crate) fn wait_for_end(pid: Pid, limit: Duration) -> anyhow::Result<bool> {
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        process => process.context("open a process")?,
    };
    let limit = Timespec::try_from(limit)?;
    Ok(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))? > 0)
}

fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the children's usage")?;
    let time = |time: nix::sys::time::TimeVal| {
        let micros = i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_usec());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

fn last_line(said: &mut File) -> anyhow::Result<String> {
    let mut text = String::new();
    said.rewind()?;
    said.read_to_string(&mut text)
        .context("read what a command said")?;
    Ok(text.lines().last().unwrap_or("no word").to_owned())
}
