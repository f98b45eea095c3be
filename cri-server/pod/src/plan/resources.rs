//! What a container may use: processor, memory, huge pages, raw files of its control group.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};

use super::PlanError;
use crate::container::{Resources, Tuning};
use crate::facts::NodeFacts;

/// Periods that the kernel's bandwidth controller takes, microseconds
/// (`Documentation/scheduler/sched-bwc.rst`).
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Smallest quota of that controller, microseconds.
const CPU_QUOTA_MIN: i64 = 1_000;
/// Weights that the kernel keeps apart; it takes what lies outside as the nearest of them.
const CPU_SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// Scores that the out-of-memory killer knows (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;
/// No limit.
const UNLIMITED: i64 = -1;

/// The limits as the OCI specification has them, without rules for devices. Used for a new
/// container and for one whose limits change.
///
/// # Errors
///
/// [`PlanError`] names the limit that is out of range or cannot be had on this node.
pub fn plan_resources(
    resources: &Resources,
    facts: &NodeFacts,
) -> Result<LinuxResources, PlanError> {
    let mut planned = LinuxResources::default();
    planned.set_cpu(Some(cpu(resources)?));
    planned.set_memory(tuned(memory(resources, facts)?, resources.tuning));
    planned.set_pids(resources.tuning.pids.map(pids));
    let pages = hugepages(resources, facts)?;
    planned.set_hugepage_limits((!pages.is_empty()).then_some(pages));
    check_unified(resources, facts)?;
    let unified = resources.unified.clone().into_iter().collect();
    planned.set_unified((!resources.unified.is_empty()).then_some(unified));
    Ok(planned)
}

/// The score for the out-of-memory killer, raised to what the engine is allowed to give.
///
/// # Errors
///
/// [`PlanError`]: the kernel knows no such score.
pub fn oom_score_adj(resources: &Resources, facts: &NodeFacts) -> Result<i32, PlanError> {
    let asked = resources.oom_score_adj;
    let score = i32::try_from(asked)
        .ok()
        .filter(|_| OOM_SCORE_ADJ.contains(&asked));
    let score = score.ok_or_else(|| {
        invalid(
            "oom_score_adj",
            format!("{asked} is not within -1000 and 1000"),
        )
    })?;
    Ok(clamp_oom_score(score, facts))
}

/// The score, or the lowest one that this node permits, if that is higher.
pub(super) fn clamp_oom_score(score: i32, facts: &NodeFacts) -> i32 {
    facts
        .oom_score_floor
        .map_or(score, |floor| score.max(floor))
}

/// Memory with what plugins say of it.
fn tuned(memory: Option<LinuxMemory>, tuning: Tuning) -> Option<LinuxMemory> {
    let mut all = memory.unwrap_or_default();
    all.set_reservation(tuning.memory_reservation);
    all.set_kernel(tuning.memory_kernel);
    all.set_kernel_tcp(tuning.memory_kernel_tcp);
    all.set_swappiness(tuning.swappiness);
    all.set_disable_oom_killer(tuning.disable_oom_killer);
    all.set_use_hierarchy(tuning.use_hierarchy);
    (memory.is_some() || all != LinuxMemory::default()).then_some(all)
}

fn pids(limit: i64) -> LinuxPids {
    let mut pids = LinuxPids::default();
    pids.set_limit(limit.max(UNLIMITED));
    pids
}

fn cpu(resources: &Resources) -> Result<LinuxCpu, PlanError> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(shares(resources.cpu_shares)?);
    cpu.set_period(period(resources.cpu_period)?);
    cpu.set_quota(quota(resources.cpu_quota)?);
    cpu.set_cpus(list("cpuset_cpus", &resources.cpuset_cpus)?);
    cpu.set_mems(list("cpuset_mems", &resources.cpuset_mems)?);
    cpu.set_realtime_runtime(resources.tuning.realtime_runtime);
    cpu.set_realtime_period(resources.tuning.realtime_period);
    Ok(cpu)
}

fn shares(asked: i64) -> Result<Option<u64>, PlanError> {
    let clamped = asked.clamp(*CPU_SHARES.start(), *CPU_SHARES.end());
    match asked {
        0 => Ok(None),
        1.. => Ok(u64::try_from(clamped).ok()),
        _ => Err(invalid("cpu_shares", format!("{asked} is negative"))),
    }
}

fn period(asked: i64) -> Result<Option<u64>, PlanError> {
    match asked {
        0 => Ok(None),
        period if CPU_PERIOD.contains(&period) => Ok(u64::try_from(period).ok()),
        _ => {
            let reason = format!("{asked} is not within 1000 and 1000000 microseconds");
            Err(invalid("cpu_period", reason))
        }
    }
}

fn quota(asked: i64) -> Result<Option<i64>, PlanError> {
    match asked {
        0 => Ok(None),
        ..0 => Ok(Some(UNLIMITED)),
        CPU_QUOTA_MIN.. => Ok(Some(asked)),
        _ => {
            let reason = format!("{asked} is less than {CPU_QUOTA_MIN} microseconds");
            Err(invalid("cpu_quota", reason))
        }
    }
}

