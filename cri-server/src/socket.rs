//! A listening unix socket at a path: never two daemons on one, never open wider than meant.
//!
//! The socket gets its mode before it listens and its name after: nobody can connect to it while it
//! is half made, and a name that exists always leads to a daemon that listens, or did.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, chmodat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Added to a socket's path until it listens.
pub(crate) const FRESH: &str = ".new";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Mode of folders made for a socket: others may pass, not look.
const FOLDER_MODE: u32 = 0o711;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("another daemon listens on {0:?}")]
    InUse(PathBuf),
    #[error("{0:?} exists and is not a socket")]
    NotASocket(PathBuf),
    #[error("{what} {path:?}: {cause}")]
    Io {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
}

/// Turns an error of the system into ours.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Io {
        what,
        path: path.into(),
        cause,
    }
}

/// A listening socket that takes its name away when it goes, if the name is its own.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Path and inode of the name; none where a service manager keeps it.
    name: Option<(PathBuf, u64)>,
    listener: Option<UnixListener>,
}

impl Bound {
    /// The listener; `None` if it was taken before.
    pub(crate) fn take(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // The name may lead to another daemon's socket by now.
        if let Some((path, own)) = &self.name
            && inode(path).is_ok_and(|inode| inode == *own)
        {
            drop(std::fs::remove_file(path));
        }
    }
}

/// Checks that a socket can be bound at `path`: nothing is there, or a socket that nobody serves.
///
/// # Errors
///
/// [`Error::InUse`] and [`Error::NotASocket`] say what is in the way.
pub(crate) fn check_free(path: &Path) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("looking at", path))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket(path.into()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(Error::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Gone between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("trying whether a daemon listens on", path)(error)),
    }
}

/// Removes the socket at `path` if nobody serves it; nothing there is no error.
///
/// # Errors
///
/// See [`Error`]; a daemon that listens there is left alone.
pub(crate) fn remove_stale(path: &Path) -> Result<(), Error> {
    check_free(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing the socket", path)(error))
        }
        _ => Ok(()),
    }
}

/// Binds a socket with `mode` at `path`, replacing one that nobody serves; makes its folder.
///
/// # Errors
///
/// See [`Error`]; nothing half-made is left.
pub(crate) fn bind(path: &Path, mode: u32) -> Result<Bound, Error> {
    check_free(path)?;
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE);
        builder
            .create(folder)
            .map_err(failed("making the folder", folder))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(FRESH);
    let fresh = PathBuf::from(fresh);
    listen_then_name(&fresh, path, mode).inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}

fn listen_then_name(fresh: &Path, path: &Path, mode: u32) -> Result<Bound, Error> {
    remove_stale(fresh)?;
    let listener = listen(fresh, mode).map_err(failed("binding the socket", path))?;
    let listener = UnixListener::from_std(listener).map_err(failed("watching the socket", path))?;
    std::fs::rename(fresh, path).map_err(failed("naming the socket", path))?;
    let inode = inode(path).map_err(failed("looking at", path))?;
    Ok(Bound {
        name: Some((path.into(), inode)),
        listener: Some(listener),
    })
}

/// Takes over a socket that listens at `path` already, and goes on doing so afterwards: a service
/// manager's. Its name and mode are the manager's affair.
///
/// # Errors
///
/// It cannot be watched.
pub(crate) fn adopt(path: &Path, socket: OwnedFd) -> Result<Bound, Error> {
    let watched = failed("watching the socket", path);
    let listener = StdListener::from(socket);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener));
    Ok(Bound {
        name: None,
        listener: Some(listener.map_err(watched)?),
    })
}

fn listen(path: &Path, mode: u32) -> io::Result<StdListener> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}

fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::symlink_metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_free_path_gets_a_socket_of_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/x.sock");
        let bound = bind(&path, 0o660).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        StdStream::connect(&path).unwrap();
        assert!(!path.with_extension("sock.new").exists());
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_served_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let bound = bind(&path, 0o660).unwrap();
        let error = bind(&path, 0o660).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("another daemon listens on {path:?}")
        );
        StdStream::connect(&path).unwrap();
        drop(bound);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = bind(&path, 0o600).unwrap();
        StdStream::connect(&path).unwrap();
        drop(bound);
    }

    #[tokio::test]
    async fn a_socket_that_was_passed_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let managers = StdListener::bind(&path).unwrap();
        let mut bound = adopt(&path, managers.try_clone().unwrap().into()).unwrap();
        let client = StdStream::connect(&path).unwrap();
        bound.take().unwrap().accept().await.unwrap();
        drop((bound, client));
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn anything_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&path, 0o600).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{path:?} exists and is not a socket")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_name_that_leads_elsewhere_by_now_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let bound = bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "other").unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
