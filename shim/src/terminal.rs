//! Terminals: a runtime makes them inside the container and hands the master over a socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, isatty, tcsetwinsize};

use crate::connection::receive_packet;
use crate::failure::Failure;

/// Longest path of a unix socket, bytes (`sun_path` of unix(7) without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// Most of the message beside a master; runtimes send a name.
const MAX_MESSAGE: usize = 4096;

/// A socket to which a runtime connects with a terminal's master. Removed with this value.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: OwnedFd,
    file: PathBuf,
    /// The same file under a name short enough for a socket address.
    name: PathBuf,
    /// Keeps `name` valid.
    _folder: Option<OwnedFd>,
}

impl ConsoleSocket {
    /// Makes the socket at a path of any length.
    pub(crate) fn bind(file: &Path) -> Result<Self, Failure> {
        let attempt = || format!("make console socket {}", file.display());
        Self::try_bind(file).map_err(|error| Failure::other(attempt(), error))
    }

    fn try_bind(file: &Path) -> io::Result<Self> {
        let (name, folder) = short_name(file)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(&name)?)?;
        let socket = Self {
            listener,
            file: file.to_owned(),
            name,
            _folder: folder,
        };
        listen(&socket.listener, 1)?;
        Ok(socket)
    }

    /// The path for the runtime.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    /// Takes the master that a runtime has sent before it ended.
    pub(crate) fn receive(&self) -> Result<OwnedFd, Failure> {
        let attempt = "receive the terminal from the runtime";
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connection = accept_with(&self.listener, flags);
        let connection = connection.map_err(|error| Failure::other(attempt, error))?;
        let mut text = [0; MAX_MESSAGE];
        let packet = receive_packet(connection.as_fd(), &mut text);
        let packet = packet.map_err(|error| Failure::other(attempt, error))?;
        let master = packet
            .and_then(|(_, mut fds)| fds.pop())
            .filter(|fd| isatty(fd));
        master.ok_or_else(|| Failure::other(attempt, "no terminal came"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // The bundle is removed as a whole later; a socket that stays until then does no harm.
        drop(std::fs::remove_file(&self.file));
    }
}

/// A name for a file that fits a socket address, and what has to stay open for it.
fn short_name(file: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if file.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((file.to_owned(), None));
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (folder, name) = file.parent().zip(file.file_name()).ok_or_else(invalid)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    let short = format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd());
    Ok((Path::new(&short).join(name), Some(folder)))
}

/// Opens the slave of a master, so that the master does not hang up while nobody else has it open.
pub(crate) fn open_slave(master: &File) -> Option<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master, flags).ok()
}

/// Sets a terminal's size.
pub(crate) fn resize(master: &File, width: u16, height: u16) -> Result<(), Failure> {
    let size = Winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).map_err(|error| Failure::other("resize the terminal", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_a_short_name() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let file = deep.join("console.sock");
        let socket = ConsoleSocket::bind(&file).unwrap();
        assert!(socket.name().as_os_str().len() <= MAX_SOCKET_PATH);
        assert!(file.exists());
        std::os::unix::net::UnixStream::connect(socket.name()).unwrap();
        assert!(socket.receive().is_err());
        drop(socket);
        assert!(!file.exists());
    }
}
