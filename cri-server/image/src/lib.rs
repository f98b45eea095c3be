//! Images: names, registries, the store, unpacking, mounts, garbage.
//!
//! Knows nothing of pods, of the front ends or of shims.
//!
//! ```text
//! pull(name) -> reference -> registry: resolve, manifest, configuration
//!                                   `-> layers, each once: socket -> worker: layer::build -> staging
//! import(file) -> archive ---------------------------------^           | one rename
//!                                                                      v
//! resolve, list <- catalogue (a picture in memory) <- images/*.json    layers/sha256/<diff id>
//! mount_rootfs -> overlay of layers and uppers/<container>
//! ```
//!
//! # On disk, below [`Config::root`]
//!
//! | path | written by | what it is | survives |
//! |---|---|---|---|
//! | `lock` | [`Store::open`] | held locked by the one daemon that uses the store | - |
//! | `images/<hex>.json` | pull, import, remove | one image: names, layers, manifest and configuration as received; `<hex>` is its id; renamed into place, synced with its layers | all |
//! | `layers/<algorithm>/<hex>/fs` | pull, import | the unpacked layer whose tar has that digest; never changed | all |
//! | `layers/<algorithm>/<hex>/image.erofs` | pull, import | in the place of `fs` and `table`: the same as the image of a file system | all |
//! | `layers/<algorithm>/<hex>/layer.json` | pull, import | its size, and what the mount has to know | all |
//! | `layers/<algorithm>/<hex>/table` | pull, import | what it holds, file by file, with sums | all |
//! | `layers/<algorithm>/<hex>/recipe` | pull, import | how its tar was made up of that | all |
//! | `layers/<algorithm>/<hex>/damaged` | check, scrub | why the layer must not be used any more | until another takes its place |
//! | `layers/<algorithm>/<hex>/provisional` | pull, import | the boot in which it was made; gone once all of it is on disk | all |
//! | `staging/<number>` | pull, import | a layer being unpacked, in the form of the above; beside `fs` lies `replaced`, what later entries took the place of | nothing: emptied at open |
//! | `signatures/<algorithm>-<hex>.json` | pull, use | what speaks for the image with that manifest or list, where somebody asks for it | all |
//! | `uppers/<container>/{upper,work}` | mount | what the container writes, and overlayfs' own folder | a restart of the daemon |
//! | `uppers/<container>/record.json` | mount | its layers, lowest first, and where it is mounted | as above |
//! | `empty` | [`Store::open`] | what lies under the writable layer of an image without layers | all |
//! | `quarantine/<boot>/<hex>-<number>` | repair | a damaged layer whose place another has taken, as long as containers may have it mounted | the boot |
//! | `preloaded.json` | preload | which archives were read, and what they held | all |
//! | `scrubbed` | scrub | its time says when all layers were last looked at | all |
//! | `trash/*` | all | on its way to deletion | nothing: emptied at open |
//!
//! A record is used only if all of its layers are there; otherwise it is removed and the image
//! counts as absent. A layer that neither a record nor a container names is removed at open.
//!
//! # After a power cut
//!
//! A pull does not wait for the disk. Its layers are marked as provisional until one `syncfs` in the
//! background has written them; a layer that still has the mark of another boot is compared with
//! its table at open, and dropped if it differs. Nothing that is shown was not verified.
//!
//! # Why the catalogue is files, not a database
//!
//! A node has some hundreds of images, each a few KiB that change only when it is pulled, named or
//! removed. All of them fit in memory, where every read is served; a write is one small file, and
//! a rename is as atomic as a transaction. An embedded database (redb was measured: 175 us a commit
//! against 311 us for a synced file) would save a fraction of a millisecond of a pull that takes
//! hundreds, and would add a format of its own, a file that has to be repaired when it breaks, and
//! a second truth beside the folders. A broken record costs one image, which is pulled again.

/// Marks work as a step of the operation under way, for those who watch the daemon: a span of the
/// target `wherry::step`. The second number is how many milliseconds it may take beyond the usual.
macro_rules! step {
    ($name:literal, $work:expr) => {
        tracing::Instrument::instrument(
            $work,
            tracing::error_span!(target: "wherry::step", $name),
        )
    };
    ($name:literal, $allowed:expr, $work:expr) => {
        tracing::Instrument::instrument(
            $work,
            tracing::error_span!(target: "wherry::step", $name, allowed_ms = $allowed),
        )
    };
}

mod archive;
mod check;
mod configuration;
mod error;
mod export;
mod flight;
mod import;
pub mod judge;
mod layer;
mod mount;
mod platform;
mod preload;
mod progress;
mod pull;
mod room;
mod scrub;
mod signature;
mod store;
mod tally;
mod usage;
mod worker;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

