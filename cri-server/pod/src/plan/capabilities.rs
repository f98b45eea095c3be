//! Which capabilities a container's process gets (capabilities(7)).

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::PlanError;
use crate::container::Security;
use crate::facts::NodeFacts;

const FIELD: &str = "linux.security_context.capabilities";

/// Every capability by name; the place in the list is the number.
const ALL: [(&str, Capability); 41] = [
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What a container has when nothing is said: the set that images have come to rely on.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities, one bit each by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    /// Whether the set holds a capability, by its name without `CAP_`.
    pub(super) fn has(self, name: &str) -> bool {
        number(name).is_some_and(|number| self.0 & (1 << number) != 0)
    }

    fn to_oci(self) -> HashSet<Capability> {
        let held = ALL
            .iter()
            .enumerate()
            .filter(|(number, _)| self.0 & (1 << number) != 0);
        held.map(|(_, (_, capability))| *capability).collect()
    }
}

/// The capabilities of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Bounding, permitted and effective.
    pub(super) set: Set,
    /// Those of them that also outlive an exec by a user other than root.
    pub(super) ambient: Set,
}

impl Granted {
    /// The five sets of the specification. The inheritable set holds the ambient ones and no more:
    /// anything else there would reach programs with inheritable file capabilities.
    pub(super) fn to_oci(self) -> LinuxCapabilities {
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(self.set.to_oci()));
        sets.set_effective(Some(self.set.to_oci()));
        sets.set_permitted(Some(self.set.to_oci()));
        sets.set_inheritable(Some(self.ambient.to_oci()));
        sets.set_ambient(Some(self.ambient.to_oci()));
        sets
    }
}

/// Applies what is asked for to the default set: `ALL` first (`drop` after `add`), then the names
/// to add, then the names to drop.
pub(super) fn plan(security: &Security, facts: &NodeFacts) -> Result<Granted, PlanError> {
    let available = available(facts);
    if security.privileged {
        return Ok(Granted {
            set: available,
            ambient: Set::default(),
        });
    }
    let asked = &security.capabilities;
    let mut set = default_set(available);
    if asked.add.iter().any(|name| is_all(name)) {
        set = available;
    }
    if asked.drop.iter().any(|name| is_all(name)) {
        set = Set::default();
    }
    set.0 |= named("add_capabilities", &asked.add, Some(available))?.0;
    let ambient = named(
        "add_ambient_capabilities",
        &asked.add_ambient,
        Some(available),
    )?;
    let dropped = named("drop_capabilities", &asked.drop, None)?;
    set.0 = (set.0 | ambient.0) & !dropped.0;
    let ambient = match asked.add_ambient.iter().any(|name| is_all(name)) {
        true => set,
        false => Set(ambient.0 & set.0),
    };
    Ok(Granted { set, ambient })
}

/// What this kernel knows, this engine holds, and the specification can name.
fn available(facts: &NodeFacts) -> Set {
    let known = (0..ALL.len()).filter(|number| *number <= usize::from(facts.last_capability));
    let known = known.fold(0, |set, number| set | 1 << number);
    Set(known & facts.held_capabilities.unwrap_or(u64::MAX))
}

fn default_set(available: Set) -> Set {
    let all = DEFAULT.iter().filter_map(|name| number(name));
    Set(all.fold(0, |set, number| set | 1 << number) & available.0)
}

/// The set of all names but `ALL`; each must be within `available`, where that is given.
fn named(list: &str, names: &[String], available: Option<Set>) -> Result<Set, PlanError> {
    let mut set = Set::default();
    for (place, name) in names.iter().enumerate().filter(|(_, name)| !is_all(name)) {
        let field = || format!("{FIELD}.{list}[{place}]");
        let number = number(name)
            .ok_or_else(|| PlanError::invalid(field(), format!("{name:?} is no capability")))?;
        if available.is_some_and(|available| available.0 & (1 << number) == 0) {
            let reason = format!("this node has no {name} to give");
            return Err(PlanError::unsupported(field(), reason));
        }
        set.0 |= 1 << number;
    }
    Ok(set)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// The number of a capability by name, with or without `CAP_`.
fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.iter().position(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Capabilities;

    fn facts() -> NodeFacts {
        // All but SYS_RESOURCE (24), as on a node that is itself confined.
        NodeFacts {
            last_capability: 40,
            held_capabilities: Some(!(1 << 24)),
            ..Default::default()
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    fn names(set: Set) -> Vec<&'static str> {
        ALL.iter()
            .filter(|(name, _)| set.has(name))
            .map(|(name, _)| *name)
            .collect()
    }

    fn plan_for(add: &str, drop: &str, ambient: &str) -> Result<Granted, PlanError> {
        let capabilities = Capabilities {
            add: words(add),
            drop: words(drop),
            add_ambient: words(ambient),
        };
        plan(
            &Security {
                capabilities,
                ..Default::default()
            },
            &facts(),
        )
    }

    #[track_caller]
    fn check(add: &str, drop: &str, expect: &str) {
        assert_eq!(names(plan_for(add, drop, "").unwrap().set), words(expect));
    }

    const DEFAULTS: &str = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP \
         NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP";

    #[test]
    fn sets_follow_the_request() {
        check("", "", DEFAULTS);
        check("", "ALL", "");
        check("NET_ADMIN", "all", "NET_ADMIN");
        check("cap_kill", "ALL", "KILL");
        check("KILL", "KILL CHOWN ALL", "");
        check("ALL", "ALL", "");
        check("", &DEFAULTS.replace("CHOWN ", ""), "CHOWN");
        check(
            "SYS_ADMIN",
            "NET_RAW",
            &DEFAULTS
                .replace("NET_RAW ", "")
                .replace("SYS_CHROOT", "SYS_CHROOT SYS_ADMIN"),
        );
    }

    #[test]
    fn all_is_what_the_node_has() {
        let all = plan_for("ALL", "SYS_ADMIN", "").unwrap().set;
        assert_eq!(names(all).len(), 39);
        assert!(!all.has("SYS_RESOURCE") && !all.has("SYS_ADMIN") && all.has("BPF"));
        let old = NodeFacts {
            last_capability: 37,
            ..Default::default()
        };
        let privileged = Security {
            privileged: true,
            ..Default::default()
        };
        assert_eq!(names(plan(&privileged, &old).unwrap().set).len(), 38);
    }

    #[test]
    fn ambient_ones_are_granted_too() {
        let granted = plan_for("", "ALL", "NET_BIND_SERVICE").unwrap();
        assert_eq!(granted.set, granted.ambient);
        assert_eq!(names(granted.ambient), ["NET_BIND_SERVICE"]);
        let sets = granted.to_oci();
        assert_eq!(sets.inheritable(), sets.ambient());
        assert_eq!(
            plan_for("", "KILL", "KILL").unwrap().ambient,
            Set::default()
        );
        assert!(
            plan_for("", "", "")
                .unwrap()
                .to_oci()
                .inheritable()
                .as_ref()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn unknown_and_missing_ones_are_told_apart() {
        let error = plan_for("KILL NOPE", "", "").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{FIELD}.add_capabilities[1]: \"NOPE\" is no capability")
        );
        let error = plan_for("SYS_RESOURCE", "", "").unwrap_err();
        assert!(matches!(error, PlanError::Unsupported { .. }), "{error}");
        plan_for("", "SYS_RESOURCE", "").unwrap();
        assert!(plan_for("", "NOPE", "").is_err());
    }
}
