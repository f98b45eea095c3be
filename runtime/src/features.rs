//! What `features` and `--version` say: engines switch their own features by it, so nothing may be
//! claimed that is not built, and nothing left out that is.

use serde_json::{Value, json};

use crate::plan::{CAPABILITY_NAMES, NamespaceKind, memory_policy_names, mount_option_names};

/// Newest version of the specification that is understood.
pub(crate) const OCI_VERSION: &str = "1.3.0";

/// What `--version` prints; docker reads the first two lines.
pub(crate) fn version() -> String {
    format!(
        "wrun version {}\ncommit: unknown\nspec: {OCI_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The object of runtime-spec's "features".
pub(crate) fn features() -> Value {
    let mut options = mount_option_names();
    options.sort_unstable();
    let mut namespaces: Vec<&str> = NamespaceKind::all().map(NamespaceKind::name).collect();
    namespaces.sort_unstable();
    let (modes, flags) = memory_policy_names();
    let capabilities: Vec<String> = CAPABILITY_NAMES
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options,
        "linux": {
            "namespaces": namespaces,
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": seccomp(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": modes, "flags": flags },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "io.wherry.wrun.version": env!("CARGO_PKG_VERSION"),
            // runc's name, by which engines decide whether to offer it.
            "org.opencontainers.runc.checkpoint.enabled": crate::criu::find().is_some().to_string(),
        },
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.systemd.property.", "org.criu.config"],
    })
}

fn seccomp() -> Value {
    json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
            "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
        ],
        "archs": [
            "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64", "SCMP_ARCH_X32",
            "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
        ],
        "knownFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
        "supportedFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_find_what_they_switch_on() {
        let features = features();
        let options = features["mountOptions"].as_array().unwrap();
        assert!(options.contains(&json!("rro")));
        assert_eq!(
            features["linux"]["mountExtensions"]["idmap"]["enabled"],
            json!(true)
        );
    }

    #[test]
    fn the_version_has_dockers_lines() {
        let text = version();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("wrun version "));
        assert!(lines.next().unwrap().starts_with("commit: "));
        assert_eq!(lines.next(), Some("spec: 1.3.0"));
    }
}
