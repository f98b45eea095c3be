//! The last lines of the log, kept in memory for `wherryd debug report`: where the log goes is
//! somebody else's affair, and may be lost.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that are kept.
const MAX_BYTES: usize = 48 * 1024;
/// Most bytes of one line that are kept.
const MAX_LINE: usize = 2048;

/// The lines, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<Box<str>>,
    bytes: usize,
}

impl Journal {
    /// All that are kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        let kept = self.lock();
        kept.lines.iter().map(|line| line.to_string()).collect()
    }

    fn keep(&self, line: &str) {
        let line = line.trim_end();
        let line: Box<str> = line[..line.floor_char_boundary(MAX_LINE)].into();
        let mut kept = self.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.bytes > MAX_BYTES
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes -= oldest.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines to standard error, and keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Writer(pub(crate) Arc<Journal>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Writer {
    /// One call has one line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.keep(&String::from_utf8_lossy(bytes));
        io::stderr().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let journal = Journal::default();
        for number in 0..100 {
            journal.keep(&format!("{number} {}\n", "x".repeat(1000)));
        }
        let lines = journal.lines();
        assert!(lines.last().unwrap().starts_with("99 "));
        let bytes: usize = lines.iter().map(String::len).sum();
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES - 2000, "{bytes}");
        journal.keep(&"\u{fc}".repeat(MAX_LINE));
        assert_eq!(journal.lines().last().unwrap().len(), MAX_LINE);
    }
}
