//! The container's log: a pure framer of lines, and the file it feeds.
//!
//! A record is `2006-01-02T15:04:05.000000000Z stdout F text\n` (the CRI log format, UTC, nine
//! digits). A line longer than [`MAX_LINE`] is cut into records tagged P, the last one F; a line
//! that ends with its stream instead of a newline is closed with F, or readers would wait for ever.
//!
//! A file that cannot be written, or has reached its limit, never stops the container: records are
//! dropped and counted, and the count is noted in the log when it can be written again.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Longest text of one record, bytes.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Most slices in one writev (IOV_MAX of Linux).
const MAX_SLICES: usize = 1024;

/// Most slices that one record takes: its head, its text, its newline.
const SLICES_PER_RECORD: usize = 3;

/// Length of everything before a record's text.
const HEAD: usize = "2006-01-02T15:04:05.000000000Z stdout F ".len();

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// The bytes, with the newline if the program wrote one.
    text: &'a [u8],
    /// Whether a line ends here: tag F, otherwise P.
    full: bool,
}

/// Cuts the next record off `data`; `None`: what is left may still grow, unless `at_end`.
pub(crate) fn next_piece<'a>(data: &mut &'a [u8], at_end: bool) -> Option<Piece<'a>> {
    let window = &data[..data.len().min(MAX_LINE + 1)];
    let (length, full) = match memchr::memchr(b'\n', window) {
        Some(newline) => (newline + 1, true),
        None if data.len() > MAX_LINE => (MAX_LINE, false),
        None if at_end && !data.is_empty() => (data.len(), true),
        None => return None,
    };
    let (text, rest) = data.split_at(length);
    *data = rest;
    Some(Piece { text, full })
}

/// A moment in the form of the log, nanoseconds since the epoch.
fn head(nanoseconds: i64, stream: Stream, full: bool) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    let (days, in_day) = (
        nanoseconds.div_euclid(86_400_000_000_000),
        nanoseconds.rem_euclid(86_400_000_000_000),
    );
    let (year, month, day) = civil(days);
    let (seconds, fraction) = (in_day / 1_000_000_000, in_day % 1_000_000_000);
    let stream = if stream == Stream::Stdout {
        "stdout"
    } else {
        "stderr"
    };
    let tag = if full { 'F' } else { 'P' };
    write!(
        &mut out[..],
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:09}Z {stream} {tag} ",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
    .expect("a head has a fixed length for every year below 10000");
    out
}

/// Day number since 1970-01-01 to year, month, day (proleptic Gregorian). Years begin in March
/// here, so that the leap day is the last one; an era has 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let shifted = days + 719_468;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The log file, or the decision not to have one.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Most bytes of the file, but for the note that says so; 0: any number.
    limit: u64,
    /// Bytes of the file, or more: asked for anew before it counts as full. Of a full one: those that
    /// it had then.
    size: u64,
    full: bool,
    dropped: u64,
}

impl Log {
    /// Opens the log; an empty path means that output is dropped. `limit` is the most bytes that the
    /// file may have, 0 any number.
    pub(crate) fn open(path: &Path, limit: u64) -> Result<Self, Failure> {
        let file = if path.as_os_str().is_empty() {
            None
        } else {
            Some(open(path)?)
        };
        Ok(Self {
            path: path.to_owned(),
            // Older records count too, and are asked for when there is a limit.
            size: limit,
            file,
            limit,
            full: false,
            dropped: 0,
        })
    }

    /// Opens the file anew at its path; the old one stays in use if that fails.
    pub(crate) fn reopen(&mut self) -> Result<(), Failure> {
        if self.file.is_some() {
            self.file = Some(open(&self.path)?);
            self.size = self.limit;
        }
        Ok(())
    }

    /// Removes a file into which nothing was ever written.
    pub(crate) fn discard_if_empty(&self) {
        let empty = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if self.file.as_ref().is_some_and(empty) {
            // An empty log that stays does no harm, and nobody is there who could mend it.
            drop(std::fs::remove_file(&self.path));
        }
    }

