//! What was found that speaks for an image, as bytes. Nothing of it is believed yet.

use serde::{Deserialize, Serialize};

/// One thing that speaks for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Evidence {
    /// A Sigstore bundle, as JSON.
    Bundle(String),
    /// A payload in the simple signing form, with its signature.
    Simple(Simple),
}

/// A signed payload, and what came along with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simple {
    /// What is signed; JSON.
    pub payload: String,
    /// The signature of the payload's bytes, in base64.
    pub signature: String,
    /// The certificate of who signed, as PEM; none if a key is enough.
    pub certificate: Option<String>,
    /// The certificates above that one, as PEM, one after another.
    pub chain: Option<String>,
    /// The log's promise to hold the signature; JSON.
    pub promise: Option<String>,
    /// A time stamp of the signature (RFC 3161); JSON.
    pub timestamp: Option<String>,
}
