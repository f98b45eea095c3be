//! `restore`: a container from images, going on where it was. Stays until the end unless told
//! otherwise.

use super::bundle::Bundle;
use super::pid_file;
use crate::cli::Values;
use crate::context::Context;
use crate::criu::options::{self, Folders};
use crate::criu::restore::{Restored, Wanted, restore};
use crate::criu::warn_ordinary_user;
use crate::failure::{Attempt, Result};
use crate::pid_file as pid;
use crate::terminal::{self, Console};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    warn_ordinary_user(context, "restore");
    let wanted = Wanted {
        folders: Folders::of(values)?,
        options: options::options(values)?,
    };
    let bundle = Bundle::of(context, values, id)?;
    let pid_file = pid_file(values)?;
    let detached = values.is_set("detach");
    let spec = bundle.spec()?;
    let process = spec.process.as_ref();
    let terminal = process.is_some_and(|process| process.terminal);
    let console = Console::choose(values.text("console-socket"), terminal, detached)?;
    if !detached && !values.is_set("no-subreaper") {
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))
            .attempt(|| "become a subreaper".to_owned())?;
    }
    let signals = (!detached).then(terminal::block_signals).transpose()?;
    let asked = bundle.request(values, false, console.socket());
    let Restored { container, child } = restore(context, &spec, &asked, &wanted)?;
    let told = console.master().and_then(|master| {
        pid::write(pid_file.as_deref(), child.pid)?;
        Ok(master)
    });
    let master = match told {
        Ok(master) => master,
        Err(failure) => {
            container.kill()?;
            container.destroy(&context.log)?;
            return Err(failure);
        }
    };
    let Some(signals) = signals else { return Ok(0) };
    let ended = terminal::accompany(&child.pidfd, &signals, master.as_ref(), None)?;
    container.kill()?;
    container.destroy(&context.log)?;
    Ok(u8::try_from(ended.code).unwrap_or(255))
}