pub use registry::{Credentials, Referrer};
use registry::{Digest, Limits, Reference, Registry};
use tokio::sync::Semaphore;

pub use check::{Checked, Finding, Outcome, Subject};
use error::During;
pub use error::Error;
use flight::{Flights, blocking};
pub use mount::{Changes, IdMap};
use mount::{Look, Uppers};
use platform::Platform;
use progress::Progress;
pub use progress::{LayerProgress, PullProgress};
pub use scrub::Scrub;
use signature::Gate;
pub use signature::Signatures;
use store::catalog::Catalog;
use store::layers::{Layers, Lease};
use store::trash::Trash;
pub use tally::Tally;
use usage::Measured;
use worker::Workers;
pub use worker::{Worker, unpack_worker};

/// How long a pull goes on that nobody waits for any more: one who asks again joins it.
const GRACE: Duration = Duration::from_secs(60);

/// Where the store lies and how registries are reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the store; made if missing.
    pub root: PathBuf,
    /// Folder with `<host>/hosts.toml`; need not exist. Beside it may lie `registries.conf` (and
    /// `registries.conf.d`; containers-registries.conf(5)) for registries without a folder, and
    /// `credentials.json` (the form of Docker's `config.json`) for pulls that bring no credentials.
    pub registry_config: PathBuf,
    /// What layers become that are unpacked from now on; those that are there stay as they are.
    pub layer_form: LayerForm,
    /// Name of the present boot of the machine (random(4), `boot_id`): what was not known to be on
    /// disk under another one is looked at before it is used.
    pub boot_id: String,
    /// How layers are looked at in the background, if they are. Needs a runtime of tokio.
    pub scrub: Option<Scrub>,
    /// Who decides whether an image may be used.
    pub signatures: Signatures,
    /// The program that unpacks layers; without one, threads of this process do, unconfined.
    pub worker: Option<Worker>,
}

impl Config {
    /// A store with nothing in the background, whose images anybody may use, and which unpacks by
    /// itself.
    #[must_use]
    pub fn new(root: PathBuf, registry_config: PathBuf, boot_id: String) -> Self {
        Self {
            root,
            registry_config,
            layer_form: LayerForm::default(),
            boot_id,
            scrub: None,
            signatures: Signatures::default(),
            worker: None,
        }
    }
}

/// What a layer becomes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerForm {
    /// What does best by our figures (docs/decisions/layer-form.md): at present a folder.
    #[default]
    Auto,
    /// Files in a folder. Can be had everywhere.
    Dir,
    /// One file, the image of an EROFS file system. Needs a kernel that mounts it from the file, and
    /// takes for a layer what is mounted nowhere.
    Erofs,
}

/// The image store of one daemon.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    layers: Arc<Layers>,
    catalog: Catalog,
    uppers: Uppers,
    measured: Measured,
    registry: Arc<Registry>,
    platform: Platform,
    /// How long a pull goes on that nobody waits for.
    grace: Duration,
    /// Decides whether an image may be used, where somebody is to decide.
    gate: RwLock<Option<Arc<Gate>>>,
    /// Pulls under way, by name and by who asks.
    pulls: Flights<(String, String), String>,
    /// Layers under way, by the digests of their tar and of what is sent.
    layer_flights: Flights<(Digest, Digest), Arc<Lease>>,
    /// What is shown of the pulls under way.
    progress: Progress,
    /// Bounds how many layers are unpacked at the same time.
    slots: Semaphore,
    /// Who unpacks them.
    workers: Arc<Workers>,
    /// Ends the look at layers in the background.
    scrubbing: Mutex<(Option<Scrub>, Option<scrub::Alive>)>,
}

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its configuration, `sha256:...`; its one identity.
    pub id: String,
    /// Names with tags, normalised.
    pub tags: Vec<String>,
    /// Names with digests, normalised.
    pub digests: Vec<String>,
    /// Bytes that its layers take on disk.
    pub size: u64,
    /// Its configuration, parsed. The history is left out.
    pub config: Arc<oci_spec::image::ImageConfiguration>,
    /// Its configuration, as received.
    pub raw_config: Arc<[u8]>,
    /// Annotations of its manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Never collected.
    pub pinned: bool,
}

/// How much of a file system is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            inodes: self.inodes + other.inodes,
        }
    }
}

impl Store {
    /// Opens the store, making it if missing. Half-made layers of an earlier run are dropped.
    ///
    /// # Errors
    ///
    /// The folder cannot be used, another daemon uses it, or the registry configuration is wrong.
    pub fn open(config: &Config) -> Result<Arc<Self>, Error> {
        Self::open_with(config, Limits::default(), GRACE)
    }

