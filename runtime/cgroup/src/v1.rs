//! Groups in the v1 hierarchies: creation and limits.
//!
//! The conversions and the order of writes are runc's, which engines rely on.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::{Error, convert, devices, memory};

/// A group's directories by controller.
pub(crate) type Dirs = Vec<(String, Dir)>;

/// Makes the group in every hierarchy; says whether any part existed before.
pub(crate) fn create(dirs: &Dirs) -> Result<bool, Error> {
    let mut existed = false;
    for (controller, dir) in dirs {
        let made = make(dir, controller == "cpuset")?;
        existed |= !made;
    }
    Ok(existed)
}

/// Makes `dir` and what is missing above it. A cpuset is born empty and takes no process until it
/// has CPUs and memory nodes: its parent's, as a new group has no wish of its own yet.
fn make(dir: &Dir, fill_cpuset: bool) -> Result<bool, Error> {
    let made = match dir.make() {
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            let Some(parent) = dir.path().parent() else {
                return Err(error);
            };
            make(&Dir::new(parent.to_owned()), fill_cpuset)?;
            dir.make()?
        }
        made => made?,
    };
    if fill_cpuset {
        copy_from_parent(dir)?;
    }
    Ok(made)
}

fn copy_from_parent(dir: &Dir) -> Result<(), Error> {
    let Some(parent) = dir.path().parent() else {
        return Ok(());
    };
    let parent = Dir::new(parent.to_owned());
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // Hierarchies joined under one mount may come without the prefix; those fill themselves.
        let Some(own) = dir.read_if_there(file)? else {
            continue;
        };
        if own.trim().is_empty() {
            let mut above = parent.read(file)?;
            if above.trim().is_empty() {
                copy_from_parent(&parent)?;
                above = parent.read(file)?;
            }
            dir.write(file, above.trim())?;
        }
    }
    Ok(())
}

/// One write to one controller's file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    controller: &'static str,
    file: String,
    value: String,
    /// An old kernel may lack the file, and nothing is lost without it.
    optional: bool,
}

fn write(controller: &'static str, file: impl Into<String>, value: &impl ToString) -> Write {
    Write {
        controller,
        file: file.into(),
        value: value.to_string(),
        optional: false,
    }
}

/// Writes all limits of `resources`; device rules are [`apply_devices`]'s.
pub(crate) fn apply(dirs: &Dirs, resources: &LinuxResources) -> Result<(), Error> {
    if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        let text = "invalid configuration: cannot use unified on cgroup v1";
        return Err(Error::Limit(text.to_owned()));
    }
    if let Some(limits) = resources.memory()
        && *limits != oci_spec::runtime::LinuxMemory::default()
    {
        memory::apply_v1(find(dirs, "memory", "memory.limit_in_bytes")?, limits)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dirs, cpu)?;
    }
    for one in writes(resources) {
        carry_out(dirs, &one)?;
    }
    if let Some(io) = resources.block_io() {
        apply_weights(dirs, io)?;
    }
    Ok(())
}

fn carry_out(dirs: &Dirs, one: &Write) -> Result<(), Error> {
    let dir = match find(dirs, one.controller, &one.file) {
        // "Nothing of what is not there" needs no controller; kubelet says it of all page sizes.
        Err(_) if one.optional || (one.controller == "hugetlb" && one.value == "0") => {
            return Ok(());
        }
        dir => dir?,
    };
    match dir.write(&one.file, &one.value) {
        Err(error) if one.optional && error.errno() == Some(Errno::NOENT) => Ok(()),
        written => written,
    }
}

pub(crate) fn find<'a>(dirs: &'a Dirs, controller: &str, file: &str) -> Result<&'a Dir, Error> {
    let found = dirs
        .iter()
        .find(|(name, _)| name == controller)
        .map(|(_, dir)| dir);
    found.ok_or_else(|| Error::NoController {
        file: file.to_owned(),
        controller: controller.to_owned(),
    })
}

