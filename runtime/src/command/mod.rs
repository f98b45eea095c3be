//! One verb a file. Each gets its flags and arguments and gives an exit status.

mod create;
mod delete;
mod exec;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
pub(crate) mod update;

use std::path::{Path, PathBuf};

use crate::cli::table::Verb;
use crate::cli::{Values, Wrong};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::parent::Request;
use crate::plan::Choices;
use crate::{features, print, state as kept};

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
pub(crate) fn run(context: &Context, verb: &Verb, values: &Values, args: &[String]) -> u8 {
    // The table requires an id wherever a command looks at the first argument.
    let id = args.first().map_or("", String::as_str);
    let (done, prefix, code) = match verb.name {
        "create" => (create::run(context, values, id), "wrun create failed: ", 1),
        "run" => (run::run(context, values, id), "wrun run failed: ", 1),
        "exec" => (exec::run(context, values, args), "exec failed: ", 255),
        "start" => (start::run(context, id), "", 1),
        "state" => (state::run(context, id), "", 1),
        "kill" => (
            kill::run(context, id, args.get(1).map(String::as_str)),
            "",
            1,
        ),
        "delete" => (delete::run(context, values, id), "", 1),
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

fn show_features() -> Result<u8> {
    let text = serde_json::to_string_pretty(&features::features())
        .map_err(|error| because("write features", &error))?;
    print(&format!("{text}\n"));
    Ok(0)
}

/// `--bundle`, absolute.
fn bundle(values: &Values) -> Result<PathBuf> {
    let given = values
        .text("bundle")
        .filter(|dir| !dir.is_empty())
        .unwrap_or(".");
    std::fs::canonicalize(given).attempt(|| format!("find the bundle {given:?}"))
}

/// `--pid-file`, absolute.
fn pid_file(values: &Values) -> Result<Option<PathBuf>> {
    let given = values.text("pid-file").filter(|path| !path.is_empty());
    given
        .map(|path| std::path::absolute(path).attempt(|| format!("find the pid file {path:?}")))
        .transpose()
}

/// Descriptors to keep: those asked for, and those of socket activation (sd_listen_fds(3)).
fn preserved(values: &Values) -> Result<u32> {
    let listen = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse::<u32>().ok());
    let count = values
        .number("preserve-fds")?
        .saturating_add(listen.unwrap_or(0));
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
        .attempt(|| "mark inherited descriptors".to_owned())
}

fn request<'a>(
    values: &Values,
    id: &'a str,
    bundle: &'a Path,
    console: Option<&'a std::os::fd::OwnedFd>,
) -> Result<Request<'a>> {
    Ok(Request {
        id,
        bundle,
        choices: Choices {
            no_pivot: values.is_set("no-pivot"),
            no_new_keyring: values.is_set("no-new-keyring"),
        },
        preserved: preserved(values)?,
        console,
    })
}
