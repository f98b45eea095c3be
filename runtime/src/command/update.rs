//! `update`: other limits for a container that runs.

use std::io::Read as _;

use serde_json::{Map, Value, json};

use crate::cli::Values;
use crate::cli::table::UPDATE_FLAGS;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::state::Folder;
use crate::{messages, rdt};

/// Longest file of resources, bytes.
const MAX_RESOURCES: u64 = 1 << 20;

/// Parts of the resources whose values only make sense together: all that is known of them is set
/// again when one of them changes.
const WHOLE: [&str; 2] = ["cpu", "memory"];

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    let _lock = Folder::of(&context.root, id)?.lock()?;
    let mut container = Container::load(&context.root, id)?;
    if container.status()? == Status::Stopped {
        return Err(Failure::new(messages::NOT_RUNNING));
    }
    let wanted = match values.text("resources").filter(|path| !path.is_empty()) {
        Some(path) => read(path)?,
        None => from_flags(values)?,
    };
    set_schemata(&container, values)?;
    let before = container.resources()?;
    let after = merged(&before, &wanted);
    refuse_shares_of_idle(&wanted, &after)?;
    let group = container.group()?;
    group
        .update(&to_write(&wanted, &after))
        .map_err(|failure| {
            // All or nothing, as far as that can be had.
            match group.update(&without_devices(&before)) {
                Ok(()) => failure,
                Err(second) => Failure::new(format!("{failure} (and the old limits: {second})")),
            }
        })?;
    container.keep_resources(&after)?;
    Ok(0)
}

/// The kernel has no weight for a group that only runs when nobody else does. Shares that are kept
/// come back with the end of idleness; new ones would be lost on whoever asks for them.
fn refuse_shares_of_idle(change: &Value, after: &Value) -> Result<()> {
    let new = change["cpu"]["shares"]
        .as_u64()
        .is_some_and(|shares| shares != 0);
    if new && after["cpu"]["idle"] == json!(1) {
        return Err(Failure::new(
            "set limits: cpu shares cannot be set while cpu idle is 1",
        ));
    }
    Ok(())
}

/// The flags whose values go to the container's class of resctrl.
fn set_schemata(container: &Container, values: &Values) -> Result<()> {
    let given = ["l3-cache-schema", "mem-bw-schema"]
        .iter()
        .filter_map(|flag| values.text(flag))
        .filter(|line| !line.is_empty());
    let lines: Vec<String> = given.map(str::to_owned).collect();
    match &container.state.wrun.rdt {
        _ if lines.is_empty() => Ok(()),
        Some(share) => rdt::set_schemata(share, &lines),
        None => Err(Failure::new(
            "updating a non-existent Intel RDT configuration is not supported",
        )),
    }
}

/// `-r`: a file, or standard input.
fn read(path: &str) -> Result<Value> {
    let what = || format!("read resources from {path:?}");
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin().take(MAX_RESOURCES).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_RESOURCES).read_to_end(&mut bytes))
    };
    read.attempt(what)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| because(&what(), &error))?;
    if !value.is_object() {
        return Err(Failure::new(format!("{}: not a JSON object", what())));
    }
    Ok(without_devices(&value))
}

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    Text,
    /// A whole number that may be negative.
    Signed,
    Unsigned,
    /// Bytes in docker's units; -1 is without limit.
    Size,
}

fn from_flags(values: &Values) -> Result<Value> {
    let mut resources = json!({});
    for (flag, part, key, form) in UPDATE_FLAGS {
        let Some(text) = values.text(flag).filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = parse(*form, text)
            .ok_or_else(|| Failure::new(format!("invalid value for {flag}: {text:?}")))?;
        resources[*part][*key] = value;
    }
    Ok(resources)
}

fn parse(form: Form, text: &str) -> Option<Value> {
    match form {
        Form::Text => Some(json!(text)),
        Form::Signed => text.parse::<i64>().ok().map(Value::from),
        Form::Unsigned => text.parse::<u64>().ok().map(Value::from),
        Form::Size if text == "-1" => Some(json!(-1)),
        Form::Size => size(text).map(Value::from),
    }
}

