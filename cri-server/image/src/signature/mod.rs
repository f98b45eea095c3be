//! Whether an image may be used: asked at a pull, and again when a container is made of it.
//!
//! A policy (crate `trust`) decides by signatures, programs in a folder decide by whatever they
//! like; both have to agree. What speaks for an image is fetched with it and kept beside it, so that
//! a policy that has become stricter can be asked without the registry. Without a policy and without
//! a folder there is no [`Gate`], and nothing of this happens.

mod fetch;
mod kept;
mod programs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use registry::{Digest, Reference, Resolved};
use trust::{Demand, Evidence, Policy, Subject, Verdict};

use crate::flight::blocking;
use crate::pull::{Found, find_manifest};
use crate::store::record::Entry;
use crate::{Credentials, Error, Store};
pub(crate) use kept::Kept;
use kept::Shelf;
use programs::Programs;

/// How long a program may take that is not told otherwise.
const PROGRAM_TIME: Duration = Duration::from_secs(10);
/// How long the registry is asked when a container is made: its client waits.
const FETCH_TIME: Duration = Duration::from_secs(30);
/// How long a refusal holds before the registry is asked again what speaks for an image: a client
/// that tries again and again must not become a burden to it.
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);
/// Most verdicts that are remembered; then all are forgotten.
const MAX_VERDICTS: usize = 4096;

/// Who decides whether an image may be used. By default nobody does, and all may.
#[derive(Clone, Debug)]
pub struct Signatures {
    /// The file of the policy.
    pub policy: Option<PathBuf>,
    /// A folder of programs that are all asked, in the way of containerd's image verifiers.
    pub programs: Option<PathBuf>,
    /// How long each of them may take.
    pub program_time: Duration,
}

impl Default for Signatures {
    fn default() -> Self {
        Self {
            policy: None,
            programs: None,
            program_time: PROGRAM_TIME,
        }
    }
}

/// Decides.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Option<Arc<Policy>>,
    programs: Option<Programs>,
    shelf: Shelf,
    verdicts: Mutex<HashMap<Question, (Instant, Answer)>>,
}

/// Allowed, or why not.
type Answer = Result<(), String>;

/// What a verdict is about. The policy is not named: it is read once, and verdicts are not kept for
/// longer than it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    namespace: String,
    name: String,
    digest: Digest,
    /// What the folder of programs held.
    programs: Vec<String>,
}

/// An image under a name that it has.
#[derive(Debug)]
struct Candidate {
    name: Reference,
    /// What the name was found to stand for; several if it was pulled more than once.
    digests: Vec<Digest>,
}

impl Gate {
    /// Reads the policy; `None` if nobody is to decide.
    pub(crate) fn open(config: &Signatures, root: &Path) -> Result<Option<Self>, Error> {
        if config.policy.is_none() && config.programs.is_none() {
            return Ok(None);
        }
        let policy = config.policy.as_deref().map(Policy::load).transpose();
        let policy =
            policy.map_err(|cause| Error::Other(format!("the signature policy: {cause}")))?;
        Ok(Some(Self {
            policy: policy.map(Arc::new),
            programs: config
                .programs
                .clone()
                .map(|folder| Programs::new(folder, config.program_time)),
            shelf: Shelf::open(root)?,
            verdicts: Mutex::default(),
        }))
    }

    /// Asked before anything of the image's content is fetched. What it answers with is to be given
    /// to [`Gate::keep`] once the image is there.
    pub(crate) async fn at_pull(
        &self,
        store: &Store,
        name: &Reference,
        credentials: Option<&Credentials>,
        namespace: &str,
        found: &Found,
    ) -> Result<Kept, Error> {
        let mut kept = Kept::of(found);
        if self.demand(namespace, name) == Demand::Signatures {
            let digests = kept.digests();
            let fetched = fetch::all(&store.registry, name, credentials, &digests);
            kept.evidence = Some(fetched.await?);
        }
        let question = self.question(namespace, name, &kept.digest);
        let answer = self.decide(namespace, name, &kept).await;
        self.remember(question, &answer);
        answer.map_err(Error::Signature)?;
        Ok(kept)
    }

