//! The way back: a container that goes on from a checkpoint.
//!
//! CreateContainer takes the checkpoint in: its documents are judged, its image is found or fetched,
//! its changed files go into the new root file system. StartContainer has the OCI runtime restore the
//! processes; until then there are none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use pod::ContainerSpec;
use pod::sandbox::NamespaceMode;
use rustix::fs::{Mode, OFlags};
use shim_api::{Create, Restore, Start, State, reply, request};

use super::documents::{self, Config, Process};
use super::{PATIENCE, archive};
use crate::error::Error;
use crate::making::{self, Place};
use crate::shim::{Launch, Shim};
use crate::store::{self, ContainerRecord};
use crate::{Inner, blocking, handlers, namespaces};

/// By these an image says that it is a checkpoint: that of CRI-O and buildah, and its heir.
const ANNOTATIONS: [&str; 2] = [
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
];

/// A checkpoint, taken in for a container.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The container as asked for, with what the checkpoint says of its image and process.
    pub(crate) spec: Arc<ContainerSpec>,
    /// The files that it had changed.
    pub(crate) changes: image::Changes,
    folder: PathBuf,
    bundle: PathBuf,
    binds: Vec<String>,
}

/// Takes in the checkpoint that a container is to go on from; `None` if it begins anew.
pub(crate) async fn prepare(
    place: &Place,
    launch: &Launch,
    asked: &Arc<ContainerSpec>,
) -> Result<Option<Restored>, Error> {
    let engine = &place.engine;
    let source = match &asked.checkpoint {
        Some(path) => Source::File(path.clone()),
        None => match engine.images.resolve(&asked.image) {
            Some(image) if is_checkpoint(&image) => {
                let named = making::asked_as(&asked.image, &asked.user_specified_image);
                let namespace = &place.sandbox.spec.namespace;
                engine.images.permit(&image, named, namespace).await?;
                Source::Image(image.id.clone())
            }
            _ => return Ok(None),
        },
    };
    handlers::can_checkpoint(&launch.program, &launch.runtime).await?;
    if place.sandbox.spec.namespaces.user.is_some() {
        return Err(Error::Unsupported(
            "a container with a user namespace cannot be restored".into(),
        ));
    }
    let folder = engine.paths.checkpoint(&launch.container);
    take_in(engine, launch, &source, &folder).await?;
    let read = {
        let folder = folder.clone();
        blocking(move || Ok((documents::read(&folder)?, documents::deleted(&folder)?))).await
    };
    let damaged = |error: io::Error| Error::Invalid(format!("{source}: {error}"));
    let ((config, process), deleted) = read.map_err(damaged)?;
    let namespace = &place.sandbox.spec.namespace;
    let image = base_image(engine, &config, namespace).await?;
    Ok(Some(Restored {
        spec: Arc::new(adapted(asked, &process, image)?),
        changes: image::Changes {
            layer: folder.join(archive::CHANGES),
            deleted,
        },
        folder,
        bundle: launch.bundle.clone(),
        binds: process.binds,
    }))
}

fn is_checkpoint(image: &image::Image) -> bool {
    ANNOTATIONS
        .iter()
        .any(|key| image.annotations.contains_key(*key))
}

/// Where a checkpoint comes from.
#[derive(Debug)]
enum Source {
    File(PathBuf),
    Image(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "checkpoint {}", path.display()),
            Self::Image(id) => write!(f, "checkpoint in image {id}"),
        }
    }
}

/// Brings what is used of a checkpoint into a folder of the engine's.
async fn take_in(
    engine: &Inner,
    launch: &Launch,
    source: &Source,
    folder: &Path,
) -> Result<(), Error> {
    let made = folder.to_owned();
    blocking(move || making::make_folder(&made, 0o700))
        .await
        .map_err(|error| Error::failed("making a folder for the checkpoint", error))?;
    let to = folder.to_owned();
    let taken = match source {
        Source::File(path) => {
            let path = path.clone();
            blocking(move || archive::extract(open(&path)?, &to)).await
        }
        Source::Image(image) => {
            let name = format!("{}-checkpoint", launch.container);
            let target = launch.bundle.join("checkpoint-image");
            let made = target.clone();
            blocking(move || making::make_folder(&made, 0o700))
                .await
                .map_err(|error| Error::failed("making a folder for the checkpoint", error))?;
            engine
                .images
                .mount_rootfs(image, &name, &target, None)
                .await?;
            let from = target.clone();
            let copied = blocking(move || archive::copy(&from, &to)).await;
            engine.images.unmount_rootfs(&name, &target).await?;
            copied
        }
    };
    taken.map_err(|error| match (error.kind(), source) {
        (io::ErrorKind::NotFound, Source::File(path)) => Error::NotFound {
            kind: "checkpoint",
            id: path.display().to_string(),
        },
        (io::ErrorKind::StorageFull, _) => Error::Exhausted(format!("{source}: {error}")),
        _ => Error::Invalid(format!("{source}: {error}")),
    })
}

/// Opens a regular file; anything else could keep the reader waiting for ever.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// The image below the changed files, fetched if it is not here.
async fn base_image(engine: &Inner, config: &Config, namespace: &str) -> Result<String, Error> {
    for name in config.images() {
        if let Some(image) = engine.images.resolve(name) {
            return Ok(image.id.clone());
        }
    }
    let name = config.images().next();
    let name = name.ok_or_else(|| Error::Invalid("the checkpoint names no image".into()))?;
    Ok(engine.images.pull_for(name, None, namespace).await?)
}

