//! v1's files to the account.

use super::{
    Account, CpuAccount, CpusetAccount, Error, HugePageAccount, IoAccount, IoEntry, MemoryAccount,
    MemoryUse, PidsAccount, device, number, page_sizes, raw,
};
use crate::dir::Dir;
use crate::stats;
use crate::v1::{Dirs, find};

pub(crate) fn read(dirs: &Dirs) -> Result<Account, Error> {
    let mut account = Account::default();
    let controller = |name: &str| find(dirs, name, "").ok();
    if let Some(dir) = controller("cpuacct") {
        account.cpu = cpu(dir)?;
    }
    if let Some(dir) = controller("cpu") {
        let stat = dir.read_if_there("cpu.stat")?.unwrap_or_default();
        account.cpu.periods = stats::field(&stat, "nr_periods");
        account.cpu.throttled_periods = stats::field(&stat, "nr_throttled");
        account.cpu.throttled_ns = stats::field(&stat, "throttled_time");
    }
    if let Some(dir) = controller("cpuset") {
        account.cpuset = cpuset(dir)?;
    }
    if let Some(dir) = controller("memory") {
        account.memory = memory(dir)?;
    }
    if let Some(dir) = controller("pids") {
        account.pids = PidsAccount {
            current: number(dir, "pids.current")?,
            limit: number(dir, "pids.max")?,
        };
    }
    if let Some(dir) = controller("blkio") {
        account.io = io(dir)?;
    }
    if let Some(dir) = controller("hugetlb") {
        for size in page_sizes(dir, "usage_in_bytes")? {
            let pages = huge_pages(dir, &size)?;
            account.huge_pages.insert(size, pages);
        }
    }
    Ok(account)
}

fn cpu(dir: &Dir) -> Result<CpuAccount, Error> {
    let text = |file| Ok::<_, Error>(dir.read_if_there(file)?.unwrap_or_default());
    let (per_cpu_user_ns, per_cpu_kernel_ns) = by_mode(&text("cpuacct.usage_all")?);
    let per_cpu = text("cpuacct.usage_percpu")?;
    Ok(CpuAccount {
        total_ns: number(dir, "cpuacct.usage")?,
        user_ns: number(dir, "cpuacct.usage_user")?,
        kernel_ns: number(dir, "cpuacct.usage_sys")?,
        per_cpu_ns: per_cpu
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect(),
        per_cpu_kernel_ns,
        per_cpu_user_ns,
        ..CpuAccount::default()
    })
}

/// `cpuacct.usage_all`: a heading `cpu user system`, then a line for each processor.
fn by_mode(text: &str) -> (Vec<u64>, Vec<u64>) {
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        number(words.next())?;
        Some((number(words.next())?, number(words.next())?))
    });
    lines.unzip()
}

fn cpuset(dir: &Dir) -> Result<CpusetAccount, Error> {
    let list = |file| Ok::<_, Error>(expand(&dir.read_if_there(file)?.unwrap_or_default()));
    let level = dir.read_if_there("cpuset.sched_relax_domain_level")?;
    Ok(CpusetAccount {
        cpus: list("cpuset.cpus")?,
        mems: list("cpuset.mems")?,
        cpu_exclusive: number(dir, "cpuset.cpu_exclusive")?,
        mem_hardwall: number(dir, "cpuset.mem_hardwall")?,
        mem_exclusive: number(dir, "cpuset.mem_exclusive")?,
        memory_migrate: number(dir, "cpuset.memory_migrate")?,
        memory_spread_page: number(dir, "cpuset.memory_spread_page")?,
        memory_spread_slab: number(dir, "cpuset.memory_spread_slab")?,
        memory_pressure: number(dir, "cpuset.memory_pressure")?,
        sched_load_balance: number(dir, "cpuset.sched_load_balance")?,
        sched_relax_domain_level: level.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
    })
}

