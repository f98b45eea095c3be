//! Plugins that lie in a folder: found, started, ended.
//!
//! A plugin is a program called `INDEX-NAME`. It gets its end of the connection as descriptor 3, and
//! its own file of a second folder as its configuration: `INDEX-NAME.conf`, else `NAME.conf`.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal as Kill, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// The plugin's end of the connection.
const SOCKET_FD: i32 = 3;
/// Most plugins that are started.
const MAX_PLUGINS: usize = 100;
/// Longest configuration of a plugin, bytes; it has to fit a message.
const MAX_CONFIG: u64 = 1 << 20;
/// How long a plugin may take to end once its connection has.
const GRACE: Duration = Duration::from_secs(1);
/// How long the kernel may take to end it then.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A plugin as it lies there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: String,
    pub(crate) base: String,
    pub(crate) program: PathBuf,
    pub(crate) config: String,
}

/// Two digits, a dash, a name.
pub(crate) fn split_name(name: &str) -> Result<(&str, &str), String> {
    let parts = name.split_once('-');
    let (index, base) = parts.ok_or_else(|| format!("{name:?} is not INDEX-NAME"))?;
    check_index(index)?;
    check_base(base)?;
    Ok((index, base))
}

pub(crate) fn check_index(index: &str) -> Result<(), String> {
    match index.len() == 2 && index.bytes().all(|one| one.is_ascii_digit()) {
        true => Ok(()),
        false => Err(format!("index {index:?} is not two digits")),
    }
}

pub(crate) fn check_base(base: &str) -> Result<(), String> {
    let letter = |one: char| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.' | '+');
    match !base.is_empty() && base.chars().all(letter) {
        true => Ok(()),
        false => Err(format!(
            "name {base:?} is empty or has other than a-z A-Z 0-9 - _ . +"
        )),
    }
}

/// The plugins of a folder, in their order; none if there is no such folder.
pub(crate) fn discover(plugins: &Path, configs: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(plugins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let program = entry.path();
        let is_program = fs::metadata(&program)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !is_program {
            continue;
        }
        match look_at(&program, &entry.file_name().to_string_lossy(), configs) {
            Ok(plugin) => found.push(plugin),
            // One that is in the way is not the others' fault.
            Err(reason) => tracing::warn!(?program, reason, "an NRI plugin is passed over"),
        }
    }
    found.sort_by(|one, other| (&one.index, &one.base).cmp(&(&other.index, &other.base)));
    if found.len() > MAX_PLUGINS {
        tracing::warn!(
            ?plugins,
            "only the first {MAX_PLUGINS} NRI plugins are started"
        );
        found.truncate(MAX_PLUGINS);
    }
    Ok(found)
}

fn look_at(program: &Path, name: &str, configs: &Path) -> Result<Found, String> {
    let (index, base) = split_name(name)?;
    let mut config = None;
    for file in [format!("{name}.conf"), format!("{base}.conf")] {
        let path = configs.join(file);
        if config.is_none() {
            config = read(&path).map_err(|error| format!("reading {path:?}: {error}"))?;
        }
    }
    Ok(Found {
        index: index.to_owned(),
        base: base.to_owned(),
        program: program.to_owned(),
        config: config.unwrap_or_default(),
    })
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(MAX_CONFIG).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// A plugin that runs; to be [ended](Self::end).
#[derive(Debug)]
pub(crate) struct Launched {
    pidfd: OwnedFd,
}

/// Starts a plugin; answers with our end of its connection.
pub(crate) fn launch(plugin: &Found) -> io::Result<(UnixStream, Launched)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let pid = spawn(plugin, &theirs)?;
    let pid = Pid::from_raw(pid).expect("a new process has a number above zero");
    // It is ours to reap, so that its number is not given away meanwhile.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok((ours, Launched { pidfd }))
}

fn spawn(plugin: &Found, socket: &UnixStream) -> io::Result<i32> {
    let program = CString::new(plugin.program.as_os_str().as_bytes())?;
    let environment = [
        format!("NRI_PLUGIN_NAME={}", plugin.base),
        format!("NRI_PLUGIN_IDX={}", plugin.index),
        format!("NRI_PLUGIN_SOCKET={SOCKET_FD}"),
    ];
    let environment = environment.map(|line| CString::new(line).expect("names have no NUL"));
    let mut actions = PosixSpawnFileActions::init()?;
    // First: what the daemon has open under that number is not the plugin's.
    actions.add_dup2(socket.as_raw_fd(), SOCKET_FD)?;
    let null = c"/dev/null";
    let none = nix::sys::stat::Mode::empty();
    actions.add_open(0, null, nix::fcntl::OFlag::O_RDONLY, none)?;
    actions.add_open(1, null, nix::fcntl::OFlag::O_WRONLY, none)?;
    // What it says goes where the daemon's log goes.
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    let argv = [program.as_c_str()];
    let pid = posix_spawn(
        program.as_c_str(),
        &actions,
        &attributes,
        &argv,
        &environment,
    )?;
    Ok(pid.as_raw())
}

impl Launched {
    /// Waits until the process has ended, ends it if that takes too long, and reaps it. Blocks.
    pub(crate) fn end(self) {
        if !self.has_ended(GRACE) {
            if let Err(error) = pidfd_send_signal(&self.pidfd, Kill::KILL) {
                tracing::debug!(%error, "killing an NRI plugin");
            }
            self.has_ended(KILL_PATIENCE);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Err(error) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            tracing::debug!(%error, "reaping an NRI plugin");
        }
    }

    /// Whether it has ended when `within` is over (pidfd_open(2): readable then).
    fn has_ended(&self, within: Duration) -> bool {
        let mut wanted = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let within = Timespec::try_from(within).expect("a few seconds");
        matches!(poll(&mut wanted, Some(&within)), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(split_name("10-a-b"), Ok(("10", "a-b")));
        for (name, part) in [
            ("plugin", "is not INDEX-NAME"),
            ("1-x", "two digits"),
            ("1x-x", "two digits"),
            ("10-", "name \"\""),
            ("10-a b", "name \"a b\""),
        ] {
            let error = split_name(name).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn plugins_of_a_folder_with_their_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (plugins, configs) = (folder.path().join("plugins"), folder.path().join("conf.d"));
        assert!(discover(&plugins, &configs).unwrap().is_empty());
        for path in [&plugins, &configs] {
            fs::create_dir(path).unwrap();
        }
        for (name, mode) in [
            ("20-b", 0o755),
            ("10-a", 0o755),
            ("30-c", 0o644),
            ("wrong", 0o755),
        ] {
            let path = plugins.join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::write(configs.join("10-a.conf"), "own").unwrap();
        fs::write(configs.join("a.conf"), "passed over").unwrap();
        fs::write(configs.join("b.conf"), "by name").unwrap();
        let found = discover(&plugins, &configs).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.index.as_str(), one.base.as_str(), one.config.as_str()))
            .collect();
        assert_eq!(found, [("10", "a", "own"), ("20", "b", "by name")]);
    }
}
