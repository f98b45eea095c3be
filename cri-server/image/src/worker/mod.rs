//! Layers are unpacked by processes that may do nothing else.
//!
//! What inflates and reads what strangers have packed is the part of the daemon that they can best
//! attack, so each layer gets a process of its own: this program again, with another command. It
//! gives up all that unpacking does not need before it reads the first byte; see `confine`.
//!
//! ```text
//! daemon                                                   worker
//! source -> sha256, length -> pipe ----------------------> inflate | sha256 -> tar -> staging
//!                             socket -- request, fds ----> confined
//!                                   <-- used, contents --
//! ```
//!
//! What was sent is compared by the daemon itself; the digest of the tar is the worker's to compare.
//! A worker that crashes, is killed or hangs costs the one layer: what it left in staging goes to
//! the trash as after any other error.

mod confine;
mod feed;
mod group;
mod inside;
mod wire;

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Error;
use crate::error::During;
use crate::layer::{Contents, Meter, Promise, build};
use crate::store::layers::Staging;
use feed::Process;
use group::Group;
pub use inside::unpack_worker;
#[cfg(test)]
pub(crate) use inside::work;

/// How long a worker may neither take bytes nor say anything. A disk can be slow; beyond this it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program that unpacks: one that calls [`unpack_worker`] when it is started so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The program.
    pub program: PathBuf,
    /// What it is started with.
    pub arguments: Vec<OsString>,
    /// How long it may neither take bytes nor say anything until it is killed.
    pub patience: Duration,
}

impl Worker {
    /// This very program, even if its file has been replaced, with these arguments.
    #[must_use]
    pub fn this_program(arguments: &[&str]) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            patience: PATIENCE,
        }
    }
}

/// Those who unpack for a store.
#[derive(Debug)]
pub(crate) struct Workers {
    /// None: it is done by threads of this process.
    worker: Option<Worker>,
    group: Group,
    /// Whether it was said what the workers' confinement lacks.
    told: AtomicBool,
}

impl Workers {
    pub(crate) fn new(worker: Option<Worker>) -> Arc<Self> {
        Arc::new(Self {
            worker,
            group: Group::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Unpacks a layer, and answers with what it holds if it is what was promised. Blocks.
    pub(crate) fn build(
        &self,
        source: impl Read,
        promise: &Promise,
        staging: &Staging,
    ) -> Result<Contents, Error> {
        let (target, notes) = (staging.target()?, staging.notes()?);
        let Some(worker) = &self.worker else {
            return build(source, promise, target, notes);
        };
        let folder = staging.folder()?;
        let starting = || {
            format!(
                "starting the process that unpacks layer {}",
                promise.diff_id
            )
        };
        let process =
            Process::start(worker, promise, (&folder, &target), &notes).during(starting)?;
        // It waits for its first byte meanwhile.
        let place = self.group.place(process.id());
        let (built, lacks) = process.build(Meter::new(source, promise), promise);
        // The process has ended.
        drop(place);
        if let Some(lacks) = lacks {
            self.tell(&lacks);
        }
        built
    }

    /// Says once what this kernel does not have.
    fn tell(&self, lacks: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%lacks, "processes that unpack layers are confined without it");
        }
    }
}
