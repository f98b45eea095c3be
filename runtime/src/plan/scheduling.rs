//! How processes are scheduled, what they take themselves for, and where their memory comes from:
//! names of the specification to numbers of the kernel.

use serde::{Deserialize, Serialize};
use sys::schedule::Scheduler;

use super::{Error, Result};
use crate::spec::{
    RawAffinity, RawIoPriority, RawMemoryPolicy, RawPersonality, RawScheduler, Text,
};

/// sched(7).
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// sched_setattr(2).
const FLAGS: [(&str, u32); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x1),
    ("SCHED_FLAG_RECLAIM", 0x2),
    ("SCHED_FLAG_DL_OVERRUN", 0x4),
    ("SCHED_FLAG_KEEP_POLICY", 0x8),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// ioprio_set(2).
const IO_CLASSES: [(&str, u32); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];
const IO_CLASS_SHIFT: u32 = 13;
const LEAST_IO_PRIORITY: u32 = 7;

/// personality(2).
const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

/// set_mempolicy(2).
const MEMORY_MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
const MEMORY_FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// Highest number of a CPU or of a memory node; the kernel's own limits are not above.
const MAX_NUMBER: usize = 8191;

/// What holds for every process of a container; kept for further ones.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Nature {
    pub(crate) personality: Option<u32>,
    pub(crate) memory: Option<MemoryPolicy>,
}

/// set_mempolicy(2).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: u32,
    /// One bit a node.
    pub(crate) nodes: Vec<u64>,
}

/// Numbers of CPUs before and after a further process joins the container's control group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Affinity {
    pub(crate) initial: Option<Vec<usize>>,
    pub(crate) last: Option<Vec<usize>>,
}

fn number(table: &[(&str, u32)], name: &str, what: &str) -> Result<u32> {
    let row = table.iter().find(|(known, _)| *known == name);
    row.map(|(_, number)| *number)
        .ok_or_else(|| Error::new(format!("invalid {what}: {name:?}")))
}

