//! The control group of the workers: others on the node go first.
//!
//! It is there as long as a worker is, so an idle daemon has none. Where it cannot be made, workers
//! run where the daemon does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::{LinuxCpuBuilder, LinuxResources};

/// Share of the processors beside the 1024 that everybody else has.
const CPU_SHARES: u64 = 256;
/// What the group is called, with the daemon's process id behind it.
const NAME: &str = "wherry-unpack";
/// The v1 controllers that the group is made of. Each more would cost another wait of the kernel.
const CONTROLLERS: [&str; 2] = ["cpu", "blkio"];

/// The group.
#[derive(Debug, Default)]
pub(super) struct Group {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many workers are in it.
    workers: usize,
    /// There while there are any, unless it cannot be made.
    group: Option<cgroup::Group>,
    told: bool,
}

/// A worker's place in it; the last to leave takes the group away.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Group);

impl Group {
    /// Moves a worker in.
    pub(super) fn place(&self, process: i32) -> Place<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.workers += 1;
        let entered = state.enter(process);
        if let Err(error) = entered
            && !std::mem::replace(&mut state.told, true)
        {
            tracing::warn!(%error, "layers are unpacked in the daemon's own control group");
        }
        Place(self)
    }
}

impl State {
    fn enter(&mut self, process: i32) -> Result<(), cgroup::Error> {
        if self.group.is_none() {
            self.group = make()?;
        }
        match &self.group {
            Some(group) => group.enter(process),
            None => Ok(()),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.workers -= 1;
        if state.workers > 0 {
            return;
        }
        if let Some(group) = state.group.take()
            && let Err(error) = group.remove()
        {
            tracing::warn!(%error, "the control group of the processes that unpack stays");
        }
    }
}

fn make() -> Result<Option<cgroup::Group>, cgroup::Error> {
    let host = cgroup::Host::detect()?;
    let name = format!("{NAME}-{}", std::process::id());
    let Some(group) = host.group_if_permitted(&name)? else {
        return Err(cgroup::Error::NoHierarchy);
    };
    let group = if host.is_v2() {
        group
    } else {
        let wanted = |name: &String| CONTROLLERS.contains(&name.as_str());
        let paths: BTreeMap<_, _> = group.paths();
        cgroup::Group::open(paths.into_iter().filter(|(name, _)| wanted(name)).collect())?
    };
    sweep(&group);
    group.create()?;
    let cpu = LinuxCpuBuilder::default().shares(CPU_SHARES).build();
    let mut resources = LinuxResources::default();
    resources.set_cpu(cpu.ok());
    if let Err(error) = group.update(&resources) {
        // On v2 beside or below a group that hands no controllers down: a group without a weight.
        tracing::debug!(%error, "processes that unpack have the usual share of the processors");
    }
    Ok(Some(group))
}

/// Removes the groups of daemons that were killed while they had one. Only empty ones can be.
fn sweep(group: &cgroup::Group) {
    let parents = group.paths().into_values();
    for parent in parents.filter_map(|path| path.parent().map(Path::to_path_buf)) {
        let Ok(entries) = std::fs::read_dir(&parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(NAME)?.strip_prefix('-'));
            let dead = number.is_some_and(|number| {
                number.parse::<u32>().is_ok() && !Path::new("/proc").join(number).exists()
            });
            if dead {
                // Whoever else sweeps may have been faster.
                drop(std::fs::remove_dir(entry.path()));
            }
        }
    }
}
