//! What criu's log says about a failure: its lines with `Error`, and a few before each.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use crate::log::Log;

/// Lines before one with an error.
const BEFORE: usize = 5;

/// Most lines that are quoted.
const MOST: usize = 60;

/// Most errors that are named beside the failure.
const NAMED: usize = 3;

/// Puts the telling lines into the log; gives the last errors.
pub(crate) fn errors(log: &Log, file: &Path) -> Option<String> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) => {
            log.warning(&format!("open criu's log {file:?}: {error}"));
            return None;
        }
    };
    let lines = BufReader::new(opened).split(b'\n').map_while(Result::ok);
    let (quoted, last) = telling(lines.map(|line| String::from_utf8_lossy(&line).into_owned()));
    if !quoted.is_empty() {
        log.warning(&format!("--- Quoting {file:?}"));
        quoted.iter().for_each(|line| log.warning(line));
        log.warning("---");
    }
    (!last.is_empty()).then(|| Vec::from(last).join("; "))
}

/// The lines to quote, with their numbers, and the texts of the last errors.
fn telling(lines: impl Iterator<Item = String>) -> (VecDeque<String>, VecDeque<String>) {
    let mut quoted = VecDeque::new();
    let mut before: VecDeque<(usize, String)> = VecDeque::new();
    let (mut shown, mut last) = (0, VecDeque::new());
    for (at, line) in lines.enumerate() {
        let number = at + 1;
        before.push_back((number, line));
        if before.len() > BEFORE + 1 {
            before.pop_front();
        }
        let error = before.back().filter(|(_, line)| line.contains("Error"));
        let Some((_, line)) = error else { continue };
        last.push_back(without_time(line).to_owned());
        if last.len() > NAMED {
            last.pop_front();
        }
        if shown > 0 && before.front().is_some_and(|(first, _)| *first > shown + 1) {
            quoted.push_back("...".to_owned());
        }
        quoted.extend(
            before
                .drain(..)
                .map(|(number, line)| format!("{number}:{line}")),
        );
        shown = number;
        while quoted.len() > MOST {
            quoted.pop_front();
        }
    }
    (quoted, last)
}

/// Lines begin with a time in parentheses.
fn without_time(line: &str) -> &str {
    line.strip_prefix('(')
        .and_then(|rest| rest.split_once(") "))
        .map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_what_led_to_them() {
        let text = |n: usize| match n {
            8 => "(00.1) Error (x): no".to_owned(),
            10 | 30 => "Error: yes".to_owned(),
            _ => format!("line {n}"),
        };
        let (quoted, last) = telling((1..=40).map(text));
        assert_eq!(quoted.front().unwrap(), "3:line 3");
        assert_eq!(quoted.iter().filter(|line| *line == "...").count(), 1);
        assert_eq!(quoted.len(), 6 + 2 + 1 + 6);
        assert_eq!(last, ["Error (x): no", "Error: yes", "Error: yes"]);
        assert_eq!(without_time("(00.1) Error (x): no"), "Error (x): no");
        assert_eq!(
            telling(std::iter::empty()),
            (VecDeque::new(), VecDeque::new())
        );
    }

    #[test]
    fn what_is_quoted_is_bounded() {
        let (quoted, _) = telling((0..1000).map(|n| format!("Error {n}")));
        assert_eq!(quoted.len(), MOST);
        assert_eq!(quoted.back().unwrap(), "1000:Error 999");
    }
}
