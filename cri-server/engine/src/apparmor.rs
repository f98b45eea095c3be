//! AppArmor profiles: whether one is loaded, and ours brought into the kernel when it is first used.
//!
//! The kernel takes compiled profiles only; the compiler is `apparmor_parser`. A node without it has
//! no default profile, as with other engines.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pod::container::{ProfileRequest, Security};
use pod::plan::DEFAULT_PROFILE;

use crate::error::Error;

/// What [`DEFAULT_PROFILE`] says (apparmor.d(5)).
const PROFILE: &str = include_str!("apparmor.profile");

/// The kernel's list: a line `name (mode)` for each profile.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Where the compiler lies.
const PARSERS: [&str; 3] = [
    "/sbin/apparmor_parser",
    "/usr/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];

/// The field that names a profile.
const FIELD: &str = "linux.security_context.apparmor";

/// Whether the kernel has AppArmor.
pub(crate) fn is_on() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// Whether our profile is in the kernel, or can be brought there.
pub(crate) fn has_default() -> bool {
    parser().is_some() || loaded().is_ok_and(|list| is_in(&list, DEFAULT_PROFILE))
}

fn parser() -> Option<PathBuf> {
    PARSERS.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Sees to it that the profile of a container is loaded; may block.
///
/// # Errors
///
/// [`Error::Invalid`] if the client's is not, [`Error::Failed`] if ours cannot be.
pub(crate) fn prepare(security: &Security, facts: &pod::NodeFacts) -> Result<(), Error> {
    if !facts.apparmor {
        return Ok(());
    }
    // Without a list the runtime finds out.
    let Ok(list) = loaded() else { return Ok(()) };
    match &security.apparmor {
        ProfileRequest::Localhost(name) if !is_in(&list, name) => Err(Error::Invalid(format!(
            "{FIELD}: profile {name:?} is not loaded on this node"
        ))),
        ProfileRequest::RuntimeDefault
            if facts.apparmor_default && !security.privileged && !is_in(&list, DEFAULT_PROFILE) =>
        {
            load().map_err(|error| {
                Error::failed(format!("loading AppArmor profile {DEFAULT_PROFILE}"), error)
            })
        }
        _ => Ok(()),
    }
}

fn loaded() -> io::Result<String> {
    std::fs::read_to_string(LOADED)
}

/// Whether a list of the kernel's has a profile, in whatever mode.
fn is_in(list: &str, name: &str) -> bool {
    let mut names = list.lines().filter_map(|line| line.rsplit_once(" ("));
    names.any(|(known, _mode)| known == name)
}

fn load() -> io::Result<()> {
    let parser = parser().ok_or_else(|| io::Error::other("there is no apparmor_parser"))?;
    // Replaced where it is there already: another container may be first. No cache of the parser's.
    compile(&parser, &["--replace", "--skip-cache"])
}

/// Gives our profile to the parser.
fn compile(parser: &Path, flags: &[&str]) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "it ends and is reaped here")]
    let mut process = Command::new(parser)
        .args(flags)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // It reads all before it says anything. One that ended without reading says why.
    let written = process
        .stdin
        .take()
        .map(|mut input| input.write_all(PROFILE.as_bytes()));
    let output = process.wait_with_output()?;
    if output.status.success() {
        return written.unwrap_or(Ok(()));
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{}: {words}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list() {
        let list = "wherry-default (enforce)\n/usr/bin/man (complain)\nwith (brackets) (enforce)\n";
        for (name, expect) in [
            ("wherry-default", true),
            ("/usr/bin/man", true),
            ("with (brackets)", true),
            ("wherry", false),
            ("", false),
        ] {
            assert_eq!(is_in(list, name), expect, "{name}");
        }
    }

    #[test]
    fn our_profile_has_its_name_and_is_well_formed() {
        assert!(PROFILE.contains(&format!("profile {DEFAULT_PROFILE} ")));
        let Some(parser) = parser() else {
            return println!("skipped: needs apparmor_parser");
        };
        compile(&parser, &["--skip-kernel-load", "--skip-cache"]).unwrap();
    }

    #[test]
    fn without_apparmor_nothing_is_looked_at() {
        let security = Security {
            apparmor: ProfileRequest::Localhost("none".into()),
            ..Default::default()
        };
        prepare(&security, &pod::NodeFacts::default()).unwrap();
    }
}
