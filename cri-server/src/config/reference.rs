//! The table of keys for readers: a page of the docs, a manual page, a file of all defaults.

use std::fmt::Write as _;

use super::Applies;
use super::key::{Default, Key};
use super::keys::KEYS;

/// What the page begins with.
const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `wherryd config markdown` from the table of keys in cri-server/src/config/keys.rs, \
which a test compares. -->

Every key of `/etc/wherry/config.toml` (or the file that `--config` names; it need not exist), and of
the files `*.toml` in the folder beside it, `/etc/wherry/config.d`: these are read in the order of
their names, and a later one wins, key by key. A flag beats all files. A key that is not known is
refused, with the nearest one that is; a value that makes no sense is refused before anything is
touched.

| command | what it says |
|---|---|
| `wherryd config` | what every key comes to, and which line, flag or default says so; `--json` for programs |
| `wherryd config defaults` | a file with every key, its meaning and its default |
| `wherryd config check FILE` | whether a file is in order, before it is put in place |

Sizes are `500`, `64Ki`, `10Mi`, `10Gi`, `1Ti`, or `k`, `M`, `G`, `T` for powers of a thousand; times
are `10s`. Keys with *reload* in the last column change when the daemon gets SIGHUP (`systemctl
reload wherryd`); the others at its start, which pods do not notice. A reload that finds a mistake
changes nothing, and the log names file and line; one that finds a change that has to wait names it.
";

/// The page of the docs.
pub(super) fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (table, keys) in tables() {
        let heading = match table {
            "" => "Outside of tables".to_owned(),
            table => format!("`[{}]`", operators(table)),
        };
        text.push_str(&format!("\n## {heading}\n\n"));
        text.push_str(
            "| key | type | unit | default | meaning | changes at |\n|---|---|---|---|---|---|\n",
        );
        for key in keys {
            let unit = key.kind.unit();
            let _infallible = writeln!(
                text,
                "| `{}` | {} | {unit} | {} | {}{} | {} |",
                own_name(key),
                key.kind,
                default_in_markdown(key),
                key.meaning,
                key.flag
                    .map(|flag| format!(" Flag: `{flag}`."))
                    .unwrap_or_default(),
                applies(key),
            );
        }
    }
    text
}

fn default_in_markdown(key: &Key) -> String {
    match (key.default(), key.default) {
        (Some(value), _) => format!("`{value}`"),
        (None, Default::Nothing(meaning)) => meaning.into(),
        (None, _) => "must be set".into(),
    }
}

fn applies(key: &Key) -> &'static str {
    match key.applies {
        Applies::AtReload => "reload",
        Applies::AtStart => "start",
    }
}

/// The manual page wherryd.toml(5), in man(7)'s macros.
pub(crate) fn man() -> String {
    let mut text = String::from(
        ".TH WHERRYD.TOML 5\n.SH NAME\nwherryd.toml \\- configuration of wherryd\n\
         .SH SYNOPSIS\n/etc/wherry/config.toml\n.br\n/etc/wherry/config.d/*.toml\n\
         .SH DESCRIPTION\nTOML. Neither need exist. The files of the folder are read after the file,\n\
         in the order of their names; a later one wins, key by key, and a flag beats all.\n\
         A key that is not known is refused.\n.PP\n\
         .B wherryd config\nsays what every key comes to, and where that is said;\n\
         .B wherryd config check FILE\nlooks at a file before it is put in place. SIGHUP has the\n\
         daemon read all again; keys without \"reload\" wait for its next start.\n",
    );
    for (table, keys) in tables() {
        let heading = match table {
            "" => "KEYS OUTSIDE OF TABLES".to_owned(),
            table => format!("TABLE [{}]", operators(table)),
        };
        let _infallible = writeln!(text, ".SH \"{}\"", troff(&heading));
        for key in keys {
            let _infallible = writeln!(text, ".TP\n.B {}\n{}", own_name(key), troff(&facts(key)));
        }
    }
    text.push_str(".SH SEE ALSO\nwherryd(8)\n");
    text
}

/// Type, unit, default and meaning in a few sentences.
fn facts(key: &Key) -> String {
    let unit = match key.kind.unit() {
        "" => String::new(),
        unit => format!(" ({unit})"),
    };
    let default = match (key.default(), key.default) {
        (Some(value), _) => format!("default {value}"),
        (None, Default::Nothing(meaning)) => format!("default: {meaning}"),
        (None, _) => "must be set".into(),
    };
    let flag = key
        .flag
        .map(|flag| format!(", flag {flag}"))
        .unwrap_or_default();
    let reload = match key.applies {
        Applies::AtReload => ", reload",
        Applies::AtStart => "",
    };
    let meaning = key.meaning.replace('`', "");
    format!("{}{unit}, {default}{flag}{reload}. {meaning}", key.kind)
}

/// Text in which troff sees nothing of its own.
fn troff(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('"', "\\(dq")
}

/// A file with every key: those with a default set to it, the others as comments.
pub(super) fn file() -> String {
    let mut text = String::from("# Every key of wherryd, with its default.\n");
    for (table, keys) in tables() {
        if !table.is_empty() {
            let comment = if table.contains('*') { "# " } else { "" };
            let _infallible = writeln!(text, "\n{comment}[{}]", operators(table));
        }
        for key in keys {
            for line in wrapped(key.meaning) {
                let _infallible = writeln!(text, "# {line}");
            }
            let _infallible = match key.default() {
                Some(value) => writeln!(text, "{} = {value}", own_name(key)),
                None => writeln!(text, "# {} = \"...\"", own_name(key)),
            };
        }
    }
    text
}

/// Lines of a comment.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 90;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if !line.is_empty() && line.len() + word.len() >= WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The tables in order, with their keys.
fn tables() -> impl Iterator<Item = (&'static str, &'static [Key])> {
    KEYS.chunk_by(|one, other| one.table() == other.table())
        .map(|keys| (keys.first().map_or("", Key::table), keys))
}

/// The name of a key in its table.
fn own_name(key: &Key) -> &'static str {
    key.components().last().unwrap_or_default()
}

/// A table's name, with what the operator chooses told apart.
fn operators(table: &str) -> String {
    table.replace('*', "<name>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_that_of_the_table() {
        let written = include_str!("../../../docs/configuration.md");
        assert!(
            written == markdown(),
            "docs/configuration.md is old: wherryd config markdown > docs/configuration.md"
        );
    }

    #[test]
    fn the_file_of_defaults_says_nothing_new() {
        let mut values = super::super::Values::default();
        let path = std::path::Path::new("defaults");
        super::super::file::read(&file(), path, &mut values).unwrap();
        assert!(
            values
                .differing(&super::super::Values::default())
                .is_empty()
        );
    }

    #[test]
    fn the_manual_has_every_key() {
        let text = man();
        for key in KEYS {
            assert!(
                text.contains(&format!("\n.B {}\n", own_name(key))),
                "{}",
                key.name
            );
        }
        // A line that begins with a dot or a quote is a request.
        let requests = [".TH", ".SH", ".TP", ".PP", ".B", ".br"];
        for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(requests.iter().any(|it| line.starts_with(it)), "{line}");
        }
    }
}
