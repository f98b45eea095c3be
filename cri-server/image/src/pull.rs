//! Getting an image: resolve, fetch what is missing, all layers at once, then show it.
//!
//! What several callers ask for at the same time is done once, both images and layers. Until the
//! record is in the catalogue nothing is visible; when the last caller goes, all is undone.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use registry::manifest::{Descriptor, Document, Manifest};
use registry::{Digest, Reference, Repository, Resolved, Served, stream};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::configuration;
use crate::flight::{Cancelled, blocking};
use crate::layer::{Form, Promise};
use crate::progress::{self, Counter};
use crate::signature::Kept;
use crate::store::layers::Lease;
use crate::store::record::{Names, Received, Record};
use crate::{Credentials, Error, Store, room};

/// How deep lists of manifests may be nested.
const MAX_NESTING: usize = 4;
/// Most entries of a list whose configuration is read to know what they are for.
const MAX_UNSAID: usize = 8;
/// Most and fewest layers that are fetched and unpacked at the same time, over all images.
const MAX_LAYERS_AT_ONCE: usize = 8;
const MIN_LAYERS_AT_ONCE: usize = 3;

/// How many layers are worked on at the same time. More than there are processors only makes them
/// all wait for each other, but one that waits for the network should not leave one idle.
pub(crate) fn layers_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors + 1).clamp(MIN_LAYERS_AT_ONCE, MAX_LAYERS_AT_ONCE)
}

/// What a step may take that ends in its own good time, ms.
const ANY_TIME_MS: u64 = 30 * 24 * 3600 * 1000;

/// Gets an image and answers with its id.
pub(crate) async fn pull(
    store: Arc<Store>,
    name: Reference,
    credentials: Option<Credentials>,
    namespace: String,
    cancelled: Cancelled,
) -> Result<String, Error> {
    let shown = store.progress.begin(&name.to_string());
    let registry = &store.registry;
    let repository = Arc::new(registry.repository(&name, credentials.as_ref()).await?);
    let resolved = step!("resolve", repository.resolve()).await?;
    let names = Names {
        // A name with a digest does not say what its tag means now.
        tag: name.tagged().filter(|_| name.digest().is_none()),
        digest: Some(name.with_digest(&resolved.digest)),
    };
    let digest = resolved.digest.clone();
    let mut wanted = Wants::Unknown(resolved);
    let mut kept = None;
    if let Some(gate) = store.gate() {
        let found = wanted.find(&store, &repository).await?;
        let asked = gate.at_pull(&store, &name, credentials.as_ref(), &namespace, &found);
        kept = Some(step!("signatures", asked).await?);
        wanted = Wants::Known(Box::new(found));
    }
    if let Some(id) = name_present(&store, &digest, &names, &cancelled).await? {
        keep(&store, kept).await?;
        return Ok(id);
    }
    let Found {
        served, manifest, ..
    } = step!("manifest", wanted.find(&store, &repository)).await?;
    let config = step!("manifest", repository.small_blob(&manifest.config)).await?;
    let (_, diff_ids) = configuration::parse(&config, manifest.layers.len())?;
    let counters = shown.layers(&manifest.layers);
    for (counter, diff_id) in counters.iter().zip(&diff_ids) {
        if store.layers.facts(diff_id).is_some() {
            counter.verified();
        }
    }
    room::check(&store.root, &shown)?;
    let fetched = fetch_layers(&store, &repository, &manifest.layers, &diff_ids, counters);
    // However long it takes: the log is told of its progress.
    let leases = step!("download", ANY_TIME_MS, telling(&shown, fetched)).await?;
    let received = Received {
        id: manifest.config.digest,
        layers: diff_ids,
        manifest: Some(text(&served.bytes)?),
        config: text(&config)?,
        annotations: manifest.annotations,
    };
    let id = received.id.as_str().to_owned();
    let shown_in = Arc::clone(&store);
    let shown = blocking(move || show(&shown_in, received, &names, &leases, &cancelled));
    step!("record", shown).await?;
    keep(&store, kept).await?;
    Ok(id)
}