    /// Writes all records in `data`, which begins at the start of a line or within one already cut;
    /// gives back what may still grow, at most [`MAX_LINE`] bytes, or nothing if `at_end`.
    pub(crate) fn write<'a>(
        &mut self,
        stream: Stream,
        now: i64,
        mut data: &'a [u8],
        at_end: bool,
    ) -> &'a [u8] {
        let heads = [head(now, stream, false), head(now, stream, true)];
        loop {
            let mut batch = Batch::new();
            while batch.has_room()
                && let Some(piece) = next_piece(&mut data, at_end)
            {
                batch.push(&heads[usize::from(piece.full)], piece.text);
            }
            if batch.records == 0 {
                return data;
            }
            self.put(&batch, now);
        }
    }

    fn put(&mut self, batch: &Batch<'_>, now: i64) {
        if !self.has_room(batch.bytes()) {
            self.note_limit(now);
            self.dropped += batch.records;
            return;
        }
        let Some(file) = &mut self.file else { return };
        if self.dropped > 0 && !note(file, now, &lost(self.dropped, self.full)) {
            self.dropped += batch.records;
            return;
        }
        self.full = false;
        self.dropped = batch.write(file);
    }

    /// Whether so many more bytes fit; then they count as written. A log that was full stays so
    /// until its file is another or a shorter one: a short record must not slip past a long one.
    fn has_room(&mut self, more: u64) -> bool {
        let fits = |size: u64| size.saturating_add(more) <= self.limit;
        let Some(file) = &self.file else { return true };
        if self.limit == 0 {
            return true;
        }
        if self.full || !fits(self.size) {
            let size = size_of(file).unwrap_or(self.size);
            if self.full && size >= self.size || !fits(size) {
                return false;
            }
            self.size = size;
        }
        self.size += more;
        true
    }

    /// Tells readers, once, that the log is full.
    fn note_limit(&mut self, now: i64) {
        let Some(file) = self.file.as_mut().filter(|_| !self.full) else {
            return;
        };
        let limit = self.limit;
        let text = format!("the log has reached its limit of {limit} bytes\n");
        self.full = note(file, now, &text);
        self.size = size_of(file).unwrap_or(self.size);
    }
}

fn size_of(file: &File) -> Option<u64> {
    file.metadata().ok().map(|metadata| metadata.len())
}

fn lost(dropped: u64, full: bool) -> String {
    let why = if full {
        "the log had reached its limit"
    } else {
        "the log could not be written"
    };
    format!("{dropped} log records lost: {why}\n")
}

/// Tells readers why records are missing.
fn note(file: &mut File, now: i64, text: &str) -> bool {
    let head = head(now, Stream::Stderr, true);
    let text = format!("wherry-shim: {text}");
    let mut batch = Batch::new();
    batch.push(&head, text.as_bytes());
    batch.write(file) == 0
}

fn open(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| Failure::other(format!("open log {}", path.display()), error))
}

/// Records that go out in one call.
struct Batch<'a> {
    slices: [IoSlice<'a>; MAX_SLICES],
    used: usize,
    records: u64,
}

