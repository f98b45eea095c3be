//! Tells on stderr what is being done: in place on a terminal, seldom in a log.

use std::io::{IsTerminal as _, Write as _};

/// Says what is being done.
pub fn tell(what: &str) {
    // Nobody reads it: measure on.
    drop(writeln!(std::io::stderr(), "bench: {what}"));
}

/// How far a work of some rounds is.
#[derive(Debug)]
pub struct Progress {
    work: String,
    rounds: usize,
}

impl Progress {
    /// Of a work that has not begun.
    pub fn new(work: &str, rounds: usize) -> Self {
        Self {
            work: work.to_owned(),
            rounds,
        }
    }

    /// `done` rounds are behind us.
    pub fn tell(&self, done: usize) {
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
