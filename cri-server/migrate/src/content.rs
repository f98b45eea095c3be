//! Images of containerd: names from its `meta.db`, blobs from its content store.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bolt::{Bolt, Bucket};
use crate::{Error, Image, Source};

/// Where containerd notes what it has, below its folder.
const NOTES: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// Its blobs.
const BLOBS: &str = "io.containerd.content.v1.content/blobs";
/// The namespace of what a kubelet asks for.
pub(crate) const KUBERNETES: &str = "k8s.io";
/// The label of images that are never collected.
pub(crate) const PINNED: &str = "io.cri-containerd.pinned";
/// How deep lists of manifests may be nested.
const MAX_NESTING: usize = 4;
/// Largest document that is read, bytes.
const MAX_DOCUMENT: u64 = 8 << 20;

/// What the names of an image stand for.
#[derive(Debug)]
pub(crate) struct Target {
    blobs: PathBuf,
    media_type: String,
    digest: String,
}

/// The images that containerd has for Kubernetes below its folder; none if it has never run.
///
/// # Errors
///
/// Its notes cannot be read.
pub fn images(root: &Path) -> Result<Vec<Image>, Error> {
    let notes = root.join(NOTES);
    if !notes.exists() {
        return Ok(Vec::new());
    }
    let bolt = Bolt::open(&notes)?;
    let noted = ["v1", KUBERNETES, "images"]
        .iter()
        .try_fold(bolt.root(), |bucket, name| bucket.bucket(name));
    let mut by_digest: BTreeMap<String, Image> = BTreeMap::new();
    for (name, noted) in noted.map(|noted| noted.buckets()).unwrap_or_default() {
        // The third name that CRI gives: its id.
        if name.starts_with("sha256:") {
            continue;
        }
        let Some((target, pinned)) = target(&noted, &root.join(BLOBS)) else {
            let reason = format!("what {name:?} stands for is not noted");
            return Err(Error::unreadable(&notes, reason));
        };
        let image = by_digest
            .entry(target.digest.clone())
            .or_insert_with(|| Image {
                names: Vec::new(),
                pinned: false,
                source: Source::Content(target),
            });
        image.names.push(name);
        image.pinned |= pinned;
    }
    Ok(by_digest.into_values().collect())
}

fn target(noted: &Bucket<'_>, blobs: &Path) -> Option<(Target, bool)> {
    let target = noted.bucket("target")?;
    let pinned = noted
        .bucket("labels")
        .and_then(|labels| labels.text(PINNED));
    let target = Target {
        blobs: blobs.into(),
        media_type: target.text("mediatype")?,
        digest: target.text("digest")?,
    };
    Some((target, pinned.as_deref() == Some("pinned")))
}

impl Target {
    pub(crate) fn lay_out(&self, image: &Image, folder: &Path) -> Result<(), Error> {
        self.link(&self.digest, folder)?;
        let mut complete = false;
        let mut missing = Vec::new();
        self.link_below(
            &self.digest,
            folder,
            MAX_NESTING,
            &mut complete,
            &mut missing,
        )?;
        if !complete {
            let name = image
                .names
                .first()
                .map_or(self.digest.as_str(), String::as_str);
            let reason = format!(
                "{name}: containerd has not kept {} of its blobs (discard_unpacked_layers does that); \
                 it has to be pulled",
                missing.len().max(1)
            );
            return Err(Error::Incomplete { reason });
        }
        let size = self.size(&self.digest)?;
        let entry = |name: &String| entry(&self.media_type, &self.digest, size, name, image.pinned);
        let entries: Vec<Value> = image.names.iter().map(entry).collect();
        write_index(folder, &entries)
    }

