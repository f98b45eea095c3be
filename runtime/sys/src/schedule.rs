//! How a process is scheduled, what it takes itself for, and where its memory comes from.

use std::io;

use crate::outcome;

/// The first version of `struct sched_attr`, without its size.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scheduler {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, nanoseconds; so are the next two. With `SCHED_OTHER` the time slice, which
    /// Linux takes since 6.12: who wakes up with a shorter one goes before who runs.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
}

/// `struct sched_attr`, its first version.
#[repr(C)]
struct Raw {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `int sched_setattr(0, struct sched_attr *, 0)`: of the calling thread.
///
/// # Errors
///
/// `EINVAL`: a policy or parameters that make no sense. `EPERM`: not allowed, or a deadline beside a
/// set of CPUs. `EBUSY`: no bandwidth left.
pub fn set_scheduler(scheduler: Scheduler) -> io::Result<()> {
    let mut raw = Raw {
        size: u32::try_from(size_of::<Raw>()).map_err(io::Error::other)?,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    };
    // SAFETY: raw lives through the call and says its own size.
    outcome(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut raw, 0) })?;
    Ok(())
}

/// `int ioprio_set(IOPRIO_WHO_PROCESS, 0, int ioprio)`: of the calling thread.
///
/// # Errors
///
/// `EINVAL`, `EPERM`.
pub fn set_io_priority(value: u32) -> io::Result<()> {
    const PROCESS: i32 = 1;
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, value) })?;
    Ok(())
}

/// `int personality(unsigned long persona)`.
///
/// # Errors
///
/// `EINVAL`.
pub fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    outcome(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) })?;
    Ok(())
}

/// `long set_mempolicy(int mode, const unsigned long *nodemask, unsigned long maxnode)`, with the
/// numbers of nodes in `nodes`, one bit each.
///
/// # Errors
///
/// `EINVAL`: a mode, a flag or a node that does not exist. `ENOSYS`: without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    let pointer = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // The kernel takes one bit less than it is told of.
    let bits = if nodes.is_empty() {
        0
    } else {
        64 * nodes.len() + 1
    };
    // SAFETY: nodes lives through the call and has as many bits as the kernel reads.
    outcome(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_of_its_first_version() {
        assert_eq!(size_of::<Raw>(), 48);
    }
}
