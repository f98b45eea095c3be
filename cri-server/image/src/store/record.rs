//! What is kept of an image: one file, `images/<hex of its id>.json`.
//!
//! It holds the manifest and the configuration as they were received, so that all else about the
//! image can be derived again. Pure, but for reading and writing that file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use registry::Digest;
use serde::{Deserialize, Serialize};

use crate::configuration;
use crate::error::During;
use crate::{Error, Image};

/// Form of the file.
const VERSION: u32 = 1;

/// An image's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// Digest of its configuration.
    pub(crate) id: Digest,
    /// When it was written last: nanoseconds since 1970. Of two records with the same tag, the
    /// later one has it.
    pub(crate) written: u64,
    /// Names with tags.
    pub(crate) tags: Vec<String>,
    /// Names with digests.
    pub(crate) digests: Vec<String>,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Its manifest as received; archives of Docker have none.
    pub(crate) manifest: Option<String>,
    /// Its configuration as received.
    pub(crate) config: String,
    /// Notes of its manifest.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Never collected.
    pub(crate) pinned: bool,
}

/// What a source tells of an image.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Digest of its configuration.
    pub(crate) id: Digest,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Its manifest.
    pub(crate) manifest: Option<String>,
    /// Its configuration.
    pub(crate) config: String,
    /// Notes of its manifest.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Record {
    /// An image without a name.
    pub(crate) fn new(received: Received) -> Self {
        Self {
            version: VERSION,
            id: received.id,
            written: 0,
            tags: Vec::new(),
            digests: Vec::new(),
            layers: received.layers,
            manifest: received.manifest,
            config: received.config,
            annotations: received.annotations,
            pinned: false,
        }
    }

    /// The file of the image with that id.
    pub(crate) fn file_name(id: &Digest) -> String {
        format!("{}.json", id.hex())
    }

    /// Reads a file; says why it cannot be used.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|cause| cause.to_string())?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|cause| cause.to_string())?;
        if record.version != VERSION {
            return Err(format!("its form is {}, not {VERSION}", record.version));
        }
        if record.id.same_kind_of(record.config.as_bytes()) != record.id {
            return Err("its configuration does not have the digest that is its id".into());
        }
        Ok(record)
    }

    /// Writes the file beside its place; [`Record::publish`] puts it there. One that replaces
    /// another is synced; a new one may get lost with its layers, and the image is then absent.
    pub(crate) fn write(&self, folder: &Path, sync: bool) -> Result<(), Error> {
        let path = folder.join(format!(".{}.new", self.id.hex()));
        let text = serde_json::to_vec(self).expect("plain data can always be written as JSON");
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&text)?;
            if sync { file.sync_all() } else { Ok(()) }
        };
        let written: std::io::Result<()> = write();
        written
            .during(|| format!("writing {}", path.display()))
            .inspect_err(|_| drop(std::fs::remove_file(&path)))
    }

    /// Puts the written file in its place.
    pub(crate) fn publish(&self, folder: &Path, sync: bool) -> Result<(), Error> {
        let place = folder.join(Self::file_name(&self.id));
        let publish = || {
            std::fs::rename(folder.join(format!(".{}.new", self.id.hex())), &place)?;
            if sync {
                File::open(folder)?.sync_all()
            } else {
                Ok(())
            }
        };
        let published: std::io::Result<()> = publish();
        published.during(|| format!("writing {}", place.display()))
    }

    /// Forgets the written file.
    pub(crate) fn abandon(&self, folder: &Path) {
        // It is in nobody's way: a start removes it, too.
        drop(std::fs::remove_file(
            folder.join(format!(".{}.new", self.id.hex())),
        ));
    }

    /// About how long its file is, in bytes: all but the names and the layers' digests.
    pub(crate) fn length(&self) -> u64 {
        (self.config.len() + self.manifest.as_ref().map_or(0, String::len)) as u64
    }

    /// What others see of it; `layer_bytes` is what its layers take on disk.
    pub(crate) fn image(&self, layer_bytes: u64) -> Result<Image, Error> {
        let (config, _) = configuration::parse(self.config.as_bytes(), self.layers.len())?;
        Ok(Image {
            id: self.id.as_str().to_owned(),
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            size: layer_bytes + self.length(),
            config,
            raw_config: self.config.as_bytes().into(),
            annotations: self.annotations.clone(),
            pinned: self.pinned,
        })
    }

    /// Adds names that are not there yet; whether anything changed.
    pub(crate) fn name(&mut self, names: &Names) -> bool {
        let add = |list: &mut Vec<String>, name: &Option<String>| match name {
            Some(name) if !list.contains(name) => {
                list.push(name.clone());
                true
            }
            _ => false,
        };
        let tagged = add(&mut self.tags, &names.tag);
        add(&mut self.digests, &names.digest) || tagged
    }
}

/// Under which names an image was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// `name:tag`.
    pub(crate) tag: Option<String>,
    /// `name@digest`.
    pub(crate) digest: Option<String>,
}

/// A record and what is seen of it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The record.
    pub(crate) record: Arc<Record>,
    /// The image.
    pub(crate) image: Arc<Image>,
}