/// The limits that are single writes.
fn writes(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(pids) = resources.pids() {
        writes.push(write("pids", "pids.max", &convert::pids(pids.limit())));
    }
    if let Some(cpu) = resources.cpu() {
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                writes.push(write("cpuset", file, list));
            }
        }
    }
    if let Some(io) = resources.block_io() {
        writes.extend(throttles(io));
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (size, value) = (limit.page_size(), limit.limit());
        writes.push(write(
            "hugetlb",
            format!("hugetlb.{size}.limit_in_bytes"),
            &value,
        ));
        writes.push(Write {
            optional: true,
            ..write(
                "hugetlb",
                format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                &value,
            )
        });
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            writes.push(write("net_cls", "net_cls.classid", &class));
        }
        for one in network.priorities().iter().flatten() {
            let value = format!("{} {}", one.name(), one.priority());
            writes.push(write("net_prio", "net_prio.ifpriomap", &value));
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        writes.push(write("rdma", "rdma.max", &convert::rdma(device, limit)));
    }
    writes
}

fn throttles(io: &LinuxBlockIo) -> Vec<Write> {
    let list = |file: &'static str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        let line = |device: &LinuxThrottleDevice| {
            format!("{}:{} {}", device.major(), device.minor(), device.rate())
        };
        let devices = devices.iter().flatten();
        devices
            .map(|device| write("blkio", file, &line(device)))
            .collect::<Vec<_>>()
    };
    [
        list(
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        list(
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        list(
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        list(
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ]
    .concat()
}

/// Proportional weights: BFQ's file where the kernel has it, else CFQ's.
fn apply_weights(dirs: &Dirs, io: &LinuxBlockIo) -> Result<(), Error> {
    let weight = io.weight().filter(|weight| *weight != 0);
    let leaf = io.leaf_weight().filter(|weight| *weight != 0);
    let devices = io.weight_device().as_deref().unwrap_or_default();
    if weight.is_none() && leaf.is_none() && devices.is_empty() {
        return Ok(());
    }
    let dir = find(dirs, "blkio", "blkio.weight")?;
    let (file, device_file) = if dir.has("blkio.bfq.weight")? {
        ("blkio.bfq.weight", "blkio.bfq.weight_device")
    } else {
        ("blkio.weight", "blkio.weight_device")
    };
    for (file, weight) in [(file, weight), ("blkio.leaf_weight", leaf)] {
        if let Some(weight) = weight {
            dir.write(file, &weight.to_string())?;
        }
    }
    for device in devices {
        let weights = [
            (device_file, device.weight()),
            ("blkio.leaf_weight_device", device.leaf_weight()),
        ];
        for (file, weight) in weights {
            if let Some(weight) = weight.filter(|weight| *weight != 0) {
                dir.write(
                    file,
                    &format!("{}:{} {weight}", device.major(), device.minor()),
                )?;
            }
        }
    }
    Ok(())
}

fn apply_cpu(dirs: &Dirs, cpu: &LinuxCpu) -> Result<(), Error> {
    let set = |value: Option<u64>| value.filter(|value| *value != 0);
    let (shares, period) = (set(cpu.shares()), set(cpu.period()));
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let realtime = (
        set(cpu.realtime_period()),
        cpu.realtime_runtime().filter(|run| *run != 0),
    );
    if shares.is_none()
        && period.is_none()
        && quota.is_none()
        && cpu.burst().is_none()
        && cpu.idle().is_none()
        && realtime == (None, None)
    {
        return Ok(());
    }
    let dir = find(dirs, "cpu", "cpu.shares")?;
    if let Some(shares) = shares {
        write_shares(dir, shares)?;
    }
    // A shorter period or a larger burst may not go with the quota that is still set; then it goes
    // with the one that is about to be.
    let early = |file, value: Option<u64>| match value {
        None => Ok(None),
        Some(value) => match dir.write(file, &value.to_string()) {
            Err(error) if error.errno() == Some(Errno::INVAL) && quota.is_some() => {
                Ok(Some((file, value)))
            }
            written => written.map(|()| None),
        },
    };
    let later = [
        early("cpu.cfs_period_us", period)?,
        early("cpu.cfs_burst_us", known_burst(dir, cpu.burst())?)?,
    ];
    if let Some(quota) = quota {
        dir.write("cpu.cfs_quota_us", &quota.to_string())?;
    }
    for (file, value) in later.into_iter().flatten() {
        dir.write(file, &value.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        dir.write("cpu.idle", &idle.to_string())?;
    }
    if let (Some(period), _) = realtime {
        dir.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let (_, Some(runtime)) = realtime {
        dir.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    Ok(())
}

/// Kernels before 5.14 know no burst; the limit is the stricter without.
fn known_burst(dir: &Dir, burst: Option<u64>) -> Result<Option<u64>, Error> {
    Ok(if burst.is_some() && dir.has("cpu.cfs_burst_us")? {
        burst
    } else {
        None
    })
}

/// The kernel clamps shares silently; what was asked for must be what is set.
fn write_shares(dir: &Dir, shares: u64) -> Result<(), Error> {
    dir.write("cpu.shares", &shares.to_string())?;
    let text = dir.read("cpu.shares")?;
    match text.trim().parse::<u64>() {
        Ok(set) if set < shares => Err(Error::Limit(format!(
            "the maximum allowed cpu-shares is {set}"
        ))),
        Ok(set) if set > shares => Err(Error::Limit(format!(
            "the minimum allowed cpu-shares is {set}"
        ))),
        _ => Ok(()),
    }
}

/// Makes the lists say what `rules` say.
pub(crate) fn apply_devices(dirs: &Dirs, rules: &[devices::Rule]) -> Result<(), Error> {
    // A host without the controller cannot confine devices at all; runc does not insist either.
    let Ok(dir) = find(dirs, "devices", "devices.deny") else {
        return Ok(());
    };
    let lists = devices::lists(rules)?;
    let (reset, exception) = match lists.allow {
        true => ("devices.allow", "devices.deny"),
        false => ("devices.deny", "devices.allow"),
    };
    // A new group allows what its parent allows; asking for everything again is refused in a
    // group that has children, so it is not asked for in vain.
    let open_already = lists.allow && dir.read("devices.list")?.trim() == "a *:* rwm";
    if !open_already {
        dir.write(reset, "a")?;
    }
    dir.write_each(exception, &lists.exceptions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: &[(&str, &str, &str)]) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = writes(&resources);
        let writes: Vec<_> = writes
            .iter()
            .map(|one| (one.controller, one.file.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(writes, expect, "{json}");
    }

    #[test]
    fn single_writes() {
        check("{}", &[]);
        check(r#"{"pids":{"limit":0}}"#, &[("pids", "pids.max", "1")]);
        check(
            r#"{"cpu":{"cpus":"0-1","mems":""}}"#,
            &[("cpuset", "cpuset.cpus", "0-1")],
        );
        check(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4096}]}"#,
            &[
                ("hugetlb", "hugetlb.2MB.limit_in_bytes", "4096"),
                ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", "4096"),
            ],
        );
        check(
            r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
            &[
                ("net_cls", "net_cls.classid", "1048577"),
                ("net_prio", "net_prio.ifpriomap", "eth0 5"),
            ],
        );
        check(
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":3}]}}"#,
            &[
                ("blkio", "blkio.throttle.read_bps_device", "8:0 600"),
                ("blkio", "blkio.throttle.write_iops_device", "8:16 3"),
            ],
        );
        check(
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}}"#,
            &[("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10000")],
        );
    }

    #[test]
    fn no_pages_need_no_controller() {
        let dirs = Vec::new();
        let limit = |limit: i64| {
            let json = format!(r#"{{"hugepageLimits":[{{"pageSize":"2MB","limit":{limit}}}]}}"#);
            apply(&dirs, &serde_json::from_str(&json).unwrap())
        };
        limit(0).unwrap();
        assert!(matches!(limit(4096), Err(Error::NoController { .. })));
        let unified = r#"{"unified":{"memory.high":"1"}}"#;
        assert!(apply(&dirs, &serde_json::from_str(unified).unwrap()).is_err());
    }
}
