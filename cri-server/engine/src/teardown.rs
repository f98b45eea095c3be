//! The one road by which things go: after a failure, at a stop, and in recovery.
//!
//! Every step accepts "already gone", so that the whole may be walked again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::MntFlags;
use pod::container::Mount;
use shim_api::{Kill, request};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::shim::{self, Launch, News, Shim};
use crate::store::{self, ContainerRecord};
use crate::{Engine, Inner, blocking, namespaces, runtimes, volumes};

/// How long the kernel may take to end what was sent SIGKILL.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Removes a container whose process and shim have gone: its root file system, bundle and record,
/// and whatever the OCI runtime has left.
pub(crate) async fn container(
    engine: &Inner,
    record: &ContainerRecord,
    launch: &Launch,
) -> Result<(), Error> {
    if is_left(engine, &record.cgroup, launch).await {
        lost(engine, &record.cgroup, launch).await?;
    }
    files(engine, launch, &record.spec.mounts).await?;
    let paths = engine.paths.clone();
    let (sandbox, id) = (record.sandbox_id.clone(), record.id.clone());
    blocking(move || store::remove_container(&paths, &sandbox, &id))
        .await
        .map_err(|error| Error::failed("removing the container's record", error))
}

/// Removes a container of which nobody knows how far it got, and its log, where nothing was written:
/// it was never handed out, and a kubelet counts logs to know how often it has tried.
pub(crate) async fn unfinished(
    engine: &Inner,
    record: &ContainerRecord,
    launch: &Launch,
    log: Option<PathBuf>,
) -> Result<(), Error> {
    process(engine, launch).await?;
    blocking(move || log.map_or(Ok(()), |log| remove_empty(&log)))
        .await
        .map_err(|error| Error::failed("removing the container's empty log", error))?;
    container(engine, record, launch).await
}

fn remove_empty(log: &Path) -> io::Result<()> {
    match fs::symlink_metadata(log) {
        Ok(found) if found.is_file() && found.len() == 0 => {
            store::gone_is_fine(fs::remove_file(log))
        }
        _ => Ok(()),
    }
}

/// Whether the OCI runtime or the kernel still knows a container.
async fn is_left(engine: &Inner, cgroup: &str, launch: &Launch) -> bool {
    let known = launch.runtime_root.join(&launch.container);
    let group = (!cgroup.is_empty()).then(|| engine.group(cgroup));
    blocking(move || known.exists() || matches!(group, Some(Ok(group)) if group.exists())).await
}

/// The volumes, the root file system and the bundle of a container.
async fn files(engine: &Inner, launch: &Launch, mounts: &[Mount]) -> Result<(), Error> {
    volumes::unmount(engine, launch, mounts).await?;
    let rootfs = launch.bundle.join("rootfs");
    let unmounted = engine.images.unmount_rootfs(&launch.container, &rootfs);
    step!("unmount", unmounted).await?;
    let bundle = launch.bundle.clone();
    let checkpoint = engine.paths.checkpoint(&launch.container);
    blocking(move || {
        store::gone_is_fine(fs::remove_dir_all(&checkpoint))?;
        store::gone_is_fine(fs::remove_dir_all(&bundle))
    })
    .await
    .map_err(|error| Error::failed("removing the container's bundle", error))
}

/// Ends the process of a container through its shim, if there still is one, and what one that was
/// killed has left at work.
async fn process(engine: &Inner, launch: &Launch) -> Result<(), Error> {
    let (teller, news) = mpsc::unbounded_channel();
    let connected = Shim::connect(launch, teller);
    if let Ok(shim) = connected
        && !ended(&shim, news).await
    {
        force(engine, "", launch).await;
    }
    runtimes(launch).await
}

/// Ends what a shim that was killed has left of its OCI runtimes. Only then does anybody know what
/// they have made.
async fn runtimes(launch: &Launch) -> Result<(), Error> {
    let what = format!("ending the OCI runtimes of container {}", launch.container);
    let launch = launch.clone();
    blocking(move || runtimes::end(&launch, KILL_PATIENCE))
        .await
        .map_err(|error| Error::failed(what, error))
}

/// Has a shim end its container; true once the shim has gone.
async fn ended(shim: &Arc<Shim>, mut news: mpsc::UnboundedReceiver<News>) -> bool {
    let kill = request::Call::Kill(Kill {
        signal: 9,
        all: true,
    });
    let gone = async {
        if let Err(error) = shim.call(kill, &[]).await {
            tracing::debug!(%error, "ending a container");
        }
        while !matches!(news.recv().await, Some(News::Gone(_)) | None) {}
    };
    tokio::time::timeout(KILL_PATIENCE, gone).await.is_ok()
}

/// Ends a container past its shim, then the shim, which did not do it. What cannot be done here is
/// told by the container's not ending.
pub(crate) async fn force(engine: &Inner, cgroup: &str, launch: &Launch) {
    let group = (!cgroup.is_empty()).then(|| engine.group(cgroup));
    let launch = launch.clone();
    blocking(move || {
        let container = &launch.container;
        if let Some(Ok(Err(error))) = group.map(|group| group.map(|group| group.kill())) {
            tracing::warn!(container, %error, "killing by cgroup");
        }
        if let Err(error) = shim::kill(&launch) {
            tracing::warn!(container, %error, "killing a shim");
        }
    })
    .await;
}

