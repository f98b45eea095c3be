//! Root file systems of containers: the layers of an image under a writable folder of their own.
//!
//! How a kernel takes the layers is the business of `overlay`, and of `page` for those that take them
//! as one text only. `volatile` keeps an unmount from waiting for the whole disk: such a folder never
//! outlives a crash of the machine (kernel documentation, overlayfs.rst, "Volatile mount").

mod changes;
mod file;
mod ids;
mod looks;
mod overlay;
mod page;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry::Digest;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde::{Deserialize, Serialize};

pub use self::changes::Changes;
pub(crate) use self::file::mount_image;
pub use self::ids::IdMap;
use self::overlay::Way;
pub(crate) use self::overlay::{Look, by_descriptors};
use crate::Error;
use crate::error::During;
use crate::store::layers::{Layers, children};
use crate::store::lower::Lower;
use crate::store::trash::Trash;

/// Form of `record.json`.
const VERSION: u32 = 1;

/// What is kept of a writable folder: `uppers/<container>/record.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// The image's layers, lowest first.
    layers: Vec<Digest>,
    /// Where it was mounted.
    target: PathBuf,
}

/// All writable folders.
#[derive(Debug)]
pub(crate) struct Uppers {
    folder: PathBuf,
    empty: PathBuf,
    layers: Arc<Layers>,
    trash: Arc<Trash>,
    way: Way,
    /// By container; without a record if that could not be read.
    known: Mutex<HashMap<String, Option<Record>>>,
}

impl Uppers {
    /// Finds the folders that are there, and holds their layers.
    pub(crate) fn open(root: &Path, layers: Arc<Layers>, trash: Arc<Trash>) -> Result<Self, Error> {
        let (folder, empty) = (root.join("uppers"), root.join("empty"));
        for path in [&folder, &empty] {
            std::fs::create_dir_all(path).during(|| format!("making {}", path.display()))?;
        }
        let mut known = HashMap::new();
        for path in children(&folder)? {
            let Some(container) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let record = std::fs::read(path.join("record.json")).ok();
            let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let record = record
                .filter(|record| record.version == VERSION && layers.keep_mounted(&record.layers));
            known.insert(container.to_owned(), record);
        }
        let way = Way::find([&empty, &folder]);
        tracing::debug!(?way, "how this kernel takes the layers of overlays");
        Ok(Self {
            way,
            folder,
            empty,
            layers,
            trash,
            known: Mutex::new(known),
        })
    }

    /// The writable folders, by container.
    pub(crate) fn folders(&self) -> Vec<(String, PathBuf)> {
        self.lock()
            .keys()
            .map(|container| (container.clone(), self.folder.join(container).join("upper")))
            .collect()
    }

    /// Mounts layers, lowest first, at `target`, for a container that has no folder yet. Blocks.
    pub(crate) fn mount(
        &self,
        container: &str,
        layers: &[Digest],
        target: &Path,
        look: Look<'_>,
        changes: Option<&Changes>,
    ) -> Result<(), Error> {
        check_name(container)?;
        let record = Record {
            version: VERSION,
            layers: layers.to_vec(),
            target: target.to_path_buf(),
        };
        match self.lock().entry(container.to_owned()) {
            Entry::Occupied(_) => {
                let text = format!("container {container:?} has a root file system already");
                return Err(Error::Other(text));
            }
            Entry::Vacant(_) if !self.layers.keep(layers) => {
                return Err(Error::NotFound(format!(
                    "a layer for container {container}"
                )));
            }
            Entry::Vacant(place) => drop(place.insert(Some(record.clone()))),
        }
        let mounted = self
            .make(container, &record, look.ids, changes)
            .and_then(|stack| self.attach(&stack, target, look))
            .and_then(|()| match changes {
                Some(changes) => changes::remove(target, &changes.deleted),
                None => Ok(()),
            });
        mounted.map_err(|error| {
            if let Err(left) = detach(target) {
                tracing::warn!(container, error = %left, "undoing a mount");
            }
            self.forget(container);
            error.within(format!(
                "mounting the root file system of container {container}"
            ))
        })
    }

    /// Writes what a container has changed of its image to `file`, as a layer. Blocks.
    pub(crate) fn save(&self, container: &str, file: File) -> Result<Vec<String>, Error> {
        check_name(container)?;
        if !self.lock().contains_key(container) {
            return Err(Error::NotFound(format!("files of container {container}")));
        }
        changes::save(&self.folder.join(container).join("upper"), file)
            .map_err(|error| error.within(format!("saving the files of container {container}")))
    }

