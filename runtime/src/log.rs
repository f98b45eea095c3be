//! The log that engines read: `--log FILE`, as text or as one JSON object a line.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::failure::{Attempt, Failure, Result};
use crate::time;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Format {
    #[default]
    Text,
    Json,
}

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// `None`: standard error.
    file: Option<RefCell<File>>,
    format: Format,
    debug: bool,
}

impl Log {
    /// Opens the log that the global flags name.
    ///
    /// # Errors
    ///
    /// An unknown format, a file that cannot be opened.
    pub(crate) fn open(path: Option<&str>, format: Option<&str>, debug: bool) -> Result<Log> {
        let format = match format {
            None | Some("" | "text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => return Err(Failure::new(format!("invalid log-format: {other}"))),
        };
        let open = |path: &str| {
            let options = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .clone();
            options
                .open(path)
                .map(RefCell::new)
                .attempt(|| format!("open log {path:?}"))
        };
        let file = path.filter(|path| !path.is_empty()).map(open).transpose()?;
        Ok(Log {
            file,
            format,
            debug,
        })
    }

    /// What ends this command. Besides the log it goes to standard error, for whoever looks there.
    pub(crate) fn error(&self, text: &str) {
        self.line("error", text);
        if self.file.is_some() {
            say(text);
        }
    }

    /// What does not end it.
    pub(crate) fn warning(&self, text: &str) {
        self.line("warning", text);
    }

    /// What only somebody who looks for trouble wants to know.
    pub(crate) fn debug(&self, text: &str) {
        if self.debug {
            self.line("debug", text);
        }
    }

    fn line(&self, level: &str, text: &str) {
        let line = render(self.format, level, text, &time::now());
        match &self.file {
            // A log that cannot be written must not keep a container from running.
            Some(file) => drop(file.borrow_mut().write_all(line.as_bytes())),
            None => drop(std::io::stderr().write_all(line.as_bytes())),
        }
    }
}

/// One line on standard error.
pub(crate) fn say(text: &str) {
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

fn render(format: Format, level: &str, text: &str, time: &str) -> String {
    match format {
        Format::Json => {
            let line = serde_json::json!({ "level": level, "msg": text, "time": time });
            format!("{line}\n")
        }
        Format::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_have_what_engines_decode() {
        let line = render(Format::Json, "error", "a \"b\"\nc", "T");
        assert_eq!(
            line,
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\nc\",\"time\":\"T\"}\n"
        );
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let error = Log::open(None, Some("xml"), false).unwrap_err();
        assert_eq!(error.to_string(), "invalid log-format: xml");
    }

    #[test]
    fn text_lines_are_quoted() {
        assert_eq!(
            render(Format::Text, "error", "a\nb", "T"),
            "time=\"T\" level=error msg=\"a\\nb\"\n"
        );
    }
}
