//! Images from files: OCI layouts (image-spec, image-layout.md) and archives of `docker save`.
//!
//! All of an archive is unpacked and checked before the first of its images is shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use registry::manifest::{Descriptor, Document, Manifest};
use registry::{Digest, Reference};
use serde::Deserialize;

use crate::archive::Archive;
use crate::configuration;
use crate::flight::Cancelled;
use crate::layer::{Form, Promise};
use crate::pull::{choose, show};
use crate::store::layers::Lease;
use crate::store::record::{Names, Received};
use crate::{Error, Store};

/// How deep lists of manifests may be nested.
const MAX_NESTING: usize = 4;
/// Most images of one archive.
const MAX_IMAGES: usize = 1000;
/// Where builders note the whole name of an image.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where a layout notes a name or only a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd notes that an image must never be collected.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// An image found in an archive.
#[derive(Debug)]
struct Found {
    received: Received,
    names: Vec<Names>,
    /// Whether whoever wrote the archive never wanted it collected.
    pinned: bool,
    /// Where its layers are: promise and name of the file.
    layers: Vec<(Promise, String)>,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads an archive and answers with the ids of its images. Blocks.
pub(crate) fn import(store: &Arc<Store>, path: &Path) -> Result<Vec<String>, Error> {
    let archive = Archive::open(path, store.layers.scratch())?;
    let saved = saved(&archive)?;
    let found = match archive.document("index.json")? {
        Some(index) => from_layout(
            store,
            &archive,
            &index,
            saved.as_deref().unwrap_or_default(),
        )?,
        None => from_saved(&archive, &saved.ok_or_else(neither)?)?,
    };
    let mut unpacked = Vec::new();
    for image in &found {
        unpacked.push(unpack(store, &archive, image)?);
    }
    let mut ids = Vec::new();
    for (image, leases) in found.into_iter().zip(unpacked) {
        ids.push(image.received.id.as_str().to_owned());
        for names in &image.names {
            show(
                store,
                image.received.clone(),
                names,
                &leases,
                &Cancelled::default(),
            )?;
        }
        if image.pinned {
            store.catalog.pin(&image.received.id, true)?;
        }
    }
    ids.dedup();
    Ok(ids)
}

fn neither() -> Error {
    Error::Corrupt(
        "it is neither an OCI layout (no index.json) nor a docker archive (no manifest.json)"
            .into(),
    )
}

fn unpack(store: &Arc<Store>, archive: &Archive, image: &Found) -> Result<Vec<Arc<Lease>>, Error> {
    let mut leases = Vec::new();
    for (promise, name) in &image.layers {
        if let Some(lease) = store.layers.lease(&promise.diff_id) {
            leases.push(Arc::new(lease));
            continue;
        }
        let mut staging = store.layers.stage(store.layers.form())?;
        let mut built = store
            .workers
            .build(archive.required(name)?, promise, &staging);
        if built.is_err() && staging.is_unfit() {
            staging = store.layers.stage(Form::Dir)?;
            built = store
                .workers
                .build(archive.required(name)?, promise, &staging);
        }
        leases.push(Arc::new(staging.publish(&promise.diff_id, built?)?));
    }
    Ok(leases)
}

fn saved(archive: &Archive) -> Result<Option<Vec<Saved>>, Error> {
    let Some(bytes) = archive.document("manifest.json")? else {
        return Ok(None);
    };
    let saved = serde_json::from_slice::<Vec<Saved>>(&bytes);
    saved
        .map(Some)
        .map_err(|cause| Error::Corrupt(format!("manifest.json cannot be read: {cause}")))
}

fn from_saved(archive: &Archive, saved: &[Saved]) -> Result<Vec<Found>, Error> {
    check_count(saved.len())?;
    saved
        .iter()
        .map(|image| from_one_saved(archive, image))
        .collect()
}

fn from_one_saved(archive: &Archive, image: &Saved) -> Result<Found, Error> {
    let config = archive.document(&image.config)?;
    let config =
        config.ok_or_else(|| Error::Corrupt(format!("the archive has no {:?}", image.config)))?;
    let files = image.layers.clone().unwrap_or_default();
    let (_, diff_ids) = configuration::parse(&config, files.len())?;
    let promise = |diff_id: &Digest| Promise {
        sent: None,
        diff_id: diff_id.clone(),
    };
    let layers = diff_ids.iter().map(promise).zip(files).collect();
    let received = Received {
        id: Digest::of(&config),
        layers: diff_ids,
        manifest: None,
        config: text(config)?,
        annotations: BTreeMap::new(),
    };
    Ok(Found {
        received,
        names: tags(image.repo_tags.as_deref().unwrap_or_default())?,
        pinned: false,
        layers,
    })
}

fn tags(names: &[String]) -> Result<Vec<Names>, Error> {
    let names = names.iter().map(|name| {
        Reference::parse(name).map(|name| Names {
            tag: name.tagged(),
            digest: None,
        })
    });
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    // An image without a name is shown once, too.
    Ok(if names.is_empty() {
        vec![Names::default()]
    } else {
        names
    })
}

fn from_layout(
    store: &Store,
    archive: &Archive,
    index: &[u8],
    saved: &[Saved],
) -> Result<Vec<Found>, Error> {
    let Document::Index(entries) = Document::parse(index, None)? else {
        return Err(Error::Corrupt(
            "index.json is not a list of manifests".into(),
        ));
    };
    check_count(entries.len())?;
    let mut found = Vec::new();
    for entry in one_a_name(store, &entries)? {
        found.push(from_entry(store, archive, entry, saved)?);
    }
    Ok(found)
}

fn check_count(count: usize) -> Result<(), Error> {
    if count > MAX_IMAGES {
        return Err(Error::Corrupt(format!(
            "the archive has {count} images; at most {MAX_IMAGES} are read"
        )));
    }
    Ok(())
}

/// Entries of the same name are the same image for different machines.
fn one_a_name<'a>(store: &Store, entries: &'a [Descriptor]) -> Result<Vec<&'a Descriptor>, Error> {
    let mut groups: Vec<(Option<&str>, Vec<Descriptor>)> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation()) {
        let name = noted_name(entry);
        let same = |group: &&mut (Option<&str>, _)| {
            group.0 == name && (name.is_some() || entry.platform.is_some())
        };
        match groups.iter_mut().find(same) {
            Some((_, group)) => group.push(entry.clone()),
            None => groups.push((name, vec![entry.clone()])),
        }
    }
    let mut chosen = Vec::new();
    for (name, group) in groups {
        let digest = choose(store, &group)?.digest.clone();
        // The same image may be there under several names.
        let is_it = |entry: &&Descriptor| entry.digest == digest && noted_name(entry) == name;
        chosen.extend(entries.iter().find(is_it));
    }
    Ok(chosen)
}