    /// Keeps what speaks for an image that is there now. Blocks.
    pub(crate) fn keep(&self, kept: &Kept) {
        // It can be fetched again.
        if let Err(error) = self.shelf.put(kept) {
            tracing::warn!(%error, "what speaks for an image could not be kept");
        }
    }

    /// Forgets what is kept for images that are gone. Blocks.
    pub(crate) fn prune(&self, is_known: impl Fn(&Digest) -> bool) {
        if let Err(error) = self.shelf.prune(is_known) {
            tracing::warn!(%error, "what is kept for removed images could not be removed");
        }
    }

    /// Asked when an image that is here is about to be used. `asked` is the name that somebody used
    /// for it; if that is not a name of this image, it is judged under each that it has.
    pub(crate) async fn at_use(
        &self,
        store: &Store,
        entry: &Entry,
        asked: &str,
        namespace: &str,
    ) -> Result<(), Error> {
        let candidates = candidates(entry, asked);
        let mut reasons = Vec::new();
        for candidate in &candidates {
            match self.judge(store, candidate, namespace).await {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("{}: {reason}", candidate.name)),
            }
        }
        if candidates.is_empty() {
            reasons.push(format!(
                "image {} has no name to judge it by",
                entry.record.id
            ));
            if self.programs.is_none() && self.nameless(namespace) == Demand::Nothing {
                return Ok(());
            }
        }
        Err(Error::Signature(reasons.join("; ")))
    }

    async fn judge(&self, store: &Store, candidate: &Candidate, namespace: &str) -> Answer {
        let name = &candidate.name;
        match self.demand(namespace, name) {
            Demand::Refusal => return Err("the policy refuses it".into()),
            Demand::Nothing if self.programs.is_none() => return Ok(()),
            _ => {}
        }
        let mut answer = Err("it came without a manifest, which is what gets signed".to_owned());
        for digest in &candidate.digests {
            let question = self.question(namespace, name, digest);
            answer = match self.recall(&question) {
                Some(answer) => answer,
                None => {
                    let answer = self.judge_anew(store, name, digest, namespace).await;
                    self.remember(question, &answer);
                    answer
                }
            };
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    /// By what is kept; if that is not enough, by what the registry has now.
    async fn judge_anew(
        &self,
        store: &Store,
        name: &Reference,
        digest: &Digest,
        namespace: &str,
    ) -> Answer {
        let kept = self.shelf.get(digest);
        let signed = self.demand(namespace, name) == Demand::Signatures;
        let kept = kept.filter(|kept| !signed || kept.evidence.is_some());
        let first = match &kept {
            Some(kept) => self.decide(namespace, name, kept).await,
            None => Err("nothing is known that speaks for it".into()),
        };
        let Err(reason) = first else { return Ok(()) };
        if kept.is_some() && !signed {
            return Err(reason);
        }
        let fetched = tokio::time::timeout(FETCH_TIME, refetch(store, name, digest)).await;
        match fetched {
            Ok(Ok(kept)) => {
                self.keep(&kept);
                self.decide(namespace, name, &kept).await
            }
            Ok(Err(error)) => Err(format!("{reason}, and the registry: {error}")),
            Err(_) => Err(format!("{reason}, and the registry does not answer")),
        }
    }

    /// The policy first: its answer costs nobody a program.
    async fn decide(&self, namespace: &str, name: &Reference, kept: &Kept) -> Answer {
        self.ask_policy(namespace, name, kept).await?;
        match &self.programs {
            Some(programs) => programs.ask(&name.to_string(), kept).await,
            None => Ok(()),
        }
    }

    async fn ask_policy(&self, namespace: &str, name: &Reference, kept: &Kept) -> Answer {
        let Some(policy) = self.policy.clone() else {
            return Ok(());
        };
        let (namespace, name) = (namespace.to_owned(), name.clone());
        let digests = kept.digests().map(|digest| digest.as_str().to_owned());
        let evidence = kept.evidence.clone().unwrap_or_default();
        // It computes for some milliseconds.
        let judged = blocking(move || Ok(judge(&policy, &namespace, &name, &digests, &evidence)));
        judged.await.map_err(|error| error.to_string())?
    }

    fn demand(&self, namespace: &str, name: &Reference) -> Demand {
        let policy = self.policy.as_ref();
        policy.map_or(Demand::Nothing, |policy| {
            policy.demand(namespace, &name.name())
        })
    }

    /// What is wanted of an image that no rule for names can fit.
    fn nameless(&self, namespace: &str) -> Demand {
        let policy = self.policy.as_ref();
        policy.map_or(Demand::Nothing, |policy| policy.demand(namespace, ""))
    }

    fn question(&self, namespace: &str, name: &Reference, digest: &Digest) -> Question {
        let programs = self.programs.as_ref();
        Question {
            namespace: namespace.to_owned(),
            name: name.to_string(),
            digest: digest.clone(),
            programs: programs.map(Programs::fingerprint).unwrap_or_default(),
        }
    }

    fn recall(&self, question: &Question) -> Option<Answer> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, answer) = verdicts.get(question)?;
        (answer.is_ok() || when.elapsed() < REFUSAL_HOLDS).then(|| answer.clone())
    }

    fn remember(&self, question: Question, answer: &Answer) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.clear();
        }
        verdicts.insert(question, (Instant::now(), answer.clone()));
    }
}

