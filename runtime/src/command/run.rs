//! `run`: create and start, and stay until the end unless told otherwise.

use std::os::fd::OwnedFd;

use super::start::Until;
use super::{bundle, pid_file, preserved, request, shut_others_out, start};
use crate::cli::Values;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::parent::{self, Created};
use crate::terminal::{self, Console};
use crate::{pid_file as pid, seal};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    seal::ensure()?;
    shut_others_out(preserved(values)?)?;
    let (bundle, pid_file) = (bundle(values)?, pid_file(values)?);
    let detached = values.is_set("detach");
    let bytes = parent::read_config(&bundle)?;
    let spec = parent::parse_config(&bundle, &bytes)?;
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
    let request = request(values, id, &bundle, console.socket())?;
    let Created { container, child } = parent::create(context, &spec, &request)?;
    let begun = console.master().and_then(|master| {
        pid::write(pid_file.as_deref(), child.pid)?;
        let until = if detached {
            Until::Executed
        } else {
            Until::Released
        };
        start::release(&container, until)?;
        Ok(master)
    });
    let master = match begun {
        Ok(master) => master,
        Err(failure) => {
            remove(&container)?;
            return Err(failure);
        }
    };
    let Some(signals) = signals else { return Ok(0) };
    stay(
        &container,
        &child.pidfd,
        &signals,
        master.as_ref(),
        values.is_set("keep"),
    )
}

fn stay(
    container: &Container,
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    master: Option<&OwnedFd>,
    keep: bool,
) -> Result<u8> {
    let ended = terminal::accompany(pidfd, signals, master)?;
    if !keep {
        remove(container)?;
    }
    Ok(u8::try_from(ended.code).unwrap_or(255))
}

fn remove(container: &Container) -> Result<()> {
    container.kill()?;
    container.destroy()
}
