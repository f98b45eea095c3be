//! Carries out how a process is scheduled, what it takes itself for, where its memory comes from.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sys::schedule::{set_io_priority, set_memory_policy, set_personality, set_scheduler};

use crate::failure::{Attempt, Failure, Result};
use crate::plan::{Nature, ProcessPlan};

/// `SCHED_DEADLINE`.
const DEADLINE: u32 = 6;

/// In runc's order.
pub(super) fn apply(plan: &ProcessPlan<'_>, nature: &Nature) -> Result<()> {
    if let Some(scheduler) = plan.scheduler {
        let set = set_scheduler(scheduler);
        let refused = set
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        set.attempt(|| {
            // sched(7): a deadline needs all CPUs. runc's words.
            let hint = match (refused, scheduler.policy) {
                (true, DEADLINE) => " (process scheduler can't be used together with AllowedCPUs)",
                _ => "",
            };
            format!("set the scheduler{hint}")
        })?;
    }
    if let Some(priority) = plan.io_priority {
        set_io_priority(priority).attempt(|| "set ioPriority".to_owned())?;
    }
    if let Some(persona) = nature.personality {
        set_personality(persona).attempt(|| "set the personality".to_owned())?;
    }
    if let Some(policy) = &nature.memory {
        set_memory_policy(policy.mode, &policy.nodes)
            .attempt(|| "set the memory policy".to_owned())?;
    }
    Ok(())
}

/// Keeps this process on some CPUs.
pub(crate) fn pin(cpus: Option<&[usize]>) -> Result<()> {
    let Some(cpus) = cpus else { return Ok(()) };
    let what = || format!("set the CPU affinity {cpus:?}");
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).map_err(|_too_high| Failure::new(what()))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).attempt(what)
}

/// Lets this process run wherever its control group does: an affinity that it has from its maker is
/// that one's own affair, as with runc.
pub(super) fn unpin() {
    let mut set = CpuSet::new();
    (0..CpuSet::count()).for_each(|cpu| {
        // All numbers below the count fit.
        let _fits = set.set(cpu);
    });
    // The kernel leaves out what the cpuset has not; in a sandbox that forbids the call nothing is
    // lost but CPUs.
    let _set = sched_setaffinity(Pid::from_raw(0), &set);
}
