//! Hooks: programs of the configuration that run at six moments of a container's life.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::failure::{Attempt, Failure, Result};
use crate::spec::{RawHook, nullable};

/// For a hook that sets no timeout: long enough for anything that is not stuck, seconds.
const DEFAULT_TIMEOUT: i64 = 600;

/// One hook, in the form in which it is also kept in the state.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Hook {
    path: String,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    env: Vec<String>,
    /// Seconds.
    pub(crate) timeout: Option<i64>,
}

/// What hooks read on their standard input (runtime-spec, "State").
#[derive(Debug)]
pub(crate) struct HookState {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl HookState {
    /// As JSON; `pid` is the container's first process as the hook sees it.
    pub(crate) fn text(&self, status: &str, pid: i32) -> String {
        let text = serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        text.to_string()
    }
}

/// Hooks of the configuration.
pub(crate) fn from_spec(raw: &[RawHook<'_>]) -> Result<Vec<Hook>> {
    raw.iter().map(one).collect()
}

fn one(raw: &RawHook<'_>) -> Result<Hook> {
    let path = raw.path.as_str().to_owned();
    if !path.starts_with('/') {
        return Err(Failure::new(format!(
            "hook {path:?} is not an absolute path"
        )));
    }
    if raw.timeout.is_some_and(|timeout| timeout <= 0) {
        return Err(Failure::new(format!(
            "hook {path:?}: its timeout is not above zero"
        )));
    }
    let strings = |list: &[crate::spec::Text<'_>]| list.iter().map(|s| s.to_string()).collect();
    Ok(Hook {
        path,
        args: strings(&raw.args),
        env: strings(&raw.env),
        timeout: raw.timeout,
    })
}

/// Hooks that run on the host once the namespaces are there.
#[derive(Debug)]
pub(crate) struct HostHooks([(&'static str, Vec<Hook>); 2]);

impl HostHooks {
    /// Those of the configuration.
    pub(crate) fn of(raw: &crate::spec::Hooks<'_>) -> Result<HostHooks> {
        Ok(HostHooks([
            ("prestart", from_spec(&raw.prestart)?),
            ("createRuntime", from_spec(&raw.create_runtime)?),
        ]))
    }

    /// There are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, list)| list.is_empty())
    }

    /// Runs them; `state` is what they read.
    pub(crate) fn run(&self, state: &str) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(kind, list)| run_all(kind, list, state))
    }
}

/// Runs hooks one after another; the first failure ends it.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &str) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        run(hook, state).map_err(|failure| named(kind, number, &failure))?;
    }
    Ok(())
}

/// Runs all hooks one after another, whatever happens; failures go to `tell`.
pub(crate) fn run_each(kind: &str, hooks: &[Hook], state: &str, tell: impl Fn(Failure)) {
    for (number, hook) in hooks.iter().enumerate() {
        if let Err(failure) = run(hook, state) {
            tell(named(kind, number, &failure));
        }
    }
}

fn named(kind: &str, number: usize, failure: &Failure) -> Failure {
    Failure::new(format!("error running {kind} hook #{number}: {failure}"))
}

fn run(hook: &Hook, state: &str) -> Result<()> {
    let mut child = start(hook).attempt(|| format!("start {:?}", hook.path))?;
    let timeout = hook.timeout.unwrap_or(DEFAULT_TIMEOUT);
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(state.as_bytes()) {
            // It does not care about the state.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            result => result.attempt(|| format!("give the state to {:?}", hook.path))?,
        }
    }
    if !ended_in_time(&child, timeout)? {
        let _gone = child.kill();
        let _reaped = child.wait();
        return Err(Failure::new(format!(
            "{:?} ran past its timeout of {timeout} s",
            hook.path
        )));
    }
    let status = child
        .wait()
        .attempt(|| format!("wait for {:?}", hook.path))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::new(format!("exit status {code}"))),
        (None, signal) => Err(Failure::new(format!(
            "killed by signal {}",
            signal.unwrap_or(0)
        ))),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "hooks are children of this module alone"
)]
fn start(hook: &Hook) -> io::Result<Child> {
    let mut command = Command::new(&hook.path);
    // runtime-spec: args is the whole of argv, its first element included.
    if let Some((zeroth, rest)) = hook.args.split_first() {
        command.arg0(zeroth).args(rest);
    }
    // As with runc, a hook without an environment of its own gets that of the runtime.
    if !hook.env.is_empty() {
        command.env_clear();
    }
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn()
}

fn ended_in_time(child: &Child, seconds: i64) -> Result<bool> {
    let what = || "wait for a hook".to_owned();
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new(what()))?;
    let handle: OwnedFd = pidfd_open(pid, PidfdFlags::empty()).attempt(what)?;
    let deadline = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&deadline))).attempt(what)?;
    Ok(ended > 0)
}