/// The container as it is planned: what its process is comes from the checkpoint.
fn adapted(
    asked: &ContainerSpec,
    process: &Process,
    image: String,
) -> Result<ContainerSpec, Error> {
    if asked.tty != process.terminal {
        let (has, asks) = match process.terminal {
            true => ("a terminal", "none"),
            false => ("no terminal", "one"),
        };
        return Err(Error::Invalid(format!(
            "tty: the checkpoint has {has}, the request asks for {asks}"
        )));
    }
    let mut spec = asked.clone();
    spec.image = image;
    spec.command.clone_from(&process.args);
    spec.args.clear();
    spec.working_dir.clone_from(&process.cwd);
    Ok(spec)
}

impl Restored {
    /// What the shim is asked for instead of a Create. The log goes on where it was.
    pub(crate) async fn request(&self, create: Create, planned: &Spec) -> Result<Restore, Error> {
        let places = documents::binds(planned);
        if let Some(missing) = self.binds.iter().find(|place| !places.contains(place)) {
            return Err(Error::Invalid(format!(
                "mounts: the checkpoint has a mount at {missing}, the request has none"
            )));
        }
        let (from, log) = (self.folder.join(archive::LOG), create.log_path.clone());
        blocking(move || continue_log(&from, &log))
            .await
            .map_err(|error| Error::failed("bringing back the container's log", error))?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(Restore {
            create: Some(create),
            images: text(self.folder.join(archive::IMAGES)),
            work: text(self.bundle.join("criu")),
            connections: super::on_the_wire(self.spec.connections).into(),
        })
    }
}

/// Puts the old log where there is none.
fn continue_log(from: &Path, log: &str) -> io::Result<()> {
    if log.is_empty() || !from.exists() {
        return Ok(());
    }
    let mut from = File::open(from)?;
    match File::create_new(log) {
        Ok(mut log) => io::copy(&mut from, &mut log).map(drop),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Has a container go on; answers with the pid of its init.
pub(crate) async fn start(
    engine: &Inner,
    record: &ContainerRecord,
    shim: &Shim,
) -> Result<Option<i32>, Error> {
    let started = shim
        .call_within(PATIENCE, request::Call::Start(Start {}), &[])
        .await;
    let folder = engine.paths.checkpoint(&record.id);
    let removed = blocking(move || store::gone_is_fine(fs::remove_dir_all(folder))).await;
    if let Err(error) = removed {
        tracing::warn!(container = record.id, %error, "removing a checkpoint");
    }
    started?;
    // It comes back as it was written: standing still.
    let group = engine.cgroups.group(&record.cgroup);
    let group = group.map_err(|error| Error::failed("locating the container's cgroup", error))?;
    let thawed = blocking(move || match group.is_frozen() {
        Ok(false) => Ok(()),
        _ => group.thaw(),
    });
    let thawed = thawed.await;
    name_host(engine, &record.sandbox_id).await?;
    let pid = pid(shim).await?;
    match thawed {
        // It did not stand still any more, and has ended since; its group may have gone with it.
        Err(error) if pid.is_some() => {
            Err(Error::failed("letting a restored container go on", error))
        }
        _ => Ok(pid),
    }
}

/// The pid of a container's init; `None` once it has ended.
async fn pid(shim: &Shim) -> Result<Option<i32>, Error> {
    match shim.call(request::Call::State(State {}), &[]).await {
        Ok((reply::Result::State(state), _)) => Ok(Some(state.pid).filter(|pid| *pid > 0)),
        Ok((other, _)) => Err(Error::Failed(format!(
            "the shim answered state with {other:?}"
        ))),
        // A shim goes with its container: how that ended is on its way.
        Err(_gone) if shim.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the pod its own name again: with the processes criu brings back the one that they knew.
async fn name_host(engine: &Inner, sandbox: &str) -> Result<(), Error> {
    if engine.view.sandbox(sandbox)?.spec.namespaces.network != NamespaceMode::Pod {
        return Ok(());
    }
    let (file, folder) = (
        engine.paths.sandbox(sandbox).join("hostname"),
        engine.paths.namespaces(sandbox),
    );
    blocking(move || namespaces::name_host(&folder, fs::read_to_string(file)?.trim_end()))
        .await
        .map_err(|error| Error::failed("setting the pod's hostname", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_the_checkpoints() {
        let process = Process {
            args: vec!["count".into()],
            cwd: "/w".into(),
            terminal: false,
            binds: Vec::new(),
        };
        let asked = ContainerSpec {
            image: "/c.tar".into(),
            args: vec!["other".into()],
            ..ContainerSpec::default()
        };
        let spec = adapted(&asked, &process, "sha256:1".into()).unwrap();
        assert_eq!((&*spec.image, &*spec.working_dir), ("sha256:1", "/w"));
        assert_eq!(
            (spec.command, spec.args),
            (vec!["count".to_owned()], vec![])
        );
        let asked = ContainerSpec { tty: true, ..asked };
        assert!(matches!(
            adapted(&asked, &process, String::new()),
            Err(Error::Invalid(text)) if text.starts_with("tty: ")
        ));
    }

    #[test]
    fn a_log_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let log = at("log").display().to_string();
        continue_log(&at("none"), &log).unwrap();
        assert!(!at("log").exists());
        fs::write(at("old"), "old").unwrap();
        continue_log(&at("old"), &log).unwrap();
        assert_eq!(fs::read_to_string(at("log")).unwrap(), "old");
        fs::write(at("log"), "own").unwrap();
        continue_log(&at("old"), &log).unwrap();
        assert_eq!(fs::read_to_string(at("log")).unwrap(), "own");
    }
}