/// Checks the kernel's format for sets of numbers: `0-3,7` (cpuset(7), "List format").
fn list(field: &str, text: &str) -> Result<Option<String>, PlanError> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
    };
    match text.is_empty() || text.split(',').all(range) {
        true => Ok((!text.is_empty()).then(|| text.to_owned())),
        false => Err(invalid(
            field,
            format!("{text:?} is not a list such as 0-3,7"),
        )),
    }
}

/// Memory, and memory with swap. Where nothing is said of swap, a container with a limit has none,
/// if the kernel can keep it from swap at all.
fn memory(resources: &Resources, facts: &NodeFacts) -> Result<Option<LinuxMemory>, PlanError> {
    let limit = bytes("memory_limit_in_bytes", resources.memory_limit)?;
    let both = bytes("memory_swap_limit_in_bytes", resources.memory_swap_limit)?;
    if let Some(both) = both.filter(|both| *both > 0)
        && limit.is_none_or(|limit| limit < 0 || limit > both)
    {
        let reason = format!(
            "{both} holds no memory limit of {}",
            limit.unwrap_or(UNLIMITED)
        );
        return Err(invalid("memory_swap_limit_in_bytes", reason));
    }
    if limit.is_none() && both.is_none() {
        return Ok(None);
    }
    if both.is_some_and(|both| both > 0) && !facts.swap_limits {
        return Err(PlanError::unsupported(
            "linux.resources.memory_swap_limit_in_bytes",
            "this node's control groups do not limit swap",
        ));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit);
    memory.set_swap(both.or(limit).filter(|_| facts.swap_limits));
    Ok(Some(memory))
}

fn bytes(field: &str, asked: i64) -> Result<Option<i64>, PlanError> {
    match asked {
        0 => Ok(None),
        UNLIMITED.. => Ok(Some(asked)),
        _ => Err(invalid(field, format!("{asked} is negative"))),
    }
}

/// Limits for the page sizes that the node has. A client names every size that it can think of, so
/// "none of these" is no error where there are none.
fn hugepages(
    resources: &Resources,
    facts: &NodeFacts,
) -> Result<Vec<LinuxHugepageLimit>, PlanError> {
    let mut limits = Vec::new();
    for (place, (size, limit)) in resources.hugepages.iter().enumerate() {
        let field = format!("hugepage_limits[{place}]");
        if facts.hugepage_sizes.contains(size) {
            limits.push(hugepage(&field, size, *limit)?);
        } else if *limit > 0 {
            let reason = format!("this node has no huge pages of {size:?}");
            return Err(PlanError::unsupported(
                format!("linux.resources.{field}"),
                reason,
            ));
        }
    }
    Ok(limits)
}

fn hugepage(field: &str, size: &str, limit: u64) -> Result<LinuxHugepageLimit, PlanError> {
    let bytes = i64::try_from(limit)
        .map_err(|_beyond| invalid(field, format!("{limit} bytes are beyond any memory")))?;
    let mut page = LinuxHugepageLimit::default();
    page.set_page_size(size.to_owned());
    page.set_limit(bytes);
    Ok(page)
}

fn check_unified(resources: &Resources, facts: &NodeFacts) -> Result<(), PlanError> {
    for (file, value) in &resources.unified {
        let field = format!("linux.resources.unified[{file:?}]");
        if !facts.cgroup_v2 {
            return Err(PlanError::unsupported(
                field,
                "this node has no unified control groups",
            ));
        }
        if file.is_empty() || file.contains(['/', '\0']) || file.starts_with('.') {
            return Err(PlanError::invalid(field, "is no file of a control group"));
        }
        super::check::no_nul(&field, value)?;
    }
    Ok(())
}

