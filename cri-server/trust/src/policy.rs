//! The policy: rules for namespaces and repositories, and the verdict that follows from them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Evidence;
use crate::file::{File, Mode, Plain, ReferenceRule, RuleEntry};
use crate::requirement::{Anchors, Key, Requirement, Root};
use crate::verify;

/// Largest file that is read, in bytes; trusted roots have some tens of KiB.
const MAX_FILE: u64 = 4 << 20;
/// Longest reason that a verdict tells, in bytes: parts of it were written by others.
const MAX_REASON: usize = 1024;

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("reading {path:?}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path:?}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Which images may be used in which namespace.
#[derive(Debug)]
pub struct Policy {
    default: Plain,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    namespaces: Option<Vec<String>>,
    images: Option<Vec<String>>,
    then: Then,
    reference: ReferenceRule,
    mode: Mode,
}

#[derive(Debug)]
enum Then {
    Plain(Plain),
    Signed(Requirement),
}

/// What a policy wants for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: it may be used.
    Nothing,
    /// Nothing that could be had: it may not be used.
    Refusal,
    /// Signatures.
    Signatures,
}

/// An image that somebody wants to use.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's namespace; empty if there is no pod.
    pub namespace: &'a str,
    /// Registry and repository, complete, such as `docker.io/library/busybox`.
    pub repository: &'a str,
    /// The tag, if that is how it is named.
    pub tag: Option<&'a str>,
    /// Digests (`sha256:...`) that a signature may be about: of the list that the name stands for,
    /// and of the manifest in it.
    pub digests: &'a [String],
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be used.
    Allowed,
    /// It may be used, though the rule is not satisfied, because the rule only warns.
    Warned(String),
    /// It may not be used.
    Refused(String),
}

impl Policy {
    /// Reads a policy with the keys and roots that it names; relative paths start in its folder.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let content = |path: &Path, reason: String| PolicyError::Content {
            path: path.to_owned(),
            reason,
        };
        let text = read(path)?;
        let file: File = toml::from_str(&text).map_err(|cause| content(path, cause.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut anchors = Anchors::default();
        for (name, place) in &file.keys {
            let place = folder.join(place);
            let key = Key::parse(name, &read(&place)?).map_err(|reason| content(&place, reason))?;
            anchors.keys.insert(name.clone(), Arc::new(key));
        }
        for (name, place) in &file.roots {
            let place = folder.join(place);
            let root =
                Root::parse(name, &read(&place)?).map_err(|reason| content(&place, reason))?;
            anchors.roots.insert(name.clone(), Arc::new(root));
        }
        let rules = file.rules.into_iter().enumerate().map(|(at, entry)| {
            Rule::settle(entry, &anchors)
                .map_err(|reason| content(path, format!("rule {}: {reason}", at + 1)))
        });
        Ok(Self {
            default: file.default,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// What is wanted for an image.
    #[must_use]
    pub fn demand(&self, namespace: &str, repository: &str) -> Demand {
        let plain = |plain| match plain {
            Plain::Allow => Demand::Nothing,
            Plain::Refuse => Demand::Refusal,
        };
        match self.rule(namespace, repository).map(|rule| &rule.then) {
            None => plain(self.default),
            Some(Then::Plain(verdict)) => plain(*verdict),
            Some(Then::Signed(_)) => Demand::Signatures,
        }
    }

    /// Decides about an image. Takes some time of computing for each signature.
    #[must_use]
    pub fn judge(&self, subject: &Subject<'_>, evidence: &[Evidence]) -> Verdict {
        let Some(rule) = self.rule(subject.namespace, subject.repository) else {
            return match self.default {
                Plain::Allow => Verdict::Allowed,
                Plain::Refuse => Verdict::Refused("no rule of the policy is about it".into()),
            };
        };
        let judged = match &rule.then {
            Then::Plain(Plain::Allow) => Ok(()),
            Then::Plain(Plain::Refuse) => Err("a rule of the policy refuses it".to_owned()),
            Then::Signed(wanted) => verify::check(wanted, subject, rule.reference, evidence),
        };
        match (judged, rule.mode) {
            (Ok(()), _) => Verdict::Allowed,
            (Err(reason), Mode::Warn) => Verdict::Warned(bounded(reason)),
            (Err(reason), Mode::Enforce) => Verdict::Refused(bounded(reason)),
        }
    }

    /// The first that fits.
    fn rule(&self, namespace: &str, repository: &str) -> Option<&Rule> {
        let fits = |patterns: &Option<Vec<String>>, text| {
            patterns
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, text)))
        };
        self.rules
            .iter()
            .find(|rule| fits(&rule.namespaces, namespace) && fits(&rule.images, repository))
    }
}

impl Rule {
    fn settle(entry: RuleEntry, anchors: &Anchors) -> Result<Self, String> {
        for pattern in entry.namespaces.iter().chain(&entry.images).flatten() {
            if pattern.trim_end_matches('*').contains('*') || pattern.ends_with("**") {
                return Err(format!("{pattern:?}: a * stands at the end, and once"));
            }
        }
        let wanted = Requirement::settle_rule(entry.any, entry.all, anchors)?;
        let then = match (entry.then, wanted) {
            (Some(plain), None) => Then::Plain(plain),
            (None, Some(wanted)) => Then::Signed(wanted),
            (Some(_), Some(_)) => return Err("then excludes any and all".into()),
            (None, None) => return Err("one of then, any, all is missing".into()),
        };
        Ok(Self {
            namespaces: entry.namespaces,
            images: entry.images,
            then,
            reference: entry.reference,
            mode: entry.mode,
        })
    }
}

/// Whether a text is the pattern, or begins as one with a `*` at its end.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}

fn read(path: &Path) -> Result<String, PolicyError> {
    use std::io::Read;
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(cause) => Err(PolicyError::Read {
            path: path.to_owned(),
            cause,
        }),
    }
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REASON));
    text
}
