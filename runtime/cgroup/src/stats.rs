//! What a group uses: few files, read at once, for callers that ask often.
//!
//! Not the whole of what the kernel accounts; `None` means that this host does not account it.

use crate::Error;
use crate::dir::Dir;
use crate::v1::{Dirs, find};

/// What a group uses at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit of processes and threads, if there is one.
    pub pids_limit: Option<u64>,
    /// Stalls for want of input and output; v2 only.
    pub io_pressure: Option<Pressure>,
}

/// Processor time and throttling, all since the group's creation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    /// Time used, in nanoseconds.
    pub usage_ns: u64,
    /// Of it in user mode, in nanoseconds.
    pub user_ns: u64,
    /// Of it in the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Periods with a quota.
    pub periods: u64,
    /// Of them those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period, in nanoseconds.
    pub throttled_ns: u64,
    /// Stalls for want of a processor; v2 only.
    pub pressure: Option<Pressure>,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// All that is charged, with page cache.
    pub usage: u64,
    /// Usage without the page cache that could go at once.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit; none if unlimited.
    pub limit: Option<u64>,
    /// Page faults since the creation.
    pub page_faults: u64,
    /// Of them those that needed input.
    pub major_page_faults: u64,
    /// Swap used.
    pub swap: Option<u64>,
    /// The limit of swap alone; none if unlimited or not accounted.
    pub swap_limit: Option<u64>,
    /// Stalls for want of memory; v2 only.
    pub pressure: Option<Pressure>,
}

impl Memory {
    /// What is left below the limit for the working set, in bytes; none if unlimited.
    pub fn available(&self) -> Option<u64> {
        self.limit
            .map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task was stalled.
    pub some: PressureLine,
    /// All tasks were.
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Share of the last 10 s, in percent.
    pub avg10: f64,
    /// Share of the last 60 s, in percent.
    pub avg60: f64,
    /// Share of the last 300 s, in percent.
    pub avg300: f64,
    /// Stalled time, in nanoseconds.
    pub total_ns: u64,
}

/// v1 says "no limit" with the largest multiple of a page; no machine has this much.
const NO_LIMIT: u64 = 1 << 62;

pub(crate) fn read_v2(dir: &Dir) -> Result<Stats, Error> {
    let text = |file| dir.read_if_there(file);
    let number = |file| -> Result<Option<u64>, Error> { Ok(text(file)?.and_then(|t| parse(&t))) };
    let pressure = |file| pressure(dir, file);
    let mut stats = Stats {
        pids: number("pids.current")?,
        pids_limit: number("pids.max")?,
        io_pressure: pressure("io.pressure")?,
        ..Stats::default()
    };
    if let Some(stat) = text("cpu.stat")? {
        stats.cpu = Some(Cpu {
            pressure: pressure("cpu.pressure")?,
            ..cpu_v2(&stat)
        });
    }
    if let (Some(usage), Some(stat)) = (number("memory.current")?, text("memory.stat")?) {
        let swap_limit = number("memory.swap.max")?;
        stats.memory = Some(Memory {
            limit: number("memory.max")?,
            swap: number("memory.swap.current")?,
            swap_limit,
            pressure: pressure("memory.pressure")?,
            ..memory(
                usage,
                &stat,
                ["inactive_file", "anon", "pgfault", "pgmajfault"],
            )
        });
    }
    Ok(stats)
}

/// Reading is refused (EOPNOTSUPP) where the kernel was started without pressure accounting.
pub(crate) fn pressure(dir: &Dir, file: &str) -> Result<Option<Pressure>, Error> {
    match dir.read_if_there(file) {
        Err(error) if error.errno() == Some(rustix::io::Errno::OPNOTSUPP) => Ok(None),
        read => Ok(read?.map(|text| psi(&text))),
    }
}

pub(crate) fn cpu_v2(stat: &str) -> Cpu {
    let ns = |key| field(stat, key) * 1000;
    Cpu {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        throttled_ns: ns("throttled_usec"),
        pressure: None,
    }
}

pub(crate) fn read_v1(dirs: &Dirs) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    let number = |dir: &Dir, file| -> Result<Option<u64>, Error> {
        Ok(dir.read_if_there(file)?.and_then(|text| parse(&text)))
    };
    if let Ok(dir) = find(dirs, "pids", "pids.current") {
        stats.pids = number(dir, "pids.current")?;
        stats.pids_limit = number(dir, "pids.max")?;
    }
    if let Ok(dir) = find(dirs, "cpuacct", "cpuacct.usage") {
        stats.cpu = cpu_v1(dirs, dir)?;
    }
    if let Ok(dir) = find(dirs, "memory", "memory.stat") {
        stats.memory = memory_v1(dir)?;
    }
    Ok(stats)
}