impl<'a> Batch<'a> {
    fn new() -> Self {
        Self {
            slices: [IoSlice::new(&[]); MAX_SLICES],
            used: 0,
            records: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.used + SLICES_PER_RECORD <= MAX_SLICES
    }

    fn push(&mut self, head: &'a [u8], text: &'a [u8]) {
        let newline: &[u8] = if text.ends_with(b"\n") { &[] } else { b"\n" };
        for part in [head, text, newline] {
            // Empty slices would cost the kernel time; only the newline can be one.
            if !part.is_empty() {
                self.slices[self.used] = IoSlice::new(part);
                self.used += 1;
            }
        }
        self.records += 1;
    }

    fn bytes(&self) -> u64 {
        let bytes: usize = self.slices[..self.used].iter().map(|part| part.len()).sum();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Gives back how many records could not be written.
    fn write(&self, file: &mut File) -> u64 {
        let mut slices = self.slices;
        let mut left = &mut slices[..self.used];
        let mut written = 0;
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => break,
                Ok(count) => {
                    written += count;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if left.is_empty() {
            0
        } else {
            self.records - self.trim(file, written)
        }
    }

    /// After a write that stopped short: takes the torn record off the file's end and gives back
    /// how many records are whole. Nobody else appends to this file.
    fn trim(&self, file: &mut File, written: usize) -> u64 {
        let (mut whole, mut end, mut position) = (0, 0, 0);
        for slice in &self.slices[..self.used] {
            position += slice.len();
            if position > written {
                break;
            }
            if slice.ends_with(b"\n") {
                (whole, end) = (whole + 1, position);
            }
        }
        let torn = u64::try_from(written - end).unwrap_or(u64::MAX);
        if torn > 0
            && let Ok(position) = file.stream_position()
        {
            // If this fails too, one line of the log is torn: there is no better place for it.
            drop(file.set_len(position.saturating_sub(torn)));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_head(nanoseconds: i64, expect: &str) {
        let head = head(nanoseconds, Stream::Stdout, true);
        assert_eq!(
            str::from_utf8(&head).unwrap(),
            format!("{expect} stdout F ")
        );
    }

    #[test]
    fn moments() {
        check_head(0, "1970-01-01T00:00:00.000000000Z");
        check_head(951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z");
        check_head(951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z");
        check_head(1_709_210_096_000_000_001, "2024-02-29T12:34:56.000000001Z");
        check_head(4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z");
        check_head(-1, "1969-12-31T23:59:59.999999999Z");
    }

    /// Pieces as `F:length` or `P:length`, then what is left.
    fn check_pieces(data: &[u8], at_end: bool, expect: &str) {
        let mut rest = data;
        let mut got = Vec::new();
        while let Some(piece) = next_piece(&mut rest, at_end) {
            got.push(format!(
                "{}:{}",
                if piece.full { 'F' } else { 'P' },
                piece.text.len()
            ));
        }
        assert_eq!(format!("{} +{}", got.join(" "), rest.len()), expect);
    }

    #[test]
    fn lines_are_cut() {
        check_pieces(b"", false, " +0");
        check_pieces(b"", true, " +0");
        check_pieces(b"a\nbc\n", false, "F:2 F:3 +0");
        check_pieces(b"a\n\nbc", false, "F:2 F:1 +2");
        check_pieces(b"a\nbc", true, "F:2 F:2 +0");
        check_pieces(&[b'x'; MAX_LINE], false, &format!(" +{MAX_LINE}"));
        check_pieces(&[b'x'; MAX_LINE], true, &format!("F:{MAX_LINE} +0"));
        check_pieces(&[b'x'; MAX_LINE + 1], false, &format!("P:{MAX_LINE} +1"));
        check_pieces(&[b'x'; MAX_LINE + 1], true, &format!("P:{MAX_LINE} F:1 +0"));
        let mut longest_full = vec![b'x'; MAX_LINE];
        longest_full.push(b'\n');
        check_pieces(&longest_full, false, &format!("F:{} +0", MAX_LINE + 1));
    }

    proptest::proptest! {
        /// However output is cut into reads, the log says the same.
        #[test]
        fn reads_do_not_show(
            lines in proptest::collection::vec(0usize..40_000, 0..8),
            cuts in proptest::collection::vec(1usize..70_000, 1..16),
        ) {
            let mut text = Vec::new();
            for length in &lines {
                text.extend(std::iter::repeat_n(b'x', *length));
                text.push(b'\n');
            }
            text.pop();
            let whole = frame(&[&text]);
            let mut parts = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at(rest.len().min(*cut));
                parts.push(part);
                rest = after;
            }
            proptest::prop_assert!(frame(&parts) == whole);
        }
    }

    fn frame(reads: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut out = Vec::new();
        let mut tail = Vec::new();
        let mut take = |data: &[u8], at_end: bool| {
            let mut rest = data;
            while let Some(piece) = next_piece(&mut rest, at_end) {
                out.push((piece.text.to_vec(), piece.full));
            }
            rest.to_vec()
        };
        for read in reads {
            tail.extend_from_slice(read);
            tail = take(&tail, false);
            assert!(tail.len() <= MAX_LINE);
        }
        take(&tail, true);
        out
    }

    #[test]
    fn a_file_in_the_format_of_the_cri() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, 0).unwrap();
        assert_eq!(log.write(Stream::Stdout, 0, b"one\ntwo", false), b"two");
        assert_eq!(log.write(Stream::Stderr, 1, b"two", true), b"");
        let expect = "1970-01-01T00:00:00.000000000Z stdout F one\n\
                      1970-01-01T00:00:00.000000001Z stderr F two\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expect);
    }

    #[test]
    fn many_lines_need_many_batches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, 0).unwrap();
        log.write(Stream::Stdout, 0, &b"x\n".repeat(5000), true);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().lines().count(),
            5000
        );
    }

    #[test]
    fn a_log_at_its_limit_drops_and_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = u64::try_from(HEAD).unwrap() + 5;
        let mut log = Log::open(&path, 2 * line).unwrap();
        for _ in 0..4 {
            log.write(Stream::Stdout, 0, b"text\n", true);
        }
        let texts = || {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(|line| line[HEAD..].to_owned());
            lines.collect::<Vec<_>>()
        };
        // A shorter one does not get past those that did not fit.
        log.write(Stream::Stdout, 0, b"t\n", true);
        let limit = format!(
            "wherry-shim: the log has reached its limit of {} bytes",
            2 * line
        );
        assert_eq!(texts(), ["text", "text", &limit]);
        // Who comes after it finds the file full; a new file has room.
        let mut later = Log::open(&path, 2 * line).unwrap();
        later.write(Stream::Stdout, 0, b"text\n", true);
        assert_eq!(later.dropped, 1);
        std::fs::remove_file(&path).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, 0, b"text\n", true);
        let lost = "wherry-shim: 3 log records lost: the log had reached its limit";
        assert_eq!(texts(), [lost, "text"]);
        // Neither does one that was emptied in its place stay full.
        log.write(Stream::Stdout, 0, b"text\ntext\n", true);
        std::fs::write(&path, "").unwrap();
        log.write(Stream::Stdout, 0, b"text\n", true);
        assert_eq!(texts().last().unwrap(), "text");
    }

