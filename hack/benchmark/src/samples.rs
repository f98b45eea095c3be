//! Samples by work and program, and the medians of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::results::{Bar, Figure, Row, Unit};

/// What one piece of work took.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// From the beginning to the end.
    pub wall: Duration,
    /// Processor time.
    pub cpu: Option<Duration>,
    /// Highest resident memory, million bytes.
    pub peak: Option<f64>,
    /// What was said, if it failed.
    pub failure: Option<String>,
}

/// All samples.
#[derive(Debug, Default)]
pub struct Samples {
    works: Vec<(String, Unit, Option<Bar>)>,
    series: BTreeMap<(usize, usize), Series>,
    programs: Vec<String>,
}

#[derive(Debug, Default)]
struct Series {
    values: Vec<f64>,
    cpu: Vec<f64>,
    peak: Option<f64>,
    failed: usize,
    failure: Option<String>,
}

impl Samples {
    /// Makes a work known: rows have the order in which works become known.
    pub fn expect(&mut self, work: &str, unit: Unit, bar: impl Into<Option<Bar>>) {
        self.works.push((work.to_owned(), unit, bar.into()));
    }

    /// Adds a sample of time. Failed ones are counted, not measured.
    pub fn add(&mut self, work: &str, program: &str, sample: Sample) {
        let series = self.series(work, program);
        if let Some(failure) = sample.failure {
            series.failed += 1;
            series.failure.get_or_insert(failure);
            return;
        }
        series.values.push(milliseconds(sample.wall));
        series.cpu.extend(sample.cpu.map(milliseconds));
        series.peak = [series.peak, sample.peak]
            .into_iter()
            .flatten()
            .reduce(f64::max);
    }

    /// Adds a figure in the unit of its work.
    pub fn add_value(&mut self, work: &str, program: &str, value: f64) {
        self.series(work, program).values.push(value);
    }

    /// Adds processor time to what [`Samples::add_value`] added.
    pub fn add_cpu(&mut self, work: &str, program: &str, cpu: Duration) {
        self.series(work, program).cpu.push(milliseconds(cpu));
    }

    /// The median so far.
    pub fn median(&self, work: &str, program: &str) -> Option<f64> {
        let work = self.works.iter().position(|(known, ..)| known == work)?;
        let program = self.programs.iter().position(|known| known == program)?;
        median(&self.series.get(&(work, program))?.values)
    }

    fn series(&mut self, work: &str, program: &str) -> &mut Series {
        let at = self.works.iter().position(|(known, ..)| known == work);
        let at = at.unwrap_or_else(|| {
            self.expect(work, Unit::Milliseconds, None);
            self.works.len() - 1
        });
        let who = self.programs.iter().position(|known| known == program);
        let who = who.unwrap_or_else(|| {
            self.programs.push(program.to_owned());
            self.programs.len() - 1
        });
        self.series.entry((at, who)).or_default()
    }

    /// A row for each work that somebody did.
    pub fn rows(&self) -> Vec<Row> {
        let rows = self.works.iter().enumerate().map(|(at, known)| {
            let figures = self.programs.iter().enumerate().filter_map(|(who, name)| {
                let series = self.series.get(&(at, who))?;
                Some(Figure {
                    who: name.clone(),
                    value: median(&series.values),
                    cpu: median(&series.cpu),
                    peak: series.peak,
                    samples: series.values.len(),
                    failed: series.failed,
                    failure: series.failure.clone(),
                })
            });
            Row {
                work: known.0.clone(),
                unit: known.1,
                bar: known.2,
                figures: figures.collect(),
            }
        });
        rows.filter(|row| !row.figures.is_empty()).collect()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle one, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_what_worked() {
        let mut samples = Samples::default();
        samples.expect("run", Unit::Milliseconds, Bar::Ratio(0.5));
        samples.expect("never", Unit::Milliseconds, None);
        for wall in [10, 90, 20] {
            let sample = Sample {
                wall: Duration::from_millis(wall),
                cpu: Some(Duration::from_millis(wall / 2)),
                peak: Some(wall as f64),
                failure: None,
            };
            samples.add("run", "wrun", sample);
        }
        let failed = Sample {
            failure: Some("no such file".to_owned()),
            ..Sample::default()
        };
        samples.add("run", "wrun", failed);
        let rows = samples.rows();
        assert_eq!(rows.len(), 1);
        let figure = rows[0].of("wrun").unwrap();
        assert_eq!(
            (figure.value, figure.cpu, figure.peak),
            (Some(20.0), Some(10.0), Some(90.0))
        );
        assert_eq!((figure.samples, figure.failed), (3, 1));
        assert_eq!(figure.failure.as_deref(), Some("no such file"));
        assert_eq!(samples.median("run", "wrun"), Some(20.0));
    }

    #[test]
    fn even_counts_take_the_mean_of_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 4.0, 2.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