    /// Links what a document names. It is complete if one image in it is.
    fn link_below(
        &self,
        digest: &str,
        folder: &Path,
        nesting: usize,
        complete: &mut bool,
        missing: &mut Vec<String>,
    ) -> Result<(), Error> {
        let document = self.document(digest)?;
        let named = |value: &Value| value["digest"].as_str().map(str::to_owned);
        if let Some(entries) = document["manifests"].as_array() {
            for child in entries.iter().filter_map(named) {
                // Those for other machines were never fetched.
                if nesting > 0 && self.has(&child) {
                    self.link(&child, folder)?;
                    self.link_below(&child, folder, nesting - 1, complete, missing)?;
                }
            }
            return Ok(());
        }
        let Some(config) = named(&document["config"]).filter(|config| self.has(config)) else {
            return Ok(());
        };
        let layers = document["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(named);
        let blobs: Vec<String> = std::iter::once(config).chain(layers).collect();
        let lacking = blobs.iter().filter(|blob| !self.has(blob)).cloned();
        let before = missing.len();
        missing.extend(lacking);
        if missing.len() == before {
            *complete = true;
            for blob in &blobs {
                self.link(blob, folder)?;
            }
        }
        Ok(())
    }

    fn document(&self, digest: &str) -> Result<Value, Error> {
        let path = self.path(digest)?;
        if self.size(digest)? > MAX_DOCUMENT {
            return Err(Error::unreadable(&path, "it is too long for a manifest"));
        }
        let bytes = fs::read(&path).map_err(Error::io("reading", &path))?;
        serde_json::from_slice(&bytes).map_err(|cause| Error::unreadable(&path, cause))
    }

    fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.is_file())
    }

    fn size(&self, digest: &str) -> Result<u64, Error> {
        let path = self.path(digest)?;
        Ok(fs::metadata(&path)
            .map_err(Error::io("looking at", &path))?
            .len())
    }

    fn path(&self, digest: &str) -> Result<PathBuf, Error> {
        let name = blob_name(digest)
            .ok_or_else(|| Error::unreadable(&self.blobs, format!("{digest:?} is no digest")))?;
        Ok(self.blobs.join(name))
    }

    /// The blob under the same name in the layout. A link costs nothing; a copy is what other file
    /// systems leave.
    fn link(&self, digest: &str, folder: &Path) -> Result<(), Error> {
        let from = self.path(digest)?;
        let to = blob_path(folder, digest)?;
        if to.exists() || fs::hard_link(&from, &to).is_ok() {
            return Ok(());
        }
        fs::copy(&from, &to)
            .map(drop)
            .map_err(Error::io("copying", &from))
    }
}

/// `algorithm/hex` of a digest, if it is one.
fn blob_name(digest: &str) -> Option<String> {
    let (algorithm, hex) = digest.split_once(':')?;
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain(algorithm) && plain(hex)).then(|| format!("{algorithm}/{hex}"))
}

/// Where a blob lies in a layout; its folder is made.
pub(crate) fn blob_path(folder: &Path, digest: &str) -> Result<PathBuf, Error> {
    let name = blob_name(digest)
        .ok_or_else(|| Error::unreadable(folder, format!("{digest:?} is no digest")))?;
    let path = folder.join("blobs").join(name);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io("making", parent))?;
    Ok(path)
}

/// An entry of a layout's list.
pub(crate) fn entry(media_type: &str, digest: &str, size: u64, name: &str, pinned: bool) -> Value {
    let mut annotations = json!({ "io.containerd.image.name": name });
    if pinned {
        annotations[PINNED] = "pinned".into();
    }
    json!({
        "mediaType": media_type,
        "digest": digest,
        "size": size,
        "annotations": annotations,
    })
}

/// What makes a folder a layout.
pub(crate) fn write_index(folder: &Path, entries: &[Value]) -> Result<(), Error> {
    let files = [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        (
            "index.json",
            json!({ "schemaVersion": 2, "manifests": entries }),
        ),
    ];
    for (name, value) in files {
        let path = folder.join(name);
        fs::write(&path, value.to_string()).map_err(Error::io("writing", &path))?;
    }
    Ok(())
}
