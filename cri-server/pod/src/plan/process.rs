//! What a container runs: program and arguments, environment, working folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{PlanError, check};
use crate::container::{ContainerSpec, ImageFacts};

/// Where programs are looked for, unless the image says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What kind of terminal there is, unless the image says.
const DEFAULT_TERM: &str = "xterm";

/// The program and its arguments, by Docker's rule: a command of the request replaces the image's
/// entrypoint and its default arguments; arguments of the request replace the default arguments.
pub(super) fn args(spec: &ContainerSpec, image: &ImageFacts) -> Result<Vec<String>, PlanError> {
    let mut args = match spec.command.is_empty() {
        true => image.entrypoint.clone(),
        false => spec.command.clone(),
    };
    if !spec.args.is_empty() {
        args.extend_from_slice(&spec.args);
    } else if spec.command.is_empty() {
        args.extend_from_slice(&image.cmd);
    }
    for arg in &args {
        check::no_nul("command", arg)?;
    }
    match args.first().map(String::as_str) {
        None | Some("") => Err(PlanError::invalid(
            "command",
            "neither the request nor the image says what to run",
        )),
        Some(_) => Ok(args),
    }
}

/// The environment: the image's, the host name, then the request's; the later one wins.
pub(super) fn env(
    spec: &ContainerSpec,
    image: &ImageFacts,
    hostname: &str,
) -> Result<BTreeMap<String, String>, PlanError> {
    let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    if spec.tty {
        env.insert("TERM".to_owned(), DEFAULT_TERM.to_owned());
    }
    // A line without `=` sets nothing.
    let of_image = image.env.iter().filter_map(|line| line.split_once('='));
    env.extend(of_image.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if !hostname.is_empty() {
        env.insert("HOSTNAME".to_owned(), hostname.to_owned());
    }
    for (place, (name, value)) in spec.env.iter().enumerate() {
        let field = format!("envs[{place}]");
        if name.is_empty() || name.contains('=') {
            let reason = format!("{name:?} is no name of a variable");
            return Err(PlanError::invalid(format!("{field}.key"), reason));
        }
        check::no_nul(&field, name)?;
        check::no_nul(&field, value)?;
        env.insert(name.clone(), value.clone());
    }
    Ok(env)
}

/// The working folder: the request's, the image's, or the root.
pub(super) fn working_dir(spec: &ContainerSpec, image: &ImageFacts) -> Result<PathBuf, PlanError> {
    if !spec.working_dir.is_empty() {
        return check::absolute("working_dir", &spec.working_dir);
    }
    // Old images have relative ones, which Docker reads from the root.
    check::absolute("image.image", &format!("/{}", image.working_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn command_and_arguments() {
        let check = |command: &str, given: &str, entry: &str, cmd: &str, expect: Option<&str>| {
            let (command, given) = (words(command), words(given));
            let spec = ContainerSpec {
                command,
                args: given,
                ..Default::default()
            };
            let (entrypoint, cmd) = (words(entry), words(cmd));
            let image = ImageFacts {
                entrypoint,
                cmd,
                ..Default::default()
            };
            assert_eq!(args(&spec, &image).ok(), expect.map(words));
        };
        check("", "", "e", "d", Some("e d"));
        check("", "a", "e", "d", Some("e a"));
        check("c", "", "e", "d", Some("c"));
        check("c", "a b", "e", "d", Some("c a b"));
        check("", "a", "", "d", Some("a"));
        check("", "", "", "d", Some("d"));
        check("", "", "", "", None);
    }

    #[test]
    fn an_empty_program_is_refused() {
        let command = vec![String::new(), "x".into()];
        let spec = ContainerSpec {
            command,
            ..Default::default()
        };
        assert!(args(&spec, &ImageFacts::default()).is_err());
        let command = vec!["a\0b".into()];
        let spec = ContainerSpec {
            command,
            ..Default::default()
        };
        assert!(args(&spec, &ImageFacts::default()).is_err());
    }

    fn env_text(given: &[(&str, &str)], image: &[&str], tty: bool) -> Result<String, PlanError> {
        let env = given
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let spec = ContainerSpec {
            env,
            tty,
            ..Default::default()
        };
        let env = image.iter().map(ToString::to_string).collect();
        let found = super::env(
            &spec,
            &ImageFacts {
                env,
                ..Default::default()
            },
            "host",
        )?;
        let lines: Vec<_> = found
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Ok(lines.join(" "))
    }

    #[test]
    fn later_variables_win() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(
            env_text(&[], &[], false).unwrap(),
            format!("HOSTNAME=host {path}")
        );
        assert_eq!(
            env_text(&[], &["PATH=/x"], true).unwrap(),
            "HOSTNAME=host PATH=/x TERM=xterm"
        );
        let found = env_text(
            &[("A", "3"), ("A", "4=5"), ("HOSTNAME", "h")],
            &["A=1", "B=", "C", "PATH=/x", "TERM=dumb"],
            true,
        );
        assert_eq!(found.unwrap(), "A=4=5 B= HOSTNAME=h PATH=/x TERM=dumb");
    }

    #[test]
    fn names_of_variables() {
        for name in ["", "A=B", "A\0"] {
            assert!(env_text(&[(name, "x")], &[], false).is_err(), "{name:?}");
        }
    }

    #[test]
    fn working_folders() {
        let check = |asked: &str, image: &str, expect: Option<&str>| {
            let spec = ContainerSpec {
                working_dir: asked.into(),
                ..Default::default()
            };
            let image = ImageFacts {
                working_dir: image.into(),
                ..Default::default()
            };
            assert_eq!(working_dir(&spec, &image).ok(), expect.map(PathBuf::from));
        };
        check("", "", Some("/"));
        check("", "/app", Some("/app"));
        check("", "app", Some("/app"));
        check("/w/", "/app", Some("/w"));
        check("w", "/app", None);
    }
}
