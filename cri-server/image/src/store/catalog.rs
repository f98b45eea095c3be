//! Which images there are, and under which names.
//!
//! Readers look at an immutable picture and never wait. Changes are made one after another: the
//! record is written and renamed into place, then the picture is replaced. The records are the
//! truth; a start rebuilds the picture from them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use registry::{Digest, Reference, is_hex};

use super::layers::{Layers, children};
use super::record::{Entry, Names, Received, Record};
use crate::error::During;
use crate::{Error, Image, Usage};

/// Shortest start of an id that names an image.
const MIN_ID_PREFIX: usize = 4;
/// What the file system gives out at once, in bytes.
const DISK_BLOCK: u64 = 4096;

/// A picture of all images.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    images: BTreeMap<Digest, Entry>,
    names: HashMap<String, Digest>,
    /// Digests of manifests and lists, whatever the repository.
    manifests: HashMap<String, Digest>,
}

impl View {
    fn new(images: BTreeMap<Digest, Entry>) -> Self {
        let mut view = Self {
            images,
            ..Self::default()
        };
        for (id, entry) in &view.images {
            for name in entry.image.tags.iter().chain(&entry.image.digests) {
                view.names.insert(name.clone(), id.clone());
                if let Some((_, digest)) = name.split_once('@') {
                    view.manifests.insert(digest.to_owned(), id.clone());
                }
            }
        }
        view
    }

    /// All images.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().map(|entry| &entry.image)
    }

    /// The image that a manifest or a list of that digest was found to mean.
    pub(crate) fn by_manifest(&self, digest: &Digest) -> Option<&Entry> {
        self.images.get(self.manifests.get(digest.as_str())?)
    }

    /// The image with an id.
    pub(crate) fn by_id(&self, id: &Digest) -> Option<&Entry> {
        self.images.get(id)
    }

    /// Ids of the images that have a layer.
    pub(crate) fn with_layer(&self, layer: &Digest) -> Vec<String> {
        let having = self
            .images
            .iter()
            .filter(|(_, entry)| entry.record.layers.contains(layer));
        having.map(|(id, _)| id.as_str().to_owned()).collect()
    }

    /// What the records use.
    pub(crate) fn usage(&self) -> Usage {
        let each = self.images.values().map(|entry| Usage {
            bytes: entry.record.length().div_ceil(DISK_BLOCK) * DISK_BLOCK,
            inodes: 1,
        });
        each.fold(Usage::default(), Usage::plus)
    }

    /// Finds an image by id, name or unambiguous start of an id.
    pub(crate) fn resolve(&self, name: &str) -> Option<&Entry> {
        if let Ok(id) = Digest::parse(name).or_else(|_| Digest::parse(&format!("sha256:{name}"))) {
            return self.images.get(&id);
        }
        self.by_name(name)
            .or_else(|| self.by_prefix(name.strip_prefix("sha256:").unwrap_or(name)))
    }

    fn by_name(&self, name: &str) -> Option<&Entry> {
        let reference = Reference::parse(name).ok()?;
        let complete = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.tagged()?,
        };
        self.images.get(self.names.get(&complete)?)
    }

    fn by_prefix(&self, prefix: &str) -> Option<&Entry> {
        if prefix.len() < MIN_ID_PREFIX || !is_hex(prefix) {
            return None;
        }
        let mut fitting = self
            .images
            .iter()
            .filter(|(id, _)| id.hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some((_, entry)), None) => Some(entry),
            _ => None,
        }
    }
}

/// The catalogue.
#[derive(Debug)]
pub(crate) struct Catalog {
    folder: PathBuf,
    layers: Arc<Layers>,
    view: RwLock<Arc<View>>,
    /// Held while a change is made.
    writer: Mutex<()>,
}

impl Catalog {
    /// Reads the records. One that cannot be used, or whose layers are not all there, is removed:
    /// the image then counts as absent and is pulled again.
    pub(crate) fn open(root: &Path, layers: Arc<Layers>) -> Result<Self, Error> {
        let folder = root.join("images");
        std::fs::create_dir_all(&folder).during(|| format!("making {}", folder.display()))?;
        let mut records = Vec::new();
        for path in children(&folder)? {
            match Record::read(&path) {
                Ok(record) if layers.keep(&record.layers) => records.push(record),
                Ok(_) => discard(&path, "a layer is missing")?,
                Err(reason) => discard(&path, &reason)?,
            }
        }
        strip_moved_tags(&mut records);
        let mut images = BTreeMap::new();
        for record in records {
            images.insert(record.id.clone(), entry(record, &layers)?);
        }
        let view = RwLock::new(Arc::new(View::new(images)));
        Ok(Self {
            folder,
            layers,
            view,
            writer: Mutex::new(()),
        })
    }