    #[test]
    fn a_full_disk_drops_and_tells() {
        let mut log = Log::open(Path::new("/dev/full"), 0).unwrap();
        log.write(Stream::Stdout, 0, b"lost\nlost\n", true);
        log.write(Stream::Stdout, 0, b"lost\n", true);
        assert_eq!(log.dropped, 3);
        let dir = tempfile::tempdir().unwrap();
        log.path = dir.path().join("log");
        log.reopen().unwrap();
        log.write(Stream::Stdout, 0, b"back\n", true);
        let text = std::fs::read_to_string(&log.path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| &line[HEAD..]).collect();
        assert_eq!(
            lines,
            [
                "wherry-shim: 3 log records lost: the log could not be written",
                "back"
            ]
        );
    }

    #[test]
    fn a_torn_record_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("log"), 0).unwrap();
        let head = head(0, Stream::Stdout, true);
        let mut batch = Batch::new();
        batch.push(&head, b"whole\n");
        batch.push(&head, b"torn");
        let file = log.file.as_mut().unwrap();
        let text = [&head[..], b"whole\n", &head[..], b"to"].concat();
        file.write_all(&text).unwrap();
        assert_eq!(batch.trim(file, text.len()), 1);
        assert_eq!(
            file.metadata().unwrap().len(),
            u64::try_from(HEAD + 6).unwrap()
        );
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, 0).unwrap();
        log.path = dir.path().join("absent/log");
        assert!(log.reopen().unwrap_err().message.contains("absent/log"));
        log.write(Stream::Stdout, 0, b"here\n", true);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    }
}
