//! Figures of one subject as they are kept: what was done, by whom, what it took, and the bar that
//! the project sets itself.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// What a figure counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// 1024 bytes.
    #[serde(rename = "KiB")]
    Kibibytes,
    /// Million bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// Million bytes in a second: the only unit of which more is better.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    /// Hundredths of one processor.
    #[serde(rename = "% of a core")]
    PercentOfCore,
    /// How often another figure of the same program.
    #[serde(rename = "times")]
    Times,
}

impl Unit {
    /// As it is written behind a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Kibibytes => "KiB",
            Self::Megabytes => "MB",
            Self::MegabytesPerSecond => "MB/s",
            Self::PercentOfCore => "%",
            Self::Times => "times",
        }
    }

    /// Whether the larger figure is the better one.
    pub fn more_is_better(self) -> bool {
        self == Self::MegabytesPerSecond
    }
}

/// What the project wants of itself.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// This part of the yardstick's figure at most, or at least where more is better.
    Ratio(f64),
    /// The same of wall time and of processor time.
    RatioAndCpu(f64),
    /// A figure by itself, in the row's unit: at most, or at least where more is better.
    Value(f64),
}

/// What one program took for one work.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Figure {
    /// The program.
    pub who: String,
    /// Median, in the row's unit; none if nothing worked.
    pub value: Option<f64>,
    /// Median of the processor time, milliseconds.
    pub cpu: Option<f64>,
    /// Highest resident memory, million bytes.
    pub peak: Option<f64>,
    /// Samples that worked.
    pub samples: usize,
    /// Samples that failed.
    pub failed: usize,
    /// What the first that failed said.
    pub failure: Option<String>,
}

/// One work, by all programs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What the figures count.
    pub unit: Unit,
    /// What the project wants.
    pub bar: Option<Bar>,
    /// One for each program that did it.
    pub figures: Vec<Figure>,
}

/// All rows of a run, with all that a reader needs to judge them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Subject {
    /// `cri`, `runtime` or `images`.
    pub name: String,
    /// The day.
    pub date: String,
    /// The class of machine.
    pub machine: Machine,
    /// Names and versions of the programs beside ours.
    pub versions: Vec<String>,
    /// Rounds.
    pub rounds: usize,
    /// Our program.
    pub own: String,
    /// The program that ours is compared with.
    pub yardstick: String,
    /// The works in their order.
    pub rows: Vec<Row>,
}

impl Row {
    /// The figure of a program.
    pub fn of(&self, who: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.who == who)
    }

    fn value(&self, who: &str) -> Option<f64> {
        self.of(who)?.value
    }

    /// The one program's figure as a part of the other's.
    pub fn ratio(&self, own: &str, yardstick: &str) -> Option<f64> {
        part(self.value(own)?, self.value(yardstick)?)
    }

    /// The one program's processor time as a part of the other's.
    pub fn cpu_ratio(&self, own: &str, yardstick: &str) -> Option<f64> {
        part(self.of(own)?.cpu?, self.of(yardstick)?.cpu?)
    }

    /// Like [`Row::ratio`], but small is good whatever the unit.
    pub fn share(&self, own: &str, yardstick: &str) -> Option<f64> {
        let ratio = self.ratio(own, yardstick)?;
        Some(if self.unit.more_is_better() {
            1.0 / ratio
        } else {
            ratio
        })
    }

    /// Where the bar lies on the scale of [`Row::share`].
    pub fn mark(&self, yardstick: &str) -> Option<f64> {
        let ratio = match self.bar? {
            Bar::Ratio(ratio) | Bar::RatioAndCpu(ratio) => ratio,
            Bar::Value(value) => part(value, self.value(yardstick)?)?,
        };
        Some(if self.unit.more_is_better() {
            1.0 / ratio
        } else {
            ratio
        })
    }

    /// Whether the bar is reached; none without a bar, or without what it is measured by.
    pub fn reached(&self, own: &str, yardstick: &str) -> Option<bool> {
        let within = |value: f64, bar: f64| {
            if self.unit.more_is_better() {
                value >= bar
            } else {
                value <= bar
            }
        };
        match self.bar? {
            Bar::Ratio(bar) => Some(within(self.ratio(own, yardstick)?, bar)),
            Bar::RatioAndCpu(bar) => {
                let wall = self.ratio(own, yardstick)?;
                Some(wall <= bar && self.cpu_ratio(own, yardstick)? <= bar)
            }
            Bar::Value(bar) => Some(within(self.value(own)?, bar)),
        }
    }
}

fn part(value: f64, of: f64) -> Option<f64> {
    (of > 0.0 && value > 0.0).then(|| value / of)
}

impl Subject {
    /// Keeps it in `folder`, in place of what an earlier run left.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context("create the folder of the figures")?;
        let path = folder.join(format!("{}.json", self.name));
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What was kept of a subject; none if it was never measured.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not of this form.
    pub fn kept(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(format!("{name}.json"));
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        let subject = serde_json::from_str(&text);
        subject.with_context(|| format!("read {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: Unit, bar: Bar, own: f64, theirs: f64) -> Row {
        let figure = |who: &str, value: f64| Figure {
            who: who.to_owned(),
            value: Some(value),
            cpu: Some(value / 2.0),
            ..Figure::default()
        };
        Row {
            work: "work".to_owned(),
            unit,
            bar: Some(bar),
            figures: vec![figure("own", own), figure("theirs", theirs)],
        }
    }

    #[test]
    fn bars_are_reached_or_not() {
        use Unit::{Kibibytes, MegabytesPerSecond, Milliseconds};
        let check = |row: &Row, share: f64, mark: f64, reached: bool| {
            assert_eq!(row.share("own", "theirs"), Some(share), "{row:?}");
            assert_eq!(row.mark("theirs"), Some(mark), "{row:?}");
            assert_eq!(row.reached("own", "theirs"), Some(reached), "{row:?}");
        };
        check(
            &row(Milliseconds, Bar::Ratio(0.25), 10.0, 80.0),
            0.125,
            0.25,
            true,
        );
        check(
            &row(Milliseconds, Bar::Ratio(0.125), 20.0, 80.0),
            0.25,
            0.125,
            false,
        );
        check(
            &row(MegabytesPerSecond, Bar::Ratio(4.0), 160.0, 20.0),
            0.125,
            0.25,
            true,
        );
        check(
            &row(MegabytesPerSecond, Bar::Ratio(4.0), 40.0, 20.0),
            0.5,
            0.25,
            false,
        );
        check(
            &row(Kibibytes, Bar::Value(100.0), 50.0, 200.0),
            0.25,
            0.5,
            true,
        );
        let mut slow = row(Milliseconds, Bar::RatioAndCpu(0.5), 10.0, 80.0);
        slow.figures[0].cpu = Some(60.0);
        check(&slow, 0.125, 0.5, false);
    }

    #[test]
    fn without_a_peer_only_a_figure_by_itself_can_be_judged() {
        let mut alone = row(Unit::Milliseconds, Bar::Ratio(0.5), 1.0, 1.0);
        alone.figures.pop();
        assert_eq!(alone.reached("own", "theirs"), None);
        alone.bar = Some(Bar::Value(2.0));
        assert_eq!(alone.reached("own", "theirs"), Some(true));
        assert_eq!(alone.mark("theirs"), None);
    }
}
