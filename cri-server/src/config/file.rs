//! A configuration file into [`Values`]: which keys it sets, on which lines.
//!
//! What is not in the table of keys is refused, and so is what is of another type or kind.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::Key;
use super::keys::KEYS;
use super::nearest::{join, nearest};
use super::values::{Origin, Value, Values};

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub(crate) struct FileError {
    line: usize,
    cause: KeyError,
}

impl FileError {
    /// What is wrong, wherever it stands.
    pub(super) fn cause(&self) -> &KeyError {
        &self.cause
    }
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("{0}")]
    Syntax(String),
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
    #[error("{key}: {objection}")]
    Value { key: String, objection: String },
}

fn proposal(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// Sets in `values` what `text`, read from `path`, says.
pub(super) fn read(text: &str, path: &Path, values: &mut Values) -> Result<(), FileError> {
    let mut reader = Reader { text, path, values };
    let table = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let cause = KeyError::Syntax(format!("this is not TOML: {}", error.message()));
        reader.error(start, cause)
    })?;
    reader.table(table.get_ref(), &mut Vec::new())
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    values: &'a mut Values,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, path: &mut Vec<String>) -> Result<(), FileError> {
        for (name, value) in table {
            path.push(name.get_ref().to_string());
            self.entry(name.span().start, value, path)?;
            path.pop();
        }
        Ok(())
    }

    /// What lies at `path`: a key, or a table of keys.
    fn entry(
        &mut self,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        path: &mut Vec<String>,
    ) -> Result<(), FileError> {
        if let Some(key) = KEYS.iter().find(|key| key.is_at(path)) {
            let value = self.value(key, value, path)?;
            self.values.set(path.join("."), value, self.origin(at));
            return Ok(());
        }
        let mut inside = KEYS.iter().filter(|key| key.begins_with(path));
        let Some(key) = inside.next() else {
            let cause = KeyError::Unknown {
                key: path.join("."),
                nearest: nearest(KEYS, path),
            };
            return Err(self.error(at, cause));
        };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.wrong(value, path, "a table"));
        };
        if key.components().nth(path.len() - 1) == Some("*") {
            let origin = self.origin(at);
            self.values.named.insert(path.join("."), origin);
        }
        self.table(table, path)
    }

    fn value(
        &self,
        key: &Key,
        value: &Spanned<DeValue<'_>>,
        path: &[String],
    ) -> Result<Value, FileError> {
        let wrong = || self.wrong(value, path, key.kind.wanted());
        let read = match (value.get_ref(), key.kind) {
            (DeValue::Array(items), kind) if kind.is_list() => {
                let texts = items.iter().map(|item| item.get_ref().as_str());
                let texts: Option<Vec<&str>> = texts.collect();
                Value::Texts(
                    texts
                        .ok_or_else(wrong)?
                        .into_iter()
                        .map(Into::into)
                        .collect(),
                )
            }
            (_, kind) if kind.is_list() => return Err(wrong()),
            (DeValue::String(text), _) => Value::Text(text.to_string()),
            _ => return Err(wrong()),
        };
        let texts = match &read {
            Value::Text(text) => std::slice::from_ref(text),
            Value::Texts(texts) => texts,
        };
        match texts.iter().find_map(|text| key.kind.objection(text)) {
            None => Ok(read),
            Some(objection) => {
                let key = path.join(".");
                let cause = KeyError::Value { key, objection };
                Err(self.error(value.span().start, cause))
            }
        }
    }

    fn wrong(
        &self,
        value: &Spanned<DeValue<'_>>,
        path: &[String],
        wanted: &'static str,
    ) -> FileError {
        let name = value.get_ref().type_str();
        let article = if name.starts_with(['a', 'i', 'o']) {
            "an"
        } else {
            "a"
        };
        let (own, tables) = path.split_last().expect("a value has a name");
        let cause = KeyError::Type {
            key: join(tables, own),
            wanted,
            found: format!("{article} {name}"),
        };
        self.error(value.span().start, cause)
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File {
            path: self.path.into(),
            line: self.line(at),
        }
    }

    fn error(&self, at: usize, cause: KeyError) -> FileError {
        let line = self.line(at);
        FileError { line, cause }
    }

    /// The line, from 1, of a place in the text.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }
}
