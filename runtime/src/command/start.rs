//! `start`: lets a created container's first process become its program.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::activation::Readiness;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::log::Log;
use crate::state::{Folder, Lock};
use crate::{hooks, messages};

/// Longest wait for the program to be executed, seconds: startContainer hooks run meanwhile.
const EXEC_DEADLINE: i64 = 600;

pub(super) fn run(context: &Context, id: &str) -> Result<u8> {
    let lock = Folder::of(&context.root, id)?.lock()?;
    start(&context.log, &Container::load(&context.root, id)?, lock)?;
    Ok(0)
}

/// Starts a container of which nothing is known but its state.
fn start(log: &Log, container: &Container, lock: Lock) -> Result<()> {
    match container.status()? {
        Status::Created if container.state.wrun.foreign => Err(Failure::new(
            "the container was made by another runtime, which has to start it",
        )),
        Status::Created => {
            let init = container.init()?;
            let readiness = release(log, container, Until::Executed, lock)?;
            await_readiness(container, init.as_ref(), readiness.as_ref())
        }
        Status::Stopped => Err(Failure::new("cannot start a container that has stopped")),
        Status::Running | Status::Paused => {
            Err(Failure::new("cannot start an already running container"))
        }
    }
}

/// Stays until the container has told the service manager that it is ready, if there is one.
pub(super) fn await_readiness(
    container: &Container,
    init: Option<&OwnedFd>,
    readiness: Option<&Readiness>,
) -> Result<()> {
    match (readiness, init) {
        (Some(readiness), Some(init)) => readiness.wait(init, container.state.init_process_pid),
        _ => Ok(()),
    }
}

/// How long [`release`] stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Until {
    /// The caller waits for the end anyway.
    Released,
    /// The program has replaced our init, or that has ended.
    Executed,
}

/// Opens the gate of a created container.
pub(super) fn release(
    log: &Log,
    container: &Container,
    until: Until,
    lock: Lock,
) -> Result<Option<Readiness>> {
    let readiness = Readiness::listen(&container.folder)?;
    let gate = open_gate(container)?;
    std::fs::remove_file(container.folder.gate()).attempt(|| "remove the gate".to_owned())?;
    rustix::io::write(&gate, b"s").attempt(|| "open the gate".to_owned())?;
    drop(lock);
    let list = &container.state.wrun.poststart;
    if until == Until::Executed || !list.is_empty() {
        wait_for_exec(&gate)?;
    }
    if list.is_empty() {
        return Ok(readiness);
    }
    let state = container.hook_state(Status::Running);
    hooks::run_all("poststart", list, &state).map_err(|failure| {
        // runtime.md, "Lifecycle", step 9: then the container is stopped and destroyed.
        match container.kill().and_then(|()| container.destroy(log)) {
            Ok(()) => failure,
            Err(second) => Failure::new(format!("{failure} (and then: {second})")),
        }
    })?;
    Ok(readiness)
}

fn open_gate(container: &Container) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open(container.folder.gate(), flags, Mode::empty()) {
        // Nobody reads: the process has ended.
        Err(Errno::NXIO) => Err(Failure::new(messages::NOT_RUNNING)),
        Err(Errno::NOENT) => Err(Failure::new("cannot start an already running container")),
        gate => gate.attempt(|| "open the gate".to_owned()),
    }
}

/// The waiting process holds the only other end, close-on-exec: when that goes, it has executed the
/// program or has ended.
fn wait_for_exec(gate: &OwnedFd) -> Result<()> {
    let deadline = Timespec {
        tv_sec: EXEC_DEADLINE,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(gate, PollFlags::empty())];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&deadline)))
        .attempt(|| "wait for the program".to_owned())?;
    Ok(())
}
