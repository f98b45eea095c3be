//! What a parent sets for a child by its number: resource limits and the badness for the OOM killer.

use rustix::process::{Pid, Rlimit, getrlimit, prlimit};

use crate::failure::{Attempt, Failure, Result};
use crate::log::Log;
use crate::plan::{Limit, ProcessPlan};

/// Sets limits and badness of process `pid`. What this process may not give is clamped to what it
/// may, with a warning: a node's engine may itself run in a container.
pub(crate) fn apply(log: &Log, pid: i32, plan: &ProcessPlan<'_>) -> Result<()> {
    let number = Pid::from_raw(pid).ok_or_else(|| Failure::new("no such process"))?;
    for limit in &plan.limits {
        set_limit(log, number, limit)?;
    }
    match plan.oom_score_adj {
        Some(wanted) => set_badness(log, pid, wanted),
        None => Ok(()),
    }
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

fn set_badness(log: &Log, pid: i32, wanted: i32) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, wanted.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let own = std::fs::read_to_string(&path).unwrap_or_default();
            log.warning(&format!(
                "oomScoreAdj: not permitted to lower it to {wanted}, keeping {}",
                own.trim()
            ));
            Ok(())
        }
        result => result.attempt(|| format!("set oomScoreAdj to {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Resource;

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
