//! Groups in the v2 hierarchy: creation and limits.
//!
//! The conversions and the order of writes are runc's, which engines rely on.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::{Error, convert, signal};

/// `cpu.max` without a period (the kernel's default).
const DEFAULT_PERIOD: u64 = 100_000;

/// Makes the group and what is missing above it, with every controller that the host gives.
/// Says whether it existed before.
pub(crate) fn create(mount: &Path, dir: &Dir) -> Result<bool, Error> {
    let inside = dir.path().strip_prefix(mount).unwrap_or(Path::new(""));
    let mut level = mount.to_owned();
    let mut existed = true;
    for part in inside.components() {
        enable_controllers(&Dir::new(level.clone()))?;
        level.push(part);
        existed = !Dir::new(level.clone()).make()?;
    }
    Ok(existed)
}

/// Hands down each controller that `parent` has.
///
/// Refusals are not errors here: a group with processes of its own cannot hand any down, and one
/// that nobody sets a limit of is not missed. If it is, writing that limit says so.
fn enable_controllers(parent: &Dir) -> Result<(), Error> {
    let have = parent.read("cgroup.controllers")?;
    let given = parent.read("cgroup.subtree_control")?;
    let missing: Vec<String> = have
        .split_whitespace()
        .filter(|name| !given.split_whitespace().any(|other| other == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() || is_in_use(parent)? {
        return Ok(());
    }
    if parent
        .write("cgroup.subtree_control", &missing.join(" "))
        .is_ok()
    {
        return Ok(());
    }
    for one in missing {
        match parent.write("cgroup.subtree_control", &one) {
            Err(error) if error.errno() == Some(Errno::NOENT) => return Err(error),
            _refused_or_done => {}
        }
    }
    Ok(())
}

/// Whether the group has processes of its own. It then would take the threaded controllers and become
/// the root of a threaded subtree, and the groups below it would take no processes any more
/// (Documentation/admin-guide/cgroup-v2.rst, "Threads"). The first group of all is exempt.
fn is_in_use(dir: &Dir) -> Result<bool, Error> {
    Ok(dir.has("cgroup.type")? && !signal::own_procs(dir)?.is_empty())
}

/// One write to a file of the group.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    file: String,
    value: String,
    /// May be missing on some hosts, and nothing is lost without it.
    optional: bool,
}

fn write(file: impl Into<String>, value: &impl ToString) -> Write {
    Write {
        file: file.into(),
        value: value.to_string(),
        optional: false,
    }
}

/// Writes all limits of `resources`; device rules are not among them.
pub(crate) fn apply(dir: &Dir, resources: &LinuxResources) -> Result<(), Error> {
    let facts = Facts {
        bfq: resources.block_io().is_some() && dir.has("io.bfq.weight")?,
    };
    if let Some(memory) = resources.memory() {
        check_usage(dir, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dir, cpu)?;
    }
    for one in writes(resources, facts)? {
        match dir.write(&one.file, &one.value) {
            Err(error) if one.optional && error.errno() == Some(Errno::NOENT) => {}
            Err(error) => return Err(explain(dir, &one.file, error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A missing file means a missing controller: say so.
fn explain(dir: &Dir, file: &str, error: Error) -> Error {
    let controller = file.split('.').next().unwrap_or(file);
    let missing = matches!(
        error.errno(),
        Some(Errno::NOENT | Errno::PERM | Errno::ACCESS)
    ) && controller != "cgroup"
        && dir
            .read("cgroup.controllers")
            .is_ok_and(|have| !have.split_whitespace().any(|name| name == controller));
    if missing {
        Error::NoController {
            file: file.to_owned(),
            controller: controller.to_owned(),
        }
    } else {
        error
    }
}

/// What of the host the plan depends on.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// The BFQ scheduler's own weight file is there.
    bfq: bool,
}

/// The limits that are single writes, in order; `unified` comes last and so overrides.
fn writes(resources: &LinuxResources, facts: Facts) -> Result<Vec<Write>, Error> {
    let mut writes = Vec::new();
    if let Some(pids) = resources.pids() {
        writes.push(write("pids.max", &convert::pids(pids.limit())));
    }
    if let Some(memory) = resources.memory() {
        writes.extend(memory_writes(memory)?);
    }
    if let Some(io) = resources.block_io() {
        writes.extend(io_writes(io, facts));
    }
    if let Some(cpu) = resources.cpu() {
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                writes.push(write(file, list));
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, value) = (limit.page_size(), limit.limit());
        let optional = value == 0;
        writes.push(Write {
            optional,
            ..write(format!("hugetlb.{size}.max"), &value)
        });
        writes.push(Write {
            optional: true,
            ..write(format!("hugetlb.{size}.rsvd.max"), &value)
        });
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        writes.push(write("rdma.max", &convert::rdma(device, limit)));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.is_empty() || file.contains('/') {
            let text = format!("unified resource {file:?} must be a file name (no slashes)");
            return Err(Error::Limit(text));
        }
        // Files such as io.max take one line a write.
        let lines = value.lines().filter(|line| !line.is_empty());
        writes.extend(lines.map(|line| write(file, &line)));
    }
    Ok(writes)
}

fn memory_writes(memory: &LinuxMemory) -> Result<Vec<Write>, Error> {
    let limit = memory.limit().unwrap_or(0);
    let mut writes = Vec::new();
    if let Some(swap) = convert::swap(memory.swap().unwrap_or(0), limit)? {
        // Without swap in the kernel there is no file, and neither of these needs one.
        let optional = swap == "max" || swap == "0";
        writes.push(Write {
            optional,
            ..write("memory.swap.max", &swap)
        });
    }
    writes.extend(convert::limit(limit).map(|value| write("memory.max", &value)));
    let reservation = convert::limit(memory.reservation().unwrap_or(0));
    writes.extend(reservation.map(|value| write("memory.low", &value)));
    Ok(writes)
}

/// Refuses limits below what is used, if the caller asked for that: the kernel would kill.
pub(crate) fn check_usage(dir: &Dir, memory: &LinuxMemory) -> Result<(), Error> {
    let (limit, both) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    if memory.check_before_update() != Some(true) || (limit <= 0 && both <= 0) {
        return Ok(());
    }
    let Some(text) = dir.read_if_there("memory.current")? else {
        return Ok(());
    };
    let usage: i64 = text.trim().parse().unwrap_or(0);
    let refused = |what, limit| {
        Err(Error::Limit(format!(
            "rejecting {what} limit {limit} <= usage {usage}"
        )))
    };
    match () {
        () if both > 0 && usage >= both => refused("memory+swap", both),
        () if limit > 0 && usage >= limit => refused("memory", limit),
        () => Ok(()),
    }
}

fn io_writes(io: &LinuxBlockIo, facts: Facts) -> Vec<Write> {
    let mut writes = Vec::new();
    match io.weight().filter(|weight| *weight != 0) {
        Some(weight) if facts.bfq => writes.push(write("io.bfq.weight", &weight)),
        Some(weight) => writes.push(write("io.weight", &convert::blkio_to_io_weight(weight))),
        None => {}
    }
    // Weights per device exist only in BFQ's file. leafWeight has no meaning on v2.
    for device in io.weight_device().iter().flatten().filter(|_| facts.bfq) {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            writes.push(write("io.bfq.weight", &value));
        }
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            writes.push(write("io.max", &value));
        }
    }
    writes
}

fn apply_cpu(dir: &Dir, cpu: &LinuxCpu) -> Result<(), Error> {
    let write = |file: &str, value: String| {
        dir.write(file, &value)
            .map_err(|error| explain(dir, file, error))
    };
    if let Some(idle) = cpu.idle() {
        write("cpu.idle", idle.to_string())?;
    }
    match convert::shares_to_weight(cpu.shares().unwrap_or(0)) {
        // An idle group has no weight, and the kernel refuses one.
        _ if cpu.idle() == Some(1) => {}
        0 => {}
        weight => write("cpu.weight", weight.to_string())?,
    }
    let max = cpu_max(cpu);
    // A burst may not go with the quota that is still set; then it goes with the new one.
    let mut later = None;
    if let Some(burst) = cpu.burst() {
        match write("cpu.max.burst", burst.to_string()) {
            Err(error) if error.errno() == Some(Errno::INVAL) && max.is_some() => {
                later = Some(burst);
            }
            // Kernels before 5.14 know no burst; the limit is the stricter without.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            written => written?,
        }
    }
    if let Some(max) = max {
        write("cpu.max", max)?;
    }
    later.map_or(Ok(()), |burst| write("cpu.max.burst", burst.to_string()))
}

fn cpu_max(cpu: &LinuxCpu) -> Option<String> {
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota == 0 && period == 0 {
        return None;
    }
    let quota = if quota > 0 {
        quota.to_string()
    } else {
        "max".to_owned()
    };
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    Some(format!("{quota} {period}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, bfq: bool, expect: &[(&str, &str)]) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = writes(&resources, Facts { bfq }).unwrap();
        let writes: Vec<_> = writes
            .iter()
            .map(|one| (one.file.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(writes, expect, "{json}");
    }

    #[test]
    fn memory() {
        check(
            r#"{"memory":{"limit":100,"swap":300,"reservation":50,"kernel":7}}"#,
            false,
            &[
                ("memory.swap.max", "200"),
                ("memory.max", "100"),
                ("memory.low", "50"),
            ],
        );
        check(
            r#"{"memory":{"limit":-1}}"#,
            false,
            &[("memory.swap.max", "max"), ("memory.max", "max")],
        );
        check(r#"{"memory":{"limit":0}}"#, false, &[]);
    }

    #[test]
    fn io() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":7}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;
        let throttles = [("io.max", "8:0 rbps=600"), ("io.max", "8:0 wiops=max")];
        check(
            json,
            false,
            &[&[("io.weight", "4950")][..], &throttles].concat(),
        );
        let bfq = [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 7")];
        check(json, true, &[&bfq[..], &throttles].concat());
    }

    #[test]
    fn unified_is_last_and_by_line() {
        check(
            r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n"},"pids":{"limit":5}}"#,
            false,
            &[
                ("pids.max", "5"),
                ("io.max", "8:0 rbps=1"),
                ("io.max", "8:16 rbps=2"),
            ],
        );
        let bad: LinuxResources = serde_json::from_str(r#"{"unified":{"../x":"1"}}"#).unwrap();
        assert!(writes(&bad, Facts { bfq: false }).is_err());
    }

    #[test]
    fn cpu_max_has_both_parts() {
        let check = |json: &str, expect: Option<&str>| {
            let cpu: LinuxCpu = serde_json::from_str(json).unwrap();
            assert_eq!(cpu_max(&cpu).as_deref(), expect, "{json}");
        };
        check("{}", None);
        check(r#"{"quota":5000}"#, Some("5000 100000"));
        check(r#"{"quota":-1,"period":7000}"#, Some("max 7000"));
        check(r#"{"period":7000}"#, Some("max 7000"));
    }
}
