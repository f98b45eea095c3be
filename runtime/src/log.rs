//! The log that engines read: `--log FILE`, as text or as one JSON object a line; or the journal or
//! syslog, as crun has them.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;

use crate::failure::{Attempt, Failure, Result};
use crate::time;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Format {
    #[default]
    Text,
    Json,
}

/// The least urgent message that is wanted.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Level {
    Error,
    #[default]
    Warning,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Debug => "debug",
        }
    }

    /// syslog(3).
    fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Debug => 7,
        }
    }
}

/// What the global flags say.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// A file, or crun's `file:PATH`, `journald:NAME`, `syslog:NAME`.
    pub(crate) target: Option<&'a str>,
    pub(crate) format: Option<&'a str>,
    pub(crate) level: Option<&'a str>,
    pub(crate) debug: bool,
}

#[derive(Debug, Default)]
enum Target {
    #[default]
    Stderr,
    File(RefCell<File>),
    Journal {
        socket: UnixDatagram,
        name: String,
    },
    Syslog {
        socket: UnixDatagram,
        name: String,
    },
}

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    target: Target,
    format: Format,
    level: Level,
    /// What the caller says that this command is part of.
    operation: Option<String>,
}

/// The variable by which a caller names an operation that spans programs: it is in every line.
const OPERATION: &str = "WHERRY_OPERATION";
/// Longest name of one, bytes.
const MAX_OPERATION: usize = 64;

/// systemd-journald(8), "native protocol".
const JOURNAL: &str = "/run/systemd/journal/socket";
/// syslog(3).
const SYSLOG: &str = "/dev/log";

impl Target {
    fn open(text: &str) -> Result<Target> {
        match text.split_once(':') {
            Some(("file", path)) => Target::file(path),
            Some(("journald", name)) => Ok(Target::Journal {
                socket: connect(JOURNAL)?,
                name: name.to_owned(),
            }),
            Some(("syslog", name)) => Ok(Target::Syslog {
                socket: connect(SYSLOG)?,
                name: name.to_owned(),
            }),
            _ => Target::file(text),
        }
    }

    fn file(path: &str) -> Result<Target> {
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true).mode(0o644);
        let file = options
            .open(path)
            .attempt(|| format!("open log {path:?}"))?;
        Ok(Target::File(RefCell::new(file)))
    }
}

fn connect(path: &str) -> Result<UnixDatagram> {
    let what = || format!("connect to {path}");
    let socket = UnixDatagram::unbound().attempt(what)?;
    socket.connect(path).attempt(what)?;
    Ok(socket)
}

impl Log {
    /// Opens the log that the global flags name.
    ///
    /// # Errors
    ///
    /// An unknown format or level, a target that cannot be opened.
    pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Log> {
        let format = match wanted.format {
            None | Some("" | "text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(Failure::new(format!("invalid log-format: {other}"))),
        };
        let level = match wanted.level {
            _ if wanted.debug => Level::Debug,
            None | Some("" | "warning") => Level::Warning,
            Some("error") => Level::Error,
            Some("debug") => Level::Debug,
            Some(other) => return Err(Failure::new(format!("invalid log-level: {other}"))),
        };
        let target = wanted.target.filter(|target| !target.is_empty());
        Ok(Log {
            target: target.map(Target::open).transpose()?.unwrap_or_default(),
            format,
            level,
            operation: std::env::var(OPERATION).ok().filter(|name| is_name(name)),
        })
    }

    /// What ends this command. Besides the log it goes to standard error, for whoever looks there.
    pub(crate) fn error(&self, text: &str) {
        self.line(Level::Error, text);
        if !matches!(self.target, Target::Stderr) {
            say(text);
        }
    }

    /// What does not end it.
    pub(crate) fn warning(&self, text: &str) {
        self.line(Level::Warning, text);
    }

    /// What only somebody who looks for trouble wants to know.
    pub(crate) fn debug(&self, text: &str) {
        self.line(Level::Debug, text);
    }

    fn line(&self, level: Level, text: &str) {
        if level > self.level {
            return;
        }
        let operation = self.operation.as_deref();
        let line = || render(self.format, level.name(), text, &time::now(), operation);
        // A log that cannot be written must not keep a container from running.
        match &self.target {
            Target::Stderr => drop(std::io::stderr().write_all(line().as_bytes())),
            Target::File(file) => drop(file.borrow_mut().write_all(line().as_bytes())),
            Target::Journal { socket, name } => drop(socket.send(&journal(level, name, text))),
            Target::Syslog { socket, name } => {
                /// syslog(3), `LOG_DAEMON`.
                const DAEMON: u8 = 3 << 3;
                let number = DAEMON | level.priority();
                drop(socket.send(format!("<{number}>{name}: {text}").as_bytes()));
            }
        }
    }
}

/// Whether it can name an operation, and be put into a line as it is.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_OPERATION).contains(&text.len()) && text.bytes().all(fits)
}

/// A message of the journal's: fields, the one of any text with its length before it.
fn journal(level: Level, name: &str, text: &str) -> Vec<u8> {
    let priority = level.priority();
    let mut message = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={name}\n").into_bytes();
    message.extend_from_slice(b"MESSAGE\n");
    message.extend_from_slice(&(text.len() as u64).to_le_bytes());
    message.extend_from_slice(text.as_bytes());
    message.push(b'\n');
    message
}

/// One line on standard error.
pub(crate) fn say(text: &str) {
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

fn render(format: Format, level: &str, text: &str, time: &str, operation: Option<&str>) -> String {
    match format {
        Format::Json => {
            let mut line = serde_json::json!({ "level": level, "msg": text, "time": time });
            if let Some(operation) = operation {
                line["operation"] = operation.into();
            }
            format!("{line}\n")
        }
        Format::Text => {
            let operation = operation.map(|name| format!(" operation={name}"));
            let operation = operation.unwrap_or_default();
            format!("time=\"{time}\" level={level} msg={text:?}{operation}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_have_what_engines_decode() {
        let line = render(Format::Json, "error", "a \"b\"\nc", "T", None);
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\nc\",\"time\":\"T\"}\n"
        );
    }

    #[test]
    fn an_operation_is_named_if_it_can_be() {
        let line = render(Format::Json, "error", "a", "T", Some("9f2c"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["operation"], "9f2c");
        let line = render(Format::Text, "error", "a", "T", Some("9f2c"));
        assert!(line.ends_with("msg=\"a\" operation=9f2c\n"), "{line}");
        for (name, expect) in [
            ("9f2c-1", true),
            ("", false),
            ("a b", false),
            ("a\n", false),
        ] {
            assert_eq!(is_name(name), expect, "{name:?}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let wanted = Wanted {
            format: Some("xml"),
            ..Wanted::default()
        };
        let error = Log::open(&wanted).unwrap_err();
        assert_eq!(error.to_string(), "invalid log-format: xml");
    }

    #[test]
    fn the_journal_gets_the_length_of_a_text() {
        let message = journal(Level::Error, "c1", "a\nb");
        let head = b"PRIORITY=3\nSYSLOG_IDENTIFIER=c1\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(message, head);
    }

    #[test]
    fn text_lines_are_quoted() {
        assert_eq!(
            render(Format::Text, "error", "a\nb", "T", None),
            "time=\"T\" level=error msg=\"a\\nb\"\n"
        );
    }
}
