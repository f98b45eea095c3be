//! Which entry of a list of manifests is for this machine.
//!
//! Pure, but for [`Platform::host`]. Variants are downward compatible: a machine of level v3 runs
//! v3, v2 and v1 (image-spec, image-index.md, "Platform Variants").

use crate::manifest::{Descriptor, PlatformSpec};

/// What a machine can run, best first: (architecture, variant); an empty variant stands for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    accepted: Vec<(String, String)>,
}

impl Platform {
    /// This machine.
    pub(crate) fn host() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::amd64(x86_level()),
            "aarch64" => Self::arm64(),
            other => Self::of([(other, "")]),
        }
    }

    fn amd64(level: u8) -> Self {
        let mut accepted: Vec<_> = (1..=level)
            .rev()
            .map(|level| ("amd64".to_owned(), format!("v{level}")))
            .collect();
        accepted.push(("amd64".into(), String::new()));
        accepted.push(("386".into(), String::new()));
        Self { accepted }
    }

    fn arm64() -> Self {
        Self::of([
            ("arm64", "v8"),
            ("arm64", ""),
            ("arm", "v8"),
            ("arm", "v7"),
            ("arm", ""),
            ("arm", "v6"),
            ("arm", "v5"),
        ])
    }

    fn of<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self {
            accepted: pairs.map(|(a, v)| (a.to_owned(), v.to_owned())).into(),
        }
    }

    /// The entry that fits best; the first of equals. Entries that do not say what they are for
    /// are taken only when nothing else fits.
    pub(crate) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let ranked = |entry: &&Descriptor| entry.platform.as_ref().and_then(|p| self.rank(p));
        let fitting = entries
            .iter()
            .filter(|entry| ranked(entry).is_some())
            .min_by_key(|entry| ranked(entry));
        fitting.or_else(|| {
            entries
                .iter()
                .find(|e| e.platform.is_none() && !e.is_attestation())
        })
    }

    fn rank(&self, platform: &PlatformSpec) -> Option<usize> {
        if platform.os != "linux" {
            return None;
        }
        self.accepted.iter().position(|(architecture, variant)| {
            *architecture == platform.architecture && *variant == platform.variant
        })
    }
}

/// The micro-architecture level (x86-64 psABI, "Micro-Architecture Levels").
#[cfg(target_arch = "x86_64")]
fn x86_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("popcnt") && has!("sse4.2") && has!("ssse3") && has!("cmpxchg16b")) {
        return 1;
    }
    if !(has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe")
        && has!("f16c"))
    {
        return 2;
    }
    let wide = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    if wide { 4 } else { 3 }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> u8 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, architecture: &str, variant: &str) -> Descriptor {
        Descriptor {
            media_type: name.into(),
            platform: Some(PlatformSpec {
                os: "linux".into(),
                architecture: architecture.into(),
                variant: variant.into(),
            }),
            ..Descriptor::new("application/x", crate::digest::Digest::of(b""), 0)
        }
    }

    fn check(platform: &Platform, entries: &[(&str, &str)], expect: Option<usize>) {
        let list: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(n, (a, v))| entry(&n.to_string(), a, v))
            .collect();
        let chosen = platform.choose(&list).map(|d| d.media_type.clone());
        assert_eq!(chosen, expect.map(|n| n.to_string()), "{entries:?}");
    }

    #[test]
    fn the_best_fit_is_taken() {
        let host = Platform::amd64(3);
        check(&host, &[("arm64", "v8"), ("amd64", "")], Some(1));
        check(
            &host,
            &[
                ("amd64", ""),
                ("amd64", "v2"),
                ("amd64", "v4"),
                ("amd64", "v3"),
            ],
            Some(3),
        );
        check(&host, &[("386", ""), ("amd64", "")], Some(1));
        check(&host, &[("386", "")], Some(0));
        check(&host, &[("unknown", ""), ("s390x", "")], None);
        check(&host, &[("amd64", ""), ("amd64", "")], Some(0));
        check(
            &Platform::arm64(),
            &[("arm", "v6"), ("arm", "v7"), ("amd64", "")],
            Some(1),
        );
    }

    #[test]
    fn other_systems_never_fit() {
        let mut windows = entry("w", "amd64", "");
        windows.platform.as_mut().unwrap().os = "windows".into();
        assert!(Platform::amd64(1).choose(&[windows]).is_none());
    }
}
