//! One picture of all subjects, as SVG: a bar for each work that a peer did as well.

use std::fmt::Write as _;

use crate::page::{SUBJECTS, number};
use crate::results::{Row, Subject};

/// Sizes in user units.
const WIDTH: f64 = 920.0;
const LABELS: f64 = 350.0;
const MARGIN: f64 = 14.0;
const LINE: f64 = 20.0;
const HEADING: f64 = 34.0;
/// The largest ratio that fits; longer bars are cut off and say their figure.
const SCALE: f64 = 1.2;
/// Room behind the longest bar, for its figure.
const FIGURE: f64 = 54.0;

const REACHED: &str = "#2e8b57";
const MISSED: &str = "#d2691e";
const UNJUDGED: &str = "#7a8ca5";

/// The picture.
pub fn draw(subjects: &[Subject]) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for subject in subjects {
        let (own, yardstick) = (subject.own.as_str(), subject.yardstick.as_str());
        let drawn = |row: &&Row| row.share(own, yardstick).is_some();
        let rows: Vec<&Row> = subject.rows.iter().filter(drawn).collect();
        if rows.is_empty() {
            continue;
        }
        let title = SUBJECTS
            .iter()
            .find(|(name, ..)| *name == subject.name)
            .map_or("", |(_, title, _)| title);
        y += HEADING;
        let heading = format!("{title}: {own} beside {yardstick}");
        text(&mut body, MARGIN, y - 10.0, "start", "bold", &heading);
        let top = y;
        for row in rows {
            bar(&mut body, row, own, yardstick, y);
            y += LINE;
        }
        line(
            &mut body,
            at(1.0),
            top - 3.0,
            y,
            "#333",
            "1.5\" stroke-dasharray=\"4 3",
        );
        text(&mut body, at(1.0), top - 8.0, "middle", "normal", yardstick);
    }
    y += MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         height=\"{y}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>What each work takes, as a part of what the peer takes; shorter is better</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

/// Where a ratio lies.
fn at(ratio: f64) -> f64 {
    LABELS + ratio.min(SCALE) / SCALE * (WIDTH - LABELS - FIGURE - MARGIN)
}

fn bar(body: &mut String, row: &Row, own: &str, yardstick: &str, y: f64) {
    let share = row
        .share(own, yardstick)
        .expect("only rows that have one are drawn");
    let fill = match row.reached(own, yardstick) {
        Some(true) => REACHED,
        Some(false) => MISSED,
        None => UNJUDGED,
    };
    text(body, LABELS - 8.0, y + 13.0, "end", "normal", &row.work);
    let width = (at(share) - LABELS).max(1.0);
    let top = y + 3.0;
    let drawn = writeln!(
        body,
        "<rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"13\" fill=\"{fill}\"/>"
    );
    drawn.expect("a string can be written");
    let mark = row.mark(yardstick).filter(|mark| *mark <= SCALE);
    if let Some(mark) = mark {
        line(body, at(mark), y + 1.0, y + 18.0, "#000", "2.5");
    }
    // Behind whichever is further to the right.
    let end = mark.map_or(at(share), |mark| at(share).max(at(mark)));
    text(body, end + 5.0, y + 13.0, "start", "normal", &number(share));
}

fn line(body: &mut String, x: f64, top: f64, bottom: f64, colour: &str, width: &str) {
    let drawn = writeln!(
        body,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" \
         stroke-width=\"{width}\"/>"
    );
    drawn.expect("a string can be written");
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let drawn = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{words}</text>"
    );
    drawn.expect("a string can be written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::results::{Bar, Figure, Unit};

    #[test]
    fn a_bar_for_each_row_with_a_peer_and_a_mark_for_each_bar() {
        let figure = |who: &str, value: f64| Figure {
            who: who.to_owned(),
            value: Some(value),
            ..Figure::default()
        };
        let row = |work: &str, bar, figures| Row {
            work: work.to_owned(),
            unit: Unit::Milliseconds,
            bar,
            figures,
        };
        let subject = Subject {
            name: "cri".to_owned(),
            date: String::new(),
            machine: Machine::default(),
            versions: Vec::new(),
            rounds: 1,
            own: "own".to_owned(),
            yardstick: "theirs".to_owned(),
            rows: vec![
                row(
                    "good",
                    Some(Bar::Ratio(0.5)),
                    vec![figure("own", 1.0), figure("theirs", 4.0)],
                ),
                row(
                    "bad & long",
                    Some(Bar::Ratio(0.5)),
                    vec![figure("own", 9.0), figure("theirs", 4.0)],
                ),
                row("alone", None, vec![figure("own", 9.0)]),
            ],
        };
        let svg = draw(&[subject]);
        assert_eq!(svg.matches(REACHED).count(), 1);
        assert_eq!(svg.matches(MISSED).count(), 1);
        assert_eq!(svg.matches("stroke=\"#000\"").count(), 2);
        assert!(svg.contains("bad &amp; long") && svg.contains(">2.25<") && !svg.contains("alone"));
        assert!(at(9.0) + FIGURE <= WIDTH);
    }
}