    fn make(
        &self,
        container: &str,
        record: &Record,
        ids: Option<&IdMap>,
        changes: Option<&Changes>,
    ) -> Result<Stack, Error> {
        let folder = self.folder.join(container);
        let stack = self.stack(&record.layers, &folder)?;
        for path in [&folder, &stack.upper, &stack.work] {
            DirBuilder::new()
                .mode(0o755)
                .create(path)
                .during(|| format!("making {}", path.display()))?;
        }
        let looks = looks::wanted(&self.layers, &record.layers)?;
        looks::imprint(&stack.upper, &looks, ids)?;
        if let Some(changes) = changes {
            let trash = self.trash.descriptor()?;
            changes::apply(&changes.layer, &stack.upper, &folder, trash)?;
        }
        let file = folder.join("record.json");
        let text = serde_json::to_vec(record).expect("plain data can always be written as JSON");
        std::fs::write(&file, text).during(|| format!("writing {}", file.display()))?;
        Ok(stack)
    }

    /// Which folders lie on each other, the top first.
    fn stack(&self, layers: &[Digest], folder: &Path) -> Result<Stack, Error> {
        let mut seen = HashSet::new();
        let mut lowers = Vec::new();
        // A layer that comes twice counts where it is on top: all that is in it is seen from there.
        for id in layers.iter().rev().filter(|id| seen.insert(*id)) {
            lowers.push(self.layers.tree(id)?);
            if self.layers.facts(id).is_some_and(|facts| facts.opaque) {
                break;
            }
        }
        if lowers.is_empty() {
            lowers.push(Lower::Folder(self.empty.clone()));
        }
        Ok(Stack {
            lowers,
            upper: folder.join("upper"),
            work: folder.join("work"),
        })
    }

    /// Whether layers can be mounted with ids as a user namespace maps them: two folders of ours are
    /// tried, and mounted nowhere. Blocks.
    pub(crate) fn try_ids(&self, ids: &IdMap) -> Result<(), Error> {
        // Without a writable folder there have to be two.
        let lowers = [&self.empty, &self.folder].map(|path| Lower::Folder(path.clone()));
        let look = Look {
            ids: Some(ids),
            label: None,
        };
        self.way.overlay(&lowers, &[], look, &self.empty).map(drop)
    }

    /// Mounts a stack of folders.
    fn attach(&self, stack: &Stack, target: &Path, look: Look<'_>) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = openat(CWD, target, flags, Mode::empty())
            .during(|| format!("opening {}", target.display()))?;
        let writable = [("upperdir", &*stack.upper), ("workdir", &*stack.work)];
        let mount = self
            .way
            .overlay(&stack.lowers, &writable, look, &self.empty)?;
        let here =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &place, "", here)
            .during(|| format!("mounting at {}", target.display()))
    }

    /// Unmounts and removes; already gone is no error. Blocks.
    pub(crate) fn unmount(&self, container: &str, target: &Path) -> Result<(), Error> {
        check_name(container)?;
        detach(target)?;
        self.forget(container);
        Ok(())
    }

    /// Removes all folders but those of these containers. Blocks.
    pub(crate) fn retain(&self, containers: &HashSet<String>) {
        let others: Vec<_> = self
            .lock()
            .keys()
            .filter(|c| !containers.contains(*c))
            .cloned()
            .collect();
        for container in others {
            let target = self
                .lock()
                .get(&container)
                .cloned()
                .flatten()
                .map(|record| record.target);
            if let Some(Err(error)) = target.map(|target| detach(&target)) {
                tracing::warn!(container, %error, "a left-over root file system could not be unmounted");
            }
            self.forget(&container);
        }
    }

    fn forget(&self, container: &str) {
        let record = self.lock().remove(container);
        if let Err(cause) = self.trash.take(&self.folder.join(container)) {
            tracing::warn!(container, %cause, "a writable layer could not be removed");
        }
        if let Some(Some(record)) = record {
            self.layers.release(&record.layers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Record>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folders to be mounted over each other.
struct Stack {
    /// The top first.
    lowers: Vec<Lower>,
    upper: PathBuf,
    work: PathBuf,
}

/// Detached, not waited for: who still has something open there must not hold us up.
fn detach(target: &Path) -> Result<(), Error> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(Error::io(
            format!("unmounting {}", target.display()),
            &errno.into(),
        )),
    }
}

/// A container's name becomes the name of a folder.
fn check_name(container: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if container.is_empty()
        || container.len() > 255
        || container.starts_with('.')
        || !container.bytes().all(fine)
    {
        return Err(Error::Other(format!(
            "{container:?} cannot be the name of a container"
        )));
    }
    Ok(())
}
