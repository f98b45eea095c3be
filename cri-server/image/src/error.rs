//! Why an operation on images failed, and how causes of other kinds become one of those.
//!
//! It does not decide which code a client gets: that is the front end's business.

use std::fmt::Display;
use std::io;

/// Why an operation on images failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A name that can never be one.
    #[error("invalid image reference {reference:?}: {reason}")]
    Reference {
        /// The name.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// No such image, here or in the registry.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The registry refuses these credentials.
    #[error("{0}")]
    Denied(String),
    /// No registry could be reached.
    #[error("RegistryUnavailable: {0}")]
    Unavailable(String),
    /// Nobody trusted speaks for it, or somebody trusted speaks against it.
    #[error("SignatureValidationFailed: {0}")]
    Signature(String),
    /// What was received is not what was promised, or not an image.
    #[error("{0}")]
    Corrupt(String),
    /// The disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Self {
        match error {
            registry::Error::Reference { reference, reason } => {
                Self::Reference { reference, reason }
            }
            registry::Error::NotFound(name) => Self::NotFound(name),
            registry::Error::Denied(text) => Self::Denied(text),
            registry::Error::Unavailable(text) => Self::Unavailable(text),
            registry::Error::Corrupt(text) => Self::Corrupt(text),
            registry::Error::Other(text) => Self::Other(text),
        }
    }
}

impl Error {
    /// An input/output error met while doing `what`; a full disk gets its own kind.
    pub(crate) fn io(what: impl Display, cause: &io::Error) -> Self {
        let text = format!("{what}: {cause}");
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(text),
            _ => Self::Other(text),
        }
    }

    /// The same error, told with what was being done.
    pub(crate) fn within(self, what: impl Display) -> Self {
        match self {
            Self::Denied(text) => Self::Denied(format!("{what}: {text}")),
            Self::Unavailable(text) => Self::Unavailable(format!("{what}: {text}")),
            Self::Signature(text) => Self::Signature(format!("{what}: {text}")),
            Self::Corrupt(text) => Self::Corrupt(format!("{what}: {text}")),
            Self::NoSpace(text) => Self::NoSpace(format!("{what}: {text}")),
            Self::Other(text) => Self::Other(format!("{what}: {text}")),
            named @ (Self::Reference { .. } | Self::NotFound(_)) => named,
        }
    }
}

/// Gives a failed call of the file system its place in an operation.
pub(crate) trait During<T> {
    /// Says what was attempted; only evaluated on failure.
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Error> {
        self.map_err(|cause| Error::io(what(), &cause.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_kind() {
        let full = io::Error::from(rustix::io::Errno::NOSPC);
        assert!(
            matches!(Error::io("writing x", &full), Error::NoSpace(t) if t.starts_with("writing x: "))
        );
        let other = io::Error::from(rustix::io::Errno::IO);
        assert!(matches!(Error::io("writing x", &other), Error::Other(_)));
    }
}
