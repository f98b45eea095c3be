//! Which files of ours are to be written, with what in them; then they are.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use migrate::{File, Moved, Setting, Unlike};

use super::own_file;
use crate::cli::Flags;
use crate::config;

/// Where the registries' files are looked for, unless told otherwise.
const CERTS: &str = "/etc/wherry/certs.d";
/// Mode of files that others must not read.
const SECRET: u32 = 0o600;
const READABLE: u32 = 0o644;

/// What is to be written.
pub(super) struct Plan {
    files: Vec<File>,
    unlike: Vec<Unlike>,
}

impl Plan {
    /// Puts keys into our file, and their files beside it.
    pub(super) fn of(moved: Moved, flags: &Flags) -> Result<Self> {
        let file = std::path::absolute(own_file(flags)).context("finding the configuration")?;
        let folder = file.parent().context("a configuration lies in a folder")?;
        let beside = match flags.registry_config.as_deref().and_then(Path::parent) {
            Some(parent) => std::path::absolute(parent)?,
            None => folder.to_path_buf(),
        };
        let mut settings = moved.settings;
        let certs = beside.join("certs.d");
        if certs != Path::new(CERTS) && !moved.files.is_empty() {
            settings.push(Setting {
                key: vec!["registry_config".into()],
                value: certs.display().to_string().into(),
                from: "where this file lies".into(),
            });
        }
        let mut unlike = moved.unlike;
        let settings = known(settings, &mut unlike);
        let mut files = vec![File {
            content: text(&settings).into_bytes(),
            to: file,
            secret: false,
            from: "what it was told".into(),
        }];
        files.extend(moved.files.into_iter().map(|file| File {
            to: beside.join(&file.to),
            ..file
        }));
        Ok(Self { files, unlike })
    }

    /// For a person: what is written, and what has no equal.
    pub(super) fn shown(&self, dry: bool) -> String {
        let mut text = String::new();
        for (index, file) in self.files.iter().enumerate() {
            let _infallible = writeln!(text, "{}: from {}", file.to.display(), file.from);
            if index == 0 && dry {
                for line in String::from_utf8_lossy(&file.content).lines() {
                    let _infallible = writeln!(text, "    {line}");
                }
            }
        }
        for unlike in &self.unlike {
            let _infallible = writeln!(text, "no equal: {}: {}", unlike.key, unlike.why);
        }
        text
    }

    /// Writes all, or nothing if something is in the way.
    pub(super) fn carry_out(&self, force: bool) -> Result<()> {
        let in_the_way: Vec<&PathBuf> = self
            .files
            .iter()
            .filter(|file| fs::read(&file.to).is_ok_and(|there| there != file.content))
            .map(|file| &file.to)
            .collect();
        if !force && !in_the_way.is_empty() {
            bail!(
                "{in_the_way:?} are there already, and nothing was written; --force replaces them"
            );
        }
        for file in &self.files {
            write(file).with_context(|| format!("writing {}", file.to.display()))?;
        }
        Ok(())
    }
}

/// Writes a file beside its place, and renames it.
fn write(file: &File) -> Result<()> {
    use std::io::Write as _;
    let folder = file.to.parent().context("it lies in no folder")?;
    fs::create_dir_all(folder)?;
    let mut name = file.to.clone().into_os_string();
    name.push(".new");
    let mode = if file.secret { SECRET } else { READABLE };
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options.open(&name)?.write_all(&file.content)?;
    fs::rename(&name, &file.to)?;
    Ok(())
}

/// The settings that this daemon takes; the others have no equal after all.
fn known(settings: Vec<Setting>, unlike: &mut Vec<Unlike>) -> Vec<Setting> {
    let mut known: Vec<Setting> = Vec::new();
    for setting in settings {
        match config::objection(&text(std::slice::from_ref(&setting))) {
            None => {
                known.retain(|other| other.key != setting.key);
                known.push(setting);
            }
            Some(why) => unlike.push(Unlike {
                key: format!("{} = {}", setting.from, setting.value),
                why,
            }),
        }
    }
    known
}

/// The file with these keys, each with where it comes from. Those outside of tables come first.
fn text(settings: &[Setting]) -> String {
    let mut text = String::from("# Written by `wherryd migrate`.\n");
    let mut sorted: Vec<(&[String], &Setting)> = settings
        .iter()
        .filter_map(|setting| Some((setting.key.split_last()?.1, setting)))
        .collect();
    sorted.sort_by_key(|(table, _)| *table);
    let mut last: &[String] = &[];
    for (table, setting) in sorted {
        if table != last {
            let _infallible = writeln!(text, "\n[{}]", dotted(table));
            last = table;
        }
        let own = setting.key.last().map_or("", String::as_str);
        let from = setting.from.replace('\n', " ");
        let _infallible = writeln!(text, "# {from}\n{own} = {}", setting.value);
    }
    text
}

fn dotted(table: &[String]) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let parts = table.iter().map(|part| match part.bytes().all(bare) {
        true => part.clone(),
        false => toml::Value::String(part.clone()).to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &[&str], value: &str) -> Setting {
        Setting {
            key: key.iter().map(|&part| part.to_owned()).collect(),
            value: value.into(),
            from: "theirs".into(),
        }
    }

    #[test]
    fn keys_in_their_tables() {
        let mut unlike = Vec::new();
        let settings = vec![
            setting(&["runtimes", "kata.v2", "path"], "/k"),
            setting(&["log", "level"], "warn"),
            setting(&["log", "colour"], "blue"),
            setting(&["cgroup_driver"], "moon"),
            setting(&["cgroup_driver"], "systemd"),
            setting(&["log", "level"], "debug"),
        ];
        let known = known(settings, &mut unlike);
        let expect = "\
# Written by `wherryd migrate`.
# theirs
cgroup_driver = \"systemd\"

[log]
# theirs
level = \"debug\"

[runtimes.\"kata.v2\"]
# theirs
path = \"/k\"
";
        assert_eq!(text(&known), expect);
        assert_eq!(unlike.len(), 2, "{unlike:?}");
        assert!(
            unlike[0].why.contains("unknown key log.colour"),
            "{unlike:?}"
        );
    }
}
