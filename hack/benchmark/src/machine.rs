//! What kind of machine the figures are of, and when they were taken; never which machine.

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A class of machine, and what else it had to do.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// Processors that could be used.
    pub processors: usize,
    /// Memory, GiB.
    pub memory: u64,
    /// Version of the kernel: numbers only.
    pub kernel: String,
    /// Load average of a minute before the first work.
    pub load_before: f64,
    /// Load average of a minute after the last work.
    pub load_after: f64,
}

impl Machine {
    /// This one, before the work.
    pub fn here() -> Self {
        let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        Self {
            processors,
            memory: memory(&read("/proc/meminfo")),
            kernel: kernel(&read("/proc/sys/kernel/osrelease")),
            load_before: load(),
            load_after: 0.0,
        }
    }

    /// The work is done.
    pub fn finish(&mut self) {
        self.load_after = load();
    }
}

/// Today, as `21 Nov 2026`.
pub fn today() -> String {
    // `Sat, 21 Nov 2026 ...` (RFC 9110, 5.6.7).
    httpdate::fmt_http_date(SystemTime::now())
        .get(5..16)
        .unwrap_or_default()
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn load() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split(' ').next().and_then(|load| load.parse().ok());
    first.unwrap_or_default()
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    // What firmware and kernel keep is missing from the total.
    number.unwrap_or_default().div_ceil(1 << 20)
}

/// `6.18.5` of `6.18.5-builder-3.example`: what follows the numbers may name a machine.
fn kernel(release: &str) -> String {
    let end = release.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    release[..end.unwrap_or(release.len())]
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_kernel_only_numbers_are_told() {
        assert_eq!(kernel("6.18.5-example.3+\n"), "6.18.5");
        assert_eq!(kernel("6.1.\n"), "6.1");
    }

    #[test]
    fn memory_is_rounded_up_to_whole_gibibytes() {
        assert_eq!(memory("MemTotal:       24684032 kB\nMemFree: 1 kB\n"), 24);
        assert_eq!(memory(""), 0);
    }
}
