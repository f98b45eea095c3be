//! A blocking connection to systemd: by its own socket, or by a message bus where there is none.
//!
//! One connection serves one operation and has one deadline for all of it. systemd's own socket
//! needs no bus daemon, no greeting, and no subscription: it sends every signal to whoever is
//! connected (so does systemctl ask it).

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::systemd::message::{self, Call, Received};
use crate::systemd::value::{Malformed, Value};
use crate::{Error, signal};

/// How long systemd may take for one operation, as long as runc waits for a job.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// What is read at once.
const CHUNK: usize = 16 << 10;
/// The longest line of the authentication.
const MAX_LINE: usize = 4096;

/// The well-known name of systemd on a bus.
pub(crate) const SYSTEMD: &str = "org.freedesktop.systemd1";
/// The object and interface that make and end units.
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Whose systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// The machine's.
    System,
    /// The user's, who may not ask the machine's.
    User,
}

/// Where a manager can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    at: At,
    /// systemd's own socket, not a bus.
    direct: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Path(PathBuf),
    /// In Linux's abstract namespace.
    Abstract(Vec<u8>),
}

impl Manager {
    /// The machine's for root; the user's own for everybody else, also for a root that a user has
    /// made by a user namespace.
    pub(crate) fn of_this_process() -> Self {
        if crate::host::is_root_of_the_machine() {
            Self::System
        } else {
            Self::User
        }
    }

    /// In the order in which they are tried.
    fn addresses(self) -> Vec<Address> {
        let at = |direct, path: &Path, file: &str| Address {
            at: At::Path(path.join(file)),
            direct,
        };
        if self == Self::System {
            let run = Path::new("/run");
            let bus = at(false, run, "dbus/system_bus_socket");
            return vec![at(true, run, "systemd/private"), bus];
        }
        let session = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut addresses = Vec::new();
        addresses.extend(run.as_ref().map(|run| at(true, run, "systemd/private")));
        addresses.extend(parse_addresses(session.as_bytes()));
        addresses.extend(run.as_ref().map(|run| at(false, run, "bus")));
        addresses
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`Error::Bus`] with the last address tried.
    pub(crate) fn connect(self) -> Result<Bus, Error> {
        let mut last = Error::Bus {
            what: "look for the user's systemd by",
            address: "XDG_RUNTIME_DIR".to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        for address in self.addresses() {
            match Bus::open(&address) {
                Ok(bus) => return Ok(bus),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// `unix:path=...` and `unix:abstract=...` of a list (D-Bus specification, "Server Addresses").
fn parse_addresses(list: &[u8]) -> Vec<Address> {
    list.split(|byte| *byte == b';')
        .filter_map(|one| one.strip_prefix(b"unix:"))
        .flat_map(|keys| keys.split(|byte| *byte == b','))
        .filter_map(|pair| {
            let at = if let Some(path) = pair.strip_prefix(b"path=") {
                At::Path(PathBuf::from(OsStr::from_bytes(&unescape(path)?)))
            } else {
                At::Abstract(unescape(pair.strip_prefix(b"abstract=")?)?)
            };
            Some(Address { at, direct: false })
        })
        .collect()
}

/// `%2f` is a slash.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        plain.push(match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            byte => *byte,
        });
    }
    Some(plain)
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Bus {
    socket: OwnedFd,
    /// For error messages.
    address: String,
    direct: bool,
    deadline: Instant,
    /// Of the last call.
    serial: u32,
    /// Read and not yet used.
    input: Vec<u8>,
}

impl Bus {
    fn open(address: &Address) -> Result<Self, Error> {
        let name = match &address.at {
            At::Path(path) => path.display().to_string(),
            At::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        };
        let socket = connect_to(&address.at).map_err(|source| Error::Bus {
            what: "connect to",
            address: name.clone(),
            source: source.into(),
        })?;
        let mut bus = Self {
            socket,
            address: name,
            direct: address.direct,
            deadline: Instant::now() + LIMIT,
            serial: 0,
            input: Vec::new(),
        };
        bus.authenticate()?;
        if !bus.direct {
            const BUS: &str = "org.freedesktop.DBus";
            bus.call(BUS, "/org/freedesktop/DBus", BUS, "Hello", &[])?;
        }
        Ok(bus)
    }

    fn failed(&self, what: &'static str, source: impl Into<std::io::Error>) -> Error {
        Error::Bus {
            what,
            address: self.address.clone(),
            source: source.into(),
        }
    }

    /// SASL's EXTERNAL: the kernel tells the other side who we are; we name the same.
    fn authenticate(&mut self) -> Result<(), Error> {
        let hello = format!(
            "\0AUTH EXTERNAL {}\r\nBEGIN\r\n",
            hex(&outer_user().to_string())
        );
        self.send_bytes(hello.as_bytes())?;
        let line = loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                break self.input.drain(..end + 2).collect::<Vec<u8>>();
            }
            if self.input.len() > MAX_LINE {
                return Err(self.failed("authenticate at", Errno::PROTO));
            }
            self.fill()?;
        };
        match line.starts_with(b"OK ") {
            true => Ok(()),
            false => Err(self.failed("authenticate at", Errno::ACCESS)),
        }
    }

