//! Points in time as RFC 3339 text, without a library: two formats of one clock need none.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, UTC, with nanoseconds: `2026-11-21T12:00:00.000000001Z`.
pub(crate) fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format(since.as_secs(), since.subsec_nanos())
}

fn format(seconds: u64, nanoseconds: u32) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// Year, month and day of a number of days after 1970-01-01, in the Gregorian calendar. Years are
/// taken to begin in March, so that the leap day is the last one and months have regular lengths.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let era = days / DAYS_OF_400_YEARS;
    let of_era = days % DAYS_OF_400_YEARS;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year_of_era + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: u64, expect: &str) {
        assert_eq!(format(seconds, 7), expect);
    }

    #[test]
    fn dates_of_the_calendar() {
        check(0, "1970-01-01T00:00:00.000000007Z");
        check(951_827_696, "2000-02-29T12:34:56.000000007Z");
        check(1_709_251_199, "2024-02-29T23:59:59.000000007Z");
        check(1_709_251_200, "2024-03-01T00:00:00.000000007Z");
        check(4_102_444_800, "2100-01-01T00:00:00.000000007Z");
    }
}
