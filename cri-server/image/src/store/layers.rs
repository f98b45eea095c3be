//! Layers on disk, and who needs them.
//!
//! A layer is a folder named by the digest of its tar, with the unpacked tree in `fs` or as an image
//! in `image.erofs`, and what was learnt while unpacking in `layer.json`. It is made in `staging` and comes here by one rename, so
//! that it is never seen half made. It stays while anything holds it: an image, a container, a
//! pull. The last to let go moves it to the trash. The counts live in memory and are rebuilt from
//! the records of images and containers at each start.
//!
//! Folders are moved without the lock: whoever looks at a layer never waits for a disk. A layer
//! that is found damaged is given to nobody any more; the one that is fetched in its place takes
//! over those who hold it, and what they have mounted stays in `quarantine` until they let go.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use registry::Digest;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use serde::{Deserialize, Serialize};

use super::durable::sync_when_woken;
use super::held::{Held, Known, Used};
use super::lower::{Lower, Mounts};
use super::trash::Trash;
use crate::error::During;
use crate::layer::table::{Difference, Pace, Unpaced};
use crate::layer::unpack::Notes;
use crate::layer::{Contents, Form, Target, erofs, recipe, table};
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
pub(crate) const TREE: &str = "fs";
/// Beside the tree while it is unpacked: what later entries have taken the place of.
pub(crate) const REPLACED: &str = "replaced";
/// In its place: an image of it.
pub(super) const IMAGE: &str = "image.erofs";
/// Beside the tree: what it holds.
const TABLE: &str = "table";
/// Beside the tree: how its tar was made up; layers of earlier versions have none.
pub(super) const RECIPE: &str = "recipe";
/// Beside the tree as long as it is not known to be on disk: the boot in which it was made.
const PROVISIONAL: &str = "provisional";
/// Beside the tree of a layer that is not as it was unpacked: why.
const DAMAGED: &str = "damaged";
/// Beside the tree: what is known of it.
pub(super) const FACTS: &str = "layer.json";
/// What the file system gives out at once, in bytes: files beside the tree are rounded up to it.
pub(super) const DISK_BLOCK: u64 = 4096;

