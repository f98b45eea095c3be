//! Checkpoints: containers that run, written to archives as of one moment while they go on.
//!
//! ```text
//! pause all -> each: images of its processes (shim), changed files, log -> go on -> archives -> names
//! ```
//!
//! All containers of one checkpoint stand still together until the last of them is written, so that
//! processes, files and containers fit each other. What is written lies in a folder of the engine's
//! own until it is whole; archives have no name before that. How a process is written is the OCI
//! runtime's affair, [`restore`] is the way back, [`archive`] knows the form.

mod archive;
mod documents;
mod paused;
mod pod;
pub(crate) mod restore;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::pod::container::Connections;
use ::pod::lifecycle;
use shim_api::{Checkpoint, request};

use self::archive::Draft;
use self::paused::Paused;
use crate::error::Error;
use crate::view::{Container, Sandbox};
use crate::{Engine, Inner, LOCK, blocking, handlers, making, new_id};

pub(crate) use paused::resume;
pub use pod::RestoredPod;

/// Longest time that writing or reading the images of a container may take. A shim ends an OCI
/// runtime somewhat earlier.
const PATIENCE: Duration = Duration::from_secs(260);

/// How long a checkpoint may take whose client names no limit: that of the images, and as much for
/// files and archives.
const DEFAULT_LIMIT: Duration = Duration::from_secs(520);

/// Pods of which a checkpoint is being taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<HashSet<String>>>);

/// The right to take a checkpoint of a pod; given back when dropped.
#[derive(Debug)]
struct Place {
    all: Places,
    sandbox: String,
}

impl Places {
    fn take(&self, sandbox: &str) -> Result<Place, Error> {
        if !self.0.lock().expect(LOCK).insert(sandbox.to_owned()) {
            return Err(Error::Unavailable(format!(
                "a checkpoint of sandbox {sandbox} is under way"
            )));
        }
        Ok(Place {
            all: self.clone(),
            sandbox: sandbox.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.0.lock().expect(LOCK).remove(&self.sandbox);
    }
}

impl Engine {
    /// Writes a running container to an archive at `location`; it goes on. What was there is
    /// replaced, by something whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it runs; [`Error::Unsupported`] where the OCI runtime cannot do
    /// it; [`Error::DeadlineExceeded`] after `limit`: nothing is written then.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &Path,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        check_absolute("location", location)?;
        let sandbox = container.sandbox_id.clone();
        let job = self.job(&sandbox, vec![container], limit, Connections::Refuse)?;
        let location = location.to_owned();
        job.run(move |job| {
            let folder = job.folder_of(&job.containers[0].id);
            Ok(vec![Draft::archive(&folder, location)?])
        })
        .await
    }

    /// What is to be done for a checkpoint of these containers of one sandbox.
    fn job(
        &self,
        sandbox: &str,
        containers: Vec<Arc<Container>>,
        limit: Option<Duration>,
        connections: Connections,
    ) -> Result<Job, Error> {
        let sandbox = self.sandbox(sandbox)?;
        for container in &containers {
            let id = &container.id;
            lifecycle::in_use(container.phase)
                .map_err(|refusal| Error::refused(refusal, format!("container {id}")))?;
        }
        if sandbox.spec.namespaces.user.is_some() {
            return Err(Error::Unsupported(format!(
                "sandbox {} has a user namespace of its own, which checkpoints cannot hold",
                sandbox.id
            )));
        }
        let name = new_id();
        Ok(Job {
            _place: self.inner.checkpoints.take(&sandbox.id)?,
            folder: self.inner.paths.checkpoint(&name),
            name,
            limit: limit.filter(|limit| !limit.is_zero()),
            connections,
            engine: Arc::clone(&self.inner),
            sandbox,
            containers,
        })
    }
}

fn on_the_wire(connections: Connections) -> shim_api::Connections {
    match connections {
        Connections::Refuse => shim_api::Connections::Refuse,
        Connections::Keep => shim_api::Connections::Keep,
        Connections::Close => shim_api::Connections::Close,
    }
}

fn check_absolute(field: &str, path: &Path) -> Result<(), Error> {
    if path.is_absolute() && path.file_name().is_some() {
        return Ok(());
    }
    let path = path.display();
    Err(Error::Invalid(format!(
        "{field}: {path} is not an absolute path"
    )))
}

/// A checkpoint to be taken.
#[derive(Debug)]
struct Job {
    /// Given back with the job.
    _place: Place,
    engine: Arc<Inner>,
    sandbox: Arc<Sandbox>,
    containers: Vec<Arc<Container>>,
    /// Where everything lies until it is whole.
    folder: PathBuf,
    /// The folder's name.
    name: String,
    limit: Option<Duration>,
    connections: Connections,
}

impl Job {
    fn folder_of(&self, container: &str) -> PathBuf {
        self.folder.join(container)
    }

