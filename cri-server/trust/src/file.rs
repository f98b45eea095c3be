//! The policy file: its keys. Whether the values make sense is decided in `policy`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// What holds where no rule fits.
    pub(crate) default: Plain,
    /// Public keys by name: files in PEM form.
    #[serde(default)]
    pub(crate) keys: BTreeMap<String, PathBuf>,
    /// Trusted roots by name: files in Sigstore's JSON form.
    #[serde(default)]
    pub(crate) roots: BTreeMap<String, PathBuf>,
    /// The rules; the first that fits holds.
    #[serde(default)]
    pub(crate) rules: Vec<RuleEntry>,
}

/// A verdict without a look at signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plain {
    /// Any image may be used.
    Allow,
    /// None may.
    Refuse,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleEntry {
    /// For which namespaces; all if missing. A `*` at the end stands for anything.
    pub(crate) namespaces: Option<Vec<String>>,
    /// For which repositories; all if missing. A `*` at the end stands for anything.
    pub(crate) images: Option<Vec<String>>,
    /// The verdict, if signatures do not matter.
    pub(crate) then: Option<Plain>,
    /// One of these is enough.
    pub(crate) any: Option<Vec<RequirementEntry>>,
    /// All of these are needed.
    pub(crate) all: Option<Vec<RequirementEntry>>,
    /// What a signature's own name of the image has to be.
    #[serde(default)]
    pub(crate) reference: ReferenceRule,
    /// What becomes of a refusal.
    #[serde(default)]
    pub(crate) mode: Mode,
}

/// What has to be of the image's name in a signed payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReferenceRule {
    /// The repository that is asked, and the tag if the payload has one.
    #[default]
    Same,
    /// Anything: the image may have been copied from another registry.
    Any,
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// It is one.
    #[default]
    Enforce,
    /// It is told, and the image is used.
    Warn,
}

/// A requirement: a key, a certificate, or several of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequirementEntry {
    /// Name of a key.
    pub(crate) key: Option<String>,
    /// Name of the root that certificates come from; with a key, of the log that must have it.
    pub(crate) root: Option<String>,
    /// Who vouched for the identity.
    pub(crate) issuer: Option<String>,
    /// The same, as a regular expression for all of it.
    pub(crate) issuer_regex: Option<String>,
    /// Who signed.
    pub(crate) identity: Option<String>,
    /// The same, as a regular expression for all of it.
    pub(crate) identity_regex: Option<String>,
    /// What a bundle has to state; that the image is signed, if missing.
    pub(crate) predicate: Option<String>,
    /// One of these is enough.
    pub(crate) any: Option<Vec<RequirementEntry>>,
    /// All of these are needed.
    pub(crate) all: Option<Vec<RequirementEntry>>,
}
