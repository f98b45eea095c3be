//! The command line, turned once into a value that cannot be wrong.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser, ValueExt};
use nix::sched::CloneFlags;

use crate::failure::Failure;

/// What this process is to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The shim of a container.
    Serve(Options),
    /// Undo what a lost shim left.
    Delete(Options),
    /// First process of a shared process id namespace.
    Init,
    /// Holds new namespaces until they are pinned.
    Namespaces(CloneFlags),
    /// Ask an OCI runtime what it can do.
    Features(PathBuf),
    /// Say which shim this is.
    Version,
}

/// Which container, and which OCI runtime makes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The container's id, as the runtime knows it.
    pub(crate) id: String,
    /// The bundle, absolute.
    pub(crate) bundle: PathBuf,
    /// The runtime's program, absolute.
    pub(crate) runtime: PathBuf,
    /// Where the runtime keeps its state; `None`: its own default.
    pub(crate) runtime_root: Option<PathBuf>,
    /// Whether the runtime is to make control groups by way of systemd.
    pub(crate) systemd_cgroup: bool,
}

/// Reads the arguments, the program's own name first.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    // Alone in an empty root file system the binary is started under this name.
    if Path::new(&program)
        .file_name()
        .is_some_and(|name| name == "init")
    {
        return Ok(Command::Init);
    }
    command(Parser::from_args(args)).map_err(|error| Failure::other("command line", error))
}

fn command(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut delete = false;
    let (mut id, mut bundle, mut runtime, mut runtime_root) = (None, None, None, None);
    let mut systemd_cgroup = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(word) if word == "init" => return Ok(Command::Init),
            Arg::Value(word) if word == "namespaces" => return namespaces(parser),
            Arg::Value(word) if word == "features" => return features(parser),
            Arg::Value(word) if word == "delete" && !delete => delete = true,
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Long("id") => id = Some(parser.value()?.string()?),
            Arg::Long("bundle") => bundle = Some(absolute(parser.value()?)?),
            Arg::Long("runtime") => runtime = Some(absolute(parser.value()?)?),
            Arg::Long("runtime-root") => runtime_root = Some(absolute(parser.value()?)?),
            Arg::Long("systemd-cgroup") => systemd_cgroup = true,
            other => return Err(other.unexpected()),
        }
    }
    let options = Options {
        id: id.ok_or("--id is missing")?,
        bundle: bundle.ok_or("--bundle is missing")?,
        runtime: runtime.ok_or("--runtime is missing")?,
        runtime_root,
        systemd_cgroup,
    };
    Ok(if delete {
        Command::Delete(options)
    } else {
        Command::Serve(options)
    })
}

/// The kinds of namespaces, named as in `/proc/PID/ns`; a user namespace is always among them.
fn namespaces(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut flags = CloneFlags::CLONE_NEWUSER;
    while let Some(argument) = parser.next()? {
        flags |= match argument {
            Arg::Value(word) if word == "user" => CloneFlags::CLONE_NEWUSER,
            Arg::Value(word) if word == "net" => CloneFlags::CLONE_NEWNET,
            Arg::Value(word) if word == "ipc" => CloneFlags::CLONE_NEWIPC,
            Arg::Value(word) if word == "uts" => CloneFlags::CLONE_NEWUTS,
            other => return Err(other.unexpected()),
        };
    }
    Ok(Command::Namespaces(flags))
}

fn features(mut parser: Parser) -> Result<Command, lexopt::Error> {
    match parser.next()? {
        Some(Arg::Long("runtime")) => Ok(Command::Features(absolute(parser.value()?)?)),
        _ => Err("--runtime is missing".into()),
    }
}

fn absolute(value: OsString) -> Result<PathBuf, lexopt::Error> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!("{} is not an absolute path", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: Result<Command, &str>) {
        let got = parse(line.split_whitespace().map(OsString::from));
        assert_eq!(
            got.map_err(|failure| failure.message),
            expect.map_err(str::to_owned),
            "{line}"
        );
    }

    fn options() -> Options {
        Options {
            id: "c1".into(),
            bundle: "/b".into(),
            runtime: "/bin/runc".into(),
            runtime_root: Some("/r".into()),
            systemd_cgroup: false,
        }
    }

    #[test]
    fn modes_and_flags() {
        let flags = "--id c1 --bundle /b --runtime /bin/runc --runtime-root /r";
        check(
            &format!("wherry-shim {flags}"),
            Ok(Command::Serve(options())),
        );
        check(
            &format!("wherry-shim delete {flags}"),
            Ok(Command::Delete(options())),
        );
        let systemd = Options {
            systemd_cgroup: true,
            ..options()
        };
        check(
            &format!("s {flags} --systemd-cgroup"),
            Ok(Command::Serve(systemd)),
        );
        check("wherry-shim --version", Ok(Command::Version));
        check("wherry-shim init", Ok(Command::Init));
        check("/init", Ok(Command::Init));
        check("/init --anything", Ok(Command::Init));
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWIPC;
        check(
            "wherry-shim namespaces user ipc",
            Ok(Command::Namespaces(flags)),
        );
        check(
            "wherry-shim features --runtime /bin/runc",
            Ok(Command::Features("/bin/runc".into())),
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("s", Err("command line: --id is missing"));
        check(
            "s --id a --bundle b",
            Err("command line: b is not an absolute path"),
        );
        check(
            "s --id a --bundle /b",
            Err("command line: --runtime is missing"),
        );
        check("s --what", Err("command line: invalid option '--what'"));
        check(
            "s delete delete",
            Err("command line: unexpected argument \"delete\""),
        );
        check(
            "s namespaces mnt",
            Err("command line: unexpected argument \"mnt\""),
        );
        check("s features", Err("command line: --runtime is missing"));
    }
}
