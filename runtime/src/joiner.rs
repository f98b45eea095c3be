//! Putting one more process into a container: the parent's side.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use crate::cgroups::{self, ContainerGroup, Entrance};
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::filter::Filter;
use crate::init::{self, Errand};
use crate::launch::{self, Child};
use crate::plan::{NamespaceKind, ProcessPlan};
use crate::prepare::ProcRoot;
use crate::reap::reap;
use crate::rights::Rights;
use crate::sync::{Message, ParentEnd};
use crate::{listener, process_limits, rdt};

/// What is joined by what.
#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) container: &'a Container,
    /// The container's first process.
    pub(crate) init: &'a OwnedFd,
    /// Where the process goes.
    pub(crate) group: &'a ContainerGroup,
    /// It is not simply the container's.
    pub(crate) group_given: bool,
    pub(crate) rights: Rights,
    pub(crate) process: &'a ProcessPlan<'a>,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) console: Option<&'a OwnedFd>,
    pub(crate) preserved: u32,
}

/// Starts the process; it runs when this returns.
pub(crate) fn join(context: &Context, joining: &Joining<'_>) -> Result<Child> {
    let own = &joining.container.state.wrun;
    let labelled =
        joining.process.apparmor_profile.is_some() || joining.process.selinux_label.is_some();
    let proc = if labelled {
        Some(ProcRoot::of_host()?)
    } else {
        None
    };
    let keyring = own
        .keyring
        .then(|| format!("_ses.{}", joining.container.state.id));
    init::pin(joining.process.affinity.initial.as_deref())?;
    let start = |entrance: &Entrance| {
        let rights = &joining.rights;
        let before = || {
            // Said by the parent of whoever cannot; a process of an ordinary user only ever raises it.
            let _lowered = process_limits::set_own_badness(joining.process);
        };
        launch::further(
            joining.init,
            own.namespaces,
            rights,
            entrance,
            before,
            |sync| {
                let errand = Errand {
                    sync,
                    entrance,
                    process: joining.process,
                    nature: &own.nature,
                    filter: joining.filter,
                    console: joining.console,
                    keyring: keyring.as_deref(),
                    preserved: joining.preserved,
                };
                init::further(errand, proc.as_ref(), || {
                    enter(joining.init, rights, own.namespaces)
                })
            },
        )
    };
    let started = joining
        .group
        .entrance()
        .and_then(|entrance| start(&entrance));
    let (child, near) = match started {
        // cgroups(7), "no internal processes": the container has groups with controllers below its
        // own, so its first process cannot be there either.
        Err(failure) if failure.errno() == Some(Errno::BUSY) && !joining.group_given => start(
            &cgroups::of_process(joining.container.state.init_process_pid)?,
        )?,
        // A user's session is not a part of what that user's systemd may change.
        Err(failure)
            if failure.errno() == Some(Errno::ACCESS) && joining.group.unit().is_some() =>
        {
            let (child, near) = start(&Entrance::Made)?;
            attached(joining, child, near)?
        }
        started => started?,
    };
    match accompany(context, joining, &child, &near) {
        Ok(()) => Ok(child),
        Err(failure) => Err(given_up(&child, failure)),
    }
}

/// All namespaces of the container in one call; those of children were entered before the clone.
fn enter(init: &OwnedFd, rights: &Rights, namespaces: i32) -> Result<()> {
    let rest = namespaces & !launch::early(rights, namespaces);
    if rest != 0 {
        sys::process::setns(init, rest)
            .attempt(|| "join the namespaces of the container".to_owned())?;
    }
    if namespaces & NamespaceKind::User.flag() != 0 {
        init::become_root()?;
    }
    Ok(())
}

/// Has systemd move the waiting child to the others.
fn attached(joining: &Joining<'_>, child: Child, near: ParentEnd) -> Result<(Child, ParentEnd)> {
    match joining.group.attach(child.pid).and_then(|()| near.go()) {
        Ok(()) => Ok((child, near)),
        Err(failure) => Err(given_up(&child, failure)),
    }
}

/// Ends a child that is of no use.
fn given_up(child: &Child, failure: Failure) -> Failure {
    // It may have ended by itself.
    let _sent = sys::process::pidfd_send_signal(child.pidfd.as_fd(), 9);
    match reap(&child.pidfd) {
        Ok(_status) => failure,
        Err(second) => Failure::new(format!("{failure} (and then: {second})")),
    }
}

fn accompany(
    context: &Context,
    joining: &Joining<'_>,
    child: &Child,
    near: &ParentEnd,
) -> Result<()> {
    loop {
        match near.next()? {
            Some(Message::Warning(text)) => context.log.warning(&text),
            Some(Message::Ready) => {
                let administers = joining.rights.administers;
                process_limits::apply(&context.log, child.pid, joining.process, administers)?;
                if let Some(share) = &joining.container.state.wrun.rdt {
                    rdt::join(share, child.pid)?;
                }
                near.go()?;
            }
            Some(Message::Listener(number)) => {
                let state = joining.container.hook_state(Status::Running);
                listener::hand_over(child, number, joining.filter, &state)?;
                near.go()?;
            }
            Some(Message::Waiting) => return Ok(()),
            Some(Message::Failed(text)) => return Err(Failure::new(text)),
            Some(Message::HooksPlease | Message::Born(_) | Message::Criu(_)) | None => {
                return Err(Failure::new("the new process was killed"));
            }
        }
    }
}
