//! `ps`: the processes of a container, by their numbers on the host.

use std::process::Command;

use crate::cli::Values;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::print;

pub(super) fn run(context: &Context, values: &Values, args: &[String]) -> Result<u8> {
    let (id, options) = args
        .split_first()
        .ok_or_else(|| Failure::new("no container id"))?;
    let pids = Container::load(&context.root, id)?.processes()?;
    match values.text("format").unwrap_or("table") {
        "json" => {
            let text = serde_json::to_string(&pids)
                .map_err(|error| because("write the processes", &error))?;
            print(&text);
        }
        "table" => print(&filter(&host_ps(options)?, &pids)?),
        _ => return Err(Failure::new("invalid format option")),
    }
    Ok(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the table is that of the host's ps; nothing else runs it"
)]
fn host_ps(options: &[String]) -> Result<String> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command
        .output()
        .attempt(|| "run ps of the host".to_owned())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!(
            "ps of the host failed: {}",
            said.trim()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The header, and the lines whose PID column is one of `pids`.
fn filter(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Failure::new("couldn't find PID field in ps output"))?;
    let wanted = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let kept = std::iter::once(header).chain(lines.filter(wanted));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_container() {
        let text = "UID  PID CMD\nroot  1 init\nroot 12 sh 7\n";
        assert_eq!(
            filter(text, &[12, 7]).unwrap(),
            "UID  PID CMD\nroot 12 sh 7\n"
        );
        assert!(filter("UID CMD\n", &[1]).is_err());
    }
}
