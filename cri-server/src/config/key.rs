//! What a key of the configuration is: its type, what it is when nobody sets it, and its meaning.
//!
//! The keys themselves are listed in [`super::keys`]; how a file is read is not decided here.

use std::fmt;

/// One key. Everything that is said of it anywhere comes from here.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name with the tables that it lies in, joined by dots; `*` stands for a name that the
    /// operator chooses.
    pub(crate) name: &'static str,
    /// What its value may be.
    pub(crate) kind: Kind,
    /// What holds when nobody sets it.
    pub(crate) default: Default,
    /// The flag that beats it, with its dashes.
    pub(crate) flag: Option<&'static str>,
    /// When a change takes effect.
    pub(crate) applies: Applies,
    /// What it is for: a sentence or two.
    pub(crate) meaning: &'static str,
}

/// What a value may be, and its unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any string; its reader says what it takes.
    Text,
    /// Any strings; their reader says what it takes.
    Texts,
    /// An absolute path.
    Path,
    /// Absolute paths.
    Paths,
    /// A socket: `unix:///path`, or an absolute path.
    Socket,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A number of bytes such as `10Gi` or `500M`.
    Size(Zero),
    /// Whole seconds such as `10s`, from 1 to as many as here.
    Seconds(u64),
}

/// Whether a size may be 0, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// A number of bytes, at least 1.
    Refused,
    /// Bytes a second; `0` says never.
    Never,
}

/// What a key is when nobody sets it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    /// Nothing, which means what is said here.
    Nothing(&'static str),
    /// It must be set where its table is.
    Required,
    /// A string.
    Text(&'static str),
    /// A list of strings.
    Texts(&'static [&'static str]),
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applies {
    /// When the daemon is told to reload (SIGHUP).
    AtReload,
    /// When the daemon starts.
    AtStart,
}

impl Key {
    /// The components of its name.
    pub(crate) fn components(&self) -> impl Iterator<Item = &'static str> {
        self.name.split('.')
    }

    /// Whether it is what lies at `path`.
    pub(crate) fn is_at(&self, path: &[String]) -> bool {
        self.components().count() == path.len() && self.begins_with(path)
    }

    /// Whether it lies at `path`, or in a table there.
    pub(crate) fn begins_with(&self, path: &[String]) -> bool {
        let mut components = self.components();
        path.iter().all(|part| {
            components
                .next()
                .is_some_and(|own| own == "*" || own == part)
        })
    }

    /// The table that it lies in; empty for none.
    pub(crate) fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("string"),
            Self::Texts => f.write_str("list of strings"),
            Self::Path => f.write_str("path"),
            Self::Paths => f.write_str("list of paths"),
            Self::Socket => f.write_str("socket"),
            Self::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Self::Size(_) => f.write_str("size"),
            Self::Seconds(most) => write!(f, "time, 1s to {most}s"),
        }
    }
}

impl Kind {
    /// What its number counts; empty if it is no number.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Size(Zero::Refused) => "bytes",
            Self::Size(Zero::Never) => "bytes a second",
            Self::Seconds(_) => "seconds",
            _ => "",
        }
    }

    /// What a value has to be in TOML.
    pub(crate) fn wanted(self) -> &'static str {
        if self.is_list() {
            "a list of strings"
        } else {
            "a string"
        }
    }

    /// Whether its value is a list.
    pub(crate) fn is_list(self) -> bool {
        matches!(self, Self::Paths | Self::Texts)
    }

    /// Why `text` is no value of this kind, if it is none.
    pub(crate) fn objection(self, text: &str) -> Option<String> {
        let (fits, what) = match self {
            Self::Text | Self::Texts => return None,
            Self::Path | Self::Paths => (text.starts_with('/'), "is not an absolute path".into()),
            Self::Socket => (is_socket(text), "is not of the form unix:///path".into()),
            Self::OneOf(words) => (
                words.contains(&text),
                format!("is none of {}", words.join(", ")),
            ),
            Self::Size(zero) => (size(text, zero).is_some(), no_size(zero).into()),
            Self::Seconds(most) => (
                seconds(text, most).is_some(),
                format!("is no time such as 10s, of 1 to {most} seconds"),
            ),
        };
        (!fits).then(|| format!("{text:?} {what}"))
    }
}

fn is_socket(text: &str) -> bool {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    path.starts_with('/') && !path.ends_with('/')
}

fn no_size(zero: Zero) -> &'static str {
    match zero {
        Zero::Refused => "is no number of bytes such as 10Gi or 500M",
        Zero::Never => "is no number of bytes a second such as 4Mi or 0",
    }
}

/// The number of bytes that `text` says.
pub(super) fn size(text: &str, zero: Zero) -> Option<u64> {
    match (text, zero) {
        ("0", Zero::Never) => Some(0),
        _ => pod::plan::bytes(text),
    }
}

/// The number of seconds that `text` says.
pub(super) fn seconds(text: &str, most: u64) -> Option<u64> {
    let number: u64 = text.strip_suffix('s')?.parse().ok()?;
    (1..=most).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(kind.objection(text), None, "{text}");
        }
        for text in bad {
            assert!(kind.objection(text).is_some(), "{kind}: {text}");
        }
    }

    #[test]
    fn values_of_each_kind() {
        check(Kind::Path, &["/", "/a"], &["a", "", "./a"]);
        check(
            Kind::Socket,
            &["unix:///a", "/a"],
            &["tcp://a", "unix://a", "/a/"],
        );
        check(Kind::OneOf(&["a", "b"]), &["a"], &["c", ""]);
        check(
            Kind::Size(Zero::Refused),
            &["1", "64Ki"],
            &["0", "much", "-1"],
        );
        check(Kind::Size(Zero::Never), &["0", "4Mi"], &["fast"]);
        check(
            Kind::Seconds(600),
            &["1s", "600s"],
            &["0s", "601s", "3", "s"],
        );
    }

    #[test]
    fn places() {
        let key = |name| Key {
            name,
            kind: Kind::Text,
            default: Default::Required,
            flag: None,
            applies: Applies::AtStart,
            meaning: "",
        };
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        let of_runtime = key("runtimes.*.path");
        assert!(of_runtime.is_at(&path("runtimes/a.b/path")));
        assert!(!of_runtime.is_at(&path("runtimes/a")));
        assert!(of_runtime.begins_with(&path("runtimes/a")));
        assert!(!of_runtime.begins_with(&path("runtimes/a/path/b")));
        assert_eq!(
            (key("root").table(), of_runtime.table()),
            ("", "runtimes.*")
        );
    }
}
