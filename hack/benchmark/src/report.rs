//! Samples by work and runtime, and the table of their medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use crate::measure::Sample;

/// The runtime that the others are compared with.
const YARDSTICK: &str = "crun";

/// All samples.
#[derive(Debug, Default)]
pub(crate) struct Report {
    works: Vec<String>,
    samples: BTreeMap<(usize, String), Series>,
}

#[derive(Debug, Default)]
struct Series {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
    failed: usize,
    failure: Option<String>,
}

impl Report {
    /// Adds one sample of `work` by `runtime`. Failed ones are counted, not measured.
    pub(crate) fn add(&mut self, work: &str, runtime: &str, sample: Sample) {
        let at = self
            .works
            .iter()
            .position(|known| known == work)
            .unwrap_or_else(|| {
                self.works.push(work.to_owned());
                self.works.len() - 1
            });
        let series = self.samples.entry((at, runtime.to_owned())).or_default();
        if let Some(failure) = sample.failure {
            series.failed += 1;
            series.failure.get_or_insert(failure);
        } else {
            series.wall.push(sample.wall);
            series.cpu.push(sample.cpu);
        }
    }

    /// The table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "| {:<14} | {:<8} | {:>8} | {:>8} | {:>9} | {:>8} | {:>6} |\n\
             |{:-<16}|{:-<10}|{:->9}:|{:->9}:|{:->10}:|{:->9}:|{:->7}:|\n",
            "work",
            "runtime",
            "wall ms",
            "cpu ms",
            "wall/crun",
            "cpu/crun",
            "failed",
            "",
            "",
            "",
            "",
            "",
            "",
            ""
        );
        for ((work, runtime), series) in &self.samples {
            let (wall, cpu) = (median(&series.wall), median(&series.cpu));
            let base = self.samples.get(&(*work, YARDSTICK.to_owned()));
            let ratio = |own: Option<f64>, theirs: Option<f64>| match (own, theirs) {
                (Some(own), Some(theirs)) if theirs > 0.0 => format!("{:.2}", own / theirs),
                _ => "-".to_owned(),
            };
            let line = writeln!(
                table,
                "| {:<14} | {runtime:<8} | {:>8} | {:>8} | {:>9} | {:>8} | {:>6} |",
                self.works[*work],
                number(wall),
                number(cpu),
                ratio(wall, base.and_then(|base| median(&base.wall))),
                ratio(cpu, base.and_then(|base| median(&base.cpu))),
                series.failed,
            );
            line.expect("a string can be written");
        }
        for ((work, runtime), series) in &self.samples {
            if let Some(failure) = &series.failure {
                let line = writeln!(table, "{runtime}, {}: {failure}", self.works[*work]);
                line.expect("a string can be written");
            }
        }
        table
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

/// The median in milliseconds.
fn median(samples: &[Duration]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    let lower = if sorted.len().is_multiple_of(2) {
        &sorted[middle - 1]
    } else {
        upper
    };
    Some((*lower + *upper).as_secs_f64() * 500.0)
}

/// Tells on stderr how far a work is: in place on a terminal, seldom in a log.
#[derive(Debug)]
pub(crate) struct Progress {
    work: &'static str,
    rounds: usize,
}

impl Progress {
    pub(crate) fn new(work: &'static str, rounds: usize) -> Self {
        Self { work, rounds }
    }

    /// `done` rounds are behind us.
    pub(crate) fn tell(&self, done: usize) {
        let mut stderr = std::io::stderr();
        let step = (self.rounds / 4).max(1);
        let line = format!("bench: {}: {done} of {} rounds", self.work, self.rounds);
        let told = if stderr.is_terminal() {
            let end = if done == self.rounds { "\n" } else { "" };
            write!(stderr, "\r{line}{end}")
        } else if done.is_multiple_of(step) || done == self.rounds {
            writeln!(stderr, "{line}")
        } else {
            Ok(())
        };
        // Nobody reads it: measure on.
        drop(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(wall: u64, failure: Option<&str>) -> Sample {
        Sample {
            wall: Duration::from_millis(wall),
            cpu: Duration::from_millis(wall / 2),
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn medians_and_ratios() {
        let mut report = Report::default();
        for wall in [10, 20, 90] {
            report.add("run", "crun", sample(wall, None));
            report.add("run", "wrun", sample(wall / 2, None));
        }
        report.add(
            "run",
            "wrun",
            sample(1, Some("run: exit status: 1: no such file")),
        );
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[2],
            "| run            | crun     |    20.00 |    10.00 |      1.00 |     1.00 |      0 |"
        );
        assert_eq!(
            lines[3],
            "| run            | wrun     |    10.00 |     5.00 |      0.50 |     0.50 |      1 |"
        );
        assert_eq!(lines[4], "wrun, run: run: exit status: 1: no such file");
    }

    #[test]
    fn even_counts_take_the_mean_of_the_middle() {
        let samples = [1, 2, 4, 9].map(Duration::from_millis);
        assert_eq!(median(&samples), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
