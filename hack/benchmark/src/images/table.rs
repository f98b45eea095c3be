//! Samples by work and daemon, and the table of their medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::peer::Sample;

/// The daemon that the others are compared with.
const YARDSTICK: &str = "containerd";

/// All samples.
#[derive(Debug, Default)]
pub(crate) struct Table {
    works: Vec<String>,
    series: BTreeMap<(usize, &'static str), Series>,
}

#[derive(Debug, Default)]
struct Series {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
    peak: u64,
}

impl Table {
    /// Adds one sample of `work`.
    pub(crate) fn add(&mut self, work: &str, peer: &'static str, sample: &Sample) {
        let series = self.series(work, peer);
        series.wall.push(sample.wall);
        series.cpu.push(sample.cpu);
        series.peak = series.peak.max(sample.peak);
    }

    /// Adds one sample of which only the time is known.
    pub(crate) fn add_time(&mut self, work: &str, peer: &'static str, wall: Duration) {
        self.series(work, peer).wall.push(wall);
    }

    fn series(&mut self, work: &str, peer: &'static str) -> &mut Series {
        let known = self.works.iter().position(|known| known == work);
        let at = known.unwrap_or_else(|| {
            self.works.push(work.to_owned());
            self.works.len() - 1
        });
        self.series.entry((at, peer)).or_default()
    }

    /// The table, in Markdown: medians, and the highest peak.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "| {:<42} | {:<10} | {:>9} | {:>9} | {:>10} | {:>8} | {:>6} |\n\
             |{:-<44}|{:-<12}|{:->10}:|{:->10}:|{:->11}:|{:->9}:|{:->7}:|\n",
            "work",
            "daemon",
            "wall ms",
            "cpu ms",
            "containerd",
            "peak MB",
            "rounds",
            "",
            "",
            "",
            "",
            "",
            "",
            ""
        );
        for ((work, peer), series) in &self.series {
            let wall = median(&series.wall);
            let base = self
                .series
                .get(&(*work, YARDSTICK))
                .and_then(|base| median(&base.wall));
            let ratio = wall.zip(base).filter(|(_, base)| *base > 0.0);
            let peak = (series.peak > 0).then(|| series.peak * 1024 / 1_000_000);
            let line = writeln!(
                text,
                "| {:<42} | {peer:<10} | {:>9} | {:>9} | {:>10} | {:>8} | {:>6} |",
                self.works[*work],
                shown(wall.map(|ms| format!("{ms:.1}"))),
                shown(median(&series.cpu).map(|ms| format!("{ms:.0}"))),
                shown(ratio.map(|(own, base)| format!("{:.2}", own / base))),
                shown(peak.map(|peak| peak.to_string())),
                series.wall.len(),
            );
            line.expect("a string can be written");
        }
        text
    }
}

fn shown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// The median in milliseconds.
fn median(samples: &[Duration]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = &sorted[(sorted.len() - 1) / 2];
    Some((*lower + *upper).as_secs_f64() * 500.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_the_highest_peak() {
        let mut table = Table::default();
        for (wall, peak) in [(30, 1000), (10, 3000), (20, 2000)] {
            let cpu = Duration::from_millis(5);
            let sample = |factor| Sample {
                wall: Duration::from_millis(wall) * factor,
                cpu,
                peak,
            };
            table.add("pull", "wherryd", &sample(1));
            table.add("pull", "containerd", &sample(4));
        }
        let text = table.text();
        let line = text.lines().find(|line| line.contains("wherryd")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(
            cells[1..8],
            ["pull", "wherryd", "20.0", "5", "0.25", "3", "3"]
        );
        assert_eq!(median(&[]), None);
    }
}
