//! `kill`: a signal to the first process of a container.

use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::messages;

/// signal(7), by number from 1, on every architecture that we are built for.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Highest signal number.
const LAST: i32 = 64;

/// First real-time signal, as C libraries count: the kernel's first two are theirs.
const RTMIN: i32 = 34;

pub(super) fn run(context: &Context, id: &str, signal: Option<&str>) -> Result<u8> {
    let container = Container::load(&context.root, id)?;
    let signal = parse(signal.unwrap_or("TERM"))?;
    if container.status()? == Status::Stopped {
        return Err(Failure::new(messages::NOT_RUNNING));
    }
    container.signal(signal)?;
    Ok(0)
}

/// A number, or a name with or without `SIG`.
fn parse(text: &str) -> Result<i32> {
    let unknown = || Failure::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=LAST).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plain = NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|at| i32::try_from(at + 1).ok());
    plain
        .or_else(|| alias(name))
        .or_else(|| realtime(name))
        .ok_or_else(unknown)
}

fn alias(name: &str) -> Option<i32> {
    match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        _ => None,
    }
}

fn realtime(name: &str) -> Option<i32> {
    let number = if let Some(above) = name.strip_prefix("RTMIN") {
        RTMIN
            + if above.is_empty() {
                0
            } else {
                above.strip_prefix('+')?.parse().ok()?
            }
    } else {
        let below = name.strip_prefix("RTMAX")?;
        LAST - if below.is_empty() {
            0
        } else {
            below.strip_prefix('-')?.parse().ok()?
        }
    };
    (RTMIN..=LAST).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<i32>) {
        assert_eq!(parse(text).ok(), expect, "{text}");
    }

    #[test]
    fn signals_by_number_and_name() {
        check("9", Some(9));
        check("0", Some(0));
        check("TERM", Some(15));
        check("SIGKILL", Some(9));
        check("sigusr1", Some(10));
        check("RTMIN+3", Some(37));
        check("SIGRTMAX", Some(64));
        check("RTMAX-64", None);
        check("65", None);
        check("-1", None);
        check("MOON", None);
        check("", None);
    }
}
