//! What a package ships of the command line beside the program: manual pages of section 8 and
//! completions for shells, both made from [`crate::cli`].

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::config;

/// Section of the pages: system administration.
const SECTION: &str = "8";
/// The page of the configuration.
const CONFIGURATION: &str = "wherryd.toml.5";
/// The program.
const NAME: &str = "wherryd";

/// Writes `wherryd.8`, `wherryd.toml.5` and a page for each command into a folder.
///
/// # Errors
///
/// Names the page that cannot be written.
pub(crate) fn write_pages(folder: &Path) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    write_page(&command, folder)?;
    let path = folder.join(CONFIGURATION);
    std::fs::write(&path, config::manual()).with_context(|| format!("writing {path:?}"))
}

fn write_page(command: &clap::Command, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(NAME);
    let path = folder.join(format!("{name}.{SECTION}"));
    let page = Man::new(command.clone()).section(SECTION);
    let what = || format!("writing {path:?}");
    let mut text = Vec::new();
    page.render(&mut text).with_context(what)?;
    std::fs::write(&path, text).with_context(what)?;
    let commands = command.get_subcommands();
    for command in commands.filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        write_page(command, folder)?;
    }
    Ok(())
}

/// Prints what a shell has to read to complete the words of the command line.
///
/// # Errors
///
/// Nothing can be printed.
pub(crate) fn print_completion(shell: Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    std::io::stdout().write_all(&text).context("printing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("wherryd.8").contains("wherryd\\-images(8)"));
        assert!(page("wherryd-images.8").contains("wherryd\\-images\\-pull(8)"));
        assert!(page("wherryd-images-fsck.8").contains("\\-\\-repair"));
        assert!(page("wherryd-check.8").contains("\\-\\-json"));
        assert!(!folder.path().join("wherryd-man.8").exists());
        assert!(page(CONFIGURATION).contains("\n.B cni_conf_dir\n"));
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("fsck"), "{shell}: {text}");
            assert!(text.contains("registry-config"), "{shell}");
        }
    }
}
