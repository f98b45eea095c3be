//! The one road by which things go: after a failure, at a stop, and in recovery.
//!
//! Every step accepts "already gone", so that the whole may be walked again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::mount::MntFlags;
use shim_api::{Kill, request};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::pod_task::{KILL_PATIENCE, PodTask};
use crate::shim::{self, Launch, News, Shim};
use crate::store::{self, ContainerRecord};
use crate::{Engine, Inner, blocking, namespaces};

/// Removes a container whose process and shim have gone: its root file system, bundle and record.
pub(crate) async fn container(
    engine: &Inner,
    record: &ContainerRecord,
    launch: &Launch,
) -> Result<(), Error> {
    files(engine, launch).await?;
    let paths = engine.paths.clone();
    let (sandbox, id) = (record.sandbox_id.clone(), record.id.clone());
    blocking(move || store::remove_container(&paths, &sandbox, &id))
        .await
        .map_err(|error| Error::failed("removing the container's record", error))
}

/// Removes a container of which nobody knows how far it got.
pub(crate) async fn unfinished(
    engine: &Inner,
    record: &ContainerRecord,
    launch: &Launch,
) -> Result<(), Error> {
    process(engine, &record.cgroup, launch).await?;
    container(engine, record, launch).await
}

/// The root file system and the bundle of a container.
async fn files(engine: &Inner, launch: &Launch) -> Result<(), Error> {
    engine
        .images
        .unmount_rootfs(&launch.container, &launch.bundle.join("rootfs"))
        .await?;
    let bundle = launch.bundle.clone();
    blocking(move || store::gone_is_fine(fs::remove_dir_all(&bundle)))
        .await
        .map_err(|error| Error::failed("removing the container's bundle", error))
}

/// Ends the process of a container, with its shim if there still is one.
pub(crate) async fn process(engine: &Inner, cgroup: &str, launch: &Launch) -> Result<(), Error> {
    let bundle = launch.bundle.clone();
    if !blocking(move || bundle.exists()).await {
        return Ok(());
    }
    if let Some((shim, news)) = connect(launch) {
        end(&shim, news).await?;
    }
    let bundle = launch.bundle.clone();
    match blocking(move || shim::exit_record(&bundle)).await {
        Ok(Some(_)) => Ok(()),
        _ => lost(engine, cgroup, launch).await,
    }
}

fn connect(launch: &Launch) -> Option<(Arc<Shim>, mpsc::UnboundedReceiver<News>)> {
    let (teller, news) = mpsc::unbounded_channel();
    let shim = Shim::connect(&launch.container, &launch.bundle, teller).ok()?;
    Some((shim, news))
}

/// Has a shim end its container, and waits for the shim's own end.
async fn end(shim: &Shim, mut news: mpsc::UnboundedReceiver<News>) -> Result<(), Error> {
    let kill = request::Call::Kill(Kill {
        signal: 9,
        all: true,
    });
    if let Err(error) = shim.call(kill, &[]).await {
        tracing::debug!(%error, "ending a container");
    }
    let gone = async { while !matches!(news.recv().await, Some(News::Gone(_)) | None) {} };
    tokio::time::timeout(KILL_PATIENCE, gone)
        .await
        .map_err(|_elapsed| {
            Error::Failed(format!(
                "the container did not end within {KILL_PATIENCE:?} of SIGKILL"
            ))
        })
}

/// Ends what a lost shim left running, and has the OCI runtime forget it.
pub(crate) async fn lost(engine: &Inner, cgroup: &str, launch: &Launch) -> Result<(), Error> {
    if !cgroup.is_empty() {
        let group = engine.cgroups.group(cgroup);
        let what = || format!("ending the processes of cgroup {cgroup}");
        let group = group.map_err(|error| Error::failed(what(), error))?;
        blocking(move || group.kill().and_then(|()| group.remove()))
            .await
            .map_err(|error| Error::failed(what(), error))?;
    }
    shim::delete(launch).await
}

/// The network and the namespaces of a sandbox whose containers have ended.
pub(crate) async fn namespaces(task: &mut PodTask) -> Result<(), Error> {
    task.end_init().await?;
    let (engine, id) = (Arc::clone(&task.engine), task.record.id.clone());
    release(&engine, &id).await
}

async fn release(engine: &Inner, sandbox: &str) -> Result<(), Error> {
    engine.network.detach(sandbox).await?;
    let (folder, shm) = (engine.paths.namespaces(sandbox), engine.paths.shm(sandbox));
    blocking(move || namespaces::unpin(&folder).and_then(|()| namespaces::unmount(&shm)))
        .await
        .map_err(|error| Error::failed("letting the sandbox's namespaces go", error))
}

/// All of a sandbox that has no containers any more.
pub(crate) async fn pod(task: &mut PodTask) -> Result<(), Error> {
    namespaces(task).await?;
    let launch = task.init.as_ref().map(|init| init.launch.clone());
    sandbox_by_id(&task.engine, &task.record.id, launch).await
}

/// All of a sandbox, known by its id alone; its init by how it was launched.
pub(crate) async fn sandbox_by_id(
    engine: &Inner,
    id: &str,
    init: Option<Launch>,
) -> Result<(), Error> {
    if let Some(launch) = init {
        process(engine, "", &launch).await?;
        files(engine, &launch).await?;
    }
    release(engine, id).await?;
    let (paths, id) = (engine.paths.clone(), id.to_owned());
    blocking(move || {
        store::gone_is_fine(fs::remove_dir_all(paths.sandbox(&id)))?;
        store::remove_sandbox(&paths, &id)
    })
    .await
    .map_err(|error| Error::failed("removing the sandbox's files", error))
}

/// A bundle without a record: ended and removed, whatever it was.
pub(crate) async fn orphan(engine: &Inner, id: &str) -> Result<(), Error> {
    for handler in engine.config.runtimes.keys() {
        let launch = engine.launch(handler, id)?;
        if launch.runtime_root.join(id).exists() || handler == &engine.config.default_runtime {
            process(engine, "", &launch).await?;
        }
    }
    files(engine, &engine.launch("", id)?).await
}

/// Every pod, the network, and both folders.
pub(crate) async fn everything(engine: &Engine) -> Result<(), Error> {
    let mut first = Ok(());
    for sandbox in engine.sandboxes() {
        first = first.and(engine.remove_sandbox(&sandbox.id).await);
    }
    first = first.and(engine.inner.network.reset().await.map_err(Error::from));
    first?;
    let inner = Arc::clone(&engine.inner);
    blocking(move || folders(&inner))
        .await
        .map_err(|error| Error::failed("removing folders", error))
}

fn folders(engine: &Inner) -> io::Result<()> {
    let parent = engine.cgroups.group(pod::plan::DEFAULT_CGROUP_PARENT);
    if let Err(error) = parent.and_then(|group| group.remove()) {
        tracing::debug!(%error, "the engine's cgroup is in use by another daemon");
    }
    namespaces::unmount(engine.paths.state())?;
    empty(engine.paths.state())?;
    empty(engine.paths.root())
}

/// Removes a folder with all in it, unless something is mounted there after all.
fn empty(path: &Path) -> io::Result<()> {
    match nix::mount::umount2(path, MntFlags::MNT_EXPIRE) {
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        _ => return Err(io::Error::other(format!("{path:?} is still a mount point"))),
    }
    store::gone_is_fine(fs::remove_dir_all(path))
}
