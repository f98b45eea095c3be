//! What is common to the first process of a container and to those that join it.

use std::ffi::CString;

use super::scheduling::{self, Affinity};
use super::{CapabilityPlan, Error, HostFacts, Identity, Limit, Result, Warnings};
use super::{capabilities, identity, rlimits};
use crate::spec::{ConsoleSize, Process};
use sys::schedule::Scheduler;

/// How one process is to be started.
#[derive(Debug)]
pub(crate) struct ProcessPlan<'a> {
    pub(crate) args: Vec<CString>,
    /// `NAME=value`, each name once.
    pub(crate) env: Vec<CString>,
    /// Absolute, in the container.
    pub(crate) cwd: &'a str,
    pub(crate) identity: Identity,
    /// `None`: the configuration says nothing about capabilities.
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) limits: Vec<Limit>,
    pub(crate) no_new_privileges: bool,
    pub(crate) apparmor_profile: Option<&'a str>,
    pub(crate) selinux_label: Option<&'a str>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) scheduler: Option<Scheduler>,
    /// As ioprio_set(2) takes it.
    pub(crate) io_priority: Option<u32>,
    /// Of further processes.
    pub(crate) affinity: Affinity,
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
}

impl ProcessPlan<'_> {
    /// The value of a variable of its environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|entry| {
            entry
                .to_bytes()
                .strip_prefix(name.as_bytes())?
                .strip_prefix(b"=")
        })
    }
}

/// Decides about a process.
///
/// # Errors
///
/// No arguments, no or a relative working directory, a zero byte, a limit that makes no sense.
pub(super) fn plan<'a>(
    process: &'a Process<'a>,
    facts: HostFacts,
    warnings: &mut Warnings,
) -> Result<ProcessPlan<'a>> {
    if process.args.is_empty() {
        return Err(Error::new("process.args is empty"));
    }
    if !process.cwd.starts_with('/') {
        return Err(Error::new(format!(
            "process.cwd {:?} is not an absolute path",
            &*process.cwd
        )));
    }
    if process
        .oom_score_adj
        .is_some_and(|adj| !(-1000..=1000).contains(&adj))
    {
        return Err(Error::new(
            "process.oomScoreAdj is not between -1000 and 1000",
        ));
    }
    Ok(ProcessPlan {
        args: process
            .args
            .iter()
            .map(|arg| c_string("process.args", arg))
            .collect::<Result<_>>()?,
        env: environment(process)?,
        cwd: &process.cwd,
        identity: identity::plan(&process.user),
        capabilities: capabilities::plan(process.capabilities.as_ref(), facts, warnings),
        limits: rlimits::plan(&process.rlimits)?,
        no_new_privileges: process.no_new_privileges,
        apparmor_profile: process
            .apparmor_profile
            .as_deref()
            .filter(|name| !name.is_empty()),
        selinux_label: process
            .selinux_label
            .as_deref()
            .filter(|label| !label.is_empty()),
        oom_score_adj: process.oom_score_adj,
        scheduler: process
            .scheduler
            .as_ref()
            .map(scheduling::scheduler)
            .transpose()?,
        io_priority: process
            .io_priority
            .as_ref()
            .map(scheduling::io_priority)
            .transpose()?,
        affinity: process
            .exec_cpu_affinity
            .as_ref()
            .map_or(Ok(Affinity::default()), scheduling::affinity)?,
        terminal: process.terminal,
        console_size: process.console_size,
    })
}

fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| {
        Error::new(format!(
            "{what}: a zero byte at {} in {text:?}",
            error.nul_position()
        ))
    })
}

/// Each name once: the last value wins, at the place of the first.
fn environment(process: &Process<'_>) -> Result<Vec<CString>> {
    let mut names: Vec<&str> = Vec::with_capacity(process.env.len() + 1);
    let mut env: Vec<CString> = Vec::with_capacity(process.env.len() + 1);
    for entry in &process.env {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::new(format!(
                "process.env: {entry:?} is not NAME=value"
            )));
        };
        let value = c_string("process.env", entry)?;
        match names.iter().position(|seen| *seen == name) {
            Some(at) => env[at] = value,
            None => {
                names.push(name);
                env.push(value);
            }
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: HostFacts = HostFacts {
        last_capability: 40,
        may_make_nodes: true,
        cgroup_v2: false,
    };

    fn check(json: &str, expect: std::result::Result<&[&str], &str>) {
        let process: Process<'_> = serde_json::from_str(json).unwrap();
        match (plan(&process, FACTS, &mut Vec::new()), expect) {
            (Ok(plan), Ok(env)) => {
                let got: Vec<_> = plan.env.iter().map(|e| e.to_str().unwrap()).collect();
                assert_eq!(got, env);
            }
            (Err(error), Err(text)) => assert!(error.0.contains(text), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn the_last_value_of_a_variable_wins() {
        check(
            r#"{"args":["a"],"cwd":"/","env":["A=1","B=2","A=3"]}"#,
            Ok(&["A=3", "B=2"]),
        );
    }

    #[test]
    fn bad_processes_are_refused() {
        check(r#"{"cwd":"/"}"#, Err("args is empty"));
        check(r#"{"args":["a"]}"#, Err("absolute"));
        check(r#"{"args":["a"],"cwd":"tmp"}"#, Err("absolute"));
        check(r#"{"args":["a\u0000b"],"cwd":"/"}"#, Err("zero byte"));
        check(
            r#"{"args":["a"],"cwd":"/","env":["=x"]}"#,
            Err("NAME=value"),
        );
        check(
            r#"{"args":["a"],"cwd":"/","oomScoreAdj":1001}"#,
            Err("oomScoreAdj"),
        );
    }
}
