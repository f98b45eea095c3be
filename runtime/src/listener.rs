//! The descriptor on which a seccomp agent hears of system calls, on its way to that agent.

use std::os::fd::AsFd;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::failure::{Attempt, Failure, Result};
use crate::filter::Filter;
use crate::launch::Child;
use crate::socket;

/// Sends the child's listener to the agent, with the state of the container (runtime-spec,
/// "containerProcessState").
pub(crate) fn hand_over(
    child: &Child,
    number: i32,
    filter: Option<&Filter>,
    state: &str,
) -> Result<()> {
    let agent = filter.and_then(|filter| filter.listener.as_ref());
    let agent = agent.ok_or_else(|| Failure::new("seccomp: there is no listenerPath"))?;
    let what = || format!("failed to connect with seccomp agent {:?}", agent.path);
    let fd = pidfd_getfd(&child.pidfd, number, PidfdGetfdFlags::empty())
        .attempt(|| "fetch the seccomp listener".to_owned())?;
    let socket = socket::connect(&agent.path).attempt(what)?;
    let state = serde_json::value::RawValue::from_string(state.to_owned())
        .map_err(|error| crate::failure::because("describe the container", &error))?;
    let text = serde_json::json!({
        "ociVersion": crate::features::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": child.pid,
        "metadata": agent.metadata,
        "state": state,
    });
    socket::send(&socket, text.to_string().as_bytes(), fd.as_fd())
        .attempt(|| "send the seccomp listener".to_owned())
}