    fn open_with(config: &Config, limits: Limits, grace: Duration) -> Result<Arc<Self>, Error> {
        let registry = Registry::new(config.registry_config.clone(), limits)?;
        let root = config.root.clone();
        let lock = lock_root(&root)?;
        let trash = Arc::new(Trash::open(root.join("trash"))?);
        let boot = config.boot_id.trim();
        let layers = Layers::open(&root, Arc::clone(&trash), boot, config.layer_form)?;
        let catalog = Catalog::open(&root, Arc::clone(&layers))?;
        let uppers = Uppers::open(&root, Arc::clone(&layers), trash)?;
        layers.drop_unheld();
        let gate = Gate::open(&config.signatures, &root)?;
        if let Some(gate) = &gate {
            let view = catalog.view();
            gate.prune(|digest| view.by_manifest(digest).is_some());
        }
        let store = Arc::new(Self {
            root,
            _lock: lock,
            layers,
            catalog,
            uppers,
            measured: Measured::default(),
            registry,
            platform: Platform::host(),
            grace,
            gate: RwLock::new(gate.map(Arc::new)),
            pulls: Flights::default(),
            layer_flights: Flights::default(),
            progress: Progress::default(),
            slots: Semaphore::new(pull::layers_at_once()),
            workers: Workers::new(config.worker.clone()),
            scrubbing: Mutex::default(),
        });
        store.scrub_by(config.scrub)?;
        Ok(store)
    }

    /// Changes how layers are looked at in the background; a look that is under way begins anew. What
    /// holds already changes nothing.
    ///
    /// # Errors
    ///
    /// The thread cannot be started: there is no look then.
    pub fn scrub_by(self: &Arc<Self>, scrub: Option<Scrub>) -> Result<(), Error> {
        let scrubbing = self.scrubbing.lock();
        let mut scrubbing = scrubbing.unwrap_or_else(PoisonError::into_inner);
        if scrubbing.0 == scrub {
            return Ok(());
        }
        *scrubbing = (None, None);
        if let Some(wanted) = scrub {
            let (alive, stopped) = scrub::life();
            scrub::start(self, wanted, stopped)?;
            *scrubbing = (scrub, Some(alive));
        }
        Ok(())
    }

