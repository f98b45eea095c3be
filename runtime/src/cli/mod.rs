//! The command line, as runc's: one table ([`table`]) from which parser and help come.
//!
//! It follows Go's `flag` package: `-name` is `--name`, a value comes after `=` or as the next word,
//! boolean flags take `=true` and `=false`, short flags are not bundled. Flags may follow arguments,
//! but not in `exec` and `ps`, where everything after the id belongs to another program.

pub(crate) mod completion;
pub(crate) mod help;
pub(crate) mod man;
pub(crate) mod table;

use table::{Flag, GLOBAL, Kind, VERBS, Verb};

/// Values of flags, in the order in which they were given.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Values(Vec<(&'static str, String)>);

impl Values {
    /// The last value given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values given.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean flag.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A number; 0 if not given.
    pub(crate) fn number(&self, name: &str) -> Result<u32, Wrong> {
        let Some(text) = self.text(name) else {
            return Ok(0);
        };
        text.parse()
            .map_err(|_not_a_number| Wrong(format!("invalid value {text:?} for flag -{name}")))
    }
}

/// A command line that makes sense.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) global: Values,
    pub(crate) what: What,
}

/// What it asks for.
#[derive(Debug)]
pub(crate) enum What {
    /// Help on everything, or on one command.
    Help(Option<&'static Verb>),
    Version,
    /// A name that is no command.
    Unknown(String),
    Verb {
        verb: &'static Verb,
        values: Values,
        args: Vec<String>,
    },
}

/// What does not make sense about a command line.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Wrong(pub(crate) String);

/// A mistake, and the command whose help is of use.
#[derive(Debug)]
pub(crate) struct Misuse {
    pub(crate) verb: Option<&'static Verb>,
    pub(crate) wrong: Wrong,
}

/// Parses words (without the program's name).
pub(crate) fn parse(words: &[String]) -> Result<Line, Misuse> {
    let mut global = Values::default();
    let rest = flags(words, GLOBAL, &mut global).map_err(|wrong| Misuse { verb: None, wrong })?;
    let what = match rest.split_first() {
        _ if global.is_set("help") => What::Help(None),
        _ if global.is_set("version") => What::Version,
        None => What::Help(None),
        Some((name, rest)) if name == "help" || name == "h" => {
            What::Help(rest.first().and_then(|name| find(name)))
        }
        Some((name, rest)) => match find(name) {
            Some(verb) => command(verb, rest).map_err(|wrong| Misuse {
                verb: Some(verb),
                wrong,
            })?,
            None => What::Unknown(name.clone()),
        },
    };
    Ok(Line { global, what })
}

fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

fn command(verb: &'static Verb, words: &[String]) -> Result<What, Wrong> {
    let mut values = Values::default();
    let mut args = Vec::new();
    let mut rest = flags(words, verb.flags, &mut values)?;
    if verb.flags_anywhere {
        while let Some((arg, after)) = rest.split_first() {
            args.push(arg.clone());
            rest = flags(after, verb.flags, &mut values)?;
        }
    } else {
        args.extend_from_slice(rest);
    }
    if values.is_set("help") {
        return Ok(What::Help(Some(verb)));
    }
    verb.args.check(verb.name, args.len())?;
    Ok(What::Verb { verb, values, args })
}

/// Takes flags off the front of `words`; gives what follows them.
fn flags<'w>(
    words: &'w [String],
    known: &'static [Flag],
    values: &mut Values,
) -> Result<&'w [String], Wrong> {
    let mut words = words;
    while let Some((word, rest)) = words.split_first() {
        if word == "--" {
            return Ok(rest);
        }
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
            return Ok(words);
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let flag = known
            .iter()
            .chain(table::EVERYWHERE)
            .find(|flag| flag.is_called(name));
        let flag = flag.ok_or_else(|| Wrong(format!("flag provided but not defined: -{name}")))?;
        words = rest;
        let value = match (flag.kind, inline) {
            (Kind::Switch, None) => "true".to_owned(),
            (Kind::Switch, Some(value)) => truth(name, &value)?.to_owned(),
            (Kind::Value(_), Some(value)) => value,
            (Kind::Value(_), None) => {
                let (value, after) = words
                    .split_first()
                    .ok_or_else(|| Wrong(format!("flag needs an argument: -{name}")))?;
                words = after;
                value.clone()
            }
        };
        values.0.push((flag.name, value));
    }
    Ok(words)
}

fn truth(name: &str, value: &str) -> Result<&'static str, Wrong> {
    match parse_bool(value) {
        Some(true) => Ok("true"),
        Some(false) => Ok("false"),
        None => Err(Wrong(format!(
            "invalid boolean value {value:?} for -{name}"
        ))),
    }
}

/// Go's strconv.ParseBool.
pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn check(line: &str, expect: &str) {
        let got = match parse(&words(line)) {
            Err(misuse) => format!("wrong: {}", misuse.wrong.0),
            Ok(Line { what, .. }) => match what {
                What::Help(verb) => format!("help {}", verb.map_or("", |verb| verb.name)),
                What::Version => "version".to_owned(),
                What::Unknown(name) => format!("unknown {name}"),
                What::Verb { verb, values, args } => {
                    let flags: Vec<_> = values.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    format!("{} [{}] {}", verb.name, flags.join(" "), args.join(" "))
                }
            },
        };
        assert_eq!(got.trim_end(), expect, "{line}");
    }

    #[test]
    fn flags_are_gos() {
        check("create -b /x c1", "create [bundle=/x] c1");
        check("create -bundle=/x c1", "create [bundle=/x] c1");
        check(
            "create --bundle /x -no-pivot c1",
            "create [bundle=/x no-pivot=true] c1",
        );
        check("create --no-pivot=false c1", "create [no-pivot=false] c1");
        check(
            "create --no-pivot=maybe c1",
            "wrong: invalid boolean value \"maybe\" for -no-pivot",
        );
        check(
            "create --moon c1",
            "wrong: flag provided but not defined: -moon",
        );
        check(
            "create c1 --bundle",
            "wrong: flag needs an argument: -bundle",
        );
    }

    #[test]
    fn flags_may_follow_arguments_where_they_are_ours() {
        check("delete c1 --force", "delete [force=true] c1");
        check("run -b x c1 -d", "run [bundle=x detach=true] c1");
        check("exec c1 ls --force -d", "exec [] c1 ls --force -d");
        check("exec -d c1 -- ls", "exec [detach=true] c1 -- ls");
        check("ps c1 -o pid", "ps [] c1 -o pid");
    }

    #[test]
    fn counts_are_checked() {
        check("state", "wrong: \"state\" requires exactly 1 argument(s)");
        check(
            "state a b",
            "wrong: \"state\" requires exactly 1 argument(s)",
        );
        check(
            "kill",
            "wrong: \"kill\" requires a minimum of 1 argument(s)",
        );
        check(
            "kill a b c",
            "wrong: \"kill\" requires a maximum of 2 argument(s)",
        );
    }

    #[test]
    fn commands_and_help() {
        check("", "help");
        check("--help", "help");
        check("help run", "help run");
        check("run --help", "help run");
        check("--version", "version");
        check("moon", "unknown moon");
        check("--root /r --log-format json state c1", "state [] c1");
    }

    #[test]
    fn the_table_has_each_name_once() {
        for verb in VERBS {
            let mut names: Vec<_> = verb.flags.iter().map(|flag| flag.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), verb.flags.len(), "{}", verb.name);
        }
    }
}
