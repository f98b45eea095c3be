//! What shells complete, from the table.

use std::fmt::Write as _;

use super::table::{EVERYWHERE, Flag, GLOBAL, Kind, VERBS};

/// The script for `shell`, in which the program is called `program`; `None` if we know no such shell.
pub(crate) fn script(shell: &str, program: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash(program)),
        "zsh" => Some(zsh(program)),
        "fish" => Some(fish(program)),
        _ => None,
    }
}

fn shown(flags: &'static [Flag]) -> impl Iterator<Item = &'static Flag> {
    flags
        .iter()
        .chain(EVERYWHERE)
        .filter(|flag| !flag.help.is_empty())
}

fn words(flags: &'static [Flag]) -> String {
    let mut text = String::new();
    for flag in shown(flags) {
        let _never_fails = write!(text, "--{} ", flag.name);
        if !flag.short.is_empty() {
            let _never_fails = write!(text, "-{} ", flag.short);
        }
    }
    text.trim_end().to_owned()
}

fn verbs() -> String {
    let names: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
    names.join(" ")
}

/// After a command its flags and the ids of containers, before it the commands and global flags.
fn bash(program: &str) -> String {
    let mut cases = String::new();
    for verb in VERBS {
        let (name, flags) = (verb.name, words(verb.flags));
        let _never_fails = writeln!(cases, "      {name}) flags='{flags}' ;;");
    }
    format!(
        r#"# bash completion for {program}
_{program}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} verb= flags= each
  for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case " {verbs} " in *" $each "*) verb=$each; break ;; esac
  done
  if [ -z "$verb" ]; then
    COMPREPLY=($(compgen -W '{verbs} {global}' -- "$word"))
  else
    case $verb in
{cases}    esac
    case $word in
      -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
      *) COMPREPLY=($(compgen -f -W "$({program} list -q 2>/dev/null)" -- "$word")) ;;
    esac
  fi
}}
complete -F _{program} {program}
"#,
        verbs = verbs(),
        global = words(GLOBAL),
    )
}

/// zsh understands bash's scripts.
fn zsh(program: &str) -> String {
    format!(
        "#compdef {program}\nautoload -U +X bashcompinit && bashcompinit\n{}",
        bash(program)
    )
}

fn fish(program: &str) -> String {
    let mut text = format!("# fish completion for {program}\n");
    for flag in shown(GLOBAL) {
        fish_flag(&mut text, program, "__fish_use_subcommand", flag);
    }
    for verb in VERBS {
        let (name, summary) = (verb.name, quoted(verb.summary));
        let _never_fails = writeln!(
            text,
            "complete -c {program} -f -n __fish_use_subcommand -a {name} -d {summary}"
        );
        let condition = format!("'__fish_seen_subcommand_from {name}'");
        for flag in shown(verb.flags) {
            fish_flag(&mut text, program, &condition, flag);
        }
    }
    text
}

fn fish_flag(text: &mut String, program: &str, condition: &str, flag: &Flag) {
    let _never_fails = write!(
        text,
        "complete -c {program} -n {condition} -l {}",
        flag.name
    );
    if !flag.short.is_empty() {
        let _never_fails = write!(text, " -s {}", flag.short);
    }
    if matches!(flag.kind, Kind::Value(_)) {
        text.push_str(" -r");
    }
    let _never_fails = writeln!(text, " -d {}", quoted(flag.help));
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell, "wrun").unwrap();
            for verb in VERBS {
                assert!(script.contains(verb.name), "{shell}: {}", verb.name);
            }
            assert!(
                !script.contains("kernel-memory"),
                "{shell} shows what is of no use"
            );
        }
        assert!(script("tcsh", "wrun").is_none());
    }
}
