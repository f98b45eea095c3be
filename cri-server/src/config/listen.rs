//! What the daemon listens on: sockets for CRI and cAdvisor, an address for streams.

use std::path::{Path, PathBuf};

use super::values::Values;
use super::{Error, refuse};

/// Longest path of a socket, bytes (unix(7): `sun_path` is 108 with its end), less [`crate::socket::FRESH`].
const MAX_SOCKET_PATH: usize = 107 - crate::socket::FRESH.len();

pub(super) fn check_path(key: &str, path: &Path) -> Result<(), Error> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let reason =
            format!("the socket path {path:?} has {length} bytes, at most {MAX_SOCKET_PATH} fit");
        return Err(refuse(key, reason));
    }
    Ok(())
}

/// The path in `unix:///path` (or a plain absolute path).
pub(super) fn socket(key: &str, value: &str) -> Result<PathBuf, Error> {
    let path = value.strip_prefix("unix://").unwrap_or(value);
    check_path(key, Path::new(path))?;
    Ok(path.into())
}

/// The socket for cAdvisor, where there is one: not that of CRI, which has other services.
pub(super) fn containerd(values: &Values, cri: &Path) -> Result<Option<PathBuf>, Error> {
    let Some(value) = values.text("containerd.listen") else {
        return Ok(None);
    };
    let path = socket("containerd.listen", &value)?;
    if path == cri {
        let reason = format!("{path:?} is the socket of CRI");
        return Err(refuse("containerd.listen", reason));
    }
    Ok(Some(path))
}

/// Where exec, attach and port-forward are served.
pub(super) fn streaming(values: &Values) -> Result<streaming::Config, Error> {
    let address = values.fixed("streaming.address").parse();
    let address = address
        .map_err(|_unparsable| refuse("streaming.address", "an address and a port are wanted"))?;
    let certificate = values.optional_path("streaming.certificate");
    let tls = match (certificate, values.optional_path("streaming.key")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(streaming::Tls { certificate, key }),
        (Some(_), None) => return Err(refuse("streaming.key", "the certificate needs its key")),
        (None, Some(_)) => {
            let reason = "the key needs its certificate";
            return Err(refuse("streaming.certificate", reason));
        }
    };
    Ok(streaming::Config { address, tls })
}
