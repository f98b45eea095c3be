//! Images to a file: an OCI layout that is also an archive as `docker save` writes it, in one tar.
//!
//! Layers are kept unpacked, so they are written as plain tars, put together by their recipes; each
//! has the digest that its image's configuration names, or nothing is written. The configuration is
//! the one received, so the image keeps its id. The manifest is a new one, since that of the registry
//! names compressed layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry::manifest::{OCI_INDEX, OCI_MANIFEST};
use registry::{Digest, Hasher};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::error::During;
use crate::store::layers::Lease;
use crate::store::record::Entry;
use crate::{Error, Store};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Where builders and importers note the whole name of an image.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where a layout notes a name (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Writes images to a new file at `path`, which is complete or not there. Blocks.
pub(crate) fn export(store: &Store, entries: &[Wanted], path: &Path) -> Result<(), Error> {
    let unfinished = Unfinished::beside(path)?;
    let file = unfinished.open()?;
    let mut archive = Archive {
        tar: Builder::new(BufWriter::new(file)),
        store,
        index: Vec::new(),
        saved: Vec::new(),
        written: BTreeSet::new(),
    };
    for wanted in entries {
        archive.image(wanted)?;
    }
    let file = archive.finish()?;
    file.sync_all().during(|| "writing the archive to disk")?;
    unfinished.publish(path)
}

/// An image that is wanted, and what is held of it.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) entry: Entry,
    /// Its name if that was asked for by name; else all of its names are written.
    pub(crate) tag: Option<String>,
    /// Keep its layers until they are written.
    pub(crate) _leases: Vec<Arc<Lease>>,
}

/// A file that goes unless it is published.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, Error> {
        let name = path.file_name();
        let name = name.ok_or_else(|| Error::Other(format!("{} is no file", path.display())))?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{}", rustix::process::getpid()));
        Ok(Self(path.with_file_name(unfinished)))
    }

    fn open(&self) -> Result<File, Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = File::options();
        // What an image holds is for those who may read the store, until root says otherwise.
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&self.0)
            .during(|| format!("making {}", self.0.display()))
    }

    fn publish(self, path: &Path) -> Result<(), Error> {
        std::fs::rename(&self.0, path).during(|| format!("writing {}", path.display()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once published nothing is here any more.
        drop(std::fs::remove_file(&self.0));
    }
}

struct Archive<'a> {
    tar: Builder<BufWriter<File>>,
    store: &'a Store,
    /// Entries of `index.json`, and of `manifest.json`.
    index: Vec<Value>,
    saved: Vec<Value>,
    /// Members that are there already.
    written: BTreeSet<String>,
}

impl Archive<'_> {
    fn image(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let record = &wanted.entry.record;
        let mut layers = Vec::new();
        for id in &record.layers {
            let length = self.layer(id)?;
            layers.push(json!({"mediaType": LAYER, "digest": id.as_str(), "size": length}));
        }
        let config = record.config.as_bytes();
        self.blob(&record.id, config)?;
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": {"mediaType": CONFIG, "digest": record.id.as_str(), "size": config.len()},
        });
        if !record.annotations.is_empty() {
            manifest["annotations"] = json!(record.annotations);
        }
        let manifest = serde_json::to_vec(&manifest).expect("plain data can be written as JSON");
        let digest = Digest::of(&manifest);
        self.blob(&digest, &manifest)?;
        let tags = match &wanted.tag {
            Some(tag) => vec![tag.clone()],
            None => record.tags.clone(),
        };
        let entry =
            json!({"mediaType": OCI_MANIFEST, "digest": digest.as_str(), "size": manifest.len()});
        for tag in &tags {
            let mut named = entry.clone();
            named["annotations"] = json!({FULL_NAME: tag, REF_NAME: tag});
            self.index.push(named);
        }
        if tags.is_empty() {
            self.index.push(entry);
        }
        let paths: Vec<_> = record.layers.iter().map(place).collect();
        self.saved
            .push(json!({"Config": place(&record.id), "RepoTags": tags, "Layers": paths}));
        Ok(())
    }

    /// Writes a layer; answers with its length.
    fn layer(&mut self, id: &Digest) -> Result<u64, Error> {
        let tar = self.store.layers.tar(id)?;
        let length = tar.length;
        if !self.written.insert(place(id)) {
            return Ok(length);
        }
        let mut hashed = Hashed {
            hasher: id.hasher(),
            source: tar,
        };
        let writing = || format!("writing layer {id}");
        self.tar
            .append_data(&mut header(length), place(id), &mut hashed)
            .during(writing)?;
        let found = hashed.hasher.finish();
        if found != *id {
            let text = format!(
                "layer {id} cannot be written as it was received: put together it has the digest {found}"
            );
            return Err(Error::Corrupt(text));
        }
        Ok(length)
    }

    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let place = place(digest);
        if !self.written.insert(place.clone()) {
            return Ok(());
        }
        self.document(&place, bytes)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.tar
            .append_data(&mut header(bytes.len() as u64), name, bytes)
            .during(|| format!("writing {name}"))
    }

    fn finish(mut self) -> Result<File, Error> {
        let text = |value: &Value| serde_json::to_vec(value).expect("plain data is JSON");
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.index});
        self.document("index.json", &text(&index))?;
        let saved = Value::Array(std::mem::take(&mut self.saved));
        self.document("manifest.json", &text(&saved))?;
        let layout = BTreeMap::from([("imageLayoutVersion", "1.0.0")]);
        self.document("oci-layout", &text(&json!(layout)))?;
        let writing = || "writing the archive";
        let mut buffered = self.tar.into_inner().during(writing)?;
        buffered.flush().during(writing)?;
        buffered
            .into_inner()
            .map_err(|error| error.into_error())
            .during(writing)
    }
}

/// The same bytes for the same images: times and owners say nothing.
fn header(length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(length);
    header.set_mtime(0);
    header
}

fn place(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

struct Hashed<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
