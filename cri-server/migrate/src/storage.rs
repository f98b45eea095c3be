//! Images of containers/storage, where CRI-O, podman and buildah keep theirs, on its overlay driver.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::content::{blob_path, entry, write_index};
use crate::{Error, Image, Source, split};

/// Most layers of an image.
const MAX_LAYERS: usize = 1000;
/// Media type of a manifest that does not say its own.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image as it is noted.
#[derive(Debug, Deserialize)]
struct Noted {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    layer: String,
    #[serde(default, rename = "big-data-names")]
    documents: Vec<String>,
}

/// A layer as it is noted.
#[derive(Clone, Debug, Deserialize)]
struct NotedLayer {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(default, rename = "diff-digest")]
    digest: String,
}

/// An image of the storage.
#[derive(Debug)]
pub(crate) struct Stored {
    root: PathBuf,
    id: String,
    documents: Vec<String>,
    /// The lowest first.
    layers: Vec<NotedLayer>,
}

/// The images of a storage, those pinned that `is_pinned` says; none if there is no storage.
///
/// # Errors
///
/// Its notes cannot be read.
pub fn images(root: &Path, is_pinned: &dyn Fn(&str) -> bool) -> Result<Vec<Image>, Error> {
    let noted: Vec<Noted> = read(&root.join("overlay-images/images.json"))?;
    let layers: Vec<NotedLayer> = read(&root.join("overlay-layers/layers.json"))?;
    let layers: HashMap<String, NotedLayer> = layers
        .into_iter()
        .map(|layer| (layer.id.clone(), layer))
        .collect();
    let images = noted.into_iter().filter(|image| !image.names.is_empty());
    let images = images.map(|image| Image {
        pinned: image.names.iter().any(|name| is_pinned(name)),
        source: Source::Storage(Stored {
            root: root.into(),
            layers: chain(&image.layer, &layers),
            documents: image.documents,
            id: image.id,
        }),
        names: image.names,
    });
    Ok(images.collect())
}

/// The layers from the lowest to `top`.
fn chain(top: &str, layers: &HashMap<String, NotedLayer>) -> Vec<NotedLayer> {
    let mut chain = Vec::new();
    let mut id = top;
    while let Some(layer) = layers.get(id).filter(|_| chain.len() < MAX_LAYERS) {
        chain.push(layer.clone());
        id = &layer.parent;
    }
    chain.reverse();
    chain
}

/// A list of a storage; empty where there is none.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(Error::io("reading", path))?;
    serde_json::from_slice(&bytes).map_err(|cause| Error::unreadable(path, cause))
}

impl Stored {
    pub(crate) fn lay_out(&self, image: &Image, folder: &Path) -> Result<(), Error> {
        let (documents, own) = self.manifests()?;
        for (digest, bytes) in &documents {
            write(folder, digest, bytes)?;
        }
        let config = format!("sha256:{}", self.id);
        write(folder, &config, &self.document(&config)?)?;
        for layer in &self.layers {
            self.layer(layer, folder)?;
        }
        let entry = |name: &String| {
            let named = name.split_once('@').map(|(_, digest)| digest);
            let digest = named
                .filter(|digest| documents.contains_key(*digest))
                .unwrap_or(&own);
            let bytes = documents.get(digest).map_or(&[][..], Vec::as_slice);
            entry(
                &media_type(bytes),
                digest,
                bytes.len() as u64,
                name,
                image.pinned,
            )
        };
        let entries: Vec<Value> = image.names.iter().map(entry).collect();
        write_index(folder, &entries)
    }

    /// Manifests and lists of them by digest, and the digest of the one for this machine.
    fn manifests(&self) -> Result<(BTreeMap<String, Vec<u8>>, String), Error> {
        let mut documents = BTreeMap::new();
        for name in &self.documents {
            if name.starts_with("manifest-") {
                let bytes = self.document(name)?;
                documents.insert(digest(&bytes), bytes);
            }
        }
        let bytes = self.document("manifest")?;
        let own = digest(&bytes);
        documents.insert(own.clone(), bytes);
        Ok((documents, own))
    }

    /// A document of the image; names with other signs than letters, digits and dots are encoded.
    fn document(&self, name: &str) -> Result<Vec<u8>, Error> {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        let file = if plain {
            name.to_owned()
        } else {
            format!(
                "={}",
                base64::engine::general_purpose::STANDARD.encode(name)
            )
        };
        let path = self.root.join("overlay-images").join(&self.id).join(file);
        fs::read(&path).map_err(Error::io("reading", &path))
    }

    /// The tar of a layer, under its own digest: what was sent is not kept.
    fn layer(&self, layer: &NotedLayer, folder: &Path) -> Result<(), Error> {
        let path = blob_path(folder, &layer.digest)?;
        if path.exists() {
            return Ok(());
        }
        let notes = self
            .root
            .join("overlay-layers")
            .join(format!("{}.tar-split.gz", layer.id));
        let files = self.root.join("overlay").join(&layer.id).join("diff");
        let file = File::create(&path).map_err(Error::io("making", &path))?;
        let mut target = BufWriter::with_capacity(1 << 18, file);
        split::assemble(&notes, &files, &mut target)?;
        target.flush().map_err(Error::io("writing", &path))
    }
}

fn write(folder: &Path, digest: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = blob_path(folder, digest)?;
    fs::write(&path, bytes).map_err(Error::io("writing", &path))
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn media_type(document: &[u8]) -> String {
    let value: Value = serde_json::from_slice(document).unwrap_or_default();
    value["mediaType"].as_str().unwrap_or(MANIFEST).to_owned()
}
