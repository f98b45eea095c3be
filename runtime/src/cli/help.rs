//! The help, from the table.

use std::fmt::Write as _;

use super::table::{EVERYWHERE, Flag, GLOBAL, Kind, VERBS, Verb};

/// Help on everything; `program` is what the caller calls us.
pub(crate) fn all(program: &str) -> String {
    let mut text = format!(
        "NAME:\n   {program} - Open Container Initiative runtime\n\nUSAGE:\n   {program} [global options] command [command options] [arguments...]\n\nCOMMANDS:\n"
    );
    for verb in VERBS {
        let _never_fails = writeln!(text, "   {:<12} {}", verb.name, verb.summary);
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    flags(&mut text, GLOBAL);
    text
}

/// Help on one command.
pub(crate) fn one(program: &str, verb: &Verb) -> String {
    let mut text = format!(
        "NAME:\n   {program} {} - {}\n\nUSAGE:\n   {program} {} [command options] {}\n\nOPTIONS:\n",
        verb.name, verb.summary, verb.name, verb.usage
    );
    flags(&mut text, verb.flags);
    text
}

fn flags(text: &mut String, list: &[Flag]) {
    for flag in list
        .iter()
        .chain(EVERYWHERE)
        .filter(|flag| !flag.help.is_empty())
    {
        let mut left = format!("--{}", flag.name);
        if !flag.short.is_empty() {
            let _never_fails = write!(left, ", -{}", flag.short);
        }
        if let Kind::Value(of) = flag.kind {
            let _never_fails = write!(left, " {of}");
        }
        let _never_fails = writeln!(text, "   {left:<32} {}", flag.help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_the_program_as_it_was_called() {
        assert!(all("runc").starts_with("NAME:\n   runc - "));
        assert!(one("runc", &VERBS[0]).contains("runc checkpoint -"));
        let update = VERBS.iter().find(|verb| verb.name == "update").unwrap();
        assert!(!one("wrun", update).contains("--kernel-memory"));
    }
}
