//! What a rule wants to see: keys and identities, combined.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use regex_lite::Regex;
use sigstore_verify::Verifier;
use sigstore_verify::crypto::{KeyAlgorithm, SigningScheme, VerificationKey};
use sigstore_verify::trust_root::TrustedRoot;
use sigstore_verify::types::DerPublicKey;

use crate::file::RequirementEntry;

/// What a bundle states that cosign writes when it signs an image.
pub(crate) const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// How deep requirements may be nested.
const MAX_DEPTH: usize = 8;

/// A public key that the operator trusts.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) public: DerPublicKey,
    pub(crate) scheme: SigningScheme,
}

impl Key {
    /// Reads a key in PEM form; says what is wrong.
    pub(crate) fn parse(name: &str, pem: &str) -> Result<Self, String> {
        let public = DerPublicKey::from_pem(pem).map_err(|cause| cause.to_string())?;
        let algorithm = KeyAlgorithm::from_spki(&public).map_err(|cause| cause.to_string())?;
        VerificationKey::from_spki(&public).map_err(|cause| cause.to_string())?;
        Ok(Self {
            name: name.to_owned(),
            public,
            scheme: algorithm.default_signing_scheme(),
        })
    }
}

/// Authorities that the operator trusts: for certificates, logs and time stamps.
pub(crate) struct Root {
    pub(crate) name: String,
    pub(crate) verifier: Verifier,
    /// Whether certificates have to be in a public log of certificates: a root that names none is
    /// one of an authority that keeps none.
    pub(crate) certificates_logged: bool,
    /// What proves when something was signed.
    pub(crate) witness: Witness,
}

/// What proves when something was signed: a certificate is long gone when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// A log of the root, which holds the signature.
    Log,
    /// A time stamp (RFC 3161) by an authority of the root, which keeps no log.
    Stamp,
    /// Nothing: what the root says cannot be enough for a certificate.
    Nobody,
}

impl Root {
    /// Reads a root in JSON form; says what is wrong.
    pub(crate) fn parse(name: &str, json: &str) -> Result<Self, String> {
        let root = TrustedRoot::from_json(json).map_err(|cause| cause.to_string())?;
        let verifier = Verifier::new(&root).map_err(|cause| cause.to_string())?;
        // Where there is a log, being in it is what everybody can see.
        let witness = match (root.tlogs.is_empty(), root.timestamp_authorities.is_empty()) {
            (false, _) => Witness::Log,
            (true, false) => Witness::Stamp,
            (true, true) => Witness::Nobody,
        };
        Ok(Self {
            name: name.to_owned(),
            verifier,
            certificates_logged: !root.ctlogs.is_empty(),
            witness,
        })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The keys and roots of a policy, by name.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    pub(crate) keys: BTreeMap<String, Arc<Key>>,
    pub(crate) roots: BTreeMap<String, Arc<Root>>,
}

/// What has to be there.
#[derive(Debug)]
pub(crate) enum Requirement {
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// A signature.
    Signature(Wanted),
}

/// A signature by somebody.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) by: Signer,
    /// What a bundle has to state.
    pub(crate) predicate: String,
}

/// Who has to have signed.
#[derive(Debug)]
pub(crate) enum Signer {
    /// The holder of a key; if there is a root, one of its logs must hold the signature.
    Key(Arc<Key>, Option<Arc<Root>>),
    /// Whoever an authority of the root gave a certificate, for an identity.
    Identity {
        root: Arc<Root>,
        issuer: Pattern,
        identity: Pattern,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key, None) => write!(f, "key {:?}", key.name),
            Self::Key(key, Some(root)) => {
                write!(f, "key {:?} in the log of {:?}", key.name, root.name)
            }
            Self::Identity {
                root,
                issuer,
                identity,
            } => write!(f, "{identity} of {issuer} under {:?}", root.name),
        }
    }
}

/// A text, or what it has to look like.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// This one.
    Text(String),
    /// Whatever fits as a whole.
    Regex(Regex, String),
}

impl Pattern {
    /// Whether a text is as wanted.
    pub(crate) fn fits(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => wanted == text,
            Self::Regex(regex, _) => regex.is_match(text),
        }
    }

    pub(crate) fn settle(
        key: &str,
        text: Option<&str>,
        regex: Option<&str>,
    ) -> Result<Self, String> {
        match (text, regex) {
            (Some(text), None) => Ok(Self::Text(text.to_owned())),
            (None, Some(text)) => {
                // Whoever writes a pattern for `ci@example.com` does not mean `eve-ci@example.com.evil`.
                let regex = Regex::new(&format!("^(?:{text})$"))
                    .map_err(|cause| format!("{key}_regex {text:?}: {cause}"))?;
                Ok(Self::Regex(regex, text.to_owned()))
            }
            (Some(_), Some(_)) => Err(format!("{key} and {key}_regex exclude each other")),
            (None, None) => Err(format!("{key} or {key}_regex is missing")),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Regex(_, text) => write!(f, "{text:?}"),
        }
    }
}

