//! `wherryd debug`: what the running daemon does now, for how long, and what waits for what. Both
//! ends: the daemon's picture, and how it is shown.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use control_api::{
    DebugRequest, DebugResponse, DebuggedContainer, DebuggedPlugin, DebuggedPod, DebuggedPull,
    Operation, OperationStep, Permits, PluginQuestion, Shortage,
};
use engine::{Container, PodLoad};
use pod::lifecycle::{ContainerPhase, SandboxPhase};
use serde_json::{Value, json};

use super::client;
use crate::config::Settings;
use crate::metrics::Sources;
use crate::operations::Shown;

/// The daemon at this moment. Waits for nobody.
pub(super) fn now(sources: &Sources, log: bool) -> DebugResponse {
    let load = sources.engine.load();
    let plugins = sources.engine.plugin_figures();
    let store = sources.engine.images();
    let lines = if log {
        sources.journal.lines()
    } else {
        Vec::new()
    };
    DebugResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        age_ms: milliseconds(sources.recorder.age()),
        operations: sources
            .operations
            .shown(Instant::now())
            .into_iter()
            .map(operation)
            .collect(),
        pulls: store.pulls().iter().map(pull).collect(),
        permits: vec![
            permits("container_lookup", load.lookups),
            permits("image_layer", store.tally().layer_slots),
        ],
        shims: number(load.shims),
        exec_sessions: number(load.exec_sessions),
        pods: load.pods.iter().map(pod).collect(),
        log: lines,
        short: sources
            .pressure
            .seen()
            .short
            .into_iter()
            .map(short_of)
            .collect(),
        plugins: plugins.plugins.into_iter().map(plugin).collect(),
        questions: plugins.questions.into_iter().map(question).collect(),
    }
}

fn short_of(short: check::pressure::Shortage) -> Shortage {
    Shortage {
        subject: short.finding.subject.into(),
        found: short.finding.found,
        cure: short.finding.cure.unwrap_or_default(),
    }
}

fn plugin(present: nri::Present) -> DebuggedPlugin {
    DebuggedPlugin {
        name: present.name,
        age_ms: milliseconds(present.age),
    }
}