/// `1.5g`, `10M`, `4 KiB`, `512b`: docker's sizes, whose units are all powers of 1024.
fn size(text: &str) -> Option<i64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    scaled(number, 1_i64 << (10 * power))
}

/// A decimal number times `unit`, without the detour of floating point.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<i64>().ok()?.checked_mul(unit)?;
    // More digits than these are less than a byte of any unit.
    let part = &part[..part.len().min(15)];
    if part.is_empty() {
        return Some(whole);
    }
    let places = u32::try_from(part.len()).ok()?;
    let part = i128::from(part.parse::<i64>().ok()?) * i128::from(unit) / 10_i128.pow(places);
    whole.checked_add(i64::try_from(part).ok()?)
}

/// `change` over `base`; what `change` does not speak of stays.
fn merged(base: &Value, change: &Value) -> Value {
    let (Value::Object(base), Value::Object(change)) = (base, change) else {
        return if change.is_null() {
            base.clone()
        } else {
            change.clone()
        };
    };
    let mut all: Map<String, Value> = base.clone();
    for (key, value) in change {
        let old = all.get(key).cloned().unwrap_or(Value::Null);
        all.insert(key.clone(), merged(&old, value));
    }
    Value::Object(all)
}

/// What has to be written: the change, with everything that belongs to a part it touches.
fn to_write(change: &Value, after: &Value) -> Value {
    let mut all = change.clone();
    for part in WHOLE {
        let touched = change[part]
            .as_object()
            .is_some_and(|part| !part.is_empty());
        if touched {
            all[part] = after[part].clone();
        }
    }
    all
}

/// A running container keeps the device rules that it was made with, as with runc.
fn without_devices(resources: &Value) -> Value {
    let mut rest = resources.clone();
    if let Some(rest) = rest.as_object_mut() {
        rest.remove("devices");
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_size(text: &str, expect: Option<i64>) {
        assert_eq!(size(text), expect, "{text:?}");
    }

    #[test]
    fn sizes_are_dockers() {
        check_size("10", Some(10));
        check_size("10b", Some(10));
        check_size("10M", Some(10 << 20));
        check_size("10 MiB", Some(10 << 20));
        check_size("1.5g", Some(3 << 29));
        check_size("0.25k", Some(256));
        check_size("2p", Some(2 << 50));
        check_size("", None);
        check_size("-5", None);
        check_size("x", None);
        check_size("1.2.3m", None);
        check_size("5mm", None);
        check_size("9999999999999999999", None);
        check_size("99999999p", None);
    }

    #[test]
    fn a_change_brings_what_belongs_to_it() {
        let before = json!({ "cpu": { "quota": 5, "period": 10 }, "pids": { "limit": 3 } });
        let change = json!({ "cpu": { "period": 20 }, "memory": {} });
        let after = merged(&before, &change);
        assert_eq!(after["cpu"], json!({ "quota": 5, "period": 20 }));
        assert_eq!(after["pids"]["limit"], json!(3));
        let write = to_write(&change, &after);
        assert_eq!(write["cpu"], json!({ "quota": 5, "period": 20 }));
        assert!(write["pids"].is_null());
    }

    #[test]
    fn null_changes_nothing() {
        let before = json!({ "cpu": { "quota": 5 } });
        let after = merged(&before, &json!({ "cpu": { "quota": null, "shares": 2 } }));
        assert_eq!(after, json!({ "cpu": { "quota": 5, "shares": 2 } }));
    }

    #[test]
    fn numbers_are_numbers() {
        assert_eq!(parse(Form::Unsigned, "-1"), None);
        assert_eq!(parse(Form::Signed, "-1"), Some(json!(-1)));
        assert_eq!(parse(Form::Size, "-1"), Some(json!(-1)));
        assert_eq!(parse(Form::Size, "-2"), None);
    }
}