    /// Takes the checkpoint, whether or not the caller waits for it. Past the limit it is still
    /// brought to its end, because a dump that is cut off may cost the container, and thrown away.
    async fn run(
        self,
        pack: impl FnOnce(&Job) -> Result<Vec<Draft>, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        let wanted = Arc::new(AtomicBool::new(true));
        let still = Arc::clone(&wanted);
        #[expect(
            clippy::disallowed_methods,
            reason = "belongs to the engine, as every operation; bounded by its patience"
        )]
        let mut task = tokio::spawn(async move { self.carry_out(pack, &still).await });
        let cut = |_cut| Error::Unavailable("the daemon stops".into());
        match tokio::time::timeout(limit, &mut task).await {
            Ok(ended) => ended.map_err(cut)?,
            Err(_elapsed) if wanted.swap(false, Ordering::SeqCst) => Err(Error::DeadlineExceeded(
                format!("the checkpoint was not complete within {limit:?}; nothing is written"),
            )),
            Err(_elapsed) => task.await.map_err(cut)?,
        }
    }

    async fn carry_out(
        self,
        pack: impl FnOnce(&Job) -> Result<Vec<Draft>, Error> + Send + 'static,
        wanted: &AtomicBool,
    ) -> Result<(), Error> {
        let taken = Box::pin(self.take()).await;
        let job = Arc::new(self);
        let packing = Arc::clone(&job);
        let packed = match taken {
            Ok(()) => blocking(move || pack(&packing)).await,
            Err(error) => Err(error),
        };
        let folder = job.folder.clone();
        let removed =
            blocking(move || crate::store::gone_is_fine(fs::remove_dir_all(folder))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "removing the files of a checkpoint");
        }
        let drafts = packed?;
        // From here on the caller's limit does not count any more.
        if !wanted.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let named = blocking(move || archive::publish(&drafts)).await;
        // Kept until now: nobody else takes a checkpoint of this pod meanwhile.
        drop(job);
        named
    }

    /// Writes all containers as of one moment.
    async fn take(&self) -> Result<(), Error> {
        let handler = &self.sandbox.spec.handler;
        let runtime = self.engine.runtime(handler)?;
        handlers::can_checkpoint(&self.engine.config.shim, runtime).await?;
        let folder = self.folder.clone();
        blocking(move || making::make_folder(&folder, 0o700))
            .await
            .map_err(|error| Error::failed("making a folder for the checkpoint", error))?;
        let paused = Paused::pause(
            &self.engine,
            &self.sandbox.id,
            &self.containers,
            self.name.clone(),
        )
        .await?;
        let written = self.write_all().await;
        let goes_on = paused.go_on().await;
        written.and(goes_on)
    }

    async fn write_all(&self) -> Result<(), Error> {
        for container in &self.containers {
            self.write(container).await?;
        }
        let (shm, tar) = (
            self.engine.paths.shm(&self.sandbox.id),
            self.folder.join(pod::SHM),
        );
        blocking(move || pod::save_shm(&shm, &tar))
            .await
            .map_err(|error| Error::failed("saving the pod's /dev/shm", error))
    }

    async fn write(&self, container: &Arc<Container>) -> Result<(), Error> {
        let id = &container.id;
        let folder = self.folder_of(id);
        let shim = self.engine.shims.lock().expect(LOCK).get(id).cloned();
        let shim = shim.ok_or_else(|| Error::WrongState(format!("container {id} has ended")))?;
        let (images, work) = (folder.join(archive::IMAGES), folder.join(archive::WORK));
        let made = {
            let images = images.clone();
            blocking(move || making::make_folder(&images, 0o700)).await
        };
        made.map_err(|error| Error::failed("making a folder for images", error))?;
        let call = request::Call::Checkpoint(Checkpoint {
            images: images.to_string_lossy().into_owned(),
            work: work.to_string_lossy().into_owned(),
            connections: on_the_wire(self.connections).into(),
        });
        shim.call_within(PATIENCE, call, &[]).await?;
        let diff = folder.join(archive::CHANGES);
        let file = blocking(move || fs::File::create_new(diff)).await;
        let file = file.map_err(|error| Error::failed("making a file for changed files", error))?;
        let deleted = self.engine.images.save_changes(id, file).await?;
        let (sandbox, container) = (Arc::clone(&self.sandbox), Arc::clone(container));
        blocking(move || documents::write(&folder, &sandbox, &container, &deleted))
            .await
            .map_err(|error| Error::failed("describing the checkpoint", error))
    }
}
