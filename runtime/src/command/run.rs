//! `run`: create and start, and stay until the end unless told otherwise.

use super::bundle::Bundle;
use std::os::fd::OwnedFd;

use super::start::Until;
use super::{INIT, hand_over_pidfd, pid_file, start};
use crate::activation::{self, Readiness};
use crate::cli::Values;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::log::Log;
use crate::parent::{self, Created};
use crate::terminal::{self, Console};
use crate::{pid_file as pid, seal};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    seal::ensure()?;
    let bundle = Bundle::of(context, values, id)?;
    let pid_file = pid_file(values)?;
    let detached = values.is_set("detach");
    let spec = bundle.spec()?;
    let wants_terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    let console = Console::choose(values.text("console-socket"), wants_terminal, detached)?;
    if !detached && !values.is_set("no-subreaper") {
        // So that processes that outlive the first one are ours to collect.
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))
            .attempt(|| "become a subreaper".to_owned())?;
    }
    let signals = if detached {
        None
    } else {
        Some(terminal::block_signals()?)
    };
    // Unless somebody has to be told of the process before it is a program.
    let at_once = !detached
        && console.socket().is_none()
        && !activation::is_wanted()
        && ["pid-file", "pidfd-socket"]
            .iter()
            .all(|flag| values.text(flag).is_none());
    let request = bundle.request(values, at_once, console.socket());
    let Created {
        container,
        child,
        started,
    } = parent::create(context, &spec, &request)?;
    if started {
        let signals = signals.expect("who starts at once waits for the end");
        return stay(
            &context.log,
            &container,
            &child.pidfd,
            &signals,
            None,
            None,
            values,
        );
    }
    let begun = console.master().and_then(|master| {
        hand_over_pidfd(values, &child.pidfd, INIT)?;
        pid::write(pid_file.as_deref(), child.pid)?;
        let until = if detached {
            Until::Executed
        } else {
            Until::Released
        };
        let readiness = start::release(&context.log, &container, until, container.folder.lock()?)?;
        Ok((master, readiness))
    });
    let (master, readiness) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            // A failed poststart hook has done that already.
            if container.folder.path().exists() {
                remove(&context.log, &container)?;
            }

            return Err(failure);
        }
    };
    let Some(signals) = signals else {
        start::await_readiness(&container, Some(&child.pidfd), readiness.as_ref())?;
        return Ok(0);
    };
    let readiness = readiness.map(|readiness| (readiness, child.pid));
    let pidfd = &child.pidfd;
    stay(
        &context.log,
        &container,
        pidfd,
        &signals,
        master.as_ref(),
        readiness,
        values,
    )
}

fn stay(
    log: &Log,
    container: &Container,
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    master: Option<&OwnedFd>,
    readiness: Option<(Readiness, i32)>,
    values: &Values,
) -> Result<u8> {
    let ended = terminal::accompany(pidfd, signals, master, readiness)?;
    if !values.is_set("keep") {
        remove(log, container)?;
    }
    Ok(u8::try_from(ended.code).unwrap_or(255))
}

fn remove(log: &Log, container: &Container) -> Result<()> {
    container.kill()?;
    container.destroy(log)
}
