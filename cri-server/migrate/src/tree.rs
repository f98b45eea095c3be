//! A configuration of theirs as a tree of TOML from which keys are taken one by one: what is left in
//! the end has not been understood.

use std::path::Path;

use toml::{Table, Value};

use crate::{Error, Moved};

/// What is left of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Tree(pub(crate) Table);

impl Tree {
    /// Reads a file and puts it over what is there.
    pub(crate) fn read_over(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        let table = toml::from_str(&text).map_err(|cause| Error::Syntax {
            path: path.into(),
            cause: Box::new(cause),
        })?;
        merge(&mut self.0, table);
        Ok(())
    }

    /// Takes the value of a key.
    pub(crate) fn take(&mut self, path: &[&str]) -> Option<Value> {
        let (last, tables) = path.split_last()?;
        let mut table = &mut self.0;
        for name in tables {
            table = table.get_mut(*name)?.as_table_mut()?;
        }
        table.remove(*last)
    }

    /// Takes a string that says something.
    pub(crate) fn text(&mut self, path: &[&str]) -> Option<String> {
        let text = self.take(path)?.as_str()?.to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Takes a list of strings.
    pub(crate) fn texts(&mut self, path: &[&str]) -> Option<Vec<String>> {
        let value = self.take(path)?;
        let items = value.as_array()?.iter();
        let texts: Vec<String> = items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect();
        (!texts.is_empty()).then_some(texts)
    }

    /// Takes a truth.
    pub(crate) fn truth(&mut self, path: &[&str]) -> Option<bool> {
        self.take(path)?.as_bool()
    }

    /// Takes a whole table.
    pub(crate) fn table(&mut self, path: &[&str]) -> Tree {
        match self.take(path) {
            Some(Value::Table(table)) => Tree(table),
            _ => Tree::default(),
        }
    }

    /// Names whatever is left, with the reason that `why` has for it. What asks for nothing (empty,
    /// false, 0) is not named.
    pub(crate) fn name_rest(
        self,
        prefix: &str,
        why: &dyn Fn(&str) -> Option<&'static str>,
        moved: &mut Moved,
    ) {
        for (name, value) in self.0 {
            let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            let shown = if name.bytes().all(bare) {
                name
            } else {
                format!("{name:?}")
            };
            let path = match prefix {
                "" => shown,
                prefix => format!("{prefix}.{shown}"),
            };
            match (value, why(&path)) {
                (Value::Table(table), None) => Tree(table).name_rest(&path, why, moved),
                (value, _) if asks_for_nothing(&value) => {}
                (_, Some("")) => {}
                (_, Some(why)) => moved.unlike(path, why),
                (value, None) => moved.unlike(
                    format!("{path} = {}", shortened(&value)),
                    "wherryd has no such key",
                ),
            }
        }
    }
}

/// Longest value that is shown, characters.
const SHOWN: usize = 60;

fn shortened(value: &Value) -> String {
    let text = value.to_string().replace('\n', " ");
    if text.chars().count() <= SHOWN {
        return text;
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start}...")
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::Boolean(truth) => !truth,
        Value::Array(items) => items.is_empty(),
        Value::Table(table) => table.values().all(asks_for_nothing),
        Value::Datetime(_) => false,
    }
}

/// Puts `over` over `under`: tables are merged, all else is replaced.
fn merge(under: &mut Table, over: Table) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => drop(under.insert(name, value)),
        }
    }
}
