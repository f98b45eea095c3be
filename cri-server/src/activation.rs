//! What a service manager gives the daemon, and hears from it: listening sockets that outlive it
//! (sd_listen_fds(3)), and a place to say that it serves (sd_notify(3)).
//!
//! Without a manager all of it comes to nothing. What is said is not needed by anybody who has
//! already gone on: a message that cannot be sent is logged, no more.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketAddrUnix, SocketType, getsockname};
use sd_notify::NotifyState;

/// Listening sockets that were open when the daemon started, by the path that they are bound to.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    sockets: Vec<(PathBuf, OwnedFd)>,
}

impl Passed {
    /// Takes what the manager passed. To be called once, by the process that it started.
    pub(crate) fn take() -> Self {
        let numbers = match sd_notify::listen_fds() {
            Ok(numbers) => numbers,
            Err(error) => {
                tracing::warn!(%error, "the service manager's sockets cannot be found");
                return Self::default();
            }
        };
        Self::of(
            numbers.filter_map(|number| match sys::fd::inherited(number) {
                Ok(socket) => Some(socket),
                Err(error) => {
                    tracing::warn!(number, %error, "a socket of the service manager");
                    None
                }
            }),
        )
    }

    fn of(sockets: impl Iterator<Item = OwnedFd>) -> Self {
        let mut passed = Self::default();
        for socket in sockets {
            match bound_to(&socket) {
                Some(path) => passed.sockets.push((path, socket)),
                None => tracing::warn!(
                    "what the service manager passed is no stream socket that listens at a path"
                ),
            }
        }
        passed
    }

    /// The socket at `path`, if there is one and the path still leads to a socket: what removed the
    /// name took the manager's socket out of everybody's reach.
    pub(crate) fn at(&mut self, path: &Path) -> Option<OwnedFd> {
        let index = self.sockets.iter().position(|(bound, _)| bound == path)?;
        let (_, socket) = self.sockets.swap_remove(index);
        if path.exists() {
            return Some(socket);
        }
        tracing::warn!(
            ?path,
            "the service manager's socket has lost its name; the daemon makes its own"
        );
        None
    }

    /// Names what nobody has asked for.
    pub(crate) fn warn_of_rest(&self) {
        for (path, _) in &self.sockets {
            tracing::warn!(
                ?path,
                "the service manager's socket is none that the configuration names; nobody serves it"
            );
        }
    }
}

/// The path of a stream socket that listens.
fn bound_to(socket: &OwnedFd) -> Option<PathBuf> {
    let stream = socket_type(socket) == Ok(SocketType::STREAM);
    let listens = socket_acceptconn(socket) == Ok(true);
    if !(stream && listens) {
        return None;
    }
    let address = SocketAddrUnix::try_from(getsockname(socket.as_fd()).ok()?).ok()?;
    let path = std::ffi::OsStr::from_bytes(address.path_bytes()?);
    Some(path.into())
}

/// Tells the manager that clients are served.
pub(crate) fn ready(listen: &Path) {
    let status = format!("serving CRI on {}", listen.display());
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Tells the manager that a reload has begun, which [`reloaded`] ends (systemd.service(5),
/// `Type=notify-reload`: the time tells it from what was said before).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of a reload"),
    }
}

/// Tells the manager that a reload has ended, well or not: the daemon serves as before.
pub(crate) fn reloaded(outcome: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(outcome)]);
}

/// Tells the manager that the daemon is about to end.
pub(crate) fn stopping() {
    say(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping; containers go on"),
    ]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn sockets_are_known_by_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let other = UnixListener::bind(folder.path().join("b.sock")).unwrap();
        let datagrams = UnixDatagram::bind(folder.path().join("c.sock")).unwrap();
        let (pair, _end) = UnixStream::pair().unwrap();
        let all: [OwnedFd; 4] = [listener.into(), other.into(), datagrams.into(), pair.into()];
        let mut passed = Passed::of(all.into_iter());
        assert_eq!(passed.sockets.len(), 2);
        assert!(passed.at(&folder.path().join("c.sock")).is_none());
        let found = passed.at(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        UnixListener::from(found).accept().unwrap();
        drop(client);
        assert!(passed.at(&path).is_none(), "it is there once");
    }

    #[test]
    fn a_socket_without_its_name_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut passed = Passed::of([OwnedFd::from(listener)].into_iter());
        assert!(passed.at(&path).is_none());
    }
}
