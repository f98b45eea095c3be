//! Parts of a blob: which bytes are asked for, and which ones come (RFC 9110, 14).
//!
//! Pure.

use crate::failures::Failure;

/// Bytes of a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first.
    pub(crate) from: u64,
    /// The one after the last; nothing means all that follow.
    pub(crate) to: Option<u64>,
}

impl Span {
    /// All from there on.
    pub(crate) fn after(from: u64) -> Self {
        Self { from, to: None }
    }

    /// The header to send, unless all is wanted.
    pub(crate) fn header(self) -> Option<String> {
        match (self.from, self.to) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(to)) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
        }
    }

    /// Where what comes begins: a host may send more than was asked for, never something else.
    /// `range` is the `Content-Range` of a partial answer, `size` the length of the whole blob.
    pub(crate) fn begins(self, partial: bool, range: &str, size: u64) -> Result<u64, Failure> {
        if !partial {
            return Ok(0);
        }
        let wrong = |why: &str| Failure::Wrong(format!("a part was sent {why}: {range:?}"));
        let (first, whole) = parse(range).ok_or_else(|| wrong("that does not say which"))?;
        if whole.is_some_and(|whole| whole != size) {
            return Err(wrong(&format!("of something that has not {size} bytes")));
        }
        if first > self.from {
            return Err(wrong(&format!("that begins after byte {}", self.from)));
        }
        Ok(first)
    }
}

/// First byte and whole length of `bytes 0-99/100`; the length may be `*`.
fn parse(header: &str) -> Option<(u64, Option<u64>)> {
    let (span, whole) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole = match whole.trim() {
        "*" => None,
        whole => Some(whole.parse().ok()?),
    };
    (first <= last).then_some((first, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        assert_eq!(Span::default().header(), None);
        assert_eq!(Span::after(5).header().unwrap(), "bytes=5-");
        let part = Span {
            from: 0,
            to: Some(10),
        };
        assert_eq!(part.header().unwrap(), "bytes=0-9");
    }

    #[test]
    fn what_comes_has_to_fit() {
        let check = |from, partial, range: &str, expect: Option<u64>| {
            let begins = Span::after(from).begins(partial, range, 100);
            assert_eq!(begins.ok(), expect, "{from} {range}");
        };
        check(50, false, "", Some(0));
        check(50, true, "bytes 50-99/100", Some(50));
        check(50, true, "bytes 50-60/*", Some(50));
        check(50, true, "bytes 0-99/100", Some(0));
        for bad in [
            "bytes 51-99/100",
            "bytes 50-99/101",
            "bytes 50-49/100",
            "bytes */100",
            "items 50-99/100",
            "",
        ] {
            check(50, true, bad, None);
        }
    }
}
