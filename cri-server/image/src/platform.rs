//! Which entry of a list of manifests is for this machine.
//!
//! Pure, but for [`Platform::host`]. Variants are downward compatible: a machine of level v3 runs
//! v3, v2 and v1 (image-spec, image-index.md, "Platform Variants").

use registry::manifest::{Descriptor, PlatformSpec};

/// What a machine can run, best first: (architecture, variant), as [`canonical`] makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    accepted: Vec<(&'static str, &'static str)>,
}

impl Platform {
    /// This machine.
    pub(crate) fn host() -> Self {
        Self::of(std::env::consts::ARCH)
    }

    fn of(machine: &'static str) -> Self {
        match machine {
            "x86_64" => Self::amd64(x86_level()),
            "aarch64" => Self::arm64(arm_level()),
            "arm" => Self::only(&ARM[1..]),
            // The names of these differ between compilers and image-spec (Go's names).
            "x86" => Self::only(&[("386", "")]),
            "powerpc64" => Self::only(&[("ppc64le", "")]),
            "loongarch64" => Self::only(&[("loong64", "")]),
            "mips64" => Self::only(&[("mips64le", "")]),
            other => Self::only(&[(other, "")]),
        }
    }

    fn only(accepted: &[(&'static str, &'static str)]) -> Self {
        Self {
            accepted: accepted.to_vec(),
        }
    }

    fn amd64(level: u8) -> Self {
        let levels = [(4, "v4"), (3, "v3"), (2, "v2"), (1, "")];
        let levels = levels.into_iter().filter(|(needed, _)| *needed <= level);
        let mut accepted: Vec<_> = levels.map(|(_, name)| ("amd64", name)).collect();
        accepted.push(("386", ""));
        Self { accepted }
    }

    fn arm64(level: u8) -> Self {
        let newer: &[_] = if level >= 9 { &[("arm64", "v9")] } else { &[] };
        Self::only(&[newer, &[("arm64", "")], ARM].concat())
    }

    /// Whether a configuration is for this machine; one that does not say so may be.
    pub(crate) fn runs(&self, os: &str, architecture: &str) -> bool {
        let spec = PlatformSpec {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            ..PlatformSpec::default()
        };
        architecture.is_empty() || self.rank(&spec).is_some()
    }

    /// The entry that fits best; the first of equals. Entries that do not say what they are for
    /// are taken only when nothing else fits.
    pub(crate) fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let ranked = |entry: &&Descriptor| entry.platform.as_ref().and_then(|p| self.rank(p));
        let fitting = entries
            .iter()
            .filter(|entry| !entry.is_attestation() && ranked(entry).is_some())
            .min_by_key(|entry| ranked(entry));
        fitting.or_else(|| {
            entries
                .iter()
                .find(|e| e.platform.is_none() && !e.is_attestation())
        })
    }

    fn rank(&self, platform: &PlatformSpec) -> Option<usize> {
        let needs_more = platform.features.as_ref().is_some_and(|f| !f.is_empty());
        if !platform.os.eq_ignore_ascii_case("linux") || needs_more {
            return None;
        }
        let wanted = canonical(&platform.architecture, &platform.variant);
        let (architecture, variant) = (wanted.0.as_str(), wanted.1.as_str());
        self.accepted
            .iter()
            .position(|accepted| *accepted == (architecture, variant))
    }
}

/// What 32-bit machines of that family run, which most of the 64-bit ones do, too.
const ARM: &[(&str, &str)] = &[("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")];

/// The one name of an architecture that has several, and of a variant that is the usual one.
fn canonical(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        same => same,
    };
    let number = variant.strip_prefix('v').unwrap_or(variant);
    let variant = match (architecture, number) {
        ("amd64", "1") | ("arm64", "8" | "8.0") => String::new(),
        ("arm64", "9.0") => "v9".to_owned(),
        ("arm", "") => "v7".to_owned(),
        (_, "") => String::new(),
        (_, number) if number.starts_with(|c: char| c.is_ascii_digit()) => format!("v{number}"),
        _ => variant.to_owned(),
    };
    (architecture.to_owned(), variant)
}

/// Which generation of the 64-bit architecture this is (Arm, "Feature names in A-profile": the
/// newer one has SVE2).
#[cfg(target_arch = "aarch64")]
fn arm_level() -> u8 {
    if std::arch::is_aarch64_feature_detected!("sve2") {
        9
    } else {
        8
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn arm_level() -> u8 {
    8
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
                features: None,
            }),
            ..Descriptor::new("application/x", registry::Digest::of(b""), 0)
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
        check(&host, &[("amd64", "v1"), ("amd64", "v2")], Some(1));
        check(
            &Platform::amd64(1),
            &[("amd64", "v2"), ("amd64", "v1")],
            Some(1),
        );
        check(&host, &[("i386", ""), ("x86_64", "")], Some(1));
        check(&host, &[("AMD64", "V3"), ("amd64", "2")], Some(0));
    }

    #[test]
    fn arm_has_many_names_and_generations() {
        let (eight, nine) = (Platform::arm64(8), Platform::arm64(9));
        let both = [("arm", "v6"), ("arm", "v7"), ("amd64", "")];
        check(&eight, &both, Some(1));
        check(&eight, &[("arm64", "v9"), ("arm64", "v8")], Some(1));
        check(&nine, &[("arm64", "v8"), ("arm64", "v9")], Some(1));
        check(&eight, &[("arm", "v8"), ("aarch64", "8")], Some(1));
        let seven = Platform::of("arm");
        check(
            &seven,
            &[("arm", "v8"), ("arm", "v5"), ("armel", "")],
            Some(2),
        );
        check(&seven, &[("arm", "v6"), ("arm", "")], Some(1));
        check(&seven, &[("armhf", ""), ("arm64", "")], Some(0));
        check(
            &Platform::of("riscv64"),
            &[("arm64", ""), ("riscv64", "")],
            Some(1),
        );
        check(
            &Platform::of("powerpc64"),
            &[("ppc64", ""), ("ppc64le", "")],
            Some(1),
        );
    }

    #[test]
    fn what_this_system_does_not_have_is_not_taken() {
        let mut special = entry("s", "amd64", "");
        special.platform.as_mut().unwrap().features = Some(vec!["hypothetical".into()]);
        let plain = entry("p", "amd64", "");
        let list = [special, plain];
        let chosen = Platform::amd64(1).choose(&list).unwrap();
        assert_eq!(chosen.media_type, "p");
        assert!(Platform::amd64(1).choose(&list[..1]).is_none());
    }

    #[test]
    fn configurations_tell_less_than_lists() {
        let host = Platform::amd64(3);
        assert!(host.runs("linux", "amd64") && host.runs("linux", ""));
        assert!(!host.runs("linux", "s390x") && !host.runs("windows", "amd64"));
    }

    #[test]
    fn other_systems_never_fit() {
        let mut windows = entry("w", "amd64", "");
        windows.platform.as_mut().unwrap().os = "windows".into();
        assert!(Platform::amd64(1).choose(&[windows]).is_none());
    }
}