fn judge(
    policy: &Policy,
    namespace: &str,
    name: &Reference,
    digests: &[String],
    evidence: &[Evidence],
) -> Answer {
    let repository = name.name();
    let subject = Subject {
        namespace,
        repository: &repository,
        tag: name.tag(),
        digests,
    };
    match policy.judge(&subject, evidence) {
        Verdict::Allowed => Ok(()),
        Verdict::Warned(reason) => {
            tracing::warn!(image = %name, namespace, reason, "the policy only warns of this image");
            Ok(())
        }
        Verdict::Refused(reason) => Err(reason),
    }
}

/// Under which names an image is judged. Whoever could use an image by its id could have given it
/// any of its names, so one that is allowed is enough.
fn candidates(entry: &Entry, asked: &str) -> Vec<Candidate> {
    let record = &entry.record;
    // What is no name of the image is an id, a part of one, or somebody else's name by now.
    let is_name = |name: &Reference| match name.digest() {
        Some(digest) => record.digests.contains(&name.with_digest(digest)),
        None => name.tagged().is_some_and(|tag| record.tags.contains(&tag)),
    };
    let asked = Reference::parse(asked).ok().filter(is_name);
    let found: Vec<Reference> = record
        .digests
        .iter()
        .filter_map(|name| Reference::parse(name).ok())
        .collect();
    let tagged = record.tags.iter();
    let tagged = tagged.filter_map(|name| Reference::parse(name).ok());
    let names = match asked {
        Some(asked) => vec![asked],
        None => tagged.chain(found.iter().cloned()).collect(),
    };
    let with_digests = |name: Reference| Candidate {
        digests: found
            .iter()
            .filter(|found| found.name() == name.name())
            .filter_map(|found| found.digest().cloned())
            .filter(|digest| name.digest().is_none_or(|asked| asked == digest))
            .collect(),
        name,
    };
    names.into_iter().map(with_digests).collect()
}

/// Asks the registry anew about an image that is here, with the node's own credentials.
async fn refetch(store: &Store, name: &Reference, digest: &Digest) -> Result<Kept, Error> {
    let repository = store.registry.repository(name, None).await?;
    let resolved = Resolved {
        digest: digest.clone(),
        document: None,
    };
    let found = find_manifest(store, &repository, resolved).await?;
    let mut kept = Kept::of(&found);
    let digests = kept.digests();
    let fetched = fetch::all(&store.registry, name, None, &digests);
    kept.evidence = Some(fetched.await?);
    Ok(kept)
}
