//! `exec`: one more process in a container.

use std::os::fd::OwnedFd;

use super::{FURTHER, hand_over_pidfd, pid_file, preserved, shut_others_out};
use crate::cli::Values;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::filter::Filter;
use crate::joiner::{self, Joining};
use crate::plan;
use crate::rights::Rights;
use crate::spec::{Process, Text};
use crate::terminal::{self, Console};
use crate::{messages, parent, pid_file as pid, seal};

pub(super) fn run(context: &Context, values: &Values, args: &[String]) -> Result<u8> {
    seal::ensure()?;
    let keep = preserved(values, 0)?;
    shut_others_out(keep)?;
    parent::check_preserved(keep)?;
    let (id, command) = args
        .split_first()
        .ok_or_else(|| Failure::new("no container id"))?;
    let container = Container::load(&context.root, id)?;
    let rights = Rights::own()?;
    refuse_unstarted(&container, &rights)?;
    let init = running(&container, values.is_set("ignore-paused"))?;
    let bytes = process_bytes(&container, values)?;
    let process = process(&bytes, values, command)?;
    let detached = values.is_set("detach");
    let console = Console::choose(values.text("console-socket"), process.terminal, detached)?;
    let below: Vec<&str> = values.all("cgroup").collect();
    let group = container.group()?.below(&below)?;
    let filter = stored_filter(&container)?;
    let pid_file = pid_file(values)?;
    let facts = parent::host_facts(&rights, false);
    let (plan, warnings) =
        plan::exec(&process, facts).map_err(|error| Failure::new(error.to_string()))?;
    warnings
        .iter()
        .for_each(|warning| context.log.warning(warning));
    let signals = if detached {
        None
    } else {
        Some(terminal::block_signals()?)
    };
    let joining = Joining {
        container: &container,
        init: &init,
        group: &group,
        group_given: !below.is_empty(),
        rights,
        process: &plan,
        filter: filter.as_ref(),
        console: console.socket(),
        preserved: keep,
    };
    let child = joiner::join(context, &joining)?;
    let master = console.master()?;
    hand_over_pidfd(values, &child.pidfd, FURTHER)?;
    pid::write(pid_file.as_deref(), child.pid)?;
    let Some(signals) = signals else { return Ok(0) };
    let ended = terminal::accompany(&child.pidfd, &signals, master.as_ref(), None)?;
    Ok(u8::try_from(ended.code).unwrap_or(255))
}

/// The first process is untraceable until it is the program, and its namespaces with it: for an
/// ordinary user, who has made none of them but by a user namespace.
fn refuse_unstarted(container: &Container, rights: &Rights) -> Result<()> {
    if !rights.administers && container.status()? == Status::Created {
        return Err(Failure::new(
            "cannot exec in a container that has not been started, as an ordinary user",
        ));
    }
    Ok(())
}

fn running(container: &Container, also_paused: bool) -> Result<OwnedFd> {
    match container.status()? {
        Status::Stopped => return Err(Failure::new("cannot exec in a stopped container")),
        Status::Paused if !also_paused => return Err(Failure::new(messages::PAUSED)),
        _ => {}
    }
    container
        .init()?
        .ok_or_else(|| Failure::new(messages::NOT_RUNNING))
}

/// `--process`, or the container's `config.json` for what the flags do not say.
fn process_bytes(container: &Container, values: &Values) -> Result<Vec<u8>> {
    match values.text("process") {
        Some(path) => std::fs::read(path).attempt(|| format!("read {path:?}")),
        None => {
            let own = &container.state.wrun;
            let usual = || own.bundle.join("config.json");
            parent::read_config(&own.config.clone().unwrap_or_else(usual))
        }
    }
}

fn process<'a>(bytes: &'a [u8], values: &Values, command: &[String]) -> Result<Process<'a>> {
    if values.text("process").is_some() {
        return serde_json::from_slice(bytes)
            .map_err(|error| because("parse process.json", &error));
    }
    if command.is_empty() {
        return Err(Failure::new("process args cannot be empty"));
    }
    let spec: crate::spec::Spec<'a> =
        serde_json::from_slice(bytes).map_err(|error| because("parse config.json", &error))?;
    let process = spec
        .process
        .ok_or_else(|| Failure::new("config.json has no process"))?;
    adjusted(process, values, command)
}

/// The container's own process, with what the flags change.
fn adjusted<'a>(
    mut process: Process<'a>,
    values: &Values,
    command: &[String],
) -> Result<Process<'a>> {
    let text = |text: &str| Text::from(text.to_owned());
    process.args = command.iter().map(|arg| text(arg)).collect();
    process.terminal = values.is_set("tty");
    process.console_size = None;
    process.env.extend(values.all("env").map(text));
    if let Some(cwd) = values.text("cwd") {
        process.cwd = text(cwd);
    }
    if let Some(label) = values.text("process-label") {
        process.selinux_label = Some(text(label));
    }
    if let Some(profile) = values.text("apparmor") {
        process.apparmor_profile = Some(text(profile));
    }
    if let Some(set) = values.text("no-new-privs") {
        process.no_new_privileges = set == "true";
    }
    for name in values.all("cap") {
        add_capability(&mut process, name);
    }
    if let Some(user) = values.text("user") {
        (process.user.uid, process.user.gid) = parse_user(user, process.user.gid)?;
    }
    for gid in values.all("additional-gids") {
        process.user.additional_gids.push(id(gid)?);
    }
    Ok(process)
}

/// A name that nobody knows is left out with a warning, as in a configuration.
fn add_capability(process: &mut Process<'_>, name: &str) {
    let sets = process.capabilities.get_or_insert_default();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.push(Text::from(name.to_owned()));
    }
}

/// `UID[:GID]`, digits only: what cannot be read must not become root.
fn parse_user(text: &str, default_gid: u32) -> Result<(u32, u32)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((id(uid)?, id(gid)?)),
        None => Ok((id(text)?, default_gid)),
    }
}

fn id(text: &str) -> Result<u32> {
    // parse() would also take "+1".
    let number = text
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse::<u32>().ok());
    let number = number.flatten().filter(|number| *number != u32::MAX);
    number.ok_or_else(|| Failure::new(format!("{text:?} is not a numeric id")))
}

fn stored_filter(container: &Container) -> Result<Option<Filter>> {
    if !container.state.wrun.seccomp {
        return Ok(None);
    }
    let path = container.folder.filter();
    if container.state.wrun.foreign {
        // Nobody has kept the compiled one.
        let bytes = parent::read_config(&container.state.wrun.bundle.join("config.json"))?;
        let spec: crate::spec::Spec<'_> =
            serde_json::from_slice(&bytes).map_err(|error| because("parse config.json", &error))?;
        let linux = spec.linux.as_ref();
        let raw = linux.and_then(|linux| linux.seccomp);
        let raw = raw.ok_or_else(|| Failure::new("config.json has no seccomp profile any more"))?;
        return Filter::compile(raw).map(Some);
    }
    let bytes = std::fs::read(&path).attempt(|| format!("read {path:?}"))?;
    Filter::read(&bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<(u32, u32)>) {
        assert_eq!(parse_user(text, 7).ok(), expect, "{text:?}");
    }

    #[test]
    fn users_are_numbers_and_nothing_else() {
        check("0", Some((0, 7)));
        check("1000:100", Some((1000, 100)));
        check("", None);
        check(":", None);
        check("1000x", None);
        check("+1", None);
        check("-1", None);
        check("4294967295", None);
        check("99999999999", None);
        check("root", None);
        check("1:2:3", None);
    }
}
