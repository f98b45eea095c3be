//! Why something could not be done, in the form in which it travels to the daemon.

use std::fmt::Display;

use shim_api::error::Kind;

/// What failed, in words for a person, and the kind on which a program may branch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What a caller may branch on.
    pub(crate) kind: Kind,
    /// What was attempted, on what, and why it failed.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of one of the contract's kinds.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// An attempt that failed for a cause.
    pub(crate) fn other(attempt: impl Display, cause: impl Display) -> Self {
        Self::new(Kind::Other, format!("{attempt}: {cause}"))
    }
}
