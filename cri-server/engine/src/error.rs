//! Why an operation failed, in the words of the engine; front ends map it to their codes.

use pod::PlanError;
use pod::lifecycle::Refusal;

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of that id (or name) is here.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container`, `image` or `checkpoint`.
        kind: &'static str,
        /// The id as given.
        id: String,
    },
    /// A short id that fits several.
    #[error("{kind} id {id:?} is ambiguous: it fits {count}")]
    Ambiguous {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The id as given.
        id: String,
        /// How many it fits.
        count: usize,
    },
    /// The request can never be right.
    #[error("{0}")]
    Invalid(String),
    /// The request is right, but not on this node.
    #[error("{0}")]
    Unsupported(String),
    /// The name is taken by something else.
    #[error("{0}")]
    Exists(String),
    /// Not in this state of the sandbox or container.
    #[error("{0}")]
    WrongState(String),
    /// The time given was not enough.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// Something that passes: try again.
    #[error("{0}")]
    Unavailable(String),
    /// Disk, queue or another limited thing is full.
    #[error("{0}")]
    Exhausted(String),
    /// Something failed; the text says what was attempted.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn sandbox_not_found(id: &str) -> Self {
        Self::NotFound {
            kind: "sandbox",
            id: id.into(),
        }
    }

    pub(crate) fn container_not_found(id: &str) -> Self {
        Self::NotFound {
            kind: "container",
            id: id.into(),
        }
    }

    /// A request about `what` that cannot be now.
    pub(crate) fn refused(refusal: Refusal, what: impl std::fmt::Display) -> Self {
        match refusal {
            Refusal::NameTaken => Self::Exists(format!("{what}: {refusal}")),
            _ => Self::WrongState(format!("{what}: {refusal}")),
        }
    }

    /// A failure of `what`, with its cause.
    pub(crate) fn failed(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {cause}"))
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Invalid { .. } => Self::Invalid(error.to_string()),
            PlanError::Unsupported { .. } => Self::Unsupported(error.to_string()),
        }
    }
}

impl From<network::Error> for Error {
    fn from(error: network::Error) -> Self {
        let text = error.to_string();
        match error {
            network::Error::NotReady(_) => Self::Unavailable(text),
            network::Error::Invalid(_) => Self::Invalid(text),
            network::Error::Conflict(_) => Self::Exists(text),
            network::Error::Other(_) => Self::Failed(text),
        }
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Self {
        let text = error.to_string();
        match error {
            image::Error::Reference { .. } => Self::Invalid(text),
            image::Error::NotFound(id) => Self::NotFound { kind: "image", id },
            image::Error::Unavailable(_) => Self::Unavailable(text),
            image::Error::NoSpace(_) => Self::Exhausted(text),
            _ => Self::Failed(text),
        }
    }
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses this folder.
    #[error("{0} is in use by another daemon")]
    InUse(std::path::PathBuf),
    /// A record cannot be read.
    #[error("reading {path}: {cause}")]
    Record {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        cause: String,
    },
    /// The image store.
    #[error("opening the image store: {0}")]
    Image(image::Error),
    /// The network.
    #[error("opening the network: {0}")]
    Network(network::Error),
    /// The configuration.
    #[error("{0}")]
    Config(String),
    /// A system call.
    #[error("{what}: {cause}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        cause: std::io::Error,
    },
}