/// The name that the layout notes, or only a tag.
fn noted_name(entry: &Descriptor) -> Option<&str> {
    entry
        .annotation(FULL_NAME)
        .or_else(|| entry.annotation(REF_NAME))
}

fn from_entry(
    store: &Store,
    archive: &Archive,
    entry: &Descriptor,
    saved: &[Saved],
) -> Result<Found, Error> {
    let (bytes, manifest) = find_manifest(store, archive, entry)?;
    let config = blob(archive, &manifest.config)?;
    let (_, diff_ids) = configuration::parse(&config, manifest.layers.len())?;
    let layers = diff_ids.iter().zip(&manifest.layers);
    let layers = layers.map(|(diff_id, layer)| place_of(archive, diff_id, layer));
    let layers = layers.collect::<Result<_, _>>()?;
    let names = names(entry, &manifest.config.digest, saved)?;
    let received = Received {
        id: manifest.config.digest,
        layers: diff_ids,
        manifest: Some(text(bytes)?),
        config: text(config)?,
        annotations: manifest.annotations,
    };
    Ok(Found {
        received,
        names,
        pinned: entry.annotation(PINNED.0) == Some(PINNED.1),
        layers,
    })
}

/// Where a layer is: as it was sent, or, if who wrote the archive has not kept that, as the plain tar
/// that the configuration names, which is all that anybody relies on.
fn place_of(
    archive: &Archive,
    diff_id: &Digest,
    layer: &Descriptor,
) -> Result<(Promise, String), Error> {
    let diff_id = diff_id.clone();
    let (sent, plain) = (blob_name(&layer.digest), blob_name(&diff_id));
    if archive.file(&sent)?.is_none() && archive.file(&plain)?.is_some() {
        let sent = None;
        return Ok((Promise { sent, diff_id }, plain));
    }
    let promised = Some((layer.digest.clone(), layer.size));
    let sent_as = Promise {
        sent: promised,
        diff_id,
    };
    Ok((sent_as, sent))
}

/// The name that the layout notes, if it is a whole one; else those of `docker save` beside it.
fn names(entry: &Descriptor, id: &Digest, saved: &[Saved]) -> Result<Vec<Names>, Error> {
    let whole = |name: &&str| name.contains(['/', ':']);
    let noted = entry
        .annotation(FULL_NAME)
        .or_else(|| entry.annotation(REF_NAME).filter(whole));
    if let Some(noted) = noted {
        let name = Reference::parse(noted)?;
        return Ok(vec![Names {
            tag: name.tagged(),
            digest: Some(name.with_digest(&entry.digest)),
        }]);
    }
    let same = saved.iter().find(|image| image.config.contains(id.hex()));
    tags(
        same.and_then(|image| image.repo_tags.as_deref())
            .unwrap_or_default(),
    )
}

fn find_manifest(
    store: &Store,
    archive: &Archive,
    entry: &Descriptor,
) -> Result<(Vec<u8>, Manifest), Error> {
    let mut entry = entry.clone();
    for _ in 0..=MAX_NESTING {
        let bytes = blob(archive, &entry)?;
        match Document::parse(&bytes, None)? {
            Document::Manifest(manifest) => return Ok((bytes, *manifest)),
            Document::Index(entries) => entry = choose(store, &entries)?.clone(),
        }
    }
    Err(Error::Corrupt(format!(
        "lists of manifests are nested deeper than {MAX_NESTING}"
    )))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// A small blob, checked.
fn blob(archive: &Archive, wanted: &Descriptor) -> Result<Vec<u8>, Error> {
    let name = blob_name(&wanted.digest);
    let bytes = archive.document(&name)?;
    let bytes = bytes.ok_or_else(|| Error::Corrupt(format!("the archive has no {name:?}")))?;
    let found = wanted.digest.same_kind_of(&bytes);
    if found != wanted.digest || bytes.len() as u64 != wanted.size {
        let length = bytes.len();
        return Err(Error::Corrupt(format!(
            "{name:?} has the digest {found} and {length} bytes, not {}",
            wanted.size
        )));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes)
        .map_err(|cause| Error::Corrupt(format!("a document is not text: {cause}")))
}