/// Fetches the layers of an image that are missing or damaged, from where the image came from.
pub(crate) async fn restore(store: &Arc<Store>, record: &Record) -> Result<(), Error> {
    let text = record.manifest.as_ref();
    let text = text.ok_or_else(|| Error::Other("it came from an archive".into()))?;
    let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None)? else {
        return Err(Error::Corrupt("its manifest is a list".into()));
    };
    let mut restored = Err(Error::Other("no registry is known to have it".into()));
    for name in &record.digests {
        let shown = store.progress.begin(name);
        let name = Reference::parse(name)?;
        let repository = Arc::new(store.registry.repository(&name, None).await?);
        let counters = shown.layers(&manifest.layers);
        let (layers, diff_ids) = (&manifest.layers, &record.layers);
        let fetched = fetch_layers(store, &repository, layers, diff_ids, counters);
        // The image holds its layers already; the leases are not needed.
        restored = telling(&shown, fetched).await.map(drop);
        if restored.is_ok() {
            store.layers.make_durable();
            break;
        }
    }
    restored
}

/// Keeps what was found to speak for an image, once the image is there: before, it would count as
/// one of an image that is gone.
async fn keep(store: &Arc<Store>, kept: Option<Kept>) -> Result<(), Error> {
    let Some(kept) = kept else { return Ok(()) };
    let store = Arc::clone(store);
    blocking(move || {
        if let Some(gate) = store.gate() {
            gate.keep(&kept);
        }
        Ok(())
    })
    .await
}

/// What a pull is to get.
enum Wants {
    Unknown(Resolved),
    Known(Box<Found>),
}

impl Wants {
    async fn find(self, store: &Store, repository: &Repository) -> Result<Found, Error> {
        match self {
            Self::Unknown(resolved) => find_manifest(store, repository, resolved).await,
            Self::Known(found) => Ok(*found),
        }
    }
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) struct Found {
    /// The manifest for this machine, as received.
    pub(crate) served: Served,
    /// The same, parsed.
    pub(crate) manifest: Manifest,
    /// The document that the name stands for: that manifest, or a list that leads to it.
    pub(crate) top: Top,
}

/// A document that a name stands for, as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Top {
    /// What the registry calls it; may be empty.
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
}

/// Tells in the log how far a pull is until it has ended.
async fn telling<T>(shown: &progress::Pull, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(progress::TELL_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => shown.tell(),
        }
    }
}

/// What is here already under that digest only gets the name: the registry was asked, which is
/// what proves that the caller may have it.
async fn name_present(
    store: &Arc<Store>,
    digest: &Digest,
    names: &Names,
    cancelled: &Cancelled,
) -> Result<Option<String>, Error> {
    let Some(id) = store
        .catalog
        .view()
        .by_manifest(digest)
        .map(|entry| entry.record.id.clone())
    else {
        return Ok(None);
    };
    let (store, names, cancelled) = (Arc::clone(store), names.clone(), Arc::clone(cancelled));
    blocking(move || {
        Ok(store
            .catalog
            .name(&id, &names, &cancelled)?
            .then(|| id.as_str().to_owned()))
    })
    .await
}

/// Makes the image visible. The leases end after the image holds its layers; these are written to
/// disk without anybody waiting for it.
pub(crate) fn show(
    store: &Store,
    received: Received,
    names: &Names,
    _leases: &[Arc<Lease>],
    cancelled: &Cancelled,
) -> Result<(), Error> {
    store.catalog.add(received, names, cancelled)?;
    store.layers.make_durable();
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|cause| Error::Corrupt(format!("a document is not text: {cause}")))?;
    Ok(text.to_owned())
}