fn cpu_v1(dirs: &Dirs, dir: &Dir) -> Result<Option<Cpu>, Error> {
    let number = |file| -> Result<Option<u64>, Error> {
        Ok(dir.read_if_there(file)?.and_then(|text| parse(&text)))
    };
    let Some(usage_ns) = number("cpuacct.usage")? else {
        return Ok(None);
    };
    let stat = match find(dirs, "cpu", "cpu.stat") {
        Ok(dir) => dir.read_if_there("cpu.stat")?.unwrap_or_default(),
        Err(_) => String::new(),
    };
    Ok(Some(Cpu {
        usage_ns,
        user_ns: number("cpuacct.usage_user")?.unwrap_or(0),
        system_ns: number("cpuacct.usage_sys")?.unwrap_or(0),
        periods: field(&stat, "nr_periods"),
        throttled_periods: field(&stat, "nr_throttled"),
        throttled_ns: field(&stat, "throttled_time"),
        pressure: None,
    }))
}

fn memory_v1(dir: &Dir) -> Result<Option<Memory>, Error> {
    let number = |file| -> Result<Option<u64>, Error> {
        Ok(dir.read_if_there(file)?.and_then(|text| parse(&text)))
    };
    let usage = number("memory.usage_in_bytes")?;
    let (Some(usage), Some(stat)) = (usage, dir.read_if_there("memory.stat")?) else {
        return Ok(None);
    };
    let limited = |limit: Option<u64>| limit.filter(|limit| *limit < NO_LIMIT);
    let limit = limited(number("memory.limit_in_bytes")?);
    let both = limited(number("memory.memsw.limit_in_bytes")?);
    let keys = [
        "total_inactive_file",
        "total_rss",
        "total_pgfault",
        "total_pgmajfault",
    ];
    Ok(Some(Memory {
        limit,
        // The kernel counts memory and swap together; swap alone is the difference.
        swap: number("memory.memsw.usage_in_bytes")?.map(|both| both.saturating_sub(usage)),
        swap_limit: both
            .zip(limit)
            .map(|(both, limit)| both.saturating_sub(limit)),
        ..memory(usage, &stat, keys)
    }))
}

fn memory(usage: u64, stat: &str, keys: [&str; 4]) -> Memory {
    let [inactive_file, rss, page_faults, major_page_faults] = keys.map(|key| field(stat, key));
    Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss,
        page_faults,
        major_page_faults,
        ..Memory::default()
    }
}

/// A single number; `max` is none.
fn parse(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value behind `key` in a file of `key value` lines; 0 if the kernel does not have it.
pub(crate) fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(parse)
        .unwrap_or(0)
}

fn psi(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let target = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => target.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => target.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => target.avg300 = value.parse().unwrap_or(0.0),
                "total" => target.total_ns = value.parse::<u64>().unwrap_or(0) * 1000,
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let stat = "anon 5\nanon_thp 7\nfile 9\n";
        assert_eq!(
            ["anon", "anon_thp", "file", "ano"].map(|key| field(stat, key)),
            [5, 7, 9, 0]
        );
    }

    #[test]
    fn pressure() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.01 total=7\n";
        let psi = psi(text);
        assert_eq!((psi.some.avg10, psi.some.total_ns), (1.5, 12_000));
        assert_eq!((psi.full.avg300, psi.full.total_ns), (0.01, 7000));
    }

    #[test]
    fn cpu() {
        let cpu = cpu_v2(
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n",
        );
        assert_eq!(
            (cpu.usage_ns, cpu.periods, cpu.throttled_ns),
            (5000, 4, 9000)
        );
    }

    #[test]
    fn working_set_is_never_negative() {
        let memory = memory(
            100,
            "inactive_file 150\nanon 40\n",
            ["inactive_file", "anon", "x", "y"],
        );
        assert_eq!((memory.working_set, memory.rss), (0, 40));
    }
}
