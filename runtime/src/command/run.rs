//! `run`: create and start, and stay until the end unless told otherwise.

use super::bundle::Bundle;
use super::start::Until;
use super::{INIT, hand_over_pidfd, pid_file, start};
use crate::cli::Values;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Result};
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
    let request = bundle.request(values, console.socket());
    let Created { container, child } = parent::create(context, &spec, &request)?;
    let begun = console.master().and_then(|master| {
        hand_over_pidfd(values, &child.pidfd, INIT)?;
        pid::write(pid_file.as_deref(), child.pid)?;
        let until = if detached {
            Until::Executed
        } else {
            Until::Released
        };
        let readiness = start::release(&container, until)?;
        Ok((master, readiness))
    });
    let (master, readiness) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            remove(&container)?;
            return Err(failure);
        }
    };
    let Some(signals) = signals else {
        start::await_readiness(&container, Some(&child.pidfd), readiness.as_ref())?;
        return Ok(0);
    };
    let readiness = readiness.map(|readiness| (readiness, child.pid));
    let ended = terminal::accompany(&child.pidfd, &signals, master.as_ref(), readiness)?;
    if !values.is_set("keep") {
        remove(&container)?;
    }
    Ok(u8::try_from(ended.code).unwrap_or(255))
}

fn remove(container: &Container) -> Result<()> {
    container.kill()?;
    container.destroy()
}
