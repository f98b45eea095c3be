//! Ids of operations, and where a trace that a client has begun goes on.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The id of an operation, and of its span in a trace: 16 hexadecimal digits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u64);

impl Id {
    /// One that no other operation of this daemon has, and hardly one of another.
    pub(crate) fn new() -> Self {
        Self(number())
    }

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = u64::from_str_radix(text, 16).ok()?;
        (text.len() == 16 && number != 0).then_some(Self(number))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A number that is not 0 and never the same again: a counter from a random start, mixed
/// (SplitMix64, a permutation) so that neighbours do not look alike.
pub(crate) fn number() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let start = *START.get_or_init(random);
    let count = COUNT.fetch_add(1, Relaxed);
    let mut mixed = start.wrapping_add(count.wrapping_mul(STEP));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    if mixed == 0 { number() } else { mixed }
}

/// Random if the kernel has randomness, else the time: it only has to differ.
fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => u64::from(std::process::id()) ^ crate::rpc::now().unsigned_abs(),
    }
}

/// The span of a client that an operation belongs to, from a header `traceparent` (W3C Trace
/// Context, version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// The trace, 16 bytes, not 0.
    pub(crate) trace: u128,
    /// The client's span, not 0.
    pub(crate) span: u64,
    /// Whether the client records the trace.
    pub(crate) sampled: bool,
}

impl Parent {
    /// Reads `00-<trace>-<span>-<flags>`; nothing if it is anything else. A later version may have
    /// more behind the flags.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let good = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (part.len() == digits && part.bytes().all(good)).then_some(part)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let more = parts.next().is_some();
        let parent = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        let fits = version != "ff" && (version != "00" || !more);
        (fits && parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_read_back() {
        let (one, other) = (Id::new(), Id::new());
        assert_ne!(one, other);
        assert_eq!(Id::parse(&one.to_string()), Some(one));
        assert_eq!(Id::parse("0000000000000000"), None);
        assert_eq!(Id::parse("1"), None);
    }

    #[test]
    fn parents() {
        let check = |header: &str, expect: Option<(u128, u64, bool)>| {
            let parent = Parent::parse(header);
            let found = parent.map(|parent| (parent.trace, parent.span, parent.sampled));
            assert_eq!(found, expect, "{header}");
        };
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let number = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
        let good = |tail: &str| format!("00-{trace}-b7ad6b7169203331-{tail}");
        check(&good("01"), Some((number, 0xb7ad_6b71_6920_3331, true)));
        check(&good("00"), Some((number, 0xb7ad_6b71_6920_3331, false)));
        check(&good("01-more"), None);
        let later = good("01-more").replacen("00", "01", 1);
        check(&later, Some((number, 0xb7ad_6b71_6920_3331, true)));
        check(&good("01").replacen("00", "ff", 1), None);
        check(&good("01").to_uppercase(), None);
        check(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None);
        check(&format!("00-{trace}-{}-01", "0".repeat(16)), None);
        check("", None);
        check("00--", None);
        check("00-\u{fc}-1-1", None);
    }
}
