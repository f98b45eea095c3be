//! `events`: what a container uses, and when it ran out of memory, one JSON object a line.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use serde_json::{Value, json};

use super::figures;
use crate::cli::Values;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::oom::Watch;
use crate::{messages, print};

/// Between two reports, if nothing else is asked for; runc's.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    let interval = match values.text("interval").filter(|text| !text.is_empty()) {
        Some(text) => parse(text)?,
        None => INTERVAL,
    };
    let container = Container::load(&context.root, id)?;
    if container.status()? == Status::Stopped {
        return Err(Failure::new(messages::NOT_RUNNING));
    }
    if values.is_set("stats") {
        report(id, &container)?;
        return Ok(0);
    }
    let init = container
        .init()?
        .ok_or_else(|| Failure::new(messages::NOT_RUNNING))?;
    let watch = Watch::of(&container.group()?)?;
    follow(id, &container, &init, watch.as_ref(), interval)?;
    Ok(0)
}

fn report(id: &str, container: &Container) -> Result<()> {
    let data = figures::of(container)?;
    line(&json!({ "type": "stats", "id": id, "data": data }));
    Ok(())
}

fn line(value: &Value) {
    print(&format!("{value}\n"));
}

/// Reports until the container's first process has ended.
fn follow(
    id: &str,
    container: &Container,
    init: &OwnedFd,
    watch: Option<&Watch>,
    interval: Duration,
) -> Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let (oom, end) = wait(init, watch, left)?;
        if let Some(watch) = watch.filter(|_| oom)
            && watch.happened()?
        {
            line(&json!({ "type": "oom", "id": id }));
        }
        if end {
            return Ok(());
        }
        if Instant::now() >= next {
            report(id, container)?;
            next += interval;
        }
    }
}

/// Whether memory ran out, and whether the container has ended.
fn wait(init: &OwnedFd, watch: Option<&Watch>, left: Duration) -> Result<(bool, bool)> {
    let deadline = Timespec::try_from(left)
        .ok()
        .ok_or_else(|| Failure::new("the interval is too long"))?;
    let watched = watch.map_or(init, Watch::fd);
    let mut fds = [
        PollFd::new(init, PollFlags::IN),
        PollFd::new(watched, PollFlags::IN),
    ];
    retry_on_intr(|| poll(&mut fds, Some(&deadline)))
        .attempt(|| "wait for events of the container".to_owned())?;
    let [end, oom] = fds.map(|fd| !fd.revents().is_empty());
    Ok((oom && watch.is_some(), end))
}

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`, `1.5h`.
fn parse(text: &str) -> Result<Duration> {
    let bad = || Failure::new(format!("invalid value {text:?} for flag -interval"));
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().ok().ok_or_else(bad)?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        seconds += number * unit(&rest[..letters]).ok_or_else(bad)?;
        rest = &rest[letters..];
    }
    let duration = Duration::try_from_secs_f64(seconds).ok().ok_or_else(bad)?;
    if duration.is_zero() {
        return Err(Failure::new("duration interval must be greater than 0"));
    }
    Ok(duration)
}

/// In seconds.
fn unit(name: &str) -> Option<f64> {
    match name {
        "ns" => Some(1e-9),
        "us" | "µs" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<u64>) {
        let got = parse(text).ok().map(|duration| duration.as_millis());
        assert_eq!(got, expect.map(u128::from), "{text:?}");
    }

    #[test]
    fn durations_are_gos() {
        check("5s", Some(5000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("1.5h", Some(5_400_000));
        check("0s", None);
        check("", None);
        check("5", None);
        check("-5s", None);
        check("5x", None);
        check("99999999999999999999999h", None);
    }
}