    /// Gets an image from its registry; answers with its id. Callers that ask for the same image at
    /// the same time share one download. When the last of them drops the future, the pull goes on for
    /// a while, so that one who asks again joins it; then it is cancelled.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<String, Error> {
        self.pull_for(reference, credentials, "").await
    }

    /// The same for a pod, whose namespace may have rules of its own on whose images it may use.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn pull_for(
        self: &Arc<Self>,
        reference: &str,
        credentials: Option<&Credentials>,
        namespace: &str,
    ) -> Result<String, Error> {
        tracing::Span::current().record("subject", reference);
        let name = Reference::parse(reference)?;
        // Without a gate it does not matter for whom; with one, nobody joins what another may have.
        let judged_for = self.gate().map_or("", |_| namespace);
        let asking = format!("{} {judged_for}", registry::fingerprint(credentials));
        let key = (name.to_string(), asking);
        let (store, credentials) = (Arc::clone(self), credentials.cloned());
        let namespace = namespace.to_owned();
        let pulled = self.pulls.join(&key, self.grace, |cancelled| {
            let counts = store.progress.counts();
            counts.pull(pull::pull(store, name, credentials, namespace, cancelled))
        });
        let pulled = pulled.await;
        pulled.map_err(|error| room::told(error, &self.root).within(format!("pulling {reference}")))
    }

    /// How far the pull of a name is, if one is under way. Never waits.
    #[must_use]
    pub fn pull_of(&self, reference: &str) -> Option<PullProgress> {
        let name = Reference::parse(reference).ok()?.to_string();
        self.pulls().into_iter().find(|pull| pull.reference == name)
    }

    /// Tells in lines of text who would be asked for an image, in which order, and how: what the
    /// files of configuration come to. Asks nobody but the node's credential helpers.
    ///
    /// # Errors
    ///
    /// The name is none, or a file is wrong.
    pub async fn explain(&self, reference: &str) -> Result<Vec<String>, Error> {
        let name = Reference::parse(reference)?;
        let repository = self.registry.repository(&name, None).await?;
        Ok(repository.explain())
    }

    /// Asks the registry what refers to an image, such as signatures: of one kind (a media type) or
    /// of all kinds. Whether that may be believed is for the caller to find out.
    ///
    /// # Errors
    ///
    /// See [`Error`]; that nothing refers to it is none.
    pub async fn referrers(
        &self,
        reference: &str,
        artifact_type: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Referrer>, Error> {
        let name = Reference::parse(reference)?;
        let asked = async {
            let repository = self.registry.repository(&name, credentials).await?;
            let subject = match name.digest() {
                Some(digest) => digest.clone(),
                None => repository.resolve().await?.digest,
            };
            repository.referrers(&subject, artifact_type).await
        };
        let told = asked.await;
        told.map_err(|error| {
            Error::from(error).within(format!("asking what refers to {reference}"))
        })
    }

    /// Whether an image that is here may be used in a namespace. `asked` is the name that somebody
    /// used for it, if it is known. Waits for nothing if there is no policy.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`] says why it may not.
    pub async fn permit(&self, image: &Image, asked: &str, namespace: &str) -> Result<(), Error> {
        let Some(gate) = self.gate() else {
            return Ok(());
        };
        let view = self.catalog.view();
        let entry = view.resolve(&image.id);
        let entry = entry.ok_or_else(|| Error::NotFound(image.id.clone()))?;
        gate.at_use(self, entry, asked, namespace).await
    }

    /// Changes who decides whether an image may be used; a policy is read anew. What is asked already
    /// is decided by whom it was asked of. Blocks.
    ///
    /// # Errors
    ///
    /// The policy cannot be used: all stays as it was.
    pub fn judge_by(&self, signatures: &Signatures) -> Result<(), Error> {
        let gate = Gate::open(signatures, &self.root)?.map(Arc::new);
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
        Ok(())
    }

    /// Who decides whether an image may be used, where somebody does.
    fn gate(&self) -> Option<Arc<Gate>> {
        let gate = self.gate.read();
        gate.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pulls under way, the oldest first. Never waits.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.progress.all()
    }

    /// Reads an OCI layout (folder or tar) or a docker archive; answers with the ids.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn import(self: &Arc<Self>, path: &Path) -> Result<Vec<String>, Error> {
        let (store, path) = (Arc::clone(self), path.to_path_buf());
        let what = format!("importing {}", path.display());
        blocking(move || import::import(&store, &path))
            .await
            .map_err(|error| error.within(what))
    }

    /// Writes images to a new file at `path`, as an OCI layout that is also an archive of
    /// `docker save`. An image asked for by its tag has that name in it, others have all of theirs.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn export(self: &Arc<Self>, names: &[String], path: &Path) -> Result<(), Error> {
        let mut wanted = Vec::new();
        for name in names {
            let entry = self.catalog.view().resolve(name).cloned();
            let entry = entry.ok_or_else(|| Error::NotFound(name.clone()))?;
            let leases = entry.record.layers.iter().map(|id| self.layers.lease(id));
            let leases = leases.map(|lease| lease.map(Arc::new));
            let leases = leases.collect::<Option<Vec<_>>>();
            let tag = Reference::parse(name).ok().and_then(|name| name.tagged());
            wanted.push(export::Wanted {
                tag: tag.filter(|tag| entry.record.tags.contains(tag)),
                _leases: leases.ok_or_else(|| Error::NotFound(format!("a layer of {name}")))?,
                entry,
            });
        }
        let (store, path) = (Arc::clone(self), path.to_path_buf());
        let what = format!("exporting to {}", path.display());
        blocking(move || export::export(&store, &wanted, &path))
            .await
            .map_err(|error| error.within(what))
    }

    /// Reads what is new among the archives in a folder, and pins their images; answers with how
    /// many there are. An archive that cannot be read is told in the log.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or the store not be written.
    pub async fn preload(self: &Arc<Self>, folder: &Path) -> Result<usize, Error> {
        preload::preload(self, folder).await
    }

    /// Finds an image by tag, digest, id or unambiguous start of an id. Never touches the disk.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        self.catalog
            .view()
            .resolve(name)
            .map(|entry| Arc::clone(&entry.image))
    }

    /// All images.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.catalog.view().images().cloned().collect()
    }

    /// Removes the image with all its names; none of that name is no error. Its layers go once no
    /// container uses them.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let Some(id) = self
            .catalog
            .view()
            .resolve(name)
            .map(|entry| entry.record.id.clone())
        else {
            return Ok(());
        };
        let store = Arc::clone(self);
        blocking(move || {
            store.catalog.remove(&id)?;
            if let Some(gate) = store.gate() {
                let view = store.catalog.view();
                gate.prune(|digest| view.by_manifest(digest).is_some());
            }
            Ok(())
        })
        .await
    }

    /// Reads all layers and compares them with what was unpacked, and the records with what is
    /// known; with `repair`, what is damaged is fetched again, or its images are removed. Takes as
    /// long as reading the images takes; the store serves meanwhile.
    ///
    /// # Errors
    ///
    /// Only if that cannot be done at all; damage is no error but in the answer.
    pub async fn check(self: &Arc<Self>, repair: bool) -> Result<Checked, Error> {
        check::check(self, repair).await
    }

    /// What the images use. Never fails, never walks the disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.layers.usage().plus(self.catalog.view().usage())
    }

    /// What all writable layers use (a value at most some seconds old).
    #[must_use]
    pub fn writable_usage(&self) -> Usage {
        self.measured.all(|| self.uppers.folders())
    }

    /// What one container's writable layer uses (a value at most some seconds old).
    #[must_use]
    pub fn container_usage(&self, container: &str) -> Usage {
        self.measured.one(container, || self.uppers.folders())
    }

    /// A path on the file system of the store, for `statfs`.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.root
    }

    /// Whether root file systems can be had with ids as a user namespace maps them.
    ///
    /// # Errors
    ///
    /// Says what the kernel or the file system of the store cannot do.
    pub async fn can_map_ids(self: &Arc<Self>, ids: IdMap) -> Result<(), Error> {
        let store = Arc::clone(self);
        blocking(move || store.uppers.try_ids(&ids)).await
    }

    /// Mounts the root file system of a container at `target` (a folder that exists), with a
    /// writable layer of its own and ids as `ids` maps them; keeps the image's layers from then on
    /// until [`Store::unmount_rootfs`].
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing is left mounted.
    pub async fn mount_rootfs(
        self: &Arc<Self>,
        image: &str,
        container: &str,
        target: &Path,
        ids: Option<&IdMap>,
    ) -> Result<(), Error> {
        self.mount_changed(image, container, target, ids, None, None)
            .await
    }

    /// The same with files as a container has changed them before, and with an SELinux context for
    /// all that is seen there.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing is left mounted.
    pub async fn mount_changed(
        self: &Arc<Self>,
        image: &str,
        container: &str,
        target: &Path,
        ids: Option<&IdMap>,
        changes: Option<Changes>,
        label: Option<&str>,
    ) -> Result<(), Error> {
        let entry = self.catalog.view().resolve(image).cloned();
        let entry = entry.ok_or_else(|| Error::NotFound(image.to_owned()))?;
        let (store, container, target) =
            (Arc::clone(self), container.to_owned(), target.to_path_buf());
        let (ids, label) = (ids.cloned(), label.map(str::to_owned));
        blocking(move || {
            let layers = &entry.record.layers;
            let look = Look {
                ids: ids.as_ref(),
                label: label.as_deref(),
            };
            store
                .uppers
                .mount(&container, layers, &target, look, changes.as_ref())
        })
        .await
    }

    /// Writes what a container has changed of its image to `file`, as a layer; answers with the
    /// paths that it has deleted. Nothing may write to its files meanwhile.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Other`] for what a layer cannot hold.
    pub async fn save_changes(
        self: &Arc<Self>,
        container: &str,
        file: File,
    ) -> Result<Vec<String>, Error> {
        let (store, container) = (Arc::clone(self), container.to_owned());
        blocking(move || store.uppers.save(&container, file)).await
    }

    /// Unmounts it and removes its writable layer. Already gone is no error.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn unmount_rootfs(
        self: &Arc<Self>,
        container: &str,
        target: &Path,
    ) -> Result<(), Error> {
        let (store, container, target) =
            (Arc::clone(self), container.to_owned(), target.to_path_buf());
        blocking(move || store.uppers.unmount(&container, &target)).await
    }

    /// Told once at start: the containers that live on. All other writable layers are removed.
    pub async fn retain(self: &Arc<Self>, containers: &HashSet<String>) {
        let (store, containers) = (Arc::clone(self), containers.clone());
        let retained = blocking(move || {
            store.uppers.retain(&containers);
            Ok(())
        });
        if let Err(error) = retained.await {
            tracing::warn!(%error, "left-over writable layers could not be removed");
        }
    }
}

/// Makes the folder of the store, for nobody's eyes but ours, and takes it for this process.
fn lock_root(root: &Path) -> Result<File, Error> {
    use rustix::fs::{FlockOperation, Mode, flock};
    std::fs::create_dir_all(root).during(|| format!("making {}", root.display()))?;
    // Set-user-ID programs of images lie below.
    rustix::fs::chmod(root, Mode::from_raw_mode(0o700))
        .during(|| format!("preparing {}", root.display()))?;
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.during(|| format!("opening {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .during(|| format!("locking {}: is another daemon using it?", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
