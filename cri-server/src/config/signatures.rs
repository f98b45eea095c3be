//! The table `[signatures]`: who decides whether an image may be used.

use std::time::Duration;

use image::Signatures;

use super::file::SignaturesFile;
use super::{Error, absolute, refuse};

/// Longest time that a program may be given, in seconds; a client waits for it.
const MAX_SECONDS: u64 = 600;

/// Who decides; a table that is missing means nobody. The policy itself is read later.
pub(super) fn settle(file: &SignaturesFile) -> Result<Signatures, Error> {
    let path = |key: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| absolute(&format!("signatures.{key}"), text))
            .transpose()
    };
    let mut signatures = Signatures {
        policy: path("policy", &file.policy)?,
        programs: path("verifiers", &file.verifiers)?,
        ..Signatures::default()
    };
    if let Some(text) = &file.verifier_time {
        signatures.program_time = seconds(text).ok_or_else(|| {
            let reason = format!("{text:?} is no time such as 10s, of 1 to {MAX_SECONDS} seconds");
            refuse("signatures.verifier_time", reason)
        })?;
    }
    Ok(signatures)
}

fn seconds(text: &str) -> Option<Duration> {
    let number: u64 = text.strip_suffix('s')?.parse().ok()?;
    (1..=MAX_SECONDS)
        .contains(&number)
        .then(|| Duration::from_secs(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_decides_unless_named() {
        let none = settle(&SignaturesFile::default()).unwrap();
        assert!(none.policy.is_none() && none.programs.is_none());
        let file = |policy: &str, time: &str| SignaturesFile {
            policy: Some(policy.into()),
            verifiers: None,
            verifier_time: Some(time.into()),
        };
        let some = settle(&file("/p", "3s")).unwrap();
        assert_eq!(some.policy.as_deref(), Some("/p".as_ref()));
        assert_eq!(some.program_time, Duration::from_secs(3));
        for (policy, time, key) in [
            ("p", "3s", "signatures.policy"),
            ("/p", "3", "signatures.verifier_time"),
            ("/p", "0s", "signatures.verifier_time"),
            ("/p", "601s", "signatures.verifier_time"),
        ] {
            let error = settle(&file(policy, time)).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
