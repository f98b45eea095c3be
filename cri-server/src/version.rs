//! `wherryd --version`: which three programs these are, and whether they belong together.
//!
//! The shim and the runtime beside this program are asked themselves, so that what is told is what
//! lies there, not what should.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::config::{OWN_RUNTIME, SHIM};

/// This program's version.
pub(crate) const OURS: &str = env!("CARGO_PKG_VERSION");
/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, bytes.
const MAX_ANSWER: u64 = 4096;

/// What a program says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    version: String,
    /// What it speaks: of a shim the number of its protocol, of a runtime the specification.
    speaks: String,
}

/// Prints all three versions, and what does not fit.
///
/// # Errors
///
/// Nothing can be printed.
pub(crate) fn print(programs: &Path) -> Result<()> {
    let mut text = format!("wherryd {OURS}\n");
    let mut remarks = String::new();
    for (name, mark, word) in [
        (SHIM, "protocol: ", "protocol"),
        (OWN_RUNTIME, "spec: ", "OCI"),
    ] {
        let program = programs.join(name);
        // Writing to memory does not fail.
        let _never_fails = match ask(&program).map(|answer| parse(&answer, mark)) {
            Ok(Some(said)) => {
                remarks.push_str(&judge(name, &said));
                let Said { version, speaks } = said;
                writeln!(
                    text,
                    "{name} {version}, {word} {speaks}: {}",
                    program.display()
                )
            }
            Ok(None) => writeln!(
                text,
                "{name}: {} does not say its version",
                program.display()
            ),
            Err(error) => writeln!(
                text,
                "{name}: {} cannot be asked: {error}",
                program.display()
            ),
        };
    }
    text.push_str(&remarks);
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("printing")
}

/// Runs `program --version` and reads what it says.
fn ask(program: &Path) -> std::io::Result<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "ends here, or is killed when its time is over"
    )]
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answer = read(&mut child);
    if answer.is_err() {
        child.kill()?;
    }
    child.wait()?;
    answer
}

fn read(child: &mut Child) -> std::io::Result<String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut text = String::new();
    let Some(output) = child.stdout.take() else {
        return Ok(text);
    };
    let patience = Timespec::try_from(PATIENCE).ok();
    let mut answers = [PollFd::new(&output, PollFlags::IN)];
    if poll(&mut answers, patience.as_ref())? == 0 {
        return Err(std::io::Error::other(format!(
            "no answer within {PATIENCE:?}"
        )));
    }
    output.take(MAX_ANSWER).read_to_string(&mut text)?;
    Ok(text)
}

/// The version at the end of the first line, and what follows `mark` on another.
fn parse(answer: &str, mark: &str) -> Option<Said> {
    let version = answer.lines().next()?.rsplit(' ').next()?;
    let speaks = answer.lines().find_map(|line| line.strip_prefix(mark))?;
    Some(Said {
        version: version.to_owned(),
        speaks: speaks.to_owned(),
    })
}

/// What an operator should know of a companion; nothing if it fits.
fn judge(name: &str, said: &Said) -> String {
    let mut remark = String::new();
    if said.version != OURS {
        let version = &said.version;
        remark.push_str(&format!(
            "note: {name} is of version {version}, not {OURS}: the three programs are made to be \
             installed together\n"
        ));
    }
    let protocol = said.speaks.parse::<u32>().ok().filter(|_| name == SHIM);
    let ours = engine::SHIM_PROTOCOL;
    if let Some(protocol) = protocol.filter(|protocol| *protocol < ours) {
        remark.push_str(&format!(
            "note: {name} speaks protocol {protocol}, this wherryd {ours}: what came since is \
             refused for containers made with it\n"
        ));
    }
    remark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: &str, speaks: &str) -> Said {
        Said {
            version: version.to_owned(),
            speaks: speaks.to_owned(),
        }
    }

    #[test]
    fn answers_of_both() {
        let shim = "wherry-shim version 1.2.3\nprotocol: 4\n";
        assert_eq!(parse(shim, "protocol: "), Some(said("1.2.3", "4")));
        let runtime = "wrun version 1.2.3\ncommit: unknown\nspec: 1.3.0\n";
        assert_eq!(parse(runtime, "spec: "), Some(said("1.2.3", "1.3.0")));
        assert_eq!(parse("", "spec: "), None);
        assert_eq!(parse("wrun version 1.2.3\n", "spec: "), None);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let now = engine::SHIM_PROTOCOL.to_string();
        assert_eq!(judge(SHIM, &said(OURS, &now)), "");
        let later = (engine::SHIM_PROTOCOL + 1).to_string();
        assert_eq!(judge(SHIM, &said(OURS, &later)), "", "it knows all of ours");
        let older = judge(SHIM, &said("0.0.1", "0"));
        assert!(older.contains("is of version 0.0.1, not"), "{older}");
        assert!(older.contains("speaks protocol 0, this wherryd"), "{older}");
        let runtime = judge(OWN_RUNTIME, &said("9.0.0", "1.3.0"));
        assert!(runtime.contains("is of version 9.0.0"), "{runtime}");
    }

    #[test]
    fn a_program_that_cannot_be_asked() {
        assert!(ask(Path::new("/no/such/program")).is_err());
    }
}