/// All layers.
#[derive(Debug)]
pub(crate) struct Layers {
    folder: PathBuf,
    staging: PathBuf,
    /// Damaged layers that were mounted when others took their place, by boot.
    quarantine: PathBuf,
    trash: Arc<Trash>,
    next: AtomicU64,
    known: Mutex<Known>,
    /// Told when a folder has been moved.
    moved: Condvar,
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
            // A name of ours, whatever the boot is called.
            quarantine: root
                .join("quarantine")
                .join(Digest::of(boot.as_bytes()).hex()),
            trash,
            next: AtomicU64::new(0),
            known: Mutex::default(),
            moved: Condvar::new(),
        };
        for folder in [&layers.folder, &layers.staging, &layers.quarantine] {
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
        layers.find_replaced(root)?;
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
    pub(super) fn provisional(&self) -> Vec<PathBuf> {
        let all: Vec<_> = self
            .lock()
            .held
            .keys()
            .map(|id| self.path(id).join(PROVISIONAL))
            .collect();
        all.into_iter().filter(|mark| mark.exists()).collect()
    }

    /// All layers that are there.
    pub(crate) fn all(&self) -> Vec<Digest> {
        self.lock().held.keys().cloned().collect()
    }

    /// Compares a layer with its table, reading as fast as `pace` lets it: whether that is possible,
    /// or what is wrong. Whoever calls holds the layer.
    pub(crate) fn verify(&self, id: &Digest, pace: &dyn Pace) -> Result<bool, Difference> {
        let Some(facts) = self.facts(id) else {
            return Ok(true);
        };
        compare(&self.path(id), &facts, pace)
    }

    /// Why a layer must not be used, if it is known to be damaged.
    pub(crate) fn damage(&self, id: &Digest) -> Option<String> {
        self.lock().held.get(id)?.damaged.clone()
    }

    /// Gives a layer to nobody any more: it is not as it was unpacked. Whoever holds it keeps it.
    pub(crate) fn condemn_as_damaged(&self, id: &Digest, reason: &str) {
        let mut known = self.lock();
        let Some(held) = known.held.get_mut(id) else {
            return;
        };
        held.damaged = Some(reason.to_owned());
        drop(known);
        if let Err(cause) = std::fs::write(self.path(id).join(DAMAGED), reason) {
            tracing::warn!(layer = %id, %cause, "a damaged layer could not be marked as such");
        }
    }

    /// Folders among the layers that belong to none that is known.
    pub(crate) fn orphans(&self) -> Result<Vec<PathBuf>, Error> {
        let mut orphans = Vec::new();
        for algorithm in children(&self.folder)? {
            let found = children(&algorithm)?;
            let known = self.lock();
            let ours: HashSet<PathBuf> = known
                .held
                .keys()
                .chain(&known.moving)
                .map(|id| self.path(id))
                .collect();
            orphans.extend(found.into_iter().filter(|path| !ours.contains(path)));
        }
        // One that was moved away between the two looks is none.
        orphans.retain(|path| path.exists());
        Ok(orphans)
    }

    /// Takes away a folder that belongs to no layer.
    pub(crate) fn remove_orphan(&self, path: &Path) -> Result<(), Error> {
        self.trash
            .take(path)
            .during(|| format!("removing {}", path.display()))
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
        match compare(layer, facts, &Unpaced) {
            Ok(known) => known,
            Err(difference) => {
                let id = &facts.diff_id;
                tracing::warn!(layer = %id, %difference, "a layer did not survive and is removed");
                false
            }
        }
    }

    fn found(&self, layer: &Path) -> Result<(), Error> {
        let facts = std::fs::read(layer.join(FACTS)).ok();
        let facts = facts.and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
        let usable = |facts: &Facts| {
            let right = facts.version == VERSION && self.path(&facts.diff_id) == layer;
            right && self.mounts.can_mount(facts) && self.survived(layer, facts)
        };
        match facts.filter(usable) {
            Some(facts) => {
                let id = facts.diff_id.clone();
                let mut held = Held::new(0, facts, beside(layer));
                held.damaged = std::fs::read_to_string(layer.join(DAMAGED)).ok();
                self.lock().held.insert(id, held);
                Ok(())
            }
            None => self
                .trash
                .take(layer)
                .during(|| format!("removing {}", layer.display())),
        }
    }

    /// Forerunners of layers that may still be mounted; those of other boots are not.
    fn find_replaced(&self, root: &Path) -> Result<(), Error> {
        for boot in children(&root.join("quarantine"))? {
            if boot != self.quarantine {
                self.remove_orphan(&boot)?;
            }
        }
        for left in children(&self.quarantine)? {
            let name = left.file_name().and_then(|name| name.to_str());
            let hex = name
                .and_then(|name| name.split_once('-'))
                .map(|(hex, _)| hex);
            let mut known = self.lock();
            let layer = known.held.iter_mut().find(|(id, _)| Some(id.hex()) == hex);
            if let Some((_, held)) = layer {
                held.replaced.push(left);
            } else {
                drop(known);
                self.remove_orphan(&left)?;
            }
        }
        Ok(())
    }

    /// What is removed and not yet deleted.
    pub(crate) fn trash_usage(&self) -> Usage {
        self.trash.usage()
    }

    /// Moves to the trash what nothing holds after a start.
    pub(crate) fn drop_unheld(&self) {
        let unheld = self.lock().take_unheld();
        self.condemn(unheld);
    }

    /// The tree of a layer that is there, whatever its form.
    pub(crate) fn tree(&self, id: &Digest) -> Result<Lower, Error> {
        let facts = self.facts(id);
        match facts.map_or(Form::Dir, |facts| facts.form) {
            Form::Dir => Ok(Lower::Folder(self.path(id).join(TREE))),
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

    /// The tar of a layer, as it was received if nothing is damaged: the reader compares digests.
    pub(crate) fn tar(&self, id: &Digest) -> Result<recipe::Tar, Error> {
        let path = self.path(id).join(RECIPE);
        let recipe = match File::open(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Other(format!(
                    "layer {id} was unpacked by a version that did not note how its tar was made \
                     up: remove its image and get it again"
                )));
            }
            recipe => recipe.during(|| format!("opening {}", path.display()))?,
        };
        let tree = self.tree(id)?.open();
        let tree = tree.during(|| format!("opening layer {id}"))?;
        recipe::Tar::new(recipe, tree).during(|| format!("reading {}", path.display()))
    }

    /// What is known of a layer.
    pub(crate) fn facts(&self, id: &Digest) -> Option<Arc<Facts>> {
        let known = self.lock();
        known.held.get(id).map(|held| Arc::clone(&held.facts))
    }

    /// What all of them use, with what is being unpacked and what is being deleted.
    pub(crate) fn usage(&self) -> Usage {
        let known = self.lock();
        let held = known.held.values().map(Held::usage);
        let staged = known.staged.values().map(|used| used.now());
        let used = held.chain(staged).fold(Usage::default(), Usage::plus);
        drop(known);
        used.plus(self.trash.usage())
    }

    /// Keeps all these layers until [`Layers::release`]; `false`, and nothing done, if one is missing
    /// or damaged.
    pub(crate) fn keep(&self, ids: &[Digest]) -> bool {
        self.keep_if(ids, |held| held.damaged.is_none())
    }

    /// The same for what has them mounted already, damaged or not.
    pub(crate) fn keep_mounted(&self, ids: &[Digest]) -> bool {
        self.keep_if(ids, |_| true)
    }

    fn keep_if(&self, ids: &[Digest], may: fn(&Held) -> bool) -> bool {
        let mut known = self.lock();
        if !ids.iter().all(|id| known.held.get(id).is_some_and(may)) {
            return false;
        }
        for id in ids {
            if let Some(held) = known.held.get_mut(id) {
                held.count += 1;
            }
        }
        true
    }

    /// Lets go of layers kept before. The last to let go moves them away.
    pub(crate) fn release(&self, ids: &[Digest]) {
        let mut known = self.lock();
        for id in ids {
            if let Some(held) = known.held.get_mut(id) {
                held.count = held.count.saturating_sub(1);
            }
        }
        let unheld = known.take_released(ids);
        drop(known);
        self.condemn(unheld);
    }

    /// Moves folders to the trash. Until they are there, nobody can publish layers of that name.
    fn condemn(&self, gone: Vec<(Digest, Held)>) {
        for (id, held) in gone {
            self.mounts.forget(&id);
            let usage = held.facts.usage().plus(held.beside);
            for path in std::iter::once(&self.path(&id)).chain(&held.replaced) {
                if let Err(cause) = self.trash.take_sized(path, usage) {
                    tracing::warn!(layer = %id, %cause, "a layer that is not needed could not be removed");
                }
            }
            self.lock().moving.remove(&id);
            self.moved.notify_all();
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
        let used = Arc::new(Used::default());
        self.lock().staged.insert(number, Arc::clone(&used));
        let staging = Staging {
            layers: Arc::clone(self),
            path: self.staging.join(number.to_string()),
            form,
            too_many: Arc::default(),
            number,
            used,
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
        let replaced = staging.path.join(REPLACED);
        std::fs::create_dir_all(&replaced).during(|| format!("making {}", replaced.display()))?;
        Ok(staging)
    }

    fn publish(self: &Arc<Self>, staging: &Staging, facts: Facts) -> Result<Lease, Error> {
        let path = self.path(&facts.diff_id);
        let parent = path
            .parent()
            .expect("a layer lies in the folder of its algorithm");
        std::fs::create_dir_all(parent).during(|| format!("making {}", parent.display()))?;
        let id = facts.diff_id.clone();
        let publishing = || format!("publishing layer {id}");
        let mut replaces;
        let mut known = self.lock();
        loop {
            match known.held.get_mut(&id) {
                Some(there) if there.damaged.is_none() => {
                    there.count += 1;
                    drop(known);
                    return Ok(self.lease_of(&id));
                }
                there => replaces = there.is_some(),
            }
            if known.moving.insert(id.clone()) {
                break;
            }
            known = self.wait(known);
        }
        drop(known);
        let placed = self.place(staging, &path, &id, replaces);
        let beside = beside(&path);
        let mut known = self.lock();
        known.moving.remove(&id);
        self.moved.notify_all();
        let quarantined = match placed.during(publishing) {
            Ok(quarantined) => quarantined,
            Err(error) => {
                let unheld = known.take_released(std::slice::from_ref(&id));
                drop(known);
                self.condemn(unheld);
                return Err(error);
            }
        };
        match known.held.get_mut(&id) {
            Some(there) => {
                there.count += 1;
                there.facts = Arc::new(facts);
                there.beside = beside;
                there.damaged = None;
                there.replaced.extend(quarantined);
            }
            None => drop(known.held.insert(id.clone(), Held::new(1, facts, beside))),
        }
        drop(known);
        Ok(self.lease_of(&id))
    }

    /// Moves a layer to its place. What is damaged there may be mounted, and is kept.
    fn place(
        &self,
        staging: &Staging,
        path: &Path,
        id: &Digest,
        replaces: bool,
    ) -> std::io::Result<Option<PathBuf>> {
        let mut quarantined = None;
        if replaces {
            self.mounts.forget(id);
            let name = format!("{}-{}", id.hex(), staging.number);
            let aside = self.quarantine.join(name);
            match renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
                Ok(()) => quarantined = Some(aside),
            }
        }
        // What nobody holds and could not be moved away before must not be in the way now.
        self.trash.take(path)?;
        renameat_with(CWD, &staging.path, CWD, path, RenameFlags::NOREPLACE)?;
        Ok(quarantined)
    }

    /// The lease of one who is counted already.
    fn lease_of(self: &Arc<Self>, id: &Digest) -> Lease {
        Lease {
            layers: Arc::clone(self),
            id: id.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a folder has been moved: a rename or two.
    fn wait<'a>(&self, known: MutexGuard<'a, Known>) -> MutexGuard<'a, Known> {
        self.moved
            .wait(known)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn usage(&self) -> Usage {
        Usage {
            bytes: self.bytes,
            inodes: self.inodes,
        }
    }
}

/// What lies beside the tree of a layer, and the folder itself.
fn beside(layer: &Path) -> Usage {
    let mut usage = Usage {
        bytes: DISK_BLOCK,
        inodes: 1,
    };
    for name in [FACTS, TABLE, RECIPE] {
        if let Ok(meta) = std::fs::metadata(layer.join(name)) {
            usage.bytes += meta.len().div_ceil(DISK_BLOCK) * DISK_BLOCK;
            usage.inodes += 1;
        }
    }
    usage
}

/// Whether there is something to compare a layer with, or what is wrong.
fn compare(layer: &Path, facts: &Facts, pace: &dyn Pace) -> Result<bool, Difference> {
    let Some(sum) = facts.table else {
        return Ok(false);
    };
    match File::open(layer.join(RECIPE)) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        recipe => match recipe.and_then(recipe::is_whole) {
            Ok(true) => {}
            Ok(false) => return Err("its recipe is damaged".to_owned().into()),
            Err(cause) => return Err(format!("its recipe: {cause}").into()),
        },
    }
    match facts.form {
        Form::Dir => table::compare(&layer.join(TREE), &layer.join(TABLE), sum, pace)?,
        Form::Erofs => compare_image(&layer.join(IMAGE), sum, pace)?,
    }
    Ok(true)
}

fn compare_image(image: &Path, sum: u32, pace: &dyn Pace) -> Result<(), Difference> {
    let image = File::open(image);
    match image.and_then(|image| erofs::sum(&image, pace)) {
        Ok(Some(found)) if found == sum => Ok(()),
        Ok(Some(_)) => Err("its image has another content".to_owned().into()),
        Ok(None) => Err(Difference::Stopped),
        Err(cause) => Err(format!("its image: {cause}").into()),
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
    number: u64,
    used: Arc<Used>,
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
        let folder = open_folder(&tree)?;
        let table = self.path.join(TABLE);
        let table = File::create(&table).during(|| format!("making {}", table.display()))?;
        Ok(Target::Dir {
            table,
            folder,
            trash: open_folder(&self.path.join(REPLACED))?,
        })
    }

    /// The folder that all of it lies in.
    pub(crate) fn folder(&self) -> Result<OwnedFd, Error> {
        open_folder(&self.path)
    }

    /// What is written down while it is unpacked.
    pub(crate) fn notes(&self) -> Result<Notes, Error> {
        let recipe = self.path.join(RECIPE);
        let recipe = File::create(&recipe).during(|| format!("making {}", recipe.display()))?;
        Ok(Notes {
            recipe: Some(recipe),
            used: Arc::clone(&self.used),
        })
    }

    /// Whether the layer failed only for not being fit for this form.
    pub(crate) fn is_unfit(&self) -> bool {
        self.too_many.load(Ordering::SeqCst)
    }

    /// Makes the layer visible, and holds it.
    pub(crate) fn publish(self, diff_id: &Digest, contents: Contents) -> Result<Lease, Error> {
        self.drop_replaced()?;
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
        let file = self.path.join(FACTS);
        let text = serde_json::to_vec(&facts).expect("plain data can always be written as JSON");
        std::fs::write(&file, text).during(|| format!("writing {}", file.display()))?;
        // Nothing is synced here, and nobody waits for it: see `sync_when_woken`.
        let mark = self.path.join(PROVISIONAL);
        std::fs::write(&mark, &self.layers.boot)
            .during(|| format!("writing {}", mark.display()))?;
        self.layers.publish(&self, facts)
    }
}

impl Staging {
    /// What was replaced is no part of the layer.
    fn drop_replaced(&self) -> Result<(), Error> {
        let replaced = self.path.join(REPLACED);
        let removed = match std::fs::remove_dir(&replaced) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(cause) if cause.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                self.layers.trash.take(&replaced)
            }
            removed => removed,
        };
        removed.during(|| format!("removing {}", replaced.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Once published nothing is here any more, which is fine.
        self.layers.lock().staged.remove(&self.number);
        if let Err(cause) = self.layers.trash.take_sized(&self.path, self.used.now()) {
            tracing::warn!(folder = %self.path.display(), %cause, "a half-made layer could not be removed");
        }
        self.layers.trash.wake();
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).during(|| format!("opening {}", path.display()))
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
