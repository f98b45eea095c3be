//! Kernel parameters of a pod: which ones it may set, and the files that they are.
//!
//! Only parameters that belong to a namespace of the pod's own may be set; all others would change
//! the host. The runtime's and the kernel's own lists agree (`ipc/ipc_sysctl.c`,
//! `ipc/mq_sysctl.c`, `net/`).

use std::collections::BTreeMap;

use super::{PlanError, check};
use crate::sandbox::{NamespaceMode, SandboxSpec};

/// Set in every pod with a network of its own, unless the client says otherwise: any port and
/// ping for any user, since such a network is nobody else's.
const NETWORK_DEFAULTS: [(&str, &str); 2] = [
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// The files below `/proc/sys` to write, in order of their names, with their values.
pub(super) fn plan(spec: &SandboxSpec) -> Result<Vec<(String, String)>, PlanError> {
    let mut files = BTreeMap::new();
    if spec.namespaces.network == NamespaceMode::Pod {
        files.extend(NETWORK_DEFAULTS.map(|(file, value)| (file.to_owned(), value.to_owned())));
    }
    let mut asked = BTreeMap::new();
    for (name, value) in &spec.sysctls {
        let field = format!("linux.sysctls[{name:?}]");
        let file = file(name).ok_or_else(|| PlanError::invalid(&field, "is no parameter"))?;
        permitted(&field, &file, spec)?;
        check::no_nul(&field, value)?;
        if asked
            .insert(file, value.clone())
            .is_some_and(|other| other != *value)
        {
            return Err(PlanError::invalid(
                field,
                "has two values, in two spellings",
            ));
        }
    }
    files.extend(asked);
    Ok(files.into_iter().collect())
}

/// The file of a parameter. The first separator says which of `.` and `/` separates; the other one
/// is then a plain letter of a name, as in `net.ipv4.conf.eth0/100.rp_filter` (sysctl(8)).
fn file(name: &str) -> Option<String> {
    let separator = name.find(['.', '/'])?;
    let file: String = match name.as_bytes()[separator] {
        b'/' => name.to_owned(),
        _ => name.chars().map(swapped).collect(),
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let letters = |c: char| c.is_ascii_graphic();
    (file.split('/').all(plain) && file.chars().all(letters)).then_some(file)
}

fn swapped(letter: char) -> char {
    match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

/// Whether the parameter belongs to a namespace that the pod has for itself.
fn permitted(field: &str, file: &str, spec: &SandboxSpec) -> Result<(), PlanError> {
    let (namespace, mode) = match owner(file) {
        Some(Owner::Network) => ("network", spec.namespaces.network),
        Some(Owner::Ipc) => ("ipc", spec.namespaces.ipc),
        None => {
            return Err(PlanError::invalid(
                field,
                "does not belong to a pod, but to the node",
            ));
        }
    };
    match mode {
        NamespaceMode::Pod => Ok(()),
        NamespaceMode::Node => Err(PlanError::invalid(
            field,
            format!("needs a {namespace} namespace of the pod's own"),
        )),
    }
}

enum Owner {
    Network,
    Ipc,
}

fn owner(file: &str) -> Option<Owner> {
    if file.starts_with("net/") {
        return Some(Owner::Network);
    }
    let kernel = file
        .strip_prefix("kernel/")
        .filter(|name| !name.contains('/'));
    let ipc = kernel
        .is_some_and(|name| name == "sem" || name.starts_with("shm") || name.starts_with("msg"));
    (ipc || file.starts_with("fs/mqueue/")).then_some(Owner::Ipc)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(sysctls: &[(&str, &str)], network: NamespaceMode, ipc: NamespaceMode) -> SandboxSpec {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let sysctls = sysctls.iter().map(own).collect();
        let mut spec = SandboxSpec {
            sysctls,
            ..Default::default()
        };
        (spec.namespaces.network, spec.namespaces.ipc) = (network, ipc);
        spec
    }

    /// `expect` is `file=value` lines, or a part of the error.
    #[track_caller]
    fn check(spec: &SandboxSpec, expect: Result<&[&str], &str>) {
        match (plan(spec), expect) {
            (Ok(found), Ok(expect)) => {
                let found: Vec<_> = found.iter().map(|(f, v)| format!("{f}={v}")).collect();
                assert_eq!(found, expect);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    use NamespaceMode::{Node, Pod};

    #[test]
    fn defaults_can_be_overridden() {
        let defaults = [
            "net/ipv4/ip_unprivileged_port_start=0",
            "net/ipv4/ping_group_range=0 2147483647",
        ];
        check(&spec(&[], Pod, Pod), Ok(&defaults));
        check(&spec(&[], Node, Pod), Ok(&[]));
        check(
            &spec(&[("net.ipv4.ip_unprivileged_port_start", "1024")], Pod, Pod),
            Ok(&["net/ipv4/ip_unprivileged_port_start=1024", defaults[1]]),
        );
    }

    #[test]
    fn both_spellings_mean_one_file() {
        for (name, expect) in [
            ("kernel.shm_rmid_forced", Some("kernel/shm_rmid_forced")),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                Some("net/ipv4/conf/eth0.100/rp_filter"),
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                Some("net/ipv4/conf/eth0.100/rp_filter"),
            ),
            ("fs.mqueue.msg_max", Some("fs/mqueue/msg_max")),
            ("/net/x", None),
            ("net..x", None),
            ("net/../kernel/x", None),
            ("net/./x", None),
            ("net.", None),
            ("plain", None),
            ("net.a b", None),
            ("", None),
        ] {
            assert_eq!(file(name).as_deref(), expect, "{name}");
        }
        check(
            &spec(&[("kernel.sem", "1"), ("kernel/sem", "2")], Node, Pod),
            Err("two values"),
        );
        check(
            &spec(&[("kernel.sem", "1"), ("kernel/sem", "1")], Node, Pod),
            Ok(&["kernel/sem=1"]),
        );
    }

    #[test]
    fn only_parameters_of_the_pods_own_namespaces() {
        let one = |name, network, ipc| spec(&[(name, "1")], network, ipc);
        for name in [
            "kernel.shmmax",
            "kernel.msgmni",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            check(
                &one(name, Node, Pod),
                Ok(&[&format!("{}=1", name.replace('.', "/"))]),
            );
            check(&one(name, Pod, Node), Err("needs a ipc namespace"));
        }
        check(
            &one("net.core.somaxconn", Node, Pod),
            Err("linux.sysctls[\"net.core.somaxconn\"]"),
        );
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "kernel/shm/x",
            "fs.file-max",
            "kernel.semx",
        ] {
            check(&one(name, Pod, Pod), Err("but to the node"));
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_the_permitted_folders(name in "[a-z./]{0,24}") {
            let spec = spec(&[(&name, "1")], Pod, Pod);
            if let Ok(files) = plan(&spec) {
                for (file, _) in files {
                    prop_assert!(file.split('/').all(|part| !matches!(part, "" | "." | "..")));
                    prop_assert!(
                        file.starts_with("net/") || file.starts_with("kernel/")
                            || file.starts_with("fs/mqueue/")
                    );
                }
            }
        }

        #[test]
        fn any_text_is_read_without_panic(name in ".*", value in ".*") {
            drop(plan(&spec(&[(&name, &value)], Pod, Pod)));
        }
    }
}
