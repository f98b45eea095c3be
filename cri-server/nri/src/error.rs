//! Why a request cannot go on because of plugins.

use crate::owners::Conflict;

/// Why a request cannot go on because of plugins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plugin answered with an error.
    #[error("NRI plugin {plugin} refused {method}: {reason}")]
    Refused {
        /// Index and name.
        plugin: String,
        /// The call.
        method: &'static str,
        /// In its own words.
        reason: String,
    },
    /// A plugin did not answer, and wants requests to fail then.
    #[error("NRI plugin {plugin} failed at {method}: {reason}")]
    Unanswered {
        /// Index and name.
        plugin: String,
        /// The call.
        method: &'static str,
        /// What happened.
        reason: String,
    },
    /// Two plugins want different things.
    #[error("NRI: {0}")]
    Conflict(#[from] Conflict),
    /// A plugin wants what cannot be.
    #[error("NRI plugin {plugin}: {reason}")]
    Unfit {
        /// Index and name.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// A validator does not permit what plugins want.
    #[error("NRI validator {validator} rejected the container: {reason}")]
    Rejected {
        /// Index and name.
        validator: String,
        /// In its own words.
        reason: String,
    },
}

/// Why plugins cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("looking for NRI plugins in {folder:?}: {cause}")]
pub struct StartError {
    /// The folder.
    pub folder: std::path::PathBuf,
    /// Why it failed.
    pub cause: std::io::Error,
}
