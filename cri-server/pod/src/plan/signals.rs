//! Signals by name and by number, as on x86 and arm (signal(7)).

use super::PlanError;
use crate::container::{ContainerSpec, ImageFacts};

/// First real-time signal that programs may use; glibc keeps 32 and 33 for itself.
const RTMIN: i32 = 34;
/// Last real-time signal.
const RTMAX: i32 = 64;
/// From here on the names count down from `SIGRTMAX`.
const NAMED_FROM_MAX: i32 = 50;

/// Names of the classic signals; the place in the list, counted from one, is the number.
const CLASSIC: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Other names for classic signals.
const ALIASES: [(&str, i32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

/// The signal that asks a container to stop, as number and name: the request's, else the image's,
/// else `SIGTERM`.
pub(super) fn stop_signal(
    spec: &ContainerSpec,
    image: &ImageFacts,
) -> Result<(i32, String), PlanError> {
    let asked = spec.stop_signal.as_deref().filter(|name| !name.is_empty());
    let (origin, text) = match (asked, image.stop_signal.as_str()) {
        (Some(name), _) => ("", name),
        (None, "") => ("", "SIGTERM"),
        (None, name) => (" (from the image)", name),
    };
    let number = number(text).ok_or_else(|| {
        PlanError::invalid("stop_signal", format!("{text:?}{origin} is no signal"))
    })?;
    Ok((number, name(number)))
}

/// The number of a signal given by name, with or without `SIG`, or by number.
fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return ((1..=31).contains(&number) || (RTMIN..=RTMAX).contains(&number)).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    classic(name).or_else(|| real_time(name))
}

fn classic(name: &str) -> Option<i32> {
    let place = CLASSIC.iter().position(|known| *known == name);
    place
        .and_then(|place| i32::try_from(place + 1).ok())
        .or_else(|| {
            ALIASES
                .iter()
                .find(|(alias, _)| *alias == name)
                .map(|(_, number)| *number)
        })
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN + offset(rest, '+')?
    } else {
        RTMAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    digits
        .parse::<u8>()
        .ok()
        .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
        .map(i32::from)
}

/// The name of a signal that [`number`] can give.
fn name(number: i32) -> String {
    match number {
        RTMIN => "SIGRTMIN".into(),
        RTMAX => "SIGRTMAX".into(),
        n if n >= NAMED_FROM_MAX => format!("SIGRTMAX-{}", RTMAX - n),
        n if n > RTMIN => format!("SIGRTMIN+{}", n - RTMIN),
        n => {
            let place = usize::try_from(n - 1).expect("numbers of classic signals begin at one");
            format!("SIG{}", CLASSIC[place])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, expect) in [
            ("SIGTERM", Some((15, "SIGTERM"))),
            ("term", Some((15, "SIGTERM"))),
            ("9", Some((9, "SIGKILL"))),
            ("SIGCLD", Some((17, "SIGCHLD"))),
            ("SIGRTMIN", Some((34, "SIGRTMIN"))),
            ("SIGRTMIN+3", Some((37, "SIGRTMIN+3"))),
            ("RTMIN+15", Some((49, "SIGRTMIN+15"))),
            ("RTMIN+16", Some((50, "SIGRTMAX-14"))),
            ("SIGRTMAX-1", Some((63, "SIGRTMAX-1"))),
            ("64", Some((64, "SIGRTMAX"))),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+", None),
            ("SIGRTMIN++1", None),
            ("SIGRTMIN-1", None),
            ("0", None),
            ("-9", None),
            ("32", None),
            ("65", None),
            ("SIG", None),
            ("SIGNOPE", None),
        ] {
            let found = number(text).map(|n| (n, name(n)));
            assert_eq!(found, expect.map(|(n, s)| (n, s.to_owned())), "{text}");
        }
    }

    #[test]
    fn every_name_leads_back() {
        for n in (1..=31).chain(RTMIN..=RTMAX) {
            assert_eq!(number(&name(n)), Some(n));
        }
    }

    #[test]
    fn the_request_wins_over_the_image() {
        let check = |spec: Option<&str>, image: &str, expect: Result<i32, &str>| {
            let spec = ContainerSpec {
                stop_signal: spec.map(Into::into),
                ..Default::default()
            };
            let image = ImageFacts {
                stop_signal: image.into(),
                ..Default::default()
            };
            let found = stop_signal(&spec, &image)
                .map(|(n, _)| n)
                .map_err(|e| e.to_string());
            assert_eq!(found, expect.map_err(Into::into));
        };
        check(None, "", Ok(15));
        check(None, "SIGQUIT", Ok(3));
        check(Some("SIGINT"), "SIGQUIT", Ok(2));
        check(Some(""), "SIGQUIT", Ok(3));
        check(
            Some("SIGFOO"),
            "",
            Err("stop_signal: \"SIGFOO\" is no signal"),
        );
        check(
            None,
            "x",
            Err("stop_signal: \"x\" (from the image) is no signal"),
        );
    }
}