/// Ends what a lost shim left running, and has the OCI runtime forget it.
pub(crate) async fn lost(engine: &Inner, cgroup: &str, launch: &Launch) -> Result<(), Error> {
    runtimes(launch).await?;
    if !cgroup.is_empty() {
        let group = engine.group(cgroup);
        let what = || format!("ending the processes of cgroup {cgroup}");
        let group = group.map_err(|error| Error::failed(what(), error))?;
        blocking(move || group.kill())
            .await
            .map_err(|error| Error::failed(what(), error))?;
    }
    if launch.runtime_root.join(&launch.container).exists() {
        shim::delete(launch).await?;
    }
    if cgroup.is_empty() {
        return Ok(());
    }
    let what = || format!("removing cgroup {cgroup}");
    let group = engine.group(cgroup);
    let group = group.map_err(|error| Error::failed(what(), error))?;
    blocking(move || group.remove())
        .await
        .map_err(|error| Error::failed(what(), error))
}

/// The network and the namespaces of a sandbox whose processes have ended.
pub(crate) async fn release(engine: &Inner, sandbox: &str) -> Result<(), Error> {
    step!("network_teardown", engine.network.detach(sandbox)).await?;
    let (folder, shm) = (engine.paths.namespaces(sandbox), engine.paths.shm(sandbox));
    blocking(move || namespaces::unpin(&folder).and_then(|()| namespaces::unmount(&shm)))
        .await
        .map_err(|error| Error::failed("letting the sandbox's namespaces go", error))
}

/// All of a sandbox that has no containers any more; its init by how it was launched.
pub(crate) async fn sandbox(engine: &Inner, id: &str, init: Option<Launch>) -> Result<(), Error> {
    if let Some(launch) = init {
        process(engine, &launch).await?;
        if is_left(engine, "", &launch).await {
            lost(engine, "", &launch).await?;
        }
        files(engine, &launch, &[]).await?;
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
        let launch = engine.launch(handler, Path::new(""), id);
        process(engine, &launch).await?;
        if is_left(engine, "", &launch).await {
            lost(engine, "", &launch).await?;
        }
    }
    files(engine, &engine.launch("", Path::new(""), id), &[]).await
}

/// What a file system has of its own (mke2fs(8)).
const OF_FILE_SYSTEM: &str = "lost+found";

/// Every pod, what no pod knows of, the network, and both folders.
pub(crate) async fn everything(engine: &Engine, keep_images: bool) -> Result<(), Error> {
    let inner = &engine.inner;
    let mut first = Ok(());
    for sandbox in engine.sandboxes() {
        first = first.and(engine.remove_sandbox(&sandbox.id).await);
    }
    for id in store::names(&inner.paths.bundles()).unwrap_or_default() {
        first = first.and(orphan(inner, &id).await);
    }
    first = first.and(inner.network.reset().await.map_err(Error::from));
    first?;
    let inner = Arc::clone(inner);
    blocking(move || folders(&inner, keep_images))
        .await
        .map_err(|error| Error::failed("removing folders", error))
}

fn folders(engine: &Inner, keep_images: bool) -> io::Result<()> {
    let parent = engine.group(pod::plan::DEFAULT_CGROUP_PARENT);
    if let Err(error) = parent.and_then(|group| group.remove()) {
        tracing::debug!(%error, "the engine's cgroup is in use by another daemon");
    }
    namespaces::unmount(engine.paths.state())?;
    empty(engine.paths.state())?;
    if keep_images {
        return empty_but(engine.paths.root(), &engine.config.image.root);
    }
    empty_root(engine.paths.root())
}

/// Removes what is in a folder, all but one thing.
fn empty_but(folder: &Path, kept: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path == kept {
            continue;
        }
        let gone = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        store::gone_is_fine(gone)?;
    }
    Ok(())
}

/// Removes a folder with all in it, unless something is mounted there after all.
fn empty(path: &Path) -> io::Result<()> {
    if is_mounted(path) {
        return Err(io::Error::other(format!("{path:?} is still a mount point")));
    }
    store::gone_is_fine(fs::remove_dir_all(path))
}

/// The same for a folder that may be a file system of its own: the operator has mounted it, so it stays,
/// without what was in it.
fn empty_root(path: &Path) -> io::Result<()> {
    if !is_mounted(path) {
        return store::gone_is_fine(fs::remove_dir_all(path));
    }
    tracing::info!(folder = %path.display(), "a mount point: it is emptied, and stays");
    empty_but(path, &path.join(OF_FILE_SYSTEM))
}

/// Whether something is mounted there. What is in use is not unmounted by asking so, and what is not
/// would be by the second question only (umount2(2), `MNT_EXPIRE`).
fn is_mounted(path: &Path) -> bool {
    let asked = nix::mount::umount2(path, MntFlags::MNT_EXPIRE);
    !matches!(asked, Err(nix::Error::EINVAL | nix::Error::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_a_mount_point_is_emptied_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        empty_root(&root).unwrap();
        assert!(!root.exists());
        fs::create_dir(&root).unwrap();
        let flags = nix::mount::MsFlags::empty();
        if nix::mount::mount(Some("none"), &root, Some("tmpfs"), flags, None::<&str>).is_err() {
            return println!("skipped: needs root");
        }
        let filled = fs::create_dir_all(root.join("a/b"));
        let filled = filled.and_then(|()| fs::create_dir(root.join(OF_FILE_SYSTEM)));
        let in_use = fs::File::create(root.join("lock"));
        let emptied = empty_root(&root);
        let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
        let left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        drop(in_use);
        nix::mount::umount2(&root, MntFlags::MNT_DETACH).unwrap();
        filled.unwrap();
        emptied.unwrap();
        assert_eq!(left, [OF_FILE_SYSTEM]);
    }
}