    /// Makes a bus send the ends of the jobs of `unit`; systemd's own socket does so unasked.
    pub(crate) fn watch_jobs(&mut self, unit: &str) -> Result<(), Error> {
        if self.direct {
            return Ok(());
        }
        let rule = format!(
            "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='{JOB_REMOVED}',\
             arg2='{unit}'"
        );
        const BUS: &str = "org.freedesktop.DBus";
        let rule = [Value::Text(rule)];
        self.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", &rule)?;
        Ok(())
    }

    /// Calls a method of systemd's manager and waits for the answer.
    pub(crate) fn manager(&mut self, member: &str, body: &[Value]) -> Result<Vec<Value>, Error> {
        self.call(SYSTEMD, MANAGER_PATH, MANAGER, member, body)
    }

    /// Calls a method and waits for the answer; what else arrives meanwhile is dropped.
    pub(crate) fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &[Value],
    ) -> Result<Vec<Value>, Error> {
        let serial = self.send(Call {
            destination,
            path,
            interface,
            member,
            body,
        })?;
        loop {
            match self.next()? {
                Received::Return { to, body } if to == serial => return Ok(body),
                Received::Error { to, name, message } if to == serial => {
                    return Err(Error::Refused { name, message });
                }
                _ => {}
            }
        }
    }

    /// Sends a call; its serial tells its answer.
    pub(crate) fn send(&mut self, call: Call<'_>) -> Result<u32, Error> {
        self.serial += 1;
        let bytes = call.to_bytes(self.serial);
        self.send_bytes(&bytes)?;
        Ok(self.serial)
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Result<Received, Error> {
        let broken = |bus: &Self, error: Malformed| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            bus.failed("understand", error)
        };
        loop {
            let length = message::length(&self.input).map_err(|error| broken(self, error))?;
            if let Some(length) = length.filter(|length| *length <= self.input.len()) {
                let read = message::read(&self.input[..length], JOB_REMOVED);
                self.input.drain(..length);
                return read.map_err(|error| broken(self, error));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), Error> {
        loop {
            self.wait(PollFlags::IN)?;
            let mut chunk = [0; CHUNK];
            match rustix::io::read(&self.socket, &mut chunk) {
                Ok(0) => return Err(self.failed("read from", Errno::CONNRESET)),
                Ok(count) => {
                    self.input.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read from", errno)),
            }
        }
    }

    fn send_bytes(&self, mut bytes: &[u8]) -> Result<(), Error> {
        use rustix::net::{SendFlags, send};
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("write to", errno)),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags) -> Result<(), Error> {
        match signal::wait_on(&self.socket, flags, self.deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failed("wait for", Errno::TIMEDOUT)),
            Err(errno) => Err(self.failed("wait for", errno)),
        }
    }
}

/// The signal that a job has ended: `(u id, o job, s unit, s result)`.
pub(crate) const JOB_REMOVED: &str = "JobRemoved";

fn connect_to(at: &At) -> Result<OwnedFd, Errno> {
    let address = match at {
        At::Path(path) => SocketAddrUnix::new(path)?,
        At::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // A connection waits where too many others wait for systemd to accept them.
    set_socket_timeout(&socket, Timeout::Send, Some(LIMIT))?;
    rustix::io::retry_on_intr(|| connect(&socket, &address))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// This process's user as processes outside of its user namespace see it.
fn outer_user() -> u32 {
    let inside = rustix::process::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    mapped(&map, inside).unwrap_or(inside)
}

/// `user` by a uid_map (user_namespaces(7)): lines of first inside, first outside, count.
fn mapped(map: &str, user: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|number| number.parse::<u32>().ok());
        let (inside, outside) = (numbers.next()??, numbers.next()??);
        let offset = user.checked_sub(inside)?;
        (offset < numbers.next()??).then(|| outside.checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let at = |at| Address { at, direct: false };
        let path = |path: &str| at(At::Path(path.into()));
        for (list, expect) in [
            ("", vec![]),
            ("unix:path=/run/user/1/bus", vec![path("/run/user/1/bus")]),
            ("tcp:host=a;unix:path=/a%20b,guid=0f", vec![path("/a b")]),
            (
                "unix:abstract=/tmp/x,guid=1;unix:path=/b",
                vec![at(At::Abstract(b"/tmp/x".to_vec())), path("/b")],
            ),
            ("unix:path=/a%2", vec![]),
            ("unix:path=/a%zz", vec![]),
        ] {
            assert_eq!(parse_addresses(list.as_bytes()), expect, "{list}");
        }
    }

    #[test]
    fn users_outside() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(mapped(map, 0), Some(1000));
        assert_eq!(mapped(map, 5), Some(100_004));
        assert_eq!(mapped(map, 70_000), None);
        assert_eq!(mapped("         0          0 4294967295\n", 7), Some(7));
        assert_eq!(mapped("x", 7), None);
    }

    #[test]
    fn names_in_hex() {
        assert_eq!(hex("1000"), "31303030");
    }
}
