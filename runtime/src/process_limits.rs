//! What a parent sets for a child by its number: resource limits and the badness for the OOM killer.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::failure::{Attempt, Failure, Result};
use crate::log::Log;
use crate::plan::{Limit, ProcessPlan};

/// Sets limits and badness of process `pid`. What this process may not give is clamped to what it
/// may, with a warning: a node's engine may itself run in a container. Who does not administer the
/// process leaves its badness to itself ([`set_own_badness`]).
pub(crate) fn apply(log: &Log, pid: i32, plan: &ProcessPlan<'_>, administers: bool) -> Result<()> {
    let number = Pid::from_raw(pid).ok_or_else(|| Failure::new("no such process"))?;
    for limit in &plan.limits {
        set_limit(log, number, limit)?;
    }
    if let Some(wanted) = plan.oom_score_adj.filter(|_| administers)
        && let Some(warning) = set_badness(&pid.to_string(), wanted)?
    {
        log.warning(&warning);
    }
    Ok(())
}

/// Sets the badness of this process, which an ordinary user may only raise; gives what is to be told
/// if it could not.
pub(crate) fn set_own_badness(plan: &ProcessPlan<'_>) -> Result<Option<String>> {
    plan.oom_score_adj
        .map_or(Ok(None), |wanted| set_badness("self", wanted))
}

/// Descriptors that are open besides those for mounts and devices.
const OTHER_DESCRIPTORS: u64 = 100;

/// Raises this process's own soft limit of descriptors if `wanted` more need it. Gives the limit that
/// was, for the container: its first process inherits this one's.
pub(crate) fn make_room(wanted: usize) -> Result<Option<Rlimit>> {
    let before = getrlimit(Resource::Nofile);
    let needed = OTHER_DESCRIPTORS.saturating_add(u64::try_from(wanted).unwrap_or(u64::MAX));
    if before.current.is_none_or(|soft| soft >= needed) {
        return Ok(None);
    }
    let raised = Rlimit {
        current: least(Some(needed), before.maximum),
        maximum: before.maximum,
    };
    prlimit(None, Resource::Nofile, raised)
        .attempt(|| format!("raise the limit of descriptors to {needed}"))?;
    Ok(Some(before))
}

/// Gives process `pid` the limit of descriptors that was before [`make_room`], unless it gets one of
/// its own.
pub(crate) fn undo_room(pid: i32, before: Option<Rlimit>, plan: &ProcessPlan<'_>) -> Result<()> {
    let own = plan.limits.iter();
    let mut own = own.filter(|limit| limit.resource == Resource::Nofile);
    let (Some(before), None, Some(pid)) = (before, own.next(), Pid::from_raw(pid)) else {
        return Ok(());
    };
    prlimit(Some(pid), Resource::Nofile, before)
        .attempt(|| "set the limit of descriptors back".to_owned())
        .map(|_raised| ())
}

fn set_limit(log: &Log, pid: Pid, limit: &Limit) -> Result<()> {
    let what = || format!("set rlimit {:?}", limit.resource);
    let wanted = Rlimit {
        current: limit.soft,
        maximum: limit.hard,
    };
    match prlimit(Some(pid), limit.resource, wanted) {
        Err(rustix::io::Errno::PERM) => {
            let clamped = clamp(limit, getrlimit(limit.resource).maximum);
            log.warning(&format!(
                "rlimit {:?}: not permitted to raise the hard limit to {}, keeping {}",
                limit.resource,
                shown(limit.hard),
                shown(clamped.maximum)
            ));
            prlimit(Some(pid), limit.resource, clamped)
                .attempt(what)
                .map(|_before| ())
        }
        result => result.attempt(what).map(|_before| ()),
    }
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |limit| limit.to_string())
}

/// `None` is more than every number.
fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn clamp(limit: &Limit, own: Option<u64>) -> Rlimit {
    let maximum = least(limit.hard, own);
    Rlimit {
        current: least(limit.soft, maximum),
        maximum,
    }
}

fn set_badness(process: &str, wanted: i32) -> Result<Option<String>> {
    let path = format!("/proc/{process}/oom_score_adj");
    match std::fs::write(&path, wanted.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let own = std::fs::read_to_string(&path).unwrap_or_default();
            Ok(Some(format!(
                "oomScoreAdj: not permitted to lower it to {wanted}, keeping {}",
                own.trim()
            )))
        }
        result => result
            .attempt(|| format!("set oomScoreAdj to {wanted}"))
            .map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(soft: Option<u64>, hard: Option<u64>, own: Option<u64>, expect: (u64, u64)) {
        let got = clamp(
            &Limit {
                resource: Resource::Nofile,
                soft,
                hard,
            },
            own,
        );
        assert_eq!((got.current, got.maximum), (Some(expect.0), Some(expect.1)));
    }

    #[test]
    fn limits_are_clamped_to_the_own_hard_limit() {
        check(Some(10), Some(100), Some(50), (10, 50));
        check(Some(80), Some(100), Some(50), (50, 50));
        check(None, None, Some(50), (50, 50));
        check(Some(10), None, Some(50), (10, 50));
    }
}
