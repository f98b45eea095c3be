//! The table `[tracing]`: where traces go, and how many.

use tonic::transport::Endpoint;

use super::values::Values;
use super::{Error, refuse};
use crate::traces::Config;

/// The collector; none if it is not named.
pub(super) fn traces(values: &Values) -> Result<Option<Config>, Error> {
    let per_mille = per_mille(&values.fixed("tracing.sampling"))?;
    let address = values.text("tracing.endpoint");
    let endpoint = address.as_deref().map(endpoint).transpose()?;
    Ok(endpoint.map(|endpoint| Config {
        endpoint,
        per_mille,
    }))
}

fn endpoint(text: &str) -> Result<Endpoint, Error> {
    let refused = |why: &str| {
        let reason = format!("{text:?} {why}");
        Err(refuse("tracing.endpoint", reason))
    };
    if text.starts_with("https:") {
        return refused("is over TLS, which a collector on this host needs not");
    }
    if !text.starts_with("http://") && !text.starts_with("unix:///") {
        return refused("is neither of the form http://host:4317 nor unix:///path");
    }
    Endpoint::from_shared(text.to_owned()).or_else(|_unparsable| refused("is no address"))
}

/// A part in percent, with a decimal at most.
fn per_mille(text: &str) -> Result<u64, Error> {
    let read = || {
        let number = text.strip_suffix('%')?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        let (whole, tenth): (u64, u64) = (whole.parse().ok()?, tenth.parse().ok()?);
        let all = whole.checked_mul(10)?.checked_add(tenth)?;
        (tenth < 10 && all <= 1000).then_some(all)
    };
    let reason = format!("{text:?} is no part such as 10% or 0.5%");
    read().ok_or_else(|| refuse("tracing.sampling", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        for (text, expect) in [("100%", 1000), ("0%", 0), ("0.5%", 5), ("10%", 100)] {
            assert_eq!(per_mille(text).unwrap(), expect, "{text}");
        }
        for wrong in ["", "%", "101%", "100.1%", "0.55%", "x%", "10"] {
            assert!(per_mille(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn endpoints() {
        for good in ["http://127.0.0.1:4317", "unix:///run/collector.sock"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for wrong in [
            "https://x:4317",
            "127.0.0.1:4317",
            "http://",
            "unix://x",
            "",
        ] {
            let error = endpoint(wrong).unwrap_err().to_string();
            assert!(error.starts_with("tracing.endpoint: "), "{error}");
        }
    }
}