    /// The current picture.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds an image, whose layers the caller holds, or names to one that is there. Takes the tag
    /// away from the image that had it. Nothing happens if `cancelled` is set in time. Blocks.
    pub(crate) fn add(
        &self,
        received: Received,
        names: &Names,
        cancelled: &AtomicBool,
    ) -> Result<(), Error> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.view().images.clone();
        let known = images
            .get(&received.id)
            .map(|entry| Record::clone(&entry.record));
        let is_new = known.is_none();
        let mut record = known.unwrap_or_else(|| Record::new(received));
        if !record.name(names) && !is_new {
            return Ok(());
        }
        record.written = now();
        if is_new && !self.layers.keep(&record.layers) {
            return Err(Error::Other(format!(
                "a layer of image {} is gone",
                record.id
            )));
        }
        let written = self.write(&record, cancelled, !is_new);
        if written.is_err() && is_new {
            self.layers.release(&record.layers);
        }
        written?;
        self.take_tag_from_others(&mut images, names, &record.id)?;
        images.insert(record.id.clone(), entry(record, &self.layers)?);
        self.show(images);
        drop(writer);
        Ok(())
    }

    /// Adds names to an image that is there; `false` if it is not. Blocks.
    pub(crate) fn name(
        &self,
        id: &Digest,
        names: &Names,
        cancelled: &AtomicBool,
    ) -> Result<bool, Error> {
        let Some(entry) = self.view().by_id(id).cloned() else {
            return Ok(false);
        };
        let Record {
            id,
            layers,
            manifest,
            config,
            annotations,
            ..
        } = Record::clone(&entry.record);
        // Removed meanwhile, it must not come back without its layers.
        let held: Option<Vec<_>> = layers
            .iter()
            .map(|layer| self.layers.lease(layer))
            .collect();
        if held.is_none() {
            return Ok(false);
        }
        self.add(
            Received {
                id,
                layers,
                manifest,
                config,
                annotations,
            },
            names,
            cancelled,
        )?;
        Ok(true)
    }

    fn write(&self, record: &Record, cancelled: &AtomicBool, sync: bool) -> Result<(), Error> {
        record.write(&self.folder, sync)?;
        if cancelled.load(Ordering::SeqCst) {
            record.abandon(&self.folder);
            return Err(Error::Other("cancelled".into()));
        }
        record.publish(&self.folder, sync)
    }

    fn take_tag_from_others(
        &self,
        images: &mut BTreeMap<Digest, Entry>,
        names: &Names,
        but: &Digest,
    ) -> Result<(), Error> {
        let Some(tag) = &names.tag else { return Ok(()) };
        let has = |other: &&mut Entry| other.record.id != *but && other.record.tags.contains(tag);
        for other in images.values_mut().filter(has) {
            let mut record = Record::clone(&other.record);
            record.tags.retain(|t| t != tag);
            record.write(&self.folder, true)?;
            record.publish(&self.folder, true)?;
            *other = entry(record, &self.layers)?;
        }
        Ok(())
    }

    /// Removes an image with all its names; one that is not there is no error. Blocks.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), Error> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.view().images.clone();
        let Some(entry) = images.remove(id) else {
            return Ok(());
        };
        let path = self.folder.join(Record::file_name(id));
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            result => result.during(|| format!("removing {}", path.display()))?,
        }
        self.show(images);
        self.layers.release(&entry.record.layers);
        Ok(())
    }

    /// Images whose records on disk are not what they should be, and what is wrong. Blocks.
    pub(crate) fn differing(&self) -> Vec<(Digest, String)> {
        let ids: Vec<_> = self.view().images.keys().cloned().collect();
        let differing = ids.into_iter().filter_map(|id| {
            // Nobody may change it between the two looks.
            let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = self.view().images.get(&id).cloned()?;
            let reason = match Record::read(&self.folder.join(Record::file_name(&id))) {
                Ok(found) if found == *entry.record => return None,
                Ok(_) => "its record is another one".to_owned(),
                Err(reason) => format!("its record cannot be read: {reason}"),
            };
            Some((id, reason))
        });
        differing.collect()
    }

    /// Files among the records that are none of them. Blocks.
    pub(crate) fn strays(&self) -> Result<Vec<PathBuf>, Error> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view();
        let ours = |id: &Digest| self.folder.join(Record::file_name(id));
        let ours: Vec<_> = view.images.keys().map(ours).collect();
        let mut strays = children(&self.folder)?;
        strays.retain(|path| !ours.contains(path));
        Ok(strays)
    }

    /// Pins an image, or does not any more; one that is not there is no error. Blocks.
    pub(crate) fn pin(&self, id: &Digest, pinned: bool) -> Result<(), Error> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = self.view().images.clone();
        let Some(other) = images.get_mut(id).filter(|e| e.record.pinned != pinned) else {
            return Ok(());
        };
        let mut record = Record::clone(&other.record);
        record.pinned = pinned;
        record.write(&self.folder, true)?;
        record.publish(&self.folder, true)?;
        *other = entry(record, &self.layers)?;
        self.show(images);
        Ok(())
    }

    /// Writes the record of an image as it should be; one that is not there is no error. Blocks.
    pub(crate) fn rewrite(&self, id: &Digest) -> Result<(), Error> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = self.view().images.get(id).cloned() else {
            return Ok(());
        };
        entry.record.write(&self.folder, true)?;
        entry.record.publish(&self.folder, true)
    }

    fn show(&self, images: BTreeMap<Digest, Entry>) {
        let view = Arc::new(View::new(images));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

fn discard(path: &Path, reason: &str) -> Result<(), Error> {
    tracing::warn!(record = %path.display(), reason, "an image's record cannot be used and is removed");
    std::fs::remove_file(path).during(|| format!("removing {}", path.display()))
}

fn entry(record: Record, layers: &Layers) -> Result<Entry, Error> {
    let mut distinct = record.layers.clone();
    distinct.sort();
    distinct.dedup();
    let bytes = distinct
        .iter()
        .filter_map(|id| layers.facts(id))
        .map(|facts| facts.bytes)
        .sum();
    let image = Arc::new(record.image(bytes)?);
    Ok(Entry {
        record: Arc::new(record),
        image,
    })
}

/// Of records that claim the same tag, the one written last keeps it. Two can only claim it after
/// a crash between the two writes of a move.
fn strip_moved_tags(records: &mut [Record]) {
    records.sort_by_key(|record| std::cmp::Reverse(record.written));
    let mut taken = std::collections::HashSet::new();
    for record in records {
        record.tags.retain(|tag| taken.insert(tag.clone()));
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
