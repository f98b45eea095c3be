//! The descriptor on which a seccomp agent hears of system calls, on its way to that agent.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::failure::{Attempt, Failure, Result};
use crate::filter::Filter;
use crate::launch::Child;

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
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).attempt(what)?;
    let address = SocketAddrUnix::new(agent.path.as_str()).attempt(what)?;
    connect(&socket, &address).attempt(what)?;
    let state = serde_json::value::RawValue::from_string(state.to_owned())
        .map_err(|error| crate::failure::because("describe the container", &error))?;
    let text = serde_json::json!({
        "ociVersion": crate::features::OCI_VERSION,
        "fds": ["seccompFd"],
        "pid": child.pid,
        "metadata": agent.metadata,
        "state": state,
    });
    let text = text.to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    if !beside.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Failure::new(
            "send the seccomp listener: no space for a descriptor",
        ));
    }
    sendmsg(
        &socket,
        &[IoSlice::new(text.as_bytes())],
        &mut beside,
        SendFlags::NOSIGNAL,
    )
    .attempt(|| "send the seccomp listener".to_owned())?;
    Ok(())
}