/// Follows lists down to the manifest for this machine.
pub(crate) async fn find_manifest(
    store: &Store,
    repository: &Repository,
    resolved: Resolved,
) -> Result<Found, Error> {
    let mut digest = resolved.digest;
    let mut document = resolved.document;
    let mut top = None;
    for _ in 0..=MAX_NESTING {
        let served = match document.take() {
            Some(served) => served,
            None => repository.document(&digest).await?,
        };
        let described = || Top {
            media_type: served.content_type.clone().unwrap_or_default(),
            digest: digest.clone(),
            size: served.bytes.len() as u64,
        };
        let top = top.get_or_insert_with(described);
        match Document::parse(&served.bytes, served.content_type.as_deref())? {
            Document::Manifest(manifest) => {
                return Ok(Found {
                    top: top.clone(),
                    served,
                    manifest: *manifest,
                });
            }
            Document::Index(entries) => {
                let entry = choose(store, &entries)?;
                digest = match entry.platform {
                    Some(_) => entry.digest.clone(),
                    None => first_that_runs(store, repository, &entries).await?,
                };
            }
        }
    }
    Err(Error::Corrupt(format!(
        "lists of manifests are nested deeper than {MAX_NESTING}"
    )))
}

/// Of entries that do not say what they are for, the first whose configuration does not say that it
/// is for another machine.
async fn first_that_runs(
    store: &Store,
    repository: &Repository,
    entries: &[Descriptor],
) -> Result<Digest, Error> {
    let unsaid = entries
        .iter()
        .filter(|e| e.platform.is_none() && !e.is_attestation());
    for entry in unsaid.take(MAX_UNSAID) {
        let served = repository.document(&entry.digest).await?;
        let parsed = Document::parse(&served.bytes, served.content_type.as_deref())?;
        let Document::Manifest(manifest) = parsed else {
            return Ok(entry.digest.clone());
        };
        let config = repository.small_blob(&manifest.config).await?;
        let (config, _) = configuration::parse(&config, manifest.layers.len())?;
        let (os, architecture) = (config.os(), config.architecture());
        if store
            .platform
            .runs(&os.to_string(), &architecture.to_string())
        {
            return Ok(entry.digest.clone());
        }
    }
    Err(not_for_us(entries))
}

/// The entry of a list that is for this machine.
pub(crate) fn choose<'a>(
    store: &Store,
    entries: &'a [Descriptor],
) -> Result<&'a Descriptor, Error> {
    let entry = store.platform.choose(entries);
    entry.ok_or_else(|| not_for_us(entries))
}

fn not_for_us(entries: &[Descriptor]) -> Error {
    let offered = entries.iter().filter_map(|e| e.platform.as_ref());
    let offered: Vec<_> = offered
        .map(|p| format!("{}/{}{}", p.os, p.architecture, p.variant))
        .collect();
    let here = std::env::consts::ARCH;
    let only = match offered.join(", ") {
        none if none.is_empty() => "others".to_owned(),
        some => some,
    };
    Error::Corrupt(format!(
        "the image is not for this machine ({here}), only for {only}"
    ))
}

async fn fetch_layers(
    store: &Arc<Store>,
    repository: &Arc<Repository>,
    layers: &[Descriptor],
    diff_ids: &[Digest],
    counters: Vec<Arc<Counter>>,
) -> Result<Vec<Arc<Lease>>, Error> {
    let layers = layers.iter().zip(counters);
    let wanted: BTreeMap<&Digest, (&Descriptor, Arc<Counter>)> =
        diff_ids.iter().zip(layers).collect();
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    // The largest first: begun last, it would be waited for alone.
    wanted.sort_by_key(|(_, (layer, _))| std::cmp::Reverse(layer.size));
    let mut fetches = JoinSet::new();
    for (diff_id, (layer, counter)) in wanted {
        let wanted = Wanted {
            layer: layer.clone(),
            diff_id: diff_id.clone(),
            counter,
        };
        let fetch = layer_of(Arc::clone(store), Arc::clone(repository), wanted);
        fetches.spawn(fetch.in_current_span());
    }
    let mut leases = Vec::new();
    while let Some(fetched) = fetches.join_next().await {
        let lost = |cause| Error::Other(format!("the fetch of a layer was lost: {cause}"));
        leases.push(fetched.map_err(lost)??);
    }
    Ok(leases)
}

