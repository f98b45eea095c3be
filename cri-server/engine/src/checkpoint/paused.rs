//! Containers that stand still together.
//!
//! A file beside the sandbox says so for as long as they do, and where their checkpoint is written:
//! whoever comes after a daemon that was killed lets them go on, and removes that.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroup::Group;
use shim_api::{State, reply, request};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::PATIENCE;
use crate::error::Error;
use crate::making;
use crate::shim::Launch;
use crate::store::{self, Found};
use crate::view::Container;
use crate::{Inner, blocking};

/// Between two questions whether a shim still writes a checkpoint.
const PAUSE: Duration = Duration::from_millis(200);

/// Containers that stand still.
#[derive(Debug)]
pub(super) struct Paused {
    groups: Vec<Group>,
    marker: PathBuf,
}

impl Paused {
    /// Stops containers of a sandbox, all or none, for a checkpoint in a folder of that name.
    pub(super) async fn pause(
        engine: &Inner,
        sandbox: &str,
        containers: &[Arc<Container>],
        folder: String,
    ) -> Result<Self, Error> {
        let groups = containers.iter().map(|container| {
            let group = engine.cgroups.group(&container.cgroup);
            group.map_err(|error| Error::failed("locating a container's cgroup", error))
        });
        let paused = Self {
            groups: groups.collect::<Result<_, _>>()?,
            marker: engine.paths.paused(sandbox),
        };
        let what = "pausing containers for a checkpoint";
        blocking(move || {
            fs::write(&paused.marker, folder).map_err(|error| Error::failed(what, error))?;
            let stopped = paused.groups.iter().try_for_each(Group::freeze);
            match stopped {
                Ok(()) => Ok(paused),
                Err(error) => {
                    if let Err(left) = paused.thaw() {
                        tracing::error!(error = %left, "containers may stay paused");
                    }
                    Err(Error::failed(what, error))
                }
            }
        })
        .await
    }

    /// Lets all of them go on.
    pub(super) async fn go_on(self) -> Result<(), Error> {
        blocking(move || self.thaw()).await
    }

    /// Blocks.
    fn thaw(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for group in self.groups.iter().filter(|group| group.exists()) {
            first = first.and(group.thaw());
        }
        first.map_err(|error| Error::failed("letting paused containers go on", error))?;
        store::gone_is_fine(fs::remove_file(&self.marker))
            .map_err(|error| Error::failed("removing the mark of paused containers", error))
    }
}

/// Lets containers go on that stand still since a daemon was killed, once their shims do not write
/// their checkpoints any more: who writes one leaves a container as it was found.
pub(crate) async fn resume(engine: &Arc<Inner>, found: &Found) {
    let marker = engine.paths.paused(&found.sandbox.id);
    if !marker.exists() {
        return;
    }
    let alive = found
        .containers
        .iter()
        .filter(|record| record.exit.is_none());
    let alive = alive.map(|record| {
        let launch = engine.launch_in(&found.sandbox, &record.id);
        (launch, engine.cgroups.group(&record.cgroup))
    });
    let (mut launches, mut groups) = (Vec::new(), Vec::new());
    for (launch, group) in alive {
        match group {
            Ok(group) => groups.push(group),
            Err(error) => tracing::error!(%error, "locating a paused container's cgroup"),
        }
        launches.push(launch);
    }
    let folder = unfinished(engine, &marker);
    let paused = Paused { groups, marker };
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the checkpoints under way, or after its patience"
    )]
    drop(tokio::spawn(async move {
        let until = Instant::now() + PATIENCE;
        for launch in &launches {
            wait_for_checkpoint(launch, until).await;
        }
        if let Some(folder) = folder {
            let removed = blocking(move || store::gone_is_fine(fs::remove_dir_all(folder))).await;
            if let Err(error) = removed {
                tracing::warn!(%error, "removing a checkpoint that was not finished");
            }
        }
        if let Err(error) = paused.go_on().await {
            tracing::error!(%error, "containers stay paused");
        }
    }));
}

/// The folder of the checkpoint for which containers stand still. An OCI runtime that still writes it
/// makes it again when it was removed.
fn unfinished(engine: &Inner, marker: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(marker).ok()?;
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| engine.paths.checkpoint(&name))
}

/// Waits until a shim writes no checkpoint.
async fn wait_for_checkpoint(launch: &Launch, until: Instant) {
    // Its news are the pod task's to hear, by a connection of its own.
    let (teller, _news) = mpsc::unbounded_channel();
    let Ok(Some(shim)) = making::reconnect(launch, &teller) else {
        return;
    };
    while Instant::now() < until {
        match shim.call(request::Call::State(State {}), &[]).await {
            Ok((reply::Result::State(state), _)) if state.writes_checkpoint => {
                tokio::time::sleep(PAUSE).await;
            }
            _ => return,
        }
    }
}
