//! Layers on disk, and who needs them.
//!
//! A layer is a folder named by the digest of its tar, with the unpacked tree in `fs` or as an image
//! in `image.erofs`, and what was learnt while unpacking in `layer.json`. It is made in `staging` and comes here by one rename, so
//! that it is never seen half made. It stays while anything holds it: an image, a container, a
//! pull. The last to let go moves it to the trash. The counts live in memory and are rebuilt from
//! the records of images and containers at each start.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use serde::{Deserialize, Serialize};

use super::lower::{Lower, Mounts};
use super::trash::Trash;
use crate::digest::Digest;
use crate::error::During;
use crate::layer::{Contents, Form, Target, erofs, table};
use crate::{Error, LayerForm, Usage};

/// Form of `layer.json`.
const VERSION: u32 = 1;

/// What is known of a layer: `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Facts {
    version: u32,
    /// Digest of its tar.
    pub(crate) diff_id: Digest,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Inodes.
    pub(crate) inodes: u64,
    /// Folders that its tar does not describe; they look as in the layers below.
    pub(crate) implicit: Vec<String>,
    /// Whether nothing of the layers below is to be seen.
    pub(crate) opaque: bool,
    /// Sum of the table beside it, or of the image; layers of earlier versions have none.
    #[serde(default)]
    pub(crate) table: Option<u32>,
    /// What it is on disk.
    #[serde(default, skip_serializing_if = "Form::is_dir")]
    pub(crate) form: Form,
}

/// The tree.
const TREE: &str = "fs";
/// In its place: an image of it.
const IMAGE: &str = "image.erofs";
/// Beside the tree: what it holds.
const TABLE: &str = "table";
/// Beside the tree as long as it is not known to be on disk: the boot in which it was made.
const PROVISIONAL: &str = "provisional";

#[derive(Debug)]
struct Held {
    count: usize,
    facts: Arc<Facts>,
}

/// All layers.
#[derive(Debug)]
pub(crate) struct Layers {
    folder: PathBuf,
    staging: PathBuf,
    trash: Arc<Trash>,
    next: AtomicU64,
    held: Mutex<HashMap<Digest, Held>>,
    /// Which boot of the machine this is.
    boot: String,
    sync: SyncSender<()>,
    /// What new layers become.
    form: Form,
    mounts: Mounts,
}

impl Layers {
    /// Finds the layers that are there. What is not whole goes to the trash; so does all of
    /// `staging`. Nobody holds them yet: see [`Layers::drop_unheld`].
    pub(crate) fn open(
        root: &Path,
        trash: Arc<Trash>,
        boot: &str,
        form: LayerForm,
    ) -> Result<Arc<Self>, Error> {
        let (sync, woken) = sync_channel(1);
        let (form, mounts) = Mounts::open(root, form)?;
        let layers = Self {
            boot: boot.to_owned(),
            sync,
            form,
            mounts,
            folder: root.join("layers"),
            staging: root.join("staging"),
            trash,
            next: AtomicU64::new(0),
            held: Mutex::default(),
        };
        for folder in [&layers.folder, &layers.staging] {
            std::fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
        }
        for left in children(&layers.staging)? {
            layers
                .trash
                .take(&left)
                .during(|| format!("removing {}", left.display()))?;
        }
        for algorithm in children(&layers.folder)? {
            for layer in children(&algorithm)? {
                layers.found(&layer)?;
            }
        }
        let layers = Arc::new(layers);
        sync_when_woken(root, &layers, woken)?;
        layers.make_durable();
        Ok(layers)
    }

    /// Has written to disk what is not yet, by a thread that nobody waits for.
    pub(crate) fn make_durable(&self) {
        // A thread that is awake needs no second call.
        let _ = self.sync.try_send(());
    }

    /// Layers that are not known to be on disk.
    fn provisional(&self) -> Vec<PathBuf> {
        let all: Vec<_> = self
            .lock()
            .keys()
            .map(|id| self.path(id).join(PROVISIONAL))
            .collect();
        all.into_iter().filter(|mark| mark.exists()).collect()
    }

