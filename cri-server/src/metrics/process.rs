//! What the kernel says of the daemon's own process (proc_pid_stat(5)).

use rustix::process::{Resource, getrlimit};

/// The process at a moment. What could not be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Seconds on processors.
    pub(super) cpu: f64,
    pub(super) threads: u64,
    /// Bytes.
    pub(super) virtual_memory: u64,
    /// Bytes.
    pub(super) resident: u64,
    pub(super) open_files: u64,
    /// Nothing for no limit.
    pub(super) max_files: Option<u64>,
}

/// Looks at our own process.
pub(super) fn look() -> Process {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    Process {
        open_files: u64::try_from(open).unwrap_or_default(),
        max_files: getrlimit(Resource::Nofile).current,
        ..parse(&stat, Units::of_kernel())
    }
}

/// What the kernel counts in.
#[derive(Clone, Copy, Debug)]
struct Units {
    /// Bytes of a page.
    page: u64,
    /// Ticks of a second.
    ticks: u64,
}

impl Units {
    fn of_kernel() -> Self {
        Self {
            page: u64::try_from(rustix::param::page_size()).unwrap_or_default(),
            ticks: rustix::param::clock_ticks_per_second().max(1),
        }
    }
}

/// Fields behind the name, which may hold anything: the first of them is the third of all.
fn parse(stat: &str, units: Units) -> Process {
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| -> u64 {
        let text = fields.get(field - 3).copied().unwrap_or_default();
        text.parse().unwrap_or_default()
    };
    let ticks = number(14).saturating_add(number(15));
    let milliseconds = ticks.saturating_mul(1000) / units.ticks;
    Process {
        cpu: std::time::Duration::from_millis(milliseconds).as_secs_f64(),
        threads: number(20),
        virtual_memory: number(23),
        resident: number(24).saturating_mul(units.page),
        ..Process::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_process() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 6 0 99 4096 3 18446744";
        let units = Units {
            page: 4096,
            ticks: 100,
        };
        let process = parse(stat, units);
        assert!((process.cpu - 2.0).abs() < 1e-9);
        assert_eq!(
            (process.threads, process.virtual_memory, process.resident),
            (6, 4096, 12_288)
        );
        assert_eq!(parse("", units), Process::default());
    }

    #[test]
    fn our_own() {
        let process = look();
        assert!(process.threads > 0 && process.resident > 0 && process.open_files > 2);
    }
}
