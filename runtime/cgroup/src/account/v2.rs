//! v2's files to the account.

use super::{
    Account, CpuAccount, Error, HugePageAccount, IoAccount, IoEntry, MemoryAccount, MemoryUse,
    PidsAccount, device, number, page_sizes, raw,
};
use crate::dir::Dir;
use crate::stats;

pub(crate) fn read(dir: &Dir) -> Result<Account, Error> {
    let text = |file| Ok::<_, Error>(dir.read_if_there(file)?.unwrap_or_default());
    let pids = PidsAccount {
        current: number(dir, "pids.current")?,
        limit: number(dir, "pids.max")?,
    };
    let mut account = Account {
        cpu: cpu(&text("cpu.stat")?),
        memory: memory(dir, &text("memory.stat")?)?,
        io: io(&text("io.stat")?),
        pids,
        ..Account::default()
    };
    account.cpu.pressure = stats::pressure(dir, "cpu.pressure")?;
    account.memory.pressure = stats::pressure(dir, "memory.pressure")?;
    account.io.pressure = stats::pressure(dir, "io.pressure")?;
    for size in page_sizes(dir, "current")? {
        let pages = huge_pages(dir, &size)?;
        account.huge_pages.insert(size, pages);
    }
    Ok(account)
}

fn cpu(stat: &str) -> CpuAccount {
    let cpu = stats::cpu_v2(stat);
    CpuAccount {
        total_ns: cpu.usage_ns,
        user_ns: cpu.user_ns,
        kernel_ns: cpu.system_ns,
        periods: cpu.periods,
        throttled_periods: cpu.throttled_periods,
        throttled_ns: cpu.throttled_ns,
        ..CpuAccount::default()
    }
}

fn memory(dir: &Dir, stat: &str) -> Result<MemoryAccount, Error> {
    let raw = raw(stat);
    let usage = one(dir, "memory")?;
    let mut swap = one(dir, "memory.swap")?;
    if dir.has("memory.swap.current")? {
        // v1 counts memory and swap together, and so does whoever reads this.
        swap.usage += usage.usage;
        swap.limit = swap.limit.saturating_add(usage.limit);
    }
    Ok(MemoryAccount {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
        ..MemoryAccount::default()
    })
}

fn one(dir: &Dir, name: &str) -> Result<MemoryUse, Error> {
    let limit = dir.read_if_there(&format!("{name}.max"))?;
    Ok(MemoryUse {
        limit: match limit.as_deref().map(str::trim) {
            None => 0,
            Some(limit) => limit.parse().unwrap_or(u64::MAX),
        },
        usage: number(dir, &format!("{name}.current"))?,
        max: number(dir, &format!("{name}.peak"))?,
        failures: 0,
    })
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io(stat: &str) -> IoAccount {
    let mut io = IoAccount::default();
    for line in stat.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut io.service_bytes, "Read"),
                "wbytes" => (&mut io.service_bytes, "Write"),
                "dbytes" => (&mut io.service_bytes, "Discard"),
                "rios" => (&mut io.serviced, "Read"),
                "wios" => (&mut io.serviced, "Write"),
                "dios" => (&mut io.serviced, "Discard"),
                _ => continue,
            };
            list.push(IoEntry {
                major,
                minor,
                operation: operation.to_owned(),
                value: value.parse().unwrap_or(0),
            });
        }
    }
    io
}

fn huge_pages(dir: &Dir, size: &str) -> Result<HugePageAccount, Error> {
    let events = dir.read_if_there(&format!("hugetlb.{size}.events"))?;
    Ok(HugePageAccount {
        usage: number(dir, &format!("hugetlb.{size}.current"))?,
        max: 0,
        failures: stats::field(&events.unwrap_or_default(), "max"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_operations() {
        let io = io(
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n(unknown) rbytes=9\n253:1 rbytes=7\n",
        );
        let list = |entries: &[IoEntry]| -> Vec<(u64, u64, String, u64)> {
            let entry = |one: &IoEntry| (one.major, one.minor, one.operation.clone(), one.value);
            entries.iter().map(entry).collect()
        };
        assert_eq!(
            list(&io.service_bytes),
            [
                (8, 0, "Read".to_owned(), 1),
                (8, 0, "Write".to_owned(), 2),
                (8, 0, "Discard".to_owned(), 5),
                (253, 1, "Read".to_owned(), 7),
            ]
        );
        assert_eq!(io.serviced.len(), 3);
    }
}
