//! The page of all subjects, and the table of one.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::chart;
use crate::results::{Bar, Row, Subject, Unit};

/// Every subject in the order of the page, with its heading and how it is measured.
pub const SUBJECTS: [(&str, &str, &str); 4] = [
    (
        "cri",
        "Pods and containers",
        "`hack/bench cri`. Both daemons have what they keep on one tmpfs, their pods on a bridge of \
         their own (containerd by the CNI plugins bridge, host-local and portmap; wherryd by \
         its built-in network), and are asked over CRI by the same client, in turn within each round. \
         Processor time is that of the daemon, its shims, runtimes and plugins and of the containers \
         (an accounting control group), until they are quiet again. Memory is PSS. The rows of critest \
         are `critest --benchmark`.",
    ),
    (
        "runtime",
        "OCI runtimes",
        "`hack/bench runtime`. One command after the other, in rotating order within each round; \
         processor time is that of the command and of all that it waited for.",
    ),
    (
        "images",
        "Images",
        "`hack/bench images`. Pulls from a registry on loopback onto a new ext4 of its own, in turn \
         within each round, once the daemon and the disk are quiet; processor time and peak of resident \
         memory are those of the daemon and its children.",
    ),
    (
        "layers",
        "Forms of layers",
        "`hack/bench layers`. Each layer as one EROFS image beside each layer as files in a folder: a \
         store of each form on a new ext4 of its own, in turn within each round; processor time is \
         that of the store. The page cache is what readers in a control group brought into memory.",
    ),
];

/// Name of the chart in the folder of the figures.
const CHART: &str = "chart.svg";

/// Prints a subject on stdout.
///
/// # Errors
///
/// If nobody takes it.
pub fn print(subject: &Subject) -> Result<()> {
    use std::io::Write as _;
    let text = format!("{}\n\n{}", about(subject), table(subject));
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("print the table")
}

/// Keeps a subject's figures below `docs`, and draws page and chart anew.
///
/// # Errors
///
/// If a file cannot be read or written.
pub fn publish(subject: &Subject, docs: &Path) -> Result<()> {
    subject.keep(&docs.join("benchmarks"))?;
    redraw(docs)
}

/// Draws page and chart of what is kept below `docs`.
///
/// # Errors
///
/// If a file cannot be read or written.
pub fn redraw(docs: &Path) -> Result<()> {
    let folder = docs.join("benchmarks");
    let subjects = kept(&folder)?;
    fs::write(folder.join(CHART), chart::draw(&subjects)).context("write the chart")?;
    fs::write(docs.join("benchmarks.md"), page(&subjects)).context("write the page")
}

/// What is kept in a folder.
///
/// # Errors
///
/// If a file cannot be read or is not of the form of a [`Subject`].
pub fn kept(folder: &Path) -> Result<Vec<Subject>> {
    let all = SUBJECTS
        .iter()
        .map(|(name, ..)| Subject::kept(folder, name));
    Ok(all
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// The page, in Markdown.
pub fn page(subjects: &[Subject]) -> String {
    let mut page = "# Benchmarks\n\n\
        Written by `hack/bench`: each subject is measured by itself, beside the programs that Wherry \
        replaces, in the same run. Figures are medians; what counts is the ratio, since the machine \
        is a small one and may have other work (its load is told).\n\n\
        ![Each work as a part of what the peer takes](benchmarks/chart.svg)\n\n\
        Bars show what Wherry takes as a part of what its peer takes: shorter is better, the line at \
        1 is the peer, and the mark is the bar that the project sets itself. Green: reached.\n"
        .to_owned();
    for (name, title, method) in SUBJECTS {
        let Some(subject) = subjects.iter().find(|subject| subject.name == name) else {
            continue;
        };
        put(&mut page, &format!("\n## {title}\n\n{method}\n\n"));
        put(
            &mut page,
            &format!("{}\n\n{}", about(subject), table(subject)),
        );
    }
    page
}

/// When, where and beside whom.
pub fn about(subject: &Subject) -> String {
    let machine = &subject.machine;
    format!(
        "{}; {} processors, {} GiB, Linux {}; load {:.1} before, {:.1} after; {} rounds; {}.",
        subject.date,
        machine.processors,
        machine.memory,
        machine.kernel,
        machine.load_before,
        machine.load_after,
        subject.rounds,
        subject.versions.join(", "),
    )
}

/// The table of a subject, in Markdown, with what failed below it.
pub fn table(subject: &Subject) -> String {
    let (own, yardstick) = (subject.own.as_str(), subject.yardstick.as_str());
    let others = others(subject);
    let peaks = subject
        .rows
        .iter()
        .any(|row| row.figures.iter().any(|figure| figure.peak.is_some()));
    let mut head = vec!["work".to_owned(), own.to_owned()];
    head.extend(others.iter().cloned());
    head.push(format!("ratio to {yardstick}"));
    head.push("processor time, ms".to_owned());
    head.push("its ratio".to_owned());
    if peaks {
        head.push("peak memory, MB".to_owned());
    }
    head.extend(["bar".to_owned(), "reached".to_owned()]);
    let mut lines = vec![head];
    for row in &subject.rows {
        let mut cells = vec![row.work.clone(), value(row, own)];
        cells.extend(others.iter().map(|who| value(row, who)));
        cells.push(shown(row.ratio(own, yardstick)));
        let cpu = |who: &str| row.of(who).and_then(|figure| figure.cpu);
        cells.push(pair(cpu(own), cpu(yardstick)));
        cells.push(shown(row.cpu_ratio(own, yardstick)));
        if peaks {
            let peak = |who: &str| row.of(who).and_then(|figure| figure.peak);
            cells.push(pair(peak(own), peak(yardstick)));
        }
        cells.push(bar(row));
        cells.push(match row.reached(own, yardstick) {
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
            None => String::new(),
        });
        lines.push(cells);
    }
    let mut text = aligned(&lines);
    for row in &subject.rows {
        for figure in row.figures.iter().filter(|figure| figure.failed > 0) {
            let said = figure.failure.as_deref().unwrap_or_default();
            let all = figure.failed + figure.samples;
            put(
                &mut text,
                &format!(
                    "\n{}, {}: {} of {all} failed: {said}\n",
                    figure.who, row.work, figure.failed
                ),
            );
        }
    }
    text
}

/// The programs beside ours, the yardstick first.
fn others(subject: &Subject) -> Vec<String> {
    let mut others = vec![subject.yardstick.clone()];
    for figure in subject.rows.iter().flat_map(|row| &row.figures) {
        if figure.who != subject.own && !others.contains(&figure.who) {
            others.push(figure.who.clone());
        }
    }
    others
}

fn value(row: &Row, who: &str) -> String {
    let value = row.of(who).and_then(|figure| figure.value);
    value.map_or(String::new(), |value| with_unit(value, row.unit))
}

fn with_unit(value: f64, unit: Unit) -> String {
    format!("{} {}", number(value), unit.name())
}

fn shown(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

fn pair(own: Option<f64>, theirs: Option<f64>) -> String {
    if own.is_none() && theirs.is_none() {
        return String::new();
    }
    let one = |value: Option<f64>| value.map_or("-".to_owned(), number);
    format!("{} / {}", one(own), one(theirs))
}

fn bar(row: &Row) -> String {
    let sign = if row.unit.more_is_better() {
        "≥"
    } else {
        "≤"
    };
    match row.bar {
        Some(Bar::Ratio(ratio)) => format!("{sign} {} of it", number(ratio)),
        Some(Bar::RatioAndCpu(ratio)) => format!("both {sign} {} of it", number(ratio)),
        Some(Bar::Value(value)) => format!("{sign} {}", with_unit(value, row.unit)),
        None => String::new(),
    }
}

/// Three digits that say something.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.0 => 0,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// A Markdown table: the first line is the head; all columns but the first are of numbers.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let cell = if column == 0 {
                format!("| {cell:<width$} ")
            } else {
                format!("| {cell:>width$} ")
            };
            put(&mut text, &cell);
        }
        put(&mut text, "|\n");
        if at == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if column == 0 { "-" } else { ":" };
                put(&mut text, &format!("|{}{end}", "-".repeat(width + 1)));
            }
            put(&mut text, "|\n");
        }
    }
    text
}

