//! One verb a file. Each gets its flags and arguments and gives an exit status.

mod bundle;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod figures;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod run;
mod several;
mod spec;
mod start;
mod state;
pub(crate) mod update;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use crate::cli::table::Verb;
use crate::cli::{Values, Wrong, completion, man};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::{features, print, socket, state as kept};

impl From<kept::Error> for Failure {
    fn from(error: kept::Error) -> Failure {
        match error {
            kept::Error::Failed(failure) => failure,
            kept::Error::DoesNotExist => Failure::new(error.to_string()),
        }
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Failure {
        Failure::new(wrong.0)
    }
}

/// Runs a command; its failure goes to the log, with the prefix that runc gives it.
pub(crate) fn run(
    context: &Context,
    program: &str,
    verb: &Verb,
    values: &Values,
    args: &[String],
) -> u8 {
    // The table requires an id wherever a command looks at the first argument.
    let id = args.first().map_or("", String::as_str);
    let (done, prefix, code) = match verb.name {
        "create" => (create::run(context, values, id), "wrun create failed: ", 1),
        "run" => (run::run(context, values, id), "wrun run failed: ", 1),
        "exec" => (exec::run(context, values, args), "exec failed: ", 255),
        "checkpoint" => (checkpoint::run(context, values, id), "", 1),
        "restore" => (restore::run(context, values, id), "", 1),
        "start" => (start::run(context, id), "", 1),
        "state" => (state::run(context, id), "", 1),
        "kill" => {
            let signal = args.get(1).map(String::as_str);
            let kill = |id: &str| kill::run(context, id, signal);
            (several::each(context, values, id, kill), "", 1)
        }
        "delete" => {
            let delete = |id: &str| delete::run(context, values, id);
            (several::each(context, values, id, delete), "", 1)
        }
        "events" => (events::run(context, values, id), "", 1),
        "completion" => (show_completion(id, program), "", 1),
        "man" => (show_manual(), "", 1),
        "list" => (list::run(context, values), "", 1),
        "ps" => (ps::run(context, values, args), "", 1),
        "pause" => (pause::pause(context, id), "", 1),
        "resume" => (pause::resume(context, id), "", 1),
        "spec" => (spec::run(values), "", 1),
        "update" => (update::run(context, values, id), "", 1),
        "features" => (show_features(), "", 1),
        other => (Err(Failure::new(format!("{other} is not built"))), "", 1),
    };
    done.unwrap_or_else(|failure| {
        context.log.error(&format!("{prefix}{failure}"));
        code
    })
}

/// `completion` and its shell, which is where other commands have the id.
fn show_completion(shell: &str, program: &str) -> Result<u8> {
    let script = completion::script(shell, program);
    print(&script.ok_or_else(|| Failure::new(format!("{shell:?} is none of bash, zsh and fish")))?);
    Ok(0)
}

fn show_manual() -> Result<u8> {
    print(&man::page());
    Ok(0)
}

fn show_features() -> Result<u8> {
    let text = serde_json::to_string_pretty(&features::features())
        .map_err(|error| because("write features", &error))?;
    print(&format!("{text}\n"));
    Ok(0)
}

/// `--pid-file`, absolute.
fn pid_file(values: &Values) -> Result<Option<PathBuf>> {
    let given = values.text("pid-file").filter(|path| !path.is_empty());
    given
        .map(|path| std::path::absolute(path).attempt(|| format!("find the pid file {path:?}")))
        .transpose()
}

/// What goes with a pidfd of a container's first process, and of a further one; runc's words.
const INIT: &[u8] = b"standard";
const FURTHER: &[u8] = b"setns";

/// `--pidfd-socket`.
fn hand_over_pidfd(values: &Values, pidfd: &OwnedFd, kind: &[u8]) -> Result<()> {
    let Some(path) = values.text("pidfd-socket").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let what = || format!("send a pidfd to {path:?}");
    let socket = socket::connect(path).attempt(what)?;
    socket::send(&socket, kind, pidfd.as_fd()).attempt(what)
}

/// `--preserve-fds`, and `listening` more.
fn preserved(values: &Values, listening: u32) -> Result<u32> {
    let count = values.number("preserve-fds")?.saturating_add(listening);
    if count > MAX_PRESERVED {
        return Err(Failure::new(format!(
            "--preserve-fds: more than {MAX_PRESERVED}"
        )));
    }
    Ok(count)
}

/// Most descriptors that are passed on.
const MAX_PRESERVED: u32 = 4096;

/// Marks every inherited descriptor that the container is not to have.
fn shut_others_out(preserved: u32) -> Result<()> {
    sys::process::close_on_exec_from(3 + preserved)
        .attempt(|| "mark inherited descriptors (Linux 5.12 is needed)".to_owned())
}
