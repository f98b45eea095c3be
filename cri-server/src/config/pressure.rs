//! When the daemon warns of what runs short on its host.

use check::pressure::Thresholds;

use super::values::Values;
use super::{Error, refuse};

/// The thresholds.
pub(super) fn thresholds(values: &Values) -> Result<Thresholds, Error> {
    let usual = Thresholds::default();
    let free_disk = values.fixed("pressure.free_disk");
    Ok(Thresholds {
        free_disk: percent(&free_disk)
            .ok_or_else(|| refuse("pressure.free_disk", not_a_part(&free_disk)))?,
        free_memory: values
            .size("pressure.free_memory")
            .unwrap_or(usual.free_memory),
        log: values.size("pressure.log").unwrap_or(usual.log),
    })
}

fn not_a_part(text: &str) -> String {
    format!("{text:?} is no part such as 15%")
}

fn percent(text: &str) -> Option<u64> {
    let number = text.strip_suffix('%')?.parse().ok()?;
    (number <= 100).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert_eq!(percent("20%"), Some(20));
        assert_eq!(percent("100%"), Some(100));
        for wrong in ["20", "101%", "%", "-1%", ""] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_room_that_judges() {
        let settled = thresholds(&Values::default()).unwrap();
        assert_eq!(settled, Thresholds::default());
    }
}
