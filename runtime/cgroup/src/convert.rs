//! The arithmetic between OCI's numbers, which are v1's, and v2's: pure.

use oci_spec::runtime::LinuxRdma;

use crate::Error;

/// `cpu.shares` to `cpu.weight`: 0 stays 0 (not set), 2 is 1, 1024 is 100, 262144 is 10000.
///
/// A quadratic through those three points on a logarithmic scale, as runc 1.4 and crun 1.23 do it;
/// both defaults then mean the same share. Values outside v1's range are clamped to it.
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        shares => {
            // Exact: below 2^18.
            let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            let weight = 10_f64.powf(exponent).ceil().clamp(1.0, 10_000.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a whole number between 1 and 10000"
            )]
            let weight = weight as u64;
            weight
        }
    }
}

/// `blkio.weight` (10 to 1000) to `io.weight` (1 to 10000): linear. 0 stays 0 (not set).
pub(crate) fn blkio_to_io_weight(weight: u16) -> u64 {
    match u64::from(weight) {
        0 => 0,
        weight => 1 + weight.saturating_sub(10) * 9999 / 990,
    }
}

/// A limit as v2 spells it; 0 is "not set", negative is "no limit".
pub(crate) fn limit(value: i64) -> Option<String> {
    match value {
        0 => None,
        ..0 => Some("max".to_owned()),
        value => Some(value.to_string()),
    }
}

/// `pids.max`: 0 cannot be told from "not set" by every driver, so it means the smallest limit.
pub(crate) fn pids(value: i64) -> String {
    match value {
        0 => "1".to_owned(),
        ..0 => "max".to_owned(),
        value => value.to_string(),
    }
}

/// A line of `rdma.max`.
pub(crate) fn rdma(device: &str, limit: &LinuxRdma) -> String {
    let handles = limit
        .hca_handles()
        .map(|count| format!(" hca_handle={count}"));
    let objects = limit
        .hca_objects()
        .map(|count| format!(" hca_object={count}"));
    [
        device,
        &handles.unwrap_or_default(),
        &objects.unwrap_or_default(),
    ]
    .concat()
}

/// OCI's memory+swap limit to v2's swap limit (`None`: leave alone).
///
/// # Errors
///
/// A swap limit without a memory limit, or below it.
pub(crate) fn swap(memory_and_swap: i64, memory: i64) -> Result<Option<String>, Error> {
    match (memory_and_swap, memory) {
        // On v1 no memory limit meant no swap limit either.
        (0, -1) | (-1, _) => Ok(Some("max".to_owned())),
        (0, _) => Ok(None),
        (_, 0 | -1) => Err(Error::Limit(
            "unable to set swap limit without memory limit".to_owned(),
        )),
        (_, ..0) => Err(Error::Limit(format!("invalid memory value: {memory}"))),
        (both, memory) if both < memory => Err(Error::Limit(
            "memory+swap limit should be >= memory limit".to_owned(),
        )),
        (both, memory) => Ok(Some((both - memory).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(shares_to_weight(shares), weight, "{shares}");
        }
        let all: Vec<u64> = (2..=262_144).step_by(97).map(shares_to_weight).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn io_weight() {
        for (weight, expect) in [(0, 0), (10, 1), (500, 4950), (1000, 10_000)] {
            assert_eq!(blkio_to_io_weight(weight), expect, "{weight}");
        }
    }

    #[test]
    fn pids_limit() {
        for (limit, expect) in [(0, "1"), (-1, "max"), (7, "7")] {
            assert_eq!(pids(limit), expect);
        }
    }

    #[test]
    fn swap_limit() {
        let check = |both, memory, expect: Option<&str>| {
            assert_eq!(
                swap(both, memory).unwrap().as_deref(),
                expect,
                "{both} {memory}"
            );
        };
        check(0, 0, None);
        check(0, 100, None);
        check(0, -1, Some("max"));
        check(-1, 100, Some("max"));
        check(300, 100, Some("200"));
        check(100, 100, Some("0"));
        assert!(swap(100, 0).is_err());
        assert!(swap(100, -1).is_err());
        assert!(swap(99, 100).is_err());
    }
}
