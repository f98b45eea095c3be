//! `list`: all containers under the root.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::state::{Shown, shown};
use crate::cli::Values;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::print;
use crate::state::Error;

/// Least width of a column, and the space behind its longest entry, as in runc's table.
const LEAST_WIDTH: usize = 12;
const SPACE: usize = 3;

pub(super) fn run(context: &Context, values: &Values) -> Result<u8> {
    let containers = all(context)?;
    let owners = containers
        .iter()
        .map(|container| owner(container.folder.path()));
    let all = containers
        .iter()
        .zip(owners)
        .map(|(container, owner)| shown(container, owner));
    let all = all.collect::<Result<Vec<_>>>()?;
    if values.is_set("quiet") {
        all.iter().for_each(|one| print(&format!("{}\n", one.id)));
        return Ok(0);
    }
    match values.text("format").unwrap_or("table") {
        "table" => print(&table(&all)),
        "json" => print(&json(&all)?),
        _ => return Err(Failure::new("invalid format option")),
    }
    Ok(0)
}

pub(super) fn all(context: &Context) -> Result<Vec<Container>> {
    let root = &context.root;
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !context.root_given => {
            return Ok(Vec::new());
        }
        entries => entries.attempt(|| format!("read {root:?}"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.attempt(|| format!("read {root:?}"))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    let mut containers = Vec::new();
    for name in names {
        match Container::load(root, &name) {
            Ok(container) => containers.push(container),
            // Being made, being deleted, or somebody else's.
            Err(Error::DoesNotExist) => {}
            Err(Error::Failed(failure)) => context.log.warning(&format!("{name}: {failure}")),
        }
    }
    Ok(containers)
}

/// Who made the container: the name of the owner of its folder.
fn owner(folder: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(folder) else {
        return String::new();
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(metadata.uid())).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{}", metadata.uid()))
}

fn json(all: &[Shown<'_>]) -> Result<String> {
    if all.is_empty() {
        // runc's empty list, which is Go's nil.
        return Ok("null".to_owned());
    }
    serde_json::to_string(all).map_err(|error| because("write the list", &error))
}

fn table(all: &[Shown<'_>]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |one: &Shown<'_>| {
        [
            one.id.to_owned(),
            one.pid.to_string(),
            one.status.to_owned(),
            one.bundle.display().to_string(),
            one.created.to_owned(),
            one.owner.clone(),
        ]
    };
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(all.iter().map(row)).collect();
    columns(&rows)
}

fn columns(rows: &[[String; 6]]) -> String {
    let width = |column: usize| {
        let longest = rows
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0);
        (longest + SPACE).max(LEAST_WIDTH)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_entry() {
        let row = |first: &str| [first, "1", "running", "/b", "T", "root"].map(str::to_owned);
        let text = columns(&[row("ID"), row("a-long-identifier")]);
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap().find('1'), Some(20));
        assert!(
            lines
                .next()
                .unwrap()
                .starts_with("a-long-identifier   1           running")
        );
    }

    #[test]
    fn an_empty_list_is_null() {
        assert_eq!(json(&[]).unwrap(), "null");
    }
}
