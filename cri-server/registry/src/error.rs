//! Why a registry did not give what was asked for.
//!
//! It does not decide which code a client gets: that is the front end's business.

use std::fmt::Display;
use std::io;

/// Why a registry did not give what was asked for.
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
    /// The registry does not have it.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The registry refuses these credentials.
    #[error("{0}")]
    Denied(String),
    /// No registry could be reached.
    #[error("RegistryUnavailable: {0}")]
    Unavailable(String),
    /// What was received is not what was promised, or not an image.
    #[error("{0}")]
    Corrupt(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Gives a failed call of the file system its place in an operation.
pub(crate) trait During<T> {
    /// Says what was attempted; only evaluated on failure.
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Error>;
}

impl<T> During<T> for io::Result<T> {
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Error> {
        self.map_err(|cause| Error::io(what(), &cause))
    }
}

impl Error {
    /// An input/output error met while doing `what`.
    pub(crate) fn io(what: impl Display, cause: &io::Error) -> Self {
        Self::Other(format!("{what}: {cause}"))
    }
}