impl Requirement {
    /// What a rule's `any` and `all` say, if it has one of them.
    pub(crate) fn settle_rule(
        any: Option<Vec<RequirementEntry>>,
        all: Option<Vec<RequirementEntry>>,
        anchors: &Anchors,
    ) -> Result<Option<Self>, String> {
        if any.is_none() && all.is_none() {
            return Ok(None);
        }
        let entry = RequirementEntry {
            any,
            all,
            ..RequirementEntry::default()
        };
        settle(entry, anchors, MAX_DEPTH).map(Some)
    }
}

fn settle(entry: RequirementEntry, anchors: &Anchors, depth: usize) -> Result<Requirement, String> {
    if depth == 0 {
        return Err(format!("requirements are nested deeper than {MAX_DEPTH}"));
    }
    let is_list = entry.any.is_some() || entry.all.is_some();
    if is_list && has_signer(&entry) {
        return Err("a requirement is either a list or a signature".into());
    }
    match (entry.any, entry.all) {
        (Some(_), Some(_)) => Err("any and all exclude each other".into()),
        (Some(list), None) => settle_all(list, anchors, depth).map(Requirement::Any),
        (None, Some(list)) => settle_all(list, anchors, depth).map(Requirement::All),
        (None, None) => settle_signature(
            RequirementEntry {
                any: None,
                all: None,
                ..entry
            },
            anchors,
        ),
    }
}

fn has_signer(entry: &RequirementEntry) -> bool {
    let fields = [
        &entry.key,
        &entry.root,
        &entry.issuer,
        &entry.issuer_regex,
        &entry.identity,
        &entry.identity_regex,
        &entry.predicate,
    ];
    fields.iter().any(|field| field.is_some())
}

/// An empty list would ask for nothing, or for what can never be.
fn settle_all(
    list: Vec<RequirementEntry>,
    anchors: &Anchors,
    depth: usize,
) -> Result<Vec<Requirement>, String> {
    if list.is_empty() {
        return Err("a list of requirements is empty".into());
    }
    list.into_iter()
        .map(|entry| settle(entry, anchors, depth - 1))
        .collect()
}

fn settle_signature(entry: RequirementEntry, anchors: &Anchors) -> Result<Requirement, String> {
    let root = match &entry.root {
        None => None,
        Some(name) => Some(
            anchors
                .roots
                .get(name)
                .cloned()
                .ok_or_else(|| format!("root {name:?} is not among [roots]"))?,
        ),
    };
    let by = match &entry.key {
        Some(name) => settle_key(name, root, &entry, anchors)?,
        None => settle_identity(root, &entry)?,
    };
    Ok(Requirement::Signature(Wanted {
        by,
        predicate: entry.predicate.unwrap_or_else(|| SIGNED.to_owned()),
    }))
}

fn settle_key(
    name: &str,
    root: Option<Arc<Root>>,
    entry: &RequirementEntry,
    anchors: &Anchors,
) -> Result<Signer, String> {
    let of_identity = [
        &entry.issuer,
        &entry.issuer_regex,
        &entry.identity,
        &entry.identity_regex,
    ];
    if of_identity.iter().any(|field| field.is_some()) {
        return Err(format!("key {name:?}: a key has no issuer and no identity"));
    }
    let key = anchors.keys.get(name).cloned();
    let key = key.ok_or_else(|| format!("key {name:?} is not among [keys]"))?;
    match root {
        Some(root) if root.witness != Witness::Log => {
            Err(format!("root {:?} has no log", root.name))
        }
        root => Ok(Signer::Key(key, root)),
    }
}

fn settle_identity(root: Option<Arc<Root>>, entry: &RequirementEntry) -> Result<Signer, String> {
    let root = root.ok_or("a requirement needs a key, or a root with issuer and identity")?;
    if root.witness == Witness::Nobody {
        let name = &root.name;
        return Err(format!(
            "root {name:?} has neither a log nor an authority for time stamps"
        ));
    }
    Ok(Signer::Identity {
        root,
        issuer: Pattern::settle(
            "issuer",
            entry.issuer.as_deref(),
            entry.issuer_regex.as_deref(),
        )?,
        identity: Pattern::settle(
            "identity",
            entry.identity.as_deref(),
            entry.identity_regex.as_deref(),
        )?,
    })
}
