//! A table of a TOML file that knows which keys its reader asked for.
//!
//! It is no schema: the reader asks for each key by name and type, and [`Section::finish`] refuses
//! whatever is left, with the nearest of the names that were asked for.

use toml::{Table, Value};

/// How alike two names must be for one to be proposed for the other (0 to 1, Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// What is wrong with a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KeyError {
    #[error("unknown key {key}{}", proposal(.nearest.as_deref()))]
    Unknown {
        key: String,
        nearest: Option<String>,
    },
    #[error("{key}: {wanted} is wanted, not {found}")]
    Type {
        key: String,
        wanted: &'static str,
        found: String,
    },
    #[error("{key} is missing")]
    Missing { key: String },
}

impl KeyError {
    pub(crate) fn missing(key: String) -> Self {
        Self::Missing { key }
    }
}

fn proposal(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// A table, and what was asked of it.
#[derive(Debug)]
pub(crate) struct Section {
    prefix: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// The whole file.
    pub(crate) fn top(table: Table) -> Self {
        Self::new(String::new(), table)
    }

    fn new(prefix: String, table: Table) -> Self {
        Self {
            prefix,
            table,
            known: Vec::new(),
        }
    }

    /// The string under `key`.
    pub(crate) fn string(&mut self, key: &'static str) -> Result<Option<String>, KeyError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", &other)),
        }
    }

    /// The list of strings under `key`.
    pub(crate) fn strings(&mut self, key: &'static str) -> Result<Option<Vec<String>>, KeyError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let texts = value.as_array().and_then(|values| {
            values
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        });
        match texts {
            Some(texts) => Ok(Some(texts)),
            None => Err(self.wrong(key, "a list of strings", &value)),
        }
    }

    /// The table under `key`; an empty one where there is none.
    pub(crate) fn section(&mut self, key: &'static str) -> Result<Self, KeyError> {
        match self.take(key) {
            None => Ok(Self::new(self.path(key), Table::new())),
            Some(Value::Table(table)) => Ok(Self::new(self.path(key), table)),
            Some(other) => Err(self.wrong(key, "a table", &other)),
        }
    }

    /// All tables in it by name, where any name will do.
    pub(crate) fn sections(self) -> Result<Vec<(String, Self)>, KeyError> {
        let mut sections = Vec::new();
        for (name, value) in self.table {
            let path = join(&self.prefix, &name);
            match value {
                Value::Table(table) => sections.push((name, Self::new(path, table))),
                other => return Err(wrong_type(path, "a table", &other)),
            }
        }
        Ok(sections)
    }

    /// Refuses whatever was not asked for.
    pub(crate) fn finish(self) -> Result<(), KeyError> {
        let Some(key) = self.table.keys().next() else {
            return Ok(());
        };
        let nearest = nearest(key, &self.known).map(|name| self.path(name));
        Err(KeyError::Unknown {
            key: self.path(key),
            nearest,
        })
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn wrong(&self, key: &str, wanted: &'static str, found: &Value) -> KeyError {
        wrong_type(self.path(key), wanted, found)
    }

    fn path(&self, key: &str) -> String {
        join(&self.prefix, key)
    }
}

fn wrong_type(key: String, wanted: &'static str, found: &Value) -> KeyError {
    let name = found.type_str();
    let article = if name.starts_with(['a', 'i', 'o']) {
        "an"
    } else {
        "a"
    };
    KeyError::Type {
        key,
        wanted,
        found: format!("{article} {name}"),
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// The known name that is most like `key`, if any is like it at all.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(key, name), *name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, expect: Option<&str>) {
        assert_eq!(
            nearest(key, &["listen", "root", "state", "default_runtime"]),
            expect,
            "{key}"
        );
    }

    #[test]
    fn nearest_names() {
        check("lisen", Some("listen"));
        check("roots", Some("root"));
        check("default-runtime", Some("default_runtime"));
        check("zzz", None);
        check("", None);
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let mut section = Section::top("a = 'x'\nb = 1".parse().unwrap());
        assert_eq!(section.string("a"), Ok(Some("x".into())));
        assert_eq!(section.string("c"), Ok(None));
        let error = KeyError::Unknown {
            key: "b".into(),
            nearest: None,
        };
        assert_eq!(section.finish(), Err(error));
    }
}
