//! The manual page, from the table.

use std::fmt::Write as _;

use super::table::{EVERYWHERE, Flag, GLOBAL, Kind, VERBS};

/// A page for section 8, in the macros of man(7).
pub(crate) fn page() -> String {
    let mut text = format!(
        ".TH WRUN 8 \"\" \"wrun {}\" \"System administration\"\n\
         .SH NAME\nwrun \\- Open Container Initiative runtime\n\
         .SH SYNOPSIS\n.B wrun\n[global options] command [options] [arguments]\n\
         .SH DESCRIPTION\nMakes containers from bundles of the OCI runtime specification and looks \
         after them, with the command line of\n.BR runc (8).\n.SH \"GLOBAL OPTIONS\"\n",
        env!("CARGO_PKG_VERSION")
    );
    flags(&mut text, GLOBAL);
    text.push_str(".SH COMMANDS\n");
    for verb in VERBS {
        let summary = escaped(verb.summary);
        let usage = escaped(verb.usage);
        let _never_fails = writeln!(text, ".SS {} {usage}\n{summary}.", verb.name);
        flags(&mut text, verb.flags);
    }
    text.push_str(
        ".SH \"EXIT STATUS\"\n0, or 1 for a failure; 3 for a command that does not exist.\n\
         .B run\nand\n.B exec\nin the foreground exit as their process does, with 128 and the number \
         of the signal that ended it; a failed\n.B exec\nwith 255.\n\
         .SH FILES\n.I /run/wrun\nholds the state of containers, for ordinary users\n\
         .IR $XDG_RUNTIME_DIR/wrun .\n",
    );
    text
}

fn flags(text: &mut String, list: &[Flag]) {
    let shown = list.iter().chain(EVERYWHERE);
    for flag in shown.filter(|flag| !flag.help.is_empty()) {
        let mut names = format!("\\-\\-{}", escaped(flag.name));
        if !flag.short.is_empty() {
            let _never_fails = write!(names, ", \\-{}", flag.short);
        }
        if let Kind::Value(of) = flag.kind {
            let _never_fails = write!(names, " \\fI{}\\fR", escaped(of));
        }
        let _never_fails = writeln!(text, ".TP\n\\fB{names}\\fR\n{}", escaped(flag.help));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_flag() {
        let page = page();
        for verb in VERBS {
            assert!(page.contains(&format!(".SS {}", verb.name)));
        }
        assert!(page.contains("\\-\\-cgroup\\-manager") && !page.contains("kernel\\-memory"));
    }
}