/// A layer that a pull needs.
struct Wanted {
    layer: Descriptor,
    diff_id: Digest,
    counter: Arc<Counter>,
}

/// A layer: the one that is here, the one that is on its way, or a new fetch.
async fn layer_of(
    store: Arc<Store>,
    repository: Arc<Repository>,
    wanted: Wanted,
) -> Result<Arc<Lease>, Error> {
    let counter = Arc::clone(&wanted.counter);
    if let Some(lease) = store.layers.lease(&wanted.diff_id) {
        counter.verified();
        return Ok(Arc::new(lease));
    }
    // Also by what is sent: a manifest that lies about a layer must not spoil it for others.
    let key = (wanted.diff_id.clone(), wanted.layer.digest.clone());
    let work = |_| fetch_layer(Arc::clone(&store), repository, wanted);
    let lease = store.layer_flights.join(&key, Duration::ZERO, work).await?;
    counter.verified();
    Ok(lease)
}

async fn fetch_layer(
    store: Arc<Store>,
    repository: Arc<Repository>,
    wanted: Wanted,
) -> Result<Arc<Lease>, Error> {
    let closed = |_| Error::Other("the store is closed".into());
    let _slot = store.slots.acquire().await.map_err(closed)?;
    if let Some(lease) = store.layers.lease(&wanted.diff_id) {
        return Ok(Arc::new(lease));
    }
    let form = store.layers.form();
    let fetched = match fetch_from_any(&store, &repository, &wanted, form).await? {
        Fetched::Unfit => fetch_from_any(&store, &repository, &wanted, Form::Dir).await?,
        fetched => fetched,
    };
    match fetched {
        Fetched::Layer(lease) => Ok(Arc::new(lease)),
        Fetched::Unfit => Err(Error::Other("a layer does not fit into a folder".into())),
    }
}

/// How a fetch ended that did not fail.
enum Fetched {
    Layer(Lease),
    /// It has to be fetched again, in another form.
    Unfit,
}

/// Fetches a layer; again from another host if it was wrong, since mirrors may send anything.
async fn fetch_from_any(
    store: &Store,
    repository: &Arc<Repository>,
    wanted: &Wanted,
    form: Form,
) -> Result<Fetched, Error> {
    loop {
        match fetch_as(store, repository, wanted, form).await {
            Err(Error::Corrupt(text)) if repository.blame(&wanted.layer.digest) => {
                tracing::warn!(%text, "a host sent a wrong layer; another one is asked");
            }
            fetched => return fetched,
        }
    }
}

/// Fetches a layer and gives it this form.
async fn fetch_as(
    store: &Store,
    repository: &Arc<Repository>,
    wanted: &Wanted,
    form: Form,
) -> Result<Fetched, Error> {
    let counter = Arc::clone(&wanted.counter);
    let (sink, stream) = stream::pipe(move |bytes| counter.received(bytes));
    let (layers, workers) = (Arc::clone(&store.layers), Arc::clone(&store.workers));
    let promise = Promise {
        sent: Some((wanted.layer.digest.clone(), wanted.layer.size)),
        diff_id: wanted.diff_id.clone(),
    };
    let unpack = blocking(move || {
        let staging = layers.stage(form)?;
        match workers.build(stream, &promise, &staging) {
            Ok(contents) => staging
                .publish(&promise.diff_id, contents)
                .map(Fetched::Layer),
            Err(_) if staging.is_unfit() => Ok(Fetched::Unfit),
            Err(error) => Err(error),
        }
    });
    // What goes wrong on the way is sent along, so the unpacking tells it.
    let fed = stream::feed(repository, &wanted.layer, sink);
    let ((), unpacked) = tokio::join!(fed, unpack);
    unpacked
}
