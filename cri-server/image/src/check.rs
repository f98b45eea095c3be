//! A look at all that the store has, and what becomes of what is found.
//!
//! A damaged layer is given to nobody any more and fetched again by its digest; where that cannot be
//! had, its images are removed, so that whoever needs them pulls them. Nothing else is lost: there is
//! no case in which the store has to be wiped.

use std::path::Path;
use std::sync::Arc;

use registry::Digest;

use crate::flight::blocking;
use crate::layer::table::{Difference, Pace, Unpaced};
use crate::store::layers::Layers;
use crate::{Error, Store, pull};

/// What a look at the store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many layers are as they were unpacked.
    pub whole: usize,
    /// How many cannot be judged: they were unpacked by a version that wrote no tables.
    pub unknown: usize,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub subject: Subject,
    /// Its name: the digest of a layer's tar, the id of an image, or a path.
    pub name: String,
    /// What is wrong.
    pub reason: String,
    /// Ids of the images that suffer.
    pub images: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A layer that is not as it was unpacked.
    Layer,
    /// An image's record on disk that is not what the daemon knows.
    Record,
    /// A file or folder that belongs to nothing.
    Stray,
}

/// What became of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was found.
    Left,
    /// It is whole again.
    Repaired,
    /// It is gone, and its images with it; why it could not be had again.
    Removed(String),
    /// It could not be repaired; why.
    Failed(String),
}

impl Checked {
    /// Whether something is still not as it should be.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        let left = |outcome: &Outcome| matches!(outcome, Outcome::Left | Outcome::Failed(_));
        self.findings.iter().any(|finding| left(&finding.outcome))
    }
}

impl Finding {
    fn new(subject: Subject, name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            subject,
            name: name.into(),
            reason: reason.into(),
            images: Vec::new(),
            outcome: Outcome::Left,
        }
    }
}

/// How a layer is.
pub(crate) enum Seen {
    Whole,
    /// There is no table to compare with.
    Unknown,
    Damaged(String),
    /// Removed meanwhile.
    Gone,
    /// Nobody wants to know any more.
    Stopped,
}

/// Compares one layer with its table. Blocks.
pub(crate) fn look_at(layers: &Arc<Layers>, id: &Digest, pace: &dyn Pace) -> Seen {
    if let Some(reason) = layers.damage(id) {
        return Seen::Damaged(reason);
    }
    let Some(_lease) = layers.lease(id) else {
        return Seen::Gone;
    };
    match layers.verify(id, pace) {
        Ok(true) => Seen::Whole,
        Ok(false) => Seen::Unknown,
        Err(Difference::Damage(reason)) => Seen::Damaged(reason),
        Err(Difference::Stopped) => Seen::Stopped,
    }
}

/// Looks at everything, as fast as it goes; mends what is wrong if told to.
pub(crate) async fn check(store: &Arc<Store>, repair: bool) -> Result<Checked, Error> {
    let looking = Arc::clone(store);
    let mut checked = blocking(move || look(&looking)).await?;
    if repair {
        for finding in &mut checked.findings {
            mend(store, finding).await;
        }
    }
    Ok(checked)
}

fn look(store: &Store) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    for id in store.layers.all() {
        match look_at(&store.layers, &id, &Unpaced) {
            Seen::Whole => checked.whole += 1,
            Seen::Unknown => checked.unknown += 1,
            Seen::Damaged(reason) => checked.findings.push(damaged(store, &id, reason)),
            Seen::Gone | Seen::Stopped => {}
        }
    }
    for (id, reason) in store.catalog.differing() {
        let finding = Finding::new(Subject::Record, id.as_str(), reason);
        checked.findings.push(Finding {
            images: vec![id.as_str().to_owned()],
            ..finding
        });
    }
    let strays = store.layers.orphans()?.into_iter();
    for path in strays.chain(store.catalog.strays()?) {
        let name = path.display().to_string();
        let finding = Finding::new(Subject::Stray, name, "it belongs to nothing");
        checked.findings.push(finding);
    }
    Ok(checked)
}

/// A layer that was found damaged.
pub(crate) fn damaged(store: &Store, id: &Digest, reason: String) -> Finding {
    Finding {
        images: store.catalog.view().with_layer(id),
        ..Finding::new(Subject::Layer, id.as_str(), reason)
    }
}

/// Repairs what was found, or takes it away.
pub(crate) async fn mend(store: &Arc<Store>, finding: &mut Finding) {
    let (subject, name) = (finding.subject, finding.name.clone());
    let mended = match (subject, Digest::parse(&name)) {
        (Subject::Layer, Ok(id)) => {
            store.layers.condemn_as_damaged(&id, &finding.reason);
            fetch_again(store, &id).await
        }
        (Subject::Record, Ok(id)) => rewrite(store, id).await,
        _ => remove_stray(store, name).await,
    };
    finding.outcome = mended.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
    tracing::warn!(
        ?subject,
        name = finding.name,
        reason = finding.reason,
        outcome = ?finding.outcome,
        "the image store was repaired"
    );
}

/// Fetches the images that have a layer again; those that cannot be had are removed.
async fn fetch_again(store: &Arc<Store>, layer: &Digest) -> Result<Outcome, Error> {
    let mut outcome = Outcome::Repaired;
    for id in store.catalog.view().with_layer(layer) {
        let entry = Digest::parse(&id).ok();
        let entry = entry.and_then(|id| store.catalog.view().by_id(&id).cloned());
        let Some(entry) = entry else { continue };
        if let Err(error) = pull::restore(store, &entry.record).await {
            let (store, id) = (Arc::clone(store), entry.record.id.clone());
            blocking(move || store.catalog.remove(&id)).await?;
            outcome = Outcome::Removed(error.to_string());
        }
    }
    Ok(outcome)
}

async fn rewrite(store: &Arc<Store>, id: Digest) -> Result<Outcome, Error> {
    let store = Arc::clone(store);
    blocking(move || store.catalog.rewrite(&id)).await?;
    Ok(Outcome::Repaired)
}

async fn remove_stray(store: &Arc<Store>, path: String) -> Result<Outcome, Error> {
    let store = Arc::clone(store);
    blocking(move || store.layers.remove_orphan(Path::new(&path))).await?;
    Ok(Outcome::Repaired)
}