fn bits(table: &[(&str, u32)], names: &[Text<'_>], what: &str) -> Result<u32> {
    names
        .iter()
        .try_fold(0, |all, name| Ok(all | number(table, name, what)?))
}

/// `process.scheduler`.
pub(super) fn scheduler(raw: &RawScheduler<'_>) -> Result<Scheduler> {
    let priority = u32::try_from(raw.priority)
        .map_err(|_negative| Error::new(format!("invalid scheduler priority: {}", raw.priority)))?;
    if !(-20..=19).contains(&raw.nice) {
        return Err(Error::new(format!("invalid scheduler nice: {}", raw.nice)));
    }
    let policy = number(&POLICIES, &raw.policy, "scheduler policy")?;
    let is = |name: &str| raw.policy.as_str() == name;
    if priority != 0 && !is("SCHED_FIFO") && !is("SCHED_RR") {
        return Err(Error::new(
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ));
    }
    if (raw.runtime | raw.deadline | raw.period) != 0 && !is("SCHED_DEADLINE") {
        return Err(Error::new(
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ));
    }
    Ok(Scheduler {
        policy,
        flags: bits(&FLAGS, &raw.flags, "scheduler flag")?.into(),
        nice: raw.nice,
        priority,
        runtime: raw.runtime,
        deadline: raw.deadline,
        period: raw.period,
    })
}

/// `process.ioPriority`, as ioprio_set(2) takes it.
pub(super) fn io_priority(raw: &RawIoPriority<'_>) -> Result<u32> {
    let class = number(&IO_CLASSES, &raw.class, "ioPriority.class")?;
    let level = u32::try_from(raw.priority)
        .ok()
        .filter(|level| *level <= LEAST_IO_PRIORITY);
    let level = level
        .ok_or_else(|| Error::new(format!("invalid ioPriority.priority: {}", raw.priority)))?;
    Ok(class << IO_CLASS_SHIFT | level)
}

/// `process.execCPUAffinity`.
pub(super) fn affinity(raw: &RawAffinity<'_>) -> Result<Affinity> {
    let list = |text: &str| match text {
        "" => Ok(None),
        text => numbers(text)
            .map(Some)
            .ok_or_else(|| Error::new(format!("invalid execCPUAffinity: {text:?}"))),
    };
    Ok(Affinity {
        initial: list(&raw.initial)?,
        last: list(&raw.last)?,
    })
}

/// `linux.personality`, as personality(2) takes it.
pub(super) fn personality(raw: &RawPersonality<'_>) -> Result<u32> {
    if !raw.flags.is_empty() {
        return Err(Error::new("personality flags are not supported"));
    }
    number(&DOMAINS, &raw.domain, "personality domain")
}

/// `linux.memoryPolicy`.
pub(super) fn memory_policy(raw: &RawMemoryPolicy<'_>) -> Result<MemoryPolicy> {
    let mode = number(&MEMORY_MODES, &raw.mode, "memory policy mode")?;
    let flags = bits(&MEMORY_FLAGS, &raw.flags, "memory policy flag")?;
    let mut nodes = Vec::new();
    if !raw.nodes.is_empty() {
        let all = numbers(&raw.nodes)
            .ok_or_else(|| Error::new(format!("invalid memory policy node: {:?}", raw.nodes)))?;
        for node in all {
            let word = node / 64;
            if nodes.len() <= word {
                nodes.resize(word + 1, 0);
            }
            nodes[word] |= 1 << (node % 64);
        }
    }
    Ok(MemoryPolicy {
        mode: mode | flags,
        nodes,
    })
}

/// Modes and flags of a memory policy, for `features`.
pub(crate) fn memory_policy_names() -> (Vec<&'static str>, Vec<&'static str>) {
    let names = |table: &[(&'static str, u32)]| table.iter().map(|row| row.0).collect();
    (names(&MEMORY_MODES), names(&MEMORY_FLAGS))
}

/// `0-2,7`.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part
            .trim()
            .split_once('-')
            .unwrap_or((part.trim(), part.trim()));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > MAX_NUMBER {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_numbers(text: &str, expect: Option<&[usize]>) {
        assert_eq!(numbers(text).as_deref(), expect, "{text:?}");
    }

    #[test]
    fn lists_of_numbers() {
        check_numbers("0-2,7", Some(&[0, 1, 2, 7]));
        check_numbers("3", Some(&[3]));
        check_numbers("", None);
        check_numbers("2-1", None);
        check_numbers("a", None);
        check_numbers("0-99999999", None);
    }

    fn check(json: &str, expect: &str) {
        let raw: RawScheduler<'_> = serde_json::from_str(json).unwrap();
        let got = scheduler(&raw).map_or_else(|error| error.0, |_| String::new());
        assert!(
            got.contains(expect) && got.is_empty() == expect.is_empty(),
            "{got}"
        );
    }

    #[test]
    fn schedulers_are_checked() {
        check(r#"{"policy":"SCHED_BATCH","nice":5}"#, "");
        check(
            r#"{"policy":"SCHED_FIFO","priority":5,"flags":["SCHED_FLAG_RESET_ON_FORK"]}"#,
            "",
        );
        check(r#"{"policy":"SCHED_MOON"}"#, "scheduler policy");
        check(
            r#"{"policy":"SCHED_OTHER","priority":5}"#,
            "priority can only",
        );
        check(r#"{"policy":"SCHED_OTHER","runtime":5}"#, "SchedDeadline");
        check(r#"{"policy":"SCHED_OTHER","nice":40}"#, "nice");
        check(
            r#"{"policy":"SCHED_OTHER","flags":["X"]}"#,
            "scheduler flag",
        );
    }

    #[test]
    fn the_rest_is_numbers() {
        let io = |json: &str| io_priority(&serde_json::from_str(json).unwrap()).ok();
        assert_eq!(
            io(r#"{"class":"IOPRIO_CLASS_BE","priority":4}"#),
            Some(2 << 13 | 4)
        );
        assert_eq!(io(r#"{"class":"IOPRIO_CLASS_BE","priority":8}"#), None);
        let memory = |json: &str| memory_policy(&serde_json::from_str(json).unwrap());
        let policy =
            memory(r#"{"mode":"MPOL_BIND","nodes":"0,65","flags":["MPOL_F_STATIC_NODES"]}"#);
        assert_eq!(
            policy.unwrap(),
            MemoryPolicy {
                mode: 2 | 1 << 15,
                nodes: vec![1, 2]
            }
        );
        assert!(
            memory(r#"{"mode":"MPOL_X"}"#)
                .unwrap_err()
                .0
                .contains("memory policy mode")
        );
        assert!(
            memory(r#"{"mode":"MPOL_BIND","nodes":"x"}"#)
                .unwrap_err()
                .0
                .contains("policy node")
        );
    }
}
