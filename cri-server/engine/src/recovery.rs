//! Opening an engine: its folders are taken, and what an earlier run left is taken up or down.
//!
//! - Records say what was about to exist. What was not finished is undone.
//! - A container whose shim answers lives on; one with an exit record has ended; one with neither
//!   was lost, and is ended.
//! - Under another boot of the machine nothing lives: sandboxes are not ready, containers have
//!   ended with 255.
//! - Bundles, sandboxes' folders and network attachments without a record are removed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::mount::MsFlags;
use pod::lifecycle::SandboxPhase;
use pod::sandbox::{IdRange, NamespaceMode, PidMode, UserNamespace};
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::OpenError;
use crate::handlers::Features;
use crate::leaks::{Leak, Leaks};
use crate::owned::{self, OwnedContainer, Pod, Process};
use crate::pod_task::PodTask;
use crate::shim::News;
use crate::store::{self, ContainerRecord, Found, Paths};
use crate::view::View;
use crate::{
    Classes, Config, Inner, LOCK, blocking, checkpoint, facts, handlers, making, namespaces,
    teardown, volumes,
};

/// Ids of the host with which user namespaces are tried.
const PROBED: std::ops::Range<u32> = 1_000_000..1_065_536;

pub(crate) async fn open(config: Config) -> Result<Arc<Inner>, OpenError> {
    let paths = Paths::new(&config.root, &config.state);
    let locks = take_folders(&paths)?;
    let classes = Classes::read(&config.classes)?;
    let cgroups = cgroup::Host::detect()
        .map_err(|error| OpenError::Config(format!("control groups: {error}")))?;
    let facts = facts::gather(&cgroups, config.systemd_cgroup)
        .map_err(|error| OpenError::Config(format!("control groups: {error}")))?;
    let images = image::Store::open(&config.image).map_err(OpenError::Image)?;
    let network = network::Network::open(&config.network).map_err(OpenError::Network)?;
    let rebooted = rebooted(&paths, &config.boot_id)?;
    let kernel = Features {
        recursive_read_only: facts.recursive_read_only,
        user_namespaces: user_namespaces(&config, &images).await,
    };
    let inner = Arc::new(Inner {
        plugins: nri::Nri::new(config.plugins.clone()),
        features: handlers::gather(&config, kernel).await,
        facts: pod::NodeFacts {
            pod_process: config.pod_process,
            ..facts
        },
        limits: Mutex::new(config.limits),
        classes: Mutex::new(Arc::new(classes)),
        config,
        paths,
        cgroups,
        images,
        network,
        view: View::default(),
        pods: Mutex::default(),
        shims: Mutex::default(),
        rates: crate::stats::Rates::default(),
        checkpoints: checkpoint::Places::default(),
        lookups: Arc::new(Semaphore::new(making::MAX_LOOKUPS)),
        leaks: Leaks::default(),
        _locks: locks,
    });
    recover(&inner, rebooted).await?;
    remember_boot(&inner)?;
    Ok(inner)
}

/// Whether a pod could have a user namespace and its images in it: tried, not guessed.
async fn user_namespaces(config: &Config, images: &Arc<image::Store>) -> bool {
    let program = config.shim.clone();
    let range = IdRange {
        host: PROBED.start,
        length: PROBED.end - PROBED.start,
    };
    let user = UserNamespace {
        uids: range,
        gids: range,
    };
    let holder = blocking(move || namespaces::Holder::start(&program, &[], user)).await;
    let possible = match holder {
        Ok(holder) => {
            let ids = image::IdMap {
                namespace: holder.user_namespace().into(),
                uids: PROBED,
                gids: PROBED,
            };
            let possible = images.can_map_ids(ids).await;
            blocking(move || drop(holder)).await;
            possible.map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(reason) = &possible {
        tracing::info!(reason, "pods cannot have user namespaces");
    }
    possible.is_ok()
}

fn attempt<T>(what: impl Into<String>, result: io::Result<T>) -> Result<T, OpenError> {
    result.map_err(|cause| OpenError::Io {
        what: what.into(),
        cause,
    })
}

/// Makes the folders and locks them; the state folder becomes a mount of its own, so that what is
/// mounted in it travels to no other mount namespace.
fn take_folders(paths: &Paths) -> Result<[OwnedFd; 2], OpenError> {
    // Below the state folder the root of a pod's user namespace may have to pass.
    for (folder, mode) in [(paths.root(), 0o700), (paths.state(), 0o711)] {
        attempt(
            format!("making {folder:?}"),
            making::make_folder(folder, mode),
        )?;
    }
    let [root, state] = paths.locks();
    let root = take(&root, paths.root())?;
    attempt(
        format!("mounting {:?}", paths.state()),
        make_private(paths.state()),
    )?;
    let state = take(&state, paths.state())?;
    for (folder, mode) in [
        (paths.records(), 0o700),
        (paths.sandboxes(), 0o711),
        (paths.bundles(), 0o711),
        (paths.runtimes(), 0o700),
    ] {
        // One that was there before gets the mode too.
        let made = making::make_folder(&folder, mode)
            .and_then(|()| std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)));
        attempt(format!("making {folder:?}"), made)?;
    }
    Ok([root, state])
}

