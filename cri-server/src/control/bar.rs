//! What a person sees of a pull: bars on a terminal, lines elsewhere. On standard error, so that
//! standard output has the image's id alone.

use std::collections::HashSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use control_api::{Pull, PulledLayer};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a line says how far a pull is, where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Digits of a digest that are shown.
const SHORT: usize = 12;
/// Most layers with a bar of their own: a screen is not longer. The last line is for all of them.
const MAX_BARS: usize = 20;
const LAYER: &str = "{prefix}  {bar:40}  {bytes:>10} / {total_bytes:<10}  {msg}";
const WHOLE: &str =
    "{prefix:12}  {bar:40}  {bytes:>10} / {total_bytes:<10}  {bytes_per_sec}, {eta}";

/// Shows pulls in the way that fits.
pub(super) enum Shown {
    /// On a terminal.
    Bars(Bars),
    /// Anywhere else.
    Lines(Lines),
}

impl Shown {
    /// Looks where standard error leads.
    pub(super) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars(Bars::default())
        } else {
            Self::Lines(Lines::new())
        }
    }

    /// Shows how far it is.
    pub(super) fn update(&mut self, pull: &Pull) {
        match self {
            Self::Bars(bars) => bars.update(pull),
            Self::Lines(lines) => lines.update(pull),
        }
    }

    /// Takes away what would be in the way of the last word.
    pub(super) fn finish(self) {
        if let Self::Bars(bars) = self {
            drop(bars.screen.clear());
        }
    }
}

#[derive(Default)]
pub(super) struct Bars {
    screen: MultiProgress,
    layers: Vec<ProgressBar>,
    whole: Option<ProgressBar>,
}

impl Bars {
    fn update(&mut self, pull: &Pull) {
        if pull.layers.is_empty() {
            return;
        }
        if self.whole.is_none() {
            self.begin(pull);
        }
        for (bar, layer) in self.layers.iter().zip(&pull.layers) {
            bar.set_position(layer.received);
            bar.set_message(state(layer));
        }
        if let Some(whole) = &self.whole {
            whole.set_position(received(pull));
        }
    }

    fn begin(&mut self, pull: &Pull) {
        let add = |total: u64, style: &str, prefix: String| {
            let style = ProgressStyle::with_template(style).expect("the template is a constant");
            let bar = self.screen.add(ProgressBar::new(total));
            bar.with_style(style.progress_chars("=> "))
                .with_prefix(prefix)
        };
        let layers = pull.layers.iter().take(MAX_BARS);
        self.layers = layers
            .map(|layer| add(layer.total, LAYER, short(layer)))
            .collect();
        self.whole = Some(add(total(pull), WHOLE, "all".into()));
    }
}

pub(super) struct Lines {
    told: HashSet<String>,
    last: Instant,
}

impl Lines {
    fn new() -> Self {
        Self {
            told: HashSet::new(),
            last: Instant::now(),
        }
    }

    fn update(&mut self, pull: &Pull) {
        for line in self.lines(pull, Instant::now()) {
            // Who closes it does not want to know.
            drop(writeln!(std::io::stderr(), "{line}"));
        }
    }

    /// What is new: layers that are there, now and then how far the rest is.
    fn lines(&mut self, pull: &Pull, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for layer in pull.layers.iter().filter(|layer| layer.verified) {
            if self.told.insert(layer.digest.clone()) {
                lines.push(format!("{}: {} bytes, there", short(layer), layer.total));
            }
        }
        if now.duration_since(self.last) >= LINE_EVERY {
            self.last = now;
            lines.push(format!("{} of {} bytes", received(pull), total(pull)));
        }
        lines
    }
}

fn state(layer: &PulledLayer) -> &'static str {
    match layer {
        layer if layer.verified => "there",
        layer if layer.received == layer.total => "unpacking",
        layer if layer.received == 0 => "waiting",
        _ => "",
    }
}

fn short(layer: &PulledLayer) -> String {
    let digest = &layer.digest;
    let hex = digest.split_once(':').map_or(&digest[..], |(_, hex)| hex);
    hex.chars().take(SHORT).collect()
}

fn received(pull: &Pull) -> u64 {
    pull.layers.iter().map(|layer| layer.received).sum()
}

fn total(pull: &Pull) -> u64 {
    pull.layers.iter().map(|layer| layer.total).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_what_is_new() {
        let layer = |digest: &str, received, verified| PulledLayer {
            digest: digest.into(),
            total: 10,
            received,
            verified,
        };
        let pull = |verified| Pull {
            layers: vec![
                layer("sha256:ab", 10, true),
                layer("sha256:cd", 4, verified),
            ],
        };
        let mut lines = Lines::new();
        let start = lines.last;
        assert_eq!(lines.lines(&pull(false), start), ["ab: 10 bytes, there"]);
        assert!(lines.lines(&pull(false), start).is_empty());
        let later = start + LINE_EVERY;
        assert_eq!(lines.lines(&pull(false), later), ["14 of 20 bytes"]);
        assert_eq!(lines.lines(&pull(true), later), ["cd: 10 bytes, there"]);
    }
}