fn put(text: &mut String, more: &str) {
    text.write_str(more).expect("a string can be written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::results::Figure;

    fn subject() -> Subject {
        let figure = |who: &str, value: f64| Figure {
            who: who.to_owned(),
            value: Some(value),
            cpu: Some(value / 2.0),
            samples: 3,
            ..Figure::default()
        };
        Subject {
            name: "cri".to_owned(),
            date: "1 Jan 2026".to_owned(),
            machine: Machine::default(),
            versions: vec!["theirs 1.0".to_owned()],
            rounds: 3,
            own: "own".to_owned(),
            yardstick: "theirs".to_owned(),
            rows: vec![Row {
                work: "run".to_owned(),
                unit: Unit::Milliseconds,
                bar: Some(Bar::Ratio(0.1)),
                figures: vec![figure("own", 12.34), figure("theirs", 100.0)],
            }],
        }
    }

    #[test]
    fn a_table_has_figures_ratios_and_the_bar() {
        let text = table(&subject());
        let cells: Vec<&str> = text
            .lines()
            .nth(2)
            .unwrap()
            .split('|')
            .map(str::trim)
            .collect();
        assert_eq!(
            cells[1..9],
            [
                "run",
                "12.3 ms",
                "100 ms",
                "0.123",
                "6.17 / 50.0",
                "0.123",
                "≤ 0.100 of it",
                "**no**"
            ]
        );
    }

    #[test]
    fn what_failed_is_told() {
        let mut subject = subject();
        subject.rows[0].figures[1].failed = 2;
        subject.rows[0].figures[1].failure = Some("no space".to_owned());
        assert!(table(&subject).ends_with("\ntheirs, run: 2 of 5 failed: no space\n"));
    }

    #[test]
    fn figures_survive_being_kept_and_the_page_shows_them() {
        let docs = tempfile::tempdir().unwrap();
        publish(&subject(), docs.path()).unwrap();
        let all = kept(&docs.path().join("benchmarks")).unwrap();
        assert_eq!(all, [subject()]);
        let page = fs::read_to_string(docs.path().join("benchmarks.md")).unwrap();
        assert!(page.contains("## Pods and containers") && page.contains("| run "));
        assert!(docs.path().join("benchmarks/chart.svg").exists());
    }

    /// Whoever changes how the page looks draws it again: `hack/bench page`.
    #[test]
    fn the_page_of_this_checkout_is_that_of_its_figures() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let subjects = kept(&docs.join("benchmarks")).unwrap();
        assert!(!subjects.is_empty());
        let read = |name: &str| fs::read_to_string(docs.join(name)).unwrap();
        assert_eq!(read("benchmarks.md"), page(&subjects));
        assert_eq!(read("benchmarks/chart.svg"), chart::draw(&subjects));
    }
}
