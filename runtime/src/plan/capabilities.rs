//! Capability names and sets.

use super::{HostFacts, Warnings};
use crate::spec::{RawCapabilities, Text};

/// Names by number (linux/capability.h), without the prefix.
pub(crate) const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The five sets, as bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) ambient: u64,
    /// Highest capability that the kernel knows.
    pub(crate) last: u8,
}

/// The bit of a capability by its name, with or without the prefix, in any case.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == bare)
        .map(|number| 1 << number)
}

/// Bits of the sets. What this kernel does not know is left out with a warning, as every runtime
/// does: an engine's defaults may be newer than the node.
pub(super) fn plan(
    raw: Option<&RawCapabilities<'_>>,
    facts: HostFacts,
    warnings: &mut Warnings,
) -> CapabilityPlan {
    let known = u64::MAX >> (63 - u32::from(facts.last_capability.min(63)));
    let mut unknown = Vec::new();
    let mut set = |names: Option<&Vec<Text<'_>>>| bits(names, known, &mut unknown);
    let plan = CapabilityPlan {
        bounding: set(raw.map(|raw| &raw.bounding)),
        effective: set(raw.map(|raw| &raw.effective)),
        inheritable: set(raw.map(|raw| &raw.inheritable)),
        permitted: set(raw.map(|raw| &raw.permitted)),
        ambient: set(raw.map(|raw| &raw.ambient)),
        last: facts.last_capability,
    };
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        warnings.push(format!(
            "ignoring unknown or unavailable capabilities: {unknown:?}"
        ));
    }
    plan
}

fn bits(names: Option<&Vec<Text<'_>>>, known: u64, unknown: &mut Vec<String>) -> u64 {
    let mut bits = 0;
    for name in names.into_iter().flatten() {
        match bit(name).filter(|bit| bit & known != 0) {
            Some(bit) => bits |= bit,
            None => unknown.push(name.as_str().to_owned()),
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(bit("CAP_CHOWN"), Some(1));
        assert_eq!(bit("cap_sys_admin"), Some(1 << 21));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("CAP_MOON"), None);
    }

    #[test]
    fn unknown_ones_only_warn() {
        let facts = HostFacts {
            last_capability: 37,
            may_make_nodes: true,
            cgroup_v2: false,
        };
        let raw: RawCapabilities<'_> =
            serde_json::from_str(r#"{"bounding":["CAP_KILL","CAP_MOON","CAP_BPF"]}"#).unwrap();
        let mut warnings = Vec::new();
        assert_eq!(plan(Some(&raw), facts, &mut warnings).bounding, 1 << 5);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("CAP_MOON") && warnings[0].contains("CAP_BPF"));
    }
}