/// `0-2,7` to its numbers (cpuset(7), "List format").
fn expand(list: &str) -> Vec<u16> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let parts = list.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number(first)?..=number(last)?)
    });
    parts.flatten().collect()
}

fn memory(dir: &Dir) -> Result<MemoryAccount, Error> {
    let raw = raw(&dir.read_if_there("memory.stat")?.unwrap_or_default());
    let one = |kind: &str| {
        Ok::<_, Error>(MemoryUse {
            limit: number(dir, &format!("memory.{kind}limit_in_bytes"))?,
            usage: number(dir, &format!("memory.{kind}usage_in_bytes"))?,
            max: number(dir, &format!("memory.{kind}max_usage_in_bytes"))?,
            failures: number(dir, &format!("memory.{kind}failcnt"))?,
        })
    };
    Ok(MemoryAccount {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: one("")?,
        swap: one("memsw.")?,
        kernel: one("kmem.")?,
        kernel_tcp: one("kmem.tcp.")?,
        raw,
        pressure: None,
    })
}

/// BFQ's own files where it schedules, else CFQ's, else what throttling counts, which every
/// kernel has.
fn io(dir: &Dir) -> Result<IoAccount, Error> {
    let list =
        |file: String| Ok::<_, Error>(entries(&dir.read_if_there(&file)?.unwrap_or_default()));
    for kind in ["blkio.bfq.", "blkio."] {
        let list = |name: &str| list(format!("{kind}{name}_recursive"));
        let serviced = list("io_serviced")?;
        if !serviced.is_empty() {
            return Ok(IoAccount {
                serviced,
                service_bytes: list("io_service_bytes")?,
                queued: list("io_queued")?,
                service_time: list("io_service_time")?,
                wait_time: list("io_wait_time")?,
                merged: list("io_merged")?,
                time: list("time")?,
                sectors: list("sectors")?,
                pressure: None,
            });
        }
    }
    // Before 4.17 these count only the group itself.
    let recursive = |name: &str| {
        let name = format!("blkio.throttle.{name}");
        match dir.has(&format!("{name}_recursive"))? {
            true => list(format!("{name}_recursive")),
            false => list(name),
        }
    };
    Ok(IoAccount {
        service_bytes: recursive("io_service_bytes")?,
        serviced: recursive("io_serviced")?,
        ..IoAccount::default()
    })
}

/// Lines such as `8:0 Read 5` or `8:0 5`; the sum over all devices at the end is left out.
fn entries(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let second = words.next()?;
        let (operation, value) = match words.next() {
            Some(value) => (second, value),
            None => ("", second),
        };
        Some(IoEntry {
            major,
            minor,
            operation: operation.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn huge_pages(dir: &Dir, size: &str) -> Result<HugePageAccount, Error> {
    let file = |end: &str| number(dir, &format!("hugetlb.{size}.{end}"));
    Ok(HugePageAccount {
        usage: file("usage_in_bytes")?,
        max: file("max_usage_in_bytes")?,
        failures: file("failcnt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_devices() {
        let text = "8:0 Read 5\n8:0 Total 9\n8:16 7\nTotal 16\n";
        let entries = entries(text);
        let short: Vec<(u64, &str, u64)> = entries
            .iter()
            .map(|one| (one.minor, one.operation.as_str(), one.value))
            .collect();
        assert_eq!(short, [(0, "Read", 5), (0, "Total", 9), (16, "", 7)]);
    }

    #[test]
    fn lists_of_processors() {
        for (list, expect) in [("\n", vec![]), ("0-2,7\n", vec![0, 1, 2, 7]), ("x", vec![])] {
            assert_eq!(expand(list), expect, "{list}");
        }
    }

    #[test]
    fn modes_by_processor() {
        let text = "cpu user system\n0 10 20\n1 30 40\n";
        assert_eq!(by_mode(text), (vec![10, 30], vec![20, 40]));
    }
}
