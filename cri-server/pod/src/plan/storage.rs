//! How much a container may leave on the node's disks: CRI has no field for it.
//!
//! The node says what holds for every container; an annotation of the container, else of its pod,
//! may ask for less.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PlanError;
use crate::container::ContainerSpec;
use crate::sandbox::SandboxSpec;

/// The annotation that limits the writable layer.
pub const WRITABLE_LAYER_LIMIT: &str = "wherry/writable-layer-limit";
/// The annotation that limits the log file.
pub const LOG_LIMIT: &str = "wherry/log-limit";

/// Most bytes that a container may leave; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageLimits {
    /// In its writable layer.
    pub writable_layer: Option<u64>,
    /// In its log file, between two rotations.
    pub log: Option<u64>,
}

/// The limits of a container, where `node` has those of every container.
///
/// # Errors
///
/// [`PlanError`] names the annotation that says no number of bytes.
pub fn storage_limits(
    spec: &ContainerSpec,
    sandbox: &SandboxSpec,
    node: StorageLimits,
) -> Result<StorageLimits, PlanError> {
    let lower = |key: &str, of_node: Option<u64>| {
        let asked = asked(key, &spec.annotations).or_else(|| asked(key, &sandbox.annotations));
        let asked = asked.transpose()?;
        Ok(of_node.into_iter().chain(asked).min())
    };
    Ok(StorageLimits {
        writable_layer: lower(WRITABLE_LAYER_LIMIT, node.writable_layer)?,
        log: lower(LOG_LIMIT, node.log)?,
    })
}

fn asked(key: &str, annotations: &BTreeMap<String, String>) -> Option<Result<u64, PlanError>> {
    let text = annotations.get(key)?;
    Some(bytes(text).ok_or_else(|| {
        let reason = format!("{text:?} is no number of bytes such as 10Gi or 500M");
        PlanError::invalid(format!("annotations[{key:?}]"), reason)
    }))
}

/// A number of bytes as Kubernetes writes quantities: digits, then nothing or one of `k`, `M`, `G`,
/// `T`, `Ki`, `Mi`, `Gi`, `Ti`. `None` for anything else, and for 0.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities() {
        for (text, expect) in [
            ("1", Some(1)),
            ("500M", Some(500_000_000)),
            ("10Gi", Some(10 << 30)),
            ("2Ki", Some(2048)),
            ("0", None),
            ("", None),
            ("Gi", None),
            ("-1", None),
            ("1.5Gi", None),
            ("1 Gi", None),
            ("1gb", None),
            ("99999999Ti", None),
        ] {
            assert_eq!(bytes(text), expect, "{text:?}");
        }
    }

    #[test]
    fn an_annotation_only_lowers_what_the_node_says() {
        let check = |container: &str, pod: &str, node: Option<u64>, expect: Option<u64>| {
            let annotations = |text: &str| match text {
                "" => BTreeMap::new(),
                text => BTreeMap::from([(LOG_LIMIT.to_owned(), text.to_owned())]),
            };
            let spec = ContainerSpec {
                annotations: annotations(container),
                ..Default::default()
            };
            let sandbox = SandboxSpec {
                annotations: annotations(pod),
                ..Default::default()
            };
            let node = StorageLimits {
                log: node,
                ..Default::default()
            };
            let limits = storage_limits(&spec, &sandbox, node).unwrap();
            assert_eq!((limits.log, limits.writable_layer), (expect, None));
        };
        check("", "", None, None);
        check("", "", Some(5), Some(5));
        check("3", "4", Some(5), Some(3));
        check("", "4", Some(5), Some(4));
        check("9", "", Some(5), Some(5));
        check("9", "", None, Some(9));
    }

    #[test]
    fn a_wrong_annotation_is_named() {
        let mut spec = ContainerSpec::default();
        let wrong = (WRITABLE_LAYER_LIMIT.to_owned(), "much".to_owned());
        spec.annotations.extend([wrong]);
        let error = storage_limits(&spec, &SandboxSpec::default(), StorageLimits::default());
        let error = error.unwrap_err().to_string();
        let start = "annotations[\"wherry/writable-layer-limit\"]: ";
        assert!(error.starts_with(start), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            prop_assert_ne!(bytes(&text), Some(0));
        }
    }
}
