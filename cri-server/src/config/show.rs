//! `wherryd config`: the configuration for a person, or as JSON.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::values::{Origin, Shown, Value, Values};
use super::{Applies, reference};
use crate::cli::{ConfigCommand, Flags};

/// What `wherryd config` answers.
///
/// # Errors
///
/// The configuration is refused; the text names the file and line, flag or key.
pub(crate) fn print(
    command: Option<&ConfigCommand>,
    json: bool,
    flags: &Flags,
    programs: &Path,
) -> Result<String> {
    Ok(match command {
        None if json => as_json(&super::gather(flags)?),
        None => as_text(&super::gather(flags)?),
        Some(ConfigCommand::Defaults) if json => as_json(&Values::default()),
        Some(ConfigCommand::Defaults) => reference::file(),
        Some(ConfigCommand::Check { file }) => {
            let values = super::gather_file(file)?;
            let count = values.shown().iter().filter(|it| is_set(it)).count();
            super::settle(values, flags, programs)?;
            if json {
                format!("{}\n", json!({ "file": file, "keys": count }))
            } else {
                format!("{}: in order, {count} keys\n", file.display())
            }
        }
        Some(ConfigCommand::Markdown) => reference::markdown(),
        Some(ConfigCommand::Man) => reference::man(),
    })
}

fn is_set(shown: &Shown<'_>) -> bool {
    *shown.origin != Origin::Default
}

/// One line a key: name, value, where it comes from.
fn as_text(values: &Values) -> String {
    let header = ["KEY", "VALUE", "FROM"].map(str::to_owned);
    let rows = values.shown().into_iter().map(|shown| {
        let value = shown.value.as_ref().map_or("-".into(), Value::to_string);
        [shown.name, value, shown.origin.to_string()]
    });
    let rows: Vec<[String; 3]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (key, value) = (width(0), width(1));
    let line = |row: &[String; 3]| format!("{:key$}  {:value$}  {}\n", row[0], row[1], row[2]);
    rows.iter().map(line).collect()
}

fn as_json(values: &Values) -> String {
    let keys: Vec<Json> = values.shown().iter().map(key_as_json).collect();
    format!("{:#}\n", Json::Array(keys))
}

fn key_as_json(shown: &Shown<'_>) -> Json {
    let value = |value: &Option<Value>| match value {
        None => Json::Null,
        Some(Value::Text(text)) => json!(text),
        Some(Value::Texts(texts)) => json!(texts),
    };
    let origin = match shown.origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::Flag(flag) => json!({ "kind": "flag", "flag": flag }),
        Origin::File { path, line } => json!({ "kind": "file", "path": path, "line": line }),
    };
    json!({
        "key": shown.name,
        "value": value(&shown.value),
        "default": value(&shown.key.default()),
        "origin": origin,
        "type": shown.key.kind.to_string(),
        "unit": shown.key.kind.unit(),
        "reload": shown.key.applies == Applies::AtReload,
        "meaning": shown.key.meaning,
    })
}