    /// All layers that are there.
    pub(crate) fn all(&self) -> Vec<Digest> {
        self.lock().keys().cloned().collect()
    }

    /// Compares a layer with its table: whether that is possible, or what is wrong.
    pub(crate) fn verify(&self, id: &Digest) -> Result<bool, String> {
        let Some(facts) = self.facts(id) else {
            return Ok(true);
        };
        compare(&self.path(id), &facts)
    }

    /// After another boot a layer that was not known to be on disk has to be looked at.
    fn survived(&self, layer: &Path, facts: &Facts) -> bool {
        let boot = match std::fs::read_to_string(layer.join(PROVISIONAL)) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return true,
            boot => boot.unwrap_or_default(),
        };
        if boot == self.boot {
            return true;
        }
        match compare(layer, facts) {
            Ok(known) => known,
            Err(reason) => {
                let id = &facts.diff_id;
                tracing::warn!(layer = %id, reason, "a layer did not survive and is removed");
                false
            }
        }
    }

    fn found(&self, layer: &Path) -> Result<(), Error> {
        let facts = std::fs::read(layer.join("layer.json")).ok();
        let facts = facts.and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
        let usable = |facts: &Facts| {
            let right = facts.version == VERSION && self.path(&facts.diff_id) == layer;
            right && self.mounts.can_mount(facts) && self.survived(layer, facts)
        };
        match facts.filter(usable) {
            Some(facts) => {
                self.lock().insert(
                    facts.diff_id.clone(),
                    Held {
                        count: 0,
                        facts: Arc::new(facts),
                    },
                );
                Ok(())
            }
            None => self
                .trash
                .take(layer)
                .during(|| format!("removing {}", layer.display())),
        }
    }

    /// Moves to the trash what nothing holds after a start.
    pub(crate) fn drop_unheld(&self) {
        let mut held = self.lock();
        let unheld: Vec<_> = held
            .iter()
            .filter(|(_, h)| h.count == 0)
            .map(|(id, _)| id.clone())
            .collect();
        for id in unheld {
            held.remove(&id);
            self.condemn(&id);
        }
    }

    /// The tree of a layer that is there, whatever its form.
    pub(crate) fn tree(&self, id: &Digest) -> Result<Lower, Error> {
        let facts = self.facts(id);
        match facts.map_or(Form::Dir, |facts| facts.form) {
            Form::Dir => Ok(Lower::folder(self.path(id).join(TREE))),
            Form::Erofs => self.mounts.lower(id, &self.path(id).join(IMAGE)),
        }
    }

    #[cfg(test)]
    pub(crate) fn mounts_kept(&self) -> usize {
        self.mounts.kept()
    }

    /// What new layers become.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    fn path(&self, id: &Digest) -> PathBuf {
        self.folder.join(id.algorithm()).join(id.hex())
    }

    /// What is known of a layer.
    pub(crate) fn facts(&self, id: &Digest) -> Option<Arc<Facts>> {
        self.lock().get(id).map(|held| Arc::clone(&held.facts))
    }

    /// What all of them use.
    pub(crate) fn usage(&self) -> Usage {
        self.lock()
            .values()
            .fold(Usage::default(), |sum, held| Usage {
                bytes: sum.bytes + held.facts.bytes,
                inodes: sum.inodes + held.facts.inodes,
            })
    }

    /// Keeps all these layers until [`Layers::release`]; `false`, and nothing done, if one is missing.
    pub(crate) fn keep(&self, ids: &[Digest]) -> bool {
        let mut held = self.lock();
        if !ids.iter().all(|id| held.contains_key(id)) {
            return false;
        }
        for id in ids {
            if let Some(held) = held.get_mut(id) {
                held.count += 1;
            }
        }
        true
    }

    /// Lets go of layers kept before.
    pub(crate) fn release(&self, ids: &[Digest]) {
        let mut held = self.lock();
        for id in ids {
            let Some(entry) = held.get_mut(id) else {
                continue;
            };
            entry.count = entry.count.saturating_sub(1);
            if entry.count == 0 {
                held.remove(id);
                // Under the lock, so that the same layer cannot be published in between; one rename.
                self.condemn(id);
            }
        }
    }

    fn condemn(&self, id: &Digest) {
        self.mounts.forget(id);
        if let Err(cause) = self.trash.take(&self.path(id)) {
            tracing::warn!(layer = %id, %cause, "a layer that is not needed could not be removed");
        }
    }

    /// Holds a layer if it is there.
    pub(crate) fn lease(self: &Arc<Self>, id: &Digest) -> Option<Lease> {
        self.keep(std::slice::from_ref(id)).then(|| Lease {
            layers: Arc::clone(self),
            id: id.clone(),
        })
    }

    /// A folder for files that nobody is to see.
    pub(crate) fn scratch(&self) -> &Path {
        &self.staging
    }

    /// A new folder to unpack into, so that the layer has this form.
    pub(crate) fn stage(self: &Arc<Self>, form: Form) -> Result<Staging, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let staging = Staging {
            layers: Arc::clone(self),
            path: self.staging.join(number.to_string()),
            form,
            too_many: Arc::default(),
        };
        let folder = &staging.path;
        std::fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
        if form == Form::Erofs {
            return Ok(staging);
        }
        let tree = staging.path.join(TREE);
        std::fs::create_dir_all(&tree).during(|| format!("making {}", tree.display()))?;
        std::fs::set_permissions(&tree, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .during(|| format!("making {}", tree.display()))?;
        Ok(staging)
    }

    fn publish(self: &Arc<Self>, staging: &Staging, facts: Facts) -> Result<Lease, Error> {
        let path = self.path(&facts.diff_id);
        let parent = path
            .parent()
            .expect("a layer lies in the folder of its algorithm");
        std::fs::create_dir_all(parent).during(|| format!("making {}", parent.display()))?;
        let id = facts.diff_id.clone();
        let mut held = self.lock();
        if let Some(there) = held.get_mut(&id) {
            there.count += 1;
        } else {
            // What nobody holds and could not be moved away before must not be in the way now.
            self.trash
                .take(&path)
                .during(|| format!("publishing layer {id}"))?;
            renameat_with(CWD, &staging.path, CWD, &path, RenameFlags::NOREPLACE)
                .during(|| format!("publishing layer {id}"))?;
            held.insert(
                id.clone(),
                Held {
                    count: 1,
                    facts: Arc::new(facts),
                },
            );
        }
        drop(held);
        Ok(Lease {
            layers: Arc::clone(self),
            id,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is something to compare a layer with, or what is wrong.
fn compare(layer: &Path, facts: &Facts) -> Result<bool, String> {
    let Some(sum) = facts.table else {
        return Ok(false);
    };
    match facts.form {
        Form::Dir => table::compare(&layer.join(TREE), &layer.join(TABLE), sum)?,
        Form::Erofs => compare_image(&layer.join(IMAGE), sum)?,
    }
    Ok(true)
}

fn compare_image(image: &Path, sum: u32) -> Result<(), String> {
    let found = File::open(image).and_then(|image| erofs::sum(&image));
    match found {
        Ok(found) if found == sum => Ok(()),
        Ok(_) => Err("its image has another content".into()),
        Err(cause) => Err(format!("its image: {cause}")),
    }
}

/// Starts the thread that writes layers to disk and then takes away the marks that they are not
/// there yet. The marks are looked for before. The thread ends when
/// the layers are dropped.
fn sync_when_woken(root: &Path, layers: &Arc<Layers>, woken: Receiver<()>) -> Result<(), Error> {
    let folder = File::open(root).during(|| format!("opening {}", root.display()))?;
    let layers = Arc::downgrade(layers);
    let root = root.to_path_buf();
    let work = move || {
        while woken.recv().is_ok() {
            let marks = layers.upgrade().map(|layers| layers.provisional());
            let marks = marks.unwrap_or_default();
            if marks.is_empty() {
                continue;
            }
            if let Err(cause) = write_to_disk(&root, &folder, &marks) {
                tracing::warn!(%cause, "layers could not be written to disk");
                continue;
            }
            for mark in marks {
                // Gone already if the layer is; a mark that stays only costs a look.
                drop(std::fs::remove_file(mark));
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("image-sync".into())
        .spawn(work);
    thread
        .during(|| "starting the thread that writes layers to disk")
        .map(drop)
}

/// Writes marked layers to disk, with all that names them. For images that is a few files; many files
/// are written at once, by writing all that the file system has.
fn write_to_disk(root: &Path, folder: &File, marks: &[PathBuf]) -> std::io::Result<()> {
    let layers = || marks.iter().filter_map(|mark| mark.parent());
    // One that went away meanwhile needs nothing.
    if layers().any(|layer| layer.join(TREE).exists()) {
        return Ok(rustix::fs::syncfs(folder)?);
    }
    for layer in layers() {
        let parent = layer.parent().into_iter().map(Path::to_path_buf);
        let files = [
            layer.join(IMAGE),
            layer.join("layer.json"),
            layer.to_path_buf(),
        ];
        files
            .into_iter()
            .chain(parent)
            .try_for_each(|path| sync_file(&path))?;
    }
    // Which records are new is not known here; for those that are on disk there is nothing to do.
    let records = root.join("images");
    for record in std::fs::read_dir(&records)? {
        sync_file(&record?.path())?;
    }
    sync_file(&records)
}

fn sync_file(path: &Path) -> std::io::Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A layer held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    layers: Arc<Layers>,
    id: Digest,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.layers.release(std::slice::from_ref(&self.id));
    }
}

/// A folder in which a layer is being made; dropped unpublished, it goes to the trash.
#[derive(Debug)]
pub(crate) struct Staging {
    layers: Arc<Layers>,
    path: PathBuf,
    form: Form,
    too_many: Arc<AtomicBool>,
}

impl Staging {
    /// What a layer is unpacked into.
    pub(crate) fn target(&self) -> Result<Target, Error> {
        if self.form == Form::Erofs {
            let image = self.path.join(IMAGE);
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(&image);
            return Ok(Target::Erofs {
                file: file.during(|| format!("making {}", image.display()))?,
                too_many: Arc::clone(&self.too_many),
            });
        }
        let tree = self.path.join(TREE);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder: OwnedFd = openat(CWD, &tree, flags, Mode::empty())
            .during(|| format!("opening {}", tree.display()))?;
        let table = self.path.join(TABLE);
        let table = File::create(&table).during(|| format!("making {}", table.display()))?;
        Ok(Target::Dir {
            table,
            folder,
            trash: self.layers.trash.folder().to_path_buf(),
        })
    }

    /// Whether the layer failed only for not being fit for this form.
    pub(crate) fn is_unfit(&self) -> bool {
        self.too_many.load(Ordering::SeqCst)
    }

    /// Makes the layer visible, and holds it.
    pub(crate) fn publish(self, diff_id: &Digest, contents: Contents) -> Result<Lease, Error> {
        let facts = Facts {
            version: VERSION,
            diff_id: diff_id.clone(),
            bytes: contents.bytes,
            inodes: contents.inodes,
            // A name that is no text cannot be written here; such a folder keeps the usual look.
            implicit: contents
                .implicit
                .into_iter()
                .filter_map(|p| String::from_utf8(p).ok())
                .collect(),
            opaque: contents.opaque,
            table: Some(contents.sum),
            form: self.form,
        };
        let file = self.path.join("layer.json");
        let text = serde_json::to_vec(&facts).expect("plain data can always be written as JSON");
        std::fs::write(&file, text).during(|| format!("writing {}", file.display()))?;
        // Nothing is synced here, and nobody waits for it: see `sync_when_woken`.
        let mark = self.path.join(PROVISIONAL);
        std::fs::write(&mark, &self.layers.boot)
            .during(|| format!("writing {}", mark.display()))?;
        self.layers.publish(&self, facts)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Once published nothing is here any more, which is fine.
        if let Err(cause) = self.layers.trash.take(&self.path) {
            tracing::warn!(folder = %self.path.display(), %cause, "a half-made layer could not be removed");
        }
        self.layers.trash.wake();
    }
}

/// What is in a folder.
pub(crate) fn children(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()
    };
    list().during(|| format!("reading {}", folder.display()))
}
