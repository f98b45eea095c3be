//! The table `[limits]`: how much any container may leave on disk.

use pod::plan::StorageLimits;

use super::file::LimitsFile;
use super::{Error, refuse};

/// The limits of every container; a key that is missing limits nothing.
pub(super) fn settle(file: &LimitsFile) -> Result<StorageLimits, Error> {
    Ok(StorageLimits {
        writable_layer: bytes("writable_layer", file.writable_layer.as_deref())?,
        log: bytes("log", file.log.as_deref())?,
    })
}

fn bytes(key: &str, text: Option<&str>) -> Result<Option<u64>, Error> {
    let read = |text| {
        let reason = format!("{text:?} is no number of bytes such as 10Gi or 500M");
        pod::plan::bytes(text).ok_or_else(|| refuse(format!("limits.{key}"), reason))
    };
    text.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_bytes() {
        let file = |log: &str| LimitsFile {
            writable_layer: None,
            log: Some(log.into()),
        };
        let limits = settle(&file("64Ki")).unwrap();
        assert_eq!((limits.writable_layer, limits.log), (None, Some(65_536)));
        let error = settle(&file("much")).unwrap_err().to_string();
        assert!(error.starts_with("limits.log: \"much\""), "{error}");
    }
}