fn question(question: nri::Question) -> PluginQuestion {
    PluginQuestion {
        plugin: question.plugin,
        method: question.method.into(),
        age_ms: milliseconds(question.age),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn operation(shown: Shown) -> Operation {
    let step = |(name, age): (&str, Duration)| OperationStep {
        name: name.into(),
        age_ms: milliseconds(age),
    };
    Operation {
        id: shown.id.to_string(),
        service: shown.service,
        verb: shown.verb,
        subject: shown.subject,
        age_ms: milliseconds(shown.age),
        answered: shown.answered.unwrap_or_default(),
        steps: shown.steps.into_iter().map(step).collect(),
    }
}

fn permits(kind: &str, (all, taken): (usize, usize)) -> Permits {
    Permits {
        kind: kind.into(),
        all: number(all),
        taken: number(taken),
    }
}

fn pull(pull: &image::PullProgress) -> DebuggedPull {
    DebuggedPull {
        reference: pull.reference.clone(),
        age_ms: milliseconds(pull.since.elapsed()),
        total: pull.total(),
        received: pull.received(),
        verified: pull.verified(),
    }
}

fn pod(load: &PodLoad) -> DebuggedPod {
    let state = match load.phase {
        SandboxPhase::Reserved => "reserved",
        SandboxPhase::Ready => "ready",
        SandboxPhase::NotReady => "not_ready",
    };
    DebuggedPod {
        id: load.id.clone(),
        name: load.name.clone(),
        state: state.into(),
        queued: number(load.queued),
        containers: load.containers.iter().map(|one| container(one)).collect(),
    }
}

/// Nothing of what it runs: commands and environments may hold secrets.
fn container(container: &Container) -> DebuggedContainer {
    let state = match container.phase {
        ContainerPhase::Created => "created",
        ContainerPhase::Running => "running",
        ContainerPhase::Exited => "exited",
    };
    let exit = container.exit.as_ref();
    DebuggedContainer {
        id: container.id.clone(),
        name: container.spec.name.clone(),
        state: state.into(),
        pid: container.pid.unwrap_or_default(),
        exit: exit.map_or_else(String::new, |exit| format!("{} {}", exit.code, exit.reason)),
    }
}

/// Asks the running daemon, and prints.
///
/// # Errors
///
/// No daemon listens.
pub(crate) async fn debug(settings: &Settings, as_json: bool) -> Result<()> {
    let now = ask(settings, false).await?;
    let shown = if as_json {
        format!("{:#}\n", value(&now))
    } else {
        text(&now)
    };
    client::print(&shown)
}

/// Asks the running daemon.
pub(super) async fn ask(settings: &Settings, log: bool) -> Result<DebugResponse> {
    let mut client = client::connect(&settings.engine.state).await?;
    let answer = client.debug(DebugRequest { log }).await;
    Ok(answer.map_err(|status| client::told(&status))?.into_inner())
}

/// For a person: what goes on first, what is at rest last.
pub(super) fn text(now: &DebugResponse) -> String {
    let mut out = format!(
        "wherryd {}, pid {}, up {}; {} shims, {} exec sessions\n",
        now.version,
        now.pid,
        age(now.age_ms),
        now.shims,
        now.exec_sessions
    );
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to memory does not fail");
    for short in &now.short {
        line(format!(
            "SHORT {}: {}\n  -> {}",
            short.subject, short.found, short.cure
        ));
    }
    line(format!("operations under way: {}", now.operations.len()));
    for one in &now.operations {
        let mut told = format!("  {}  {:>8}  {}", one.id, age(one.age_ms), one.verb);
        if !one.subject.is_empty() {
            told += &format!("  {}", one.subject);
        }
        for step in &one.steps {
            told += &format!(" > {} ({})", step.name, age(step.age_ms));
        }
        if !one.answered.is_empty() {
            told += &format!("  [answered {}; its work goes on]", one.answered);
        }
        line(told);
    }
    line(format!("pulls: {}", now.pulls.len()));
    for pull in &now.pulls {
        line(format!(
            "  {}  {:>8}  {} of {} bytes received, {} unpacked",
            pull.reference,
            age(pull.age_ms),
            pull.received,
            pull.total,
            pull.verified
        ));
    }
    for permits in &now.permits {
        line(format!(
            "permits {}: {} of {} taken",
            permits.kind, permits.taken, permits.all
        ));
    }
    if !now.plugins.is_empty() || !now.questions.is_empty() {
        line(format!("plugins: {}", now.plugins.len()));
    }
    for plugin in &now.plugins {
        line(format!("  {}  for {}", plugin.name, age(plugin.age_ms)));
    }
    for question in &now.questions {
        line(format!(
            "  waits {} for {} to answer {}",
            age(question.age_ms),
            question.plugin,
            question.method
        ));
    }
    line(format!("pods: {}", now.pods.len()));
    for pod in &now.pods {
        line(format!(
            "  {}  {}  {}, {} commands wait",
            short(&pod.id),
            pod.name,
            pod.state,
            pod.queued
        ));
        for container in &pod.containers {
            let (id, name, state) = (short(&container.id), &container.name, &container.state);
            let exit = &container.exit;
            line(
                format!("    {id}  {name}  {state} {exit}")
                    .trim_end()
                    .into(),
            );
        }
    }
    out
}

/// For a program: field by field as in `control.proto`, without the log.
fn value(now: &DebugResponse) -> Value {
    let step = |step: &OperationStep| json!({ "name": step.name, "age_ms": step.age_ms });
    json!({
        "version": now.version,
        "pid": now.pid,
        "age_ms": now.age_ms,
        "shims": now.shims,
        "exec_sessions": now.exec_sessions,
        "operations": now.operations.iter().map(|one| json!({
            "id": one.id,
            "service": one.service,
            "verb": one.verb,
            "subject": one.subject,
            "age_ms": one.age_ms,
            "answered": one.answered,
            "steps": one.steps.iter().map(step).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "pulls": now.pulls.iter().map(|pull| json!({
            "reference": pull.reference,
            "age_ms": pull.age_ms,
            "total": pull.total,
            "received": pull.received,
            "verified": pull.verified,
        })).collect::<Vec<_>>(),
        "short": now.short.iter().map(|short| json!({
            "subject": short.subject,
            "found": short.found,
            "cure": short.cure,
        })).collect::<Vec<_>>(),
        "plugins": now.plugins.iter().map(|plugin| json!({
            "name": plugin.name,
            "age_ms": plugin.age_ms,
        })).collect::<Vec<_>>(),
        "questions": now.questions.iter().map(|question| json!({
            "plugin": question.plugin,
            "method": question.method,
            "age_ms": question.age_ms,
        })).collect::<Vec<_>>(),
        "permits": now.permits.iter().map(|permits| json!({
            "kind": permits.kind,
            "all": permits.all,
            "taken": permits.taken,
        })).collect::<Vec<_>>(),
        "pods": now.pods.iter().map(|pod| json!({
            "id": pod.id,
            "name": pod.name,
            "state": pod.state,
            "queued": pod.queued,
            "containers": pod.containers.iter().map(|one| json!({
                "id": one.id,
                "name": one.name,
                "state": one.state,
                "pid": one.pid,
                "exit": one.exit,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn short(id: &str) -> &str {
    id.get(..client::SHORT_ID).unwrap_or(id)
}

/// A time for a person: two units at most.
fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..60 => format!("{seconds}.{}s", milliseconds % 1000 / 100),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (milliseconds, expect) in [
            (7, "7ms"),
            (1500, "1.5s"),
            (61_000, "1m1s"),
            (7_260_000, "2h1m"),
            (90_000_000, "1d1h"),
        ] {
            assert_eq!(age(milliseconds), expect);
        }
    }

    #[test]
    fn a_person_sees_what_waits_for_what() {
        let step = |name: &str, age_ms| OperationStep {
            name: name.into(),
            age_ms,
        };
        let now = DebugResponse {
            version: "1".into(),
            pid: 7,
            operations: vec![Operation {
                id: "0123456789abcdef".into(),
                verb: "StopContainer".into(),
                subject: "default/web".into(),
                age_ms: 2000,
                steps: vec![step("stop", 2000), step("queue", 1000)],
                ..Operation::default()
            }],
            plugins: vec![DebuggedPlugin {
                name: "10-balance".into(),
                age_ms: 61_000,
            }],
            questions: vec![PluginQuestion {
                plugin: "10-balance".into(),
                method: "StopContainer".into(),
                age_ms: 1500,
            }],
            ..DebugResponse::default()
        };
        let expect = "wherryd 1, pid 7, up 0ms; 0 shims, 0 exec sessions\n\
            operations under way: 1\n\
            \x20 0123456789abcdef      2.0s  StopContainer  default/web > stop (2.0s) > queue (1.0s)\n\
            pulls: 0\nplugins: 1\n\x20 10-balance  for 1m1s\n\
            \x20 waits 1.5s for 10-balance to answer StopContainer\npods: 0\n";
        assert_eq!(text(&now), expect);
    }
}