fn take(path: &Path, folder: &Path) -> Result<OwnedFd, OpenError> {
    let locked = attempt(format!("locking {path:?}"), lock(path))?;
    locked.ok_or_else(|| OpenError::InUse(folder.into()))
}

/// Locks a file; `None` if somebody else has it.
fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    let none = None::<&str>;
    if !is_mount_point(folder)? {
        nix::mount::mount(Some(folder), folder, none, MsFlags::MS_BIND, none)?;
    }
    nix::mount::mount(none, folder, none, MsFlags::MS_PRIVATE, none)?;
    Ok(())
}

fn is_mount_point(folder: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let stat = statx(CWD, folder, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether the records were written under another boot. No note of it: nothing was written.
fn rebooted(paths: &Paths, boot_id: &str) -> Result<bool, OpenError> {
    match fs::read_to_string(paths.boot_id()) {
        Ok(known) => Ok(known.trim() != boot_id.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(OpenError::Io {
            what: "reading the boot's id".into(),
            cause,
        }),
    }
}

/// Noted once all of the other boot has been dealt with: a crash before that deals with it again.
fn remember_boot(inner: &Inner) -> Result<(), OpenError> {
    let written = store::replace_bytes(&inner.paths.boot_id(), inner.config.boot_id.as_bytes());
    attempt("writing the boot's id", written)
}

async fn recover(inner: &Arc<Inner>, rebooted: bool) -> Result<(), OpenError> {
    let paths = inner.paths.clone();
    let inventory = blocking(move || store::load(&paths)).await;
    let mut inventory = attempt("reading the records", inventory)?;
    for (id, reason) in &inventory.damaged {
        tracing::warn!(
            sandbox = id,
            reason,
            "a sandbox's record cannot be read; it is removed"
        );
        inner.leaks.found(Leak::Record);
    }
    if rebooted {
        inventory.found.iter_mut().for_each(forget_boot);
    }
    let (live, containers) = survivors(&inventory.found);
    drop_checkpoints(inner, &inventory.found).await;
    remove_orphans(inner, &inventory).await;
    inner.network.reconcile(&live, rebooted).await;
    let mut tasks = JoinSet::new();
    for found in inventory.found {
        let inner = Arc::clone(inner);
        tasks.spawn(async move { recover_pod(&inner, found).await });
    }
    while tasks.join_next().await.is_some() {}
    // Only now: what was never finished had its files until it was ended.
    inner.images.retain(&containers).await;
    Ok(())
}

/// What is left of a pod of another boot.
fn forget_boot(found: &mut Found) {
    if found.sandbox.phase == SandboxPhase::Ready {
        found.sandbox.phase = SandboxPhase::NotReady;
        found.sandbox.ips.clear();
    }
    for container in found
        .containers
        .iter_mut()
        .filter(|container| container.exit.is_none())
    {
        container.exit = Some(owned::unknown("the machine was restarted"));
    }
}

/// Ids of the sandboxes that keep their network, and names of the containers and volumes that keep
/// their files.
fn survivors(found: &[Found]) -> (HashSet<String>, HashSet<String>) {
    let ready = |found: &&Found| {
        found.sandbox.phase == SandboxPhase::Ready
            && found.sandbox.spec.namespaces.network == NamespaceMode::Pod
    };
    let sandboxes = found
        .iter()
        .filter(ready)
        .map(|found| found.sandbox.id.clone())
        .collect();
    let made = found
        .iter()
        .flat_map(|found| &found.containers)
        .filter(|record| record.made);
    let files = made.flat_map(|record| {
        let volumes = volumes::names(&record.id, &record.spec.mounts);
        volumes.into_iter().chain([record.id.clone()])
    });
    (sandboxes, files.collect())
}

/// Removes checkpoints that were being taken, and those that nobody waits for.
async fn drop_checkpoints(inner: &Inner, found: &[Found]) {
    let records = found.iter().flat_map(|found| &found.containers);
    let awaited = records.filter(|record| record.made && record.awaits_restore());
    let awaited: HashSet<&str> = awaited.map(|record| record.id.as_str()).collect();
    let folder = inner.paths.checkpoints();
    for name in strangers(&folder, &awaited) {
        let path = folder.join(name);
        inner.leaks.found(Leak::Checkpoint);
        let removed = blocking(move || fs::remove_dir_all(path)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "removing a checkpoint that was not finished");
        }
    }
}

async fn remove_orphans(inner: &Arc<Inner>, inventory: &store::Inventory) {
    let mut known: HashSet<&str> = HashSet::new();
    for found in &inventory.found {
        known.insert(&found.sandbox.id);
        known.extend(
            found
                .containers
                .iter()
                .map(|container| container.id.as_str()),
        );
    }
    let mut tasks = JoinSet::new();
    for id in strangers(&inner.paths.bundles(), &known) {
        inner.leaks.found(Leak::Bundle);
        let inner = Arc::clone(inner);
        tasks.spawn(async move {
            if let Err(error) = teardown::orphan(&inner, &id).await {
                tracing::error!(container = id, %error, "removing what has no record");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let damaged = inventory.damaged.iter().map(|(id, _)| id.clone());
    let strays = strangers(&inner.paths.sandboxes(), &known);
    strays.iter().for_each(|_| inner.leaks.found(Leak::Sandbox));
    for id in strays.into_iter().chain(damaged) {
        if let Err(error) = teardown::sandbox(inner, &id, None).await {
            tracing::error!(sandbox = id, %error, "removing what has no record");
        }
    }
}

/// Names in a folder that no record knows.
fn strangers(folder: &Path, known: &HashSet<&str>) -> Vec<String> {
    let names = store::names(folder).unwrap_or_default();
    names
        .into_iter()
        .filter(|name| !known.contains(name.as_str()))
        .collect()
}

/// Takes a pod up; what was never finished of it is undone.
async fn recover_pod(inner: &Arc<Inner>, found: Found) {
    checkpoint::resume(inner, &found).await;
    let (mut task, handle) = PodTask::new(inner, found.sandbox);
    for record in found.containers {
        recover_container(&mut task.pod, record).await;
    }
    recover_init(&mut task.pod);
    let unfinished = task.pod.record.phase == SandboxPhase::Reserved;
    if unfinished {
        inner.leaks.found(Leak::Unfinished);
    }
    if unfinished && undone(&mut task).await {
        return;
    }
    inner.pods.lock().expect(LOCK).insert(&handle);
    if task.pod.record.phase == SandboxPhase::Ready && !namespaces_live(&task.pod) {
        tracing::warn!(
            sandbox = task.pod.record.id,
            "the sandbox's namespaces are gone; it is not ready"
        );
        task.pod.record.phase = SandboxPhase::NotReady;
        task.pod.record.ips.clear();
    }
    task.keep_or_log().await;
    for container in task.pod.containers.keys() {
        task.pod.publish_container(container);
    }
    #[expect(clippy::disallowed_methods, reason = "the one task that owns this pod")]
    drop(tokio::spawn(async move {
        if unfinished {
            task.run_unready().await;
        } else {
            task.run().await;
        }
    }));
}

async fn undone(task: &mut PodTask) -> bool {
    let result = task.undo().await;
    if let Err(error) = &result {
        tracing::error!(sandbox = task.pod.record.id, %error, "undoing a sandbox");
    }
    result.is_ok()
}

fn namespaces_live(pod: &Pod) -> bool {
    let folder = pod.engine.paths.namespaces(&pod.record.id);
    let wanted = pod.record.spec.namespaces;
    let pinned = |name: &str| namespaces::is_pinned(&folder.join(name));
    (wanted.network == NamespaceMode::Node || pinned("net"))
        && (wanted.ipc == NamespaceMode::Node || pinned("ipc"))
        && (wanted.pid != PidMode::Pod || pinned("pid"))
        && (wanted.user.is_none() || pinned("user"))
}

fn recover_init(pod: &mut Pod) {
    let shared = pod.record.spec.namespaces.pid == PidMode::Pod;
    if !shared && !pod.record.has_init {
        return;
    }
    let launch = pod.engine.launch_in(&pod.record, &pod.record.id);
    let shim = making::reconnect(&launch, &pod.teller).ok().flatten();
    if shared && shim.is_none() && pod.record.phase == SandboxPhase::Ready {
        pod.record.phase = SandboxPhase::NotReady;
        pod.record.ips.clear();
    }
    let pid = shim.as_ref().and_then(|_| pid_file(&launch.bundle));
    pod.init = Some(Process { launch, shim, pid });
}

fn pid_file(bundle: &Path) -> Option<i32> {
    let text = fs::read_to_string(bundle.join(shim_api::PID_FILE)).ok()?;
    text.trim().parse().ok()
}

/// Takes a container up. One that was never handed out is undone, or kept for its client to remove
/// if it would not go.
async fn recover_container(pod: &mut Pod, record: ContainerRecord) {
    let id = record.id.clone();
    let launch = pod.engine.launch_in(&pod.record, &id);
    let mut container = OwnedContainer {
        end_told: record.exit.is_some(),
        record,
        process: Process::new(launch),
        stopping: None,
    };
    let OwnedContainer {
        record, process, ..
    } = &mut container;
    if !record.made {
        pod.engine.leaks.found(Leak::Unfinished);
        let log = record.spec.log_file(pod.record.spec.log_directory());
        let undone = teardown::unfinished(&pod.engine, record, &process.launch, log).await;
        let Err(error) = undone else { return };
        tracing::error!(container = id, %error, "undoing a container");
        container.settle_unknown("it was never finished, and cannot be undone");
    } else if let Ok(Some(shim)) = making::reconnect(&process.launch, &pod.teller) {
        // Also where an exit is known: a shim that is still there has something left to do.
        process.shim = Some(shim);
        making::ask_state(&pod.engine, record, process).await;
    } else if record.exit.is_none() {
        // Its task finds out: an exit record, a shim after all, or neither.
        drop(pod.teller.send(News::Gone(id.clone())));
    }
    pod.containers.insert(id, container);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }
}
