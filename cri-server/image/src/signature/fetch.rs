//! What speaks for an image, as its registry has it.
//!
//! Two places are looked at for each digest: the tag `sha256-<hex>.sig`, where cosign puts payloads
//! in the simple signing form (cosign's `specs/SIGNATURE_SPEC.md`), and what refers to the image
//! (distribution-spec, "Listing Referrers"), among which are Sigstore bundles. Who may be believed is
//! not decided here.

use std::sync::Arc;

use registry::manifest::Descriptor;
use registry::{Digest, Reference, Registry, Repository, Served};
use serde::Deserialize;
use trust::{Evidence, Simple};

use crate::{Credentials, Error};

/// What a layer is that holds a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// How the names of bundles begin, of whatever version.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// Most signatures of one digest that are looked at, of each form.
const MAX_SIGNATURES: usize = 64;
/// Most bytes of one of them.
const MAX_SIGNATURE: u64 = 1 << 20;

/// The manifest of something that holds signatures in place of layers.
#[derive(Deserialize)]
struct Holder {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// All that speaks for these digests. That there is nothing is no error.
pub(crate) async fn all(
    registry: &Arc<Registry>,
    name: &Reference,
    credentials: Option<&Credentials>,
    digests: &[Digest; 2],
) -> Result<Vec<Evidence>, Error> {
    let [first, second] = digests;
    let mut evidence = of(registry, name, credentials, first).await?;
    if first != second {
        evidence.extend(of(registry, name, credentials, second).await?);
    }
    Ok(evidence)
}

async fn of(
    registry: &Arc<Registry>,
    name: &Reference,
    credentials: Option<&Credentials>,
    digest: &Digest,
) -> Result<Vec<Evidence>, Error> {
    let tag = format!("{}-{}.sig", digest.algorithm(), digest.hex());
    let signed = name.in_same_repository(&tag);
    let signed = registry.repository(&signed, credentials).await?;
    let (payloads, bundles) = tokio::try_join!(payloads(&signed), bundles(&signed, digest))?;
    Ok(payloads.into_iter().chain(bundles).collect())
}

/// The payloads under the tag that this repository was asked for.
async fn payloads(repository: &Repository) -> Result<Vec<Evidence>, Error> {
    let Some(served) = tagged(repository).await? else {
        return Ok(Vec::new());
    };
    let Ok(holder) = serde_json::from_slice::<Holder>(&served.bytes) else {
        return Ok(Vec::new());
    };
    let mut payloads = Vec::new();
    let fitting = holder.layers.iter().filter(|l| l.media_type == PAYLOAD);
    for layer in fitting.take(MAX_SIGNATURES) {
        let Some(payload) = text(repository, layer).await? else {
            continue;
        };
        let note = |key| layer.annotation(key).map(str::to_owned);
        payloads.push(Evidence::Simple(Simple {
            payload,
            signature: note("dev.cosignproject.cosign/signature").unwrap_or_default(),
            certificate: note("dev.sigstore.cosign/certificate"),
            chain: note("dev.sigstore.cosign/chain"),
            promise: note("dev.sigstore.cosign/bundle"),
            timestamp: note("dev.sigstore.cosign/rfc3161timestamp"),
        }));
    }
    Ok(payloads)
}

/// The bundles among what refers to an image.
async fn bundles(repository: &Repository, digest: &Digest) -> Result<Vec<Evidence>, Error> {
    let found = repository.referrers(digest, None).await;
    let found = nothing_if_missing(found)?.unwrap_or_default();
    // A list that clients keep themselves may not say what its entries are.
    let fits = |kind: &str| kind.is_empty() || is_bundle(kind);
    let fitting = found.iter().filter(|r| fits(&r.artifact_type));
    let mut bundles = Vec::new();
    for referrer in fitting.take(MAX_SIGNATURES) {
        let digest = Digest::parse(&referrer.digest).map_err(Error::Corrupt)?;
        let served = repository.document(&digest).await?;
        let Ok(holder) = serde_json::from_slice::<Holder>(&served.bytes) else {
            continue;
        };
        for layer in holder.layers.iter().filter(|l| is_bundle(&l.media_type)) {
            bundles.extend(text(repository, layer).await?.map(Evidence::Bundle));
        }
    }
    bundles.truncate(MAX_SIGNATURES);
    Ok(bundles)
}

fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(BUNDLE)
}

/// The document under the tag that the repository was asked for.
async fn tagged(repository: &Repository) -> Result<Option<Served>, Error> {
    let found = async {
        let resolved = repository.resolve().await?;
        match resolved.document {
            Some(served) => Ok(served),
            None => repository.document(&resolved.digest).await,
        }
    };
    nothing_if_missing(found.await)
}

/// Registries that do not say to strangers what they do not have refuse it instead.
fn nothing_if_missing<T>(found: Result<T, registry::Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(registry::Error::NotFound(_) | registry::Error::Denied(_)) => Ok(None),
        Err(error) => Err(Error::from(error).within("looking for signatures")),
    }
}

/// A small blob as text; nothing if it can be no signature.
async fn text(repository: &Repository, blob: &Descriptor) -> Result<Option<String>, Error> {
    if blob.size > MAX_SIGNATURE {
        return Ok(None);
    }
    let fetched = repository.small_blob(blob).await;
    let bytes = fetched.map_err(|error| Error::from(error).within("fetching a signature"))?;
    Ok(String::from_utf8(bytes.to_vec()).ok())
}
