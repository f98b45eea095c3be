//! Images that a node has from the beginning: archives in a folder, read at a start.
//!
//! What was read is noted, so that a start with nothing new reads nothing. These images are pinned:
//! where no registry is, collecting one would lose it. Those whose archive has gone are not any more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry::Digest;
use serde::{Deserialize, Serialize};

use crate::error::During;
use crate::flight::blocking;
use crate::store::layers::children;
use crate::{Error, Store, import};

/// What was read from where.
const NOTED: &str = "preloaded.json";
/// Most archives of the folder.
const MAX_ARCHIVES: usize = 1000;

/// How an archive is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970.
    changed: i128,
}

/// An archive that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    stamp: Stamp,
    ids: Vec<Digest>,
}

type Noted = BTreeMap<PathBuf, Loaded>;

/// Reads what is new in a folder; answers with how many images are there from it. An archive that
/// cannot be read is told in the log, and the others are read.
pub(crate) async fn preload(store: &Arc<Store>, folder: &Path) -> Result<usize, Error> {
    let (store, folder) = (Arc::clone(store), folder.to_path_buf());
    blocking(move || preload_now(&store, &folder)).await
}

fn preload_now(store: &Arc<Store>, folder: &Path) -> Result<usize, Error> {
    let place = store.root.join(NOTED);
    let before = read(&place);
    let mut archives = match folder.exists() {
        true => children(folder)?,
        false => Vec::new(),
    };
    archives.retain(|path| !is_hidden(path));
    archives.sort();
    if archives.len() > MAX_ARCHIVES {
        return Err(Error::Other(format!(
            "{} has more than {MAX_ARCHIVES} archives",
            folder.display()
        )));
    }
    let mut now = Noted::new();
    for path in archives {
        match load(store, &path, before.get(&path)) {
            Ok(loaded) => drop(now.insert(path, loaded)),
            Err(error) => {
                let archive = path.display();
                tracing::warn!(%archive, %error, "images could not be preloaded");
                // What it gave before stays as it is.
                now.extend(
                    before
                        .get_key_value(&path)
                        .map(|(p, l)| (p.clone(), l.clone())),
                );
            }
        }
    }
    let pinned = ids(&now);
    for id in &pinned {
        store.catalog.pin(id, true)?;
    }
    for id in ids(&before).difference(&pinned) {
        store.catalog.pin(id, false)?;
    }
    if now != before {
        write(&place, &now)?;
    }
    Ok(pinned.len())
}

fn load(store: &Arc<Store>, path: &Path, before: Option<&Loaded>) -> Result<Loaded, Error> {
    let stamp = stamp(path)?;
    let there = |id: &Digest| store.catalog.view().by_id(id).is_some();
    if let Some(known) = before.filter(|known| known.stamp == stamp && known.ids.iter().all(there))
    {
        return Ok(known.clone());
    }
    let ids = import::import(store, path)?;
    tracing::info!(archive = %path.display(), images = ids.len(), "images were preloaded");
    let ids = ids.iter().map(|id| Digest::parse(id).map_err(Error::Other));
    Ok(Loaded {
        stamp,
        ids: ids.collect::<Result<_, _>>()?,
    })
}

fn ids(noted: &Noted) -> BTreeSet<Digest> {
    noted
        .values()
        .flat_map(|loaded| loaded.ids.clone())
        .collect()
}

/// Half-copied archives begin with a dot, as rsync and we name them.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes);
    name.is_none_or(|name| name.starts_with(b"."))
}

fn stamp(path: &Path) -> Result<Stamp, Error> {
    // Of a layout in a folder, its list of images changes with it.
    let index = path.join("index.json");
    let known_by = if index.exists() { &index } else { path };
    let meta = std::fs::metadata(known_by).during(|| format!("looking at {}", path.display()))?;
    Ok(Stamp {
        inode: meta.ino(),
        size: meta.len(),
        changed: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
    })
}

/// A note that cannot be read only costs that the archives are read again.
fn read(place: &Path) -> Noted {
    let bytes = std::fs::read(place).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn write(place: &Path, noted: &Noted) -> Result<(), Error> {
    let text = serde_json::to_vec(noted)
        .map_err(|cause| Error::Other(format!("noting what was preloaded: {cause}")))?;
    let new = place.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, place));
    written.during(|| format!("writing {}", place.display()))
}