fn invalid(field: &str, reason: String) -> PlanError {
    PlanError::invalid(format!("linux.resources.{field}"), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts {
            cgroup_v2: true,
            swap_limits: true,
            hugepage_sizes: vec!["2MB".into()],
            oom_score_floor: Some(-500),
            ..Default::default()
        }
    }

    /// Checks the JSON of the result, or a part of the error.
    #[track_caller]
    fn check(resources: &Resources, expect: Result<&str, &str>) {
        match (plan_resources(resources, &facts()), expect) {
            (Ok(found), Ok(expect)) => {
                assert_eq!(serde_json::to_string(&found).unwrap(), expect);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    fn cpu(shares: i64, period: i64, quota: i64) -> Resources {
        let cpu_shares = shares;
        Resources {
            cpu_shares,
            cpu_period: period,
            cpu_quota: quota,
            ..Default::default()
        }
    }

    fn ram(limit: i64, both: i64) -> Resources {
        Resources {
            memory_limit: limit,
            memory_swap_limit: both,
            ..Default::default()
        }
    }

    #[test]
    fn processor() {
        check(&Resources::default(), Ok(r#"{"cpu":{}}"#));
        check(
            &cpu(512, 100_000, 50_000),
            Ok(r#"{"cpu":{"shares":512,"quota":50000,"period":100000}}"#),
        );
        check(&cpu(1, 0, -5), Ok(r#"{"cpu":{"shares":2,"quota":-1}}"#));
        check(&cpu(1 << 40, 0, 0), Ok(r#"{"cpu":{"shares":262144}}"#));
        check(&cpu(-1, 0, 0), Err("linux.resources.cpu_shares: "));
        check(&cpu(0, 999, 0), Err("linux.resources.cpu_period: 999"));
        check(&cpu(0, 1_000_001, 0), Err("cpu_period"));
        check(&cpu(0, 0, 999), Err("linux.resources.cpu_quota: 999"));
    }

    #[test]
    fn cpu_lists() {
        let cpus = |text: &str| Resources {
            cpuset_cpus: text.into(),
            ..Default::default()
        };
        check(&cpus("0-3,7"), Ok(r#"{"cpu":{"cpus":"0-3,7"}}"#));
        for bad in ["3-1", "a", "1,", "-1", "1-2-3", " 1"] {
            check(&cpus(bad), Err("linux.resources.cpuset_cpus: "));
        }
    }

    #[test]
    fn memory_and_swap() {
        check(
            &ram(64, 0),
            Ok(r#"{"memory":{"limit":64,"swap":64},"cpu":{}}"#),
        );
        check(
            &ram(64, 128),
            Ok(r#"{"memory":{"limit":64,"swap":128},"cpu":{}}"#),
        );
        check(
            &ram(64, -1),
            Ok(r#"{"memory":{"limit":64,"swap":-1},"cpu":{}}"#),
        );
        check(
            &ram(-1, 0),
            Ok(r#"{"memory":{"limit":-1,"swap":-1},"cpu":{}}"#),
        );
        check(&ram(64, 63), Err("memory_swap_limit_in_bytes"));
        check(&ram(0, 64), Err("memory_swap_limit_in_bytes"));
        check(&ram(-2, 0), Err("linux.resources.memory_limit_in_bytes: "));
    }

    #[test]
    fn limits_that_only_plugins_have_words_for() {
        let mut tuned = ram(64, 0);
        tuned.tuning = Tuning {
            memory_reservation: Some(32),
            swappiness: Some(7),
            realtime_runtime: Some(9),
            pids: Some(5),
            ..Default::default()
        };
        check(
            &tuned,
            Ok(
                r#"{"memory":{"limit":64,"reservation":32,"swap":64,"swappiness":7},"cpu":{"realtimeRuntime":9},"pids":{"limit":5}}"#,
            ),
        );
        let only = Resources {
            tuning: tuned.tuning,
            ..Default::default()
        };
        let after = Resources::default().changed(&only);
        assert_eq!(after.changed(&Resources::default()).tuning, only.tuning);
    }

    #[test]
    fn swap_that_cannot_be_limited() {
        let plan = |limit, both| plan_resources(&ram(limit, both), &NodeFacts::default());
        let memory = plan(64, 0).unwrap().memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64), None));
        let unlimited = plan(64, -1).unwrap().memory().unwrap();
        assert_eq!(unlimited.swap(), None);
        let refused = plan(64, 128).unwrap_err();
        assert!(
            matches!(refused, PlanError::Unsupported { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("memory_swap_limit_in_bytes"));
    }

    #[test]
    fn huge_pages_and_raw_files() {
        let pages = |size: &str, limit| Resources {
            hugepages: vec![(size.into(), limit)],
            ..Default::default()
        };
        check(
            &pages("2MB", 0),
            Ok(r#"{"cpu":{},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#),
        );
        check(&pages("1GB", 0), Ok(r#"{"cpu":{}}"#));
        check(
            &pages("1GB", 1),
            Err("linux.resources.hugepage_limits[0]: "),
        );
        check(&pages("2MB", u64::MAX), Err("beyond"));
        let raw = |file: &str| Resources {
            unified: [(file.to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        check(
            &raw("memory.high"),
            Ok(r#"{"cpu":{},"unified":{"memory.high":"1"}}"#),
        );
        check(&raw("../x"), Err("no file"));
        let v1 = plan_resources(&raw("memory.high"), &NodeFacts::default()).unwrap_err();
        assert!(matches!(v1, PlanError::Unsupported { .. }), "{v1}");
    }

    #[test]
    fn oom_scores_are_clamped_to_the_node() {
        let check = |score: i64, expect: Option<i32>| {
            let resources = Resources {
                oom_score_adj: score,
                ..Default::default()
            };
            assert_eq!(oom_score_adj(&resources, &facts()).ok(), expect);
        };
        check(-998, Some(-500));
        check(-100, Some(-100));
        check(1000, Some(1000));
        check(1001, None);
        check(-1001, None);
    }
}
