//! Why hosts did not serve, and the one error that comes of it.

use crate::Error;
use crate::digest::Digest;
use crate::hosts::Host;
use crate::reference::Reference;

/// Why a host did not serve.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It cannot be reached.
    Unreachable(String),
    /// It broke off.
    Broken(String),
    /// It does not have it.
    Missing,
    /// It does not give it to us.
    Denied(String),
    /// It answered with an error that may pass, also after some patience.
    Failing(String),
    /// It answered with an error.
    Refused(String),
    /// It does not send that part of it (RFC 9110, 15.5.17).
    NoPart(String),
    /// What it sent is not what it should be.
    Wrong(String),
}

impl Failure {
    /// What is to be told.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Missing => "nothing is there",
            Self::Unreachable(text)
            | Self::Broken(text)
            | Self::Denied(text)
            | Self::Failing(text)
            | Self::Refused(text)
            | Self::NoPart(text)
            | Self::Wrong(text) => text,
        }
    }
}

/// Why hosts did not serve, in the order in which they were asked.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Failure>);

impl Failures {
    /// Takes one more.
    pub(crate) fn note(&mut self, host: &Host, failure: Failure) {
        tracing::debug!(host = %host.api, ?failure, "a registry did not serve");
        self.0.push(failure);
    }

    /// The error to tell: the first that is about the content if any host had an answer, else that
    /// none could be reached.
    pub(crate) fn verdict(self, name: &Reference) -> Error {
        let weight = |failure: &Failure| match failure {
            Failure::Wrong(_) => 0,
            Failure::Denied(_) => 1,
            Failure::Broken(_) => 2,
            Failure::Failing(_) | Failure::Refused(_) | Failure::NoPart(_) => 3,
            Failure::Missing => 4,
            Failure::Unreachable(_) => 5,
        };
        match self.0.into_iter().min_by_key(weight) {
            None => Error::Other(format!("no host may be asked for {name}")),
            Some(Failure::Missing) => Error::NotFound(name.to_string()),
            Some(Failure::Denied(text)) => {
                Error::Denied(format!("access to {name} denied: {text}"))
            }
            Some(Failure::Unreachable(text) | Failure::Broken(text) | Failure::Failing(text)) => {
                Error::Unavailable(text)
            }
            Some(Failure::Wrong(text)) => Error::Corrupt(text),
            Some(Failure::Refused(text) | Failure::NoPart(text)) => Error::Other(text),
        }
    }
}

impl Error {
    /// If a part of an image is missing, the image is not what is missing.
    pub(crate) fn about(self, part: &Digest) -> Self {
        match self {
            Self::NotFound(name) => Self::Corrupt(format!(
                "the registry does not have {part}, which {name} needs"
            )),
            other => other,
        }
    }
}
