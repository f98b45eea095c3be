//! `wrun`: an OCI runtime with the command line of runc.
//!
//! ```text
//! words -cli-> Verb -command-> plan (pure) -> prepare (host) -launch-> init (child) -> program
//!                                                  `-- parent (limits, ids, hooks, state) --'
//! ```
//!
//! One process, one thread, no waiting but on events. It knows nothing of engines, pods or images.
//!
//! A library only so that others than `main.rs` can call into it: [`judge`] for fuzzing. No program
//! but `wrun` is made of it.

mod activation;
mod adopt;
mod cgroups;
mod cli;
mod command;
mod container;
mod context;
mod criu;
mod failure;
mod features;
mod file;
mod filter;
mod hooks;
mod init;
mod joiner;
pub mod judge;
mod launch;
mod listener;
mod log;
mod messages;
mod net_devices;
mod oom;
mod parent;
mod pid_file;
mod plan;
mod prepare;
mod process_limits;
mod rdt;
mod reap;
mod rights;
mod seal;
mod socket;
mod spec;
mod state;
mod sync;
mod terminal;
mod time;
mod user_namespace;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cgroups::Manager;
use cli::{Line, Misuse, Values, What};
use context::Context;
use failure::{Failure, Result};
use log::{Log, say};

/// For root.
const DEFAULT_ROOT: &str = "/run/wrun";

/// What urfave/cli answers to a command that does not exist.
const NO_SUCH_COMMAND: u8 = 3;

/// Carries out what the command line of this process says, and gives its exit status.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let called = words.next().unwrap_or_default();
    let program = Path::new(&called)
        .file_name()
        .map_or("wrun".into(), |name| name.to_string_lossy());
    let words: Vec<String> = words.collect();
    match cli::parse(&words) {
        Ok(line) => ExitCode::from(obey(&program, line)),
        Err(misuse) => ExitCode::from(explain(&program, &misuse)),
    }
}

fn print(text: &str) {
    // Nobody who closed our output wants to hear that it is closed.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn explain(program: &str, misuse: &Misuse) -> u8 {
    let help = misuse
        .verb
        .map_or_else(|| cli::help::all(program), |v| cli::help::one(program, v));
    print(&format!("Incorrect Usage.\n\n{help}\n"));
    say(&misuse.wrong.0);
    1
}

fn obey(program: &str, line: Line) -> u8 {
    match line.what {
        What::Help(None) => print(&cli::help::all(program)),
        What::Help(Some(verb)) => print(&cli::help::one(program, verb)),
        What::Version => print(&features::version()),
        What::Unknown(name) => {
            say(&format!("No help topic for '{name}'"));
            return NO_SUCH_COMMAND;
        }
        What::Verb { verb, values, args } => {
            let context = match context(&line.global) {
                Ok(context) => context,
                Err(failure) => {
                    say(&failure.to_string());
                    return 1;
                }
            };
            return command::run(&context, program, verb, &values, &args);
        }
    }
    0
}

fn context(global: &Values) -> Result<Context> {
    let log = Log::open(&log::Wanted {
        target: global.text("log"),
        format: global.text("log-format"),
        level: global.text("log-level"),
        debug: global.is_set("debug"),
    })?;
    let given = global.text("root").filter(|root| !root.is_empty());
    let users = given.is_none().then(users_root).flatten();
    let root_is_users = users.is_some();
    let root = match (given, users) {
        (Some(root), _) => absolute(Path::new(root))?,
        (None, Some(root)) => root,
        (None, None) => PathBuf::from(DEFAULT_ROOT),
    };
    if root == Path::new("/") {
        return Err(Failure::new(
            "option --root argument should not be set to /",
        ));
    }
    Ok(Context {
        root,
        root_given: given.is_some(),
        root_is_users,
        rootless: rights::is_rootless(rootless(global)?),
        manager: manager(global)?,
        log,
    })
}

/// runc's flag, or crun's.
fn manager(global: &Values) -> Result<Manager> {
    match global.text("cgroup-manager") {
        None | Some("") if global.is_set("systemd-cgroup") => Ok(Manager::Systemd),
        None | Some("" | "cgroupfs") => Ok(Manager::Cgroupfs),
        Some("systemd") => Ok(Manager::Systemd),
        Some("disabled") => Ok(Manager::Disabled),
        Some(other) => Err(Failure::new(format!("unknown cgroup manager {other:?}"))),
    }
}

/// `--rootless`; `None` for `auto`.
fn rootless(global: &Values) -> Result<Option<bool>> {
    match global.text("rootless") {
        None | Some("" | "auto") => Ok(None),
        Some(word) => cli::parse_bool(word)
            .map(Some)
            .ok_or_else(|| Failure::new(format!("invalid value {word:?} for --rootless"))),
    }
}

/// The folder of who is not root of the machine.
fn users_root() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
    rights::is_users_own().then(|| PathBuf::from(own).join("wrun"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    use failure::Attempt as _;
    std::path::absolute(path).attempt(|| format!("find {path:?}"))
}
