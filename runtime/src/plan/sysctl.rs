//! Kernel parameters: which ones belong to a namespace of the container, and so may be set.

use super::namespaces::Kind;
use super::{Error, Namespaces, Result};
use crate::spec::Pairs;

/// Parameters of the IPC namespace, as paths; those of `fs/mqueue/` come on top.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/auto_msgmni",
];

/// The path below `/proc/sys`: with dots as separators slashes are part of a name, and the other
/// way round, whichever comes first (sysctl.d(5)).
fn path(key: &str) -> String {
    let first = key.find(['.', '/']).map(|at| &key[at..=at]);
    match first {
        Some(".") => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// The namespace that a parameter belongs to.
fn owner(path: &str) -> Option<Kind> {
    if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        return Some(Kind::Ipc);
    }
    if path.starts_with("net/") {
        return Some(Kind::Network);
    }
    if path == "kernel/domainname" {
        return Some(Kind::Uts);
    }
    path.starts_with("user/").then_some(Kind::User)
}

/// Paths below `/proc/sys` with their values.
///
/// # Errors
///
/// A parameter of the host, or of a namespace that the container shares with it.
pub(super) fn plan<'a>(
    given: &'a Pairs<'a>,
    namespaces: &Namespaces<'_>,
) -> Result<Vec<(String, &'a str)>> {
    given
        .iter()
        .map(|(key, value)| {
            let path = path(key);
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(Error::new(format!(
                    "sysctl {key:?} is no name of a parameter"
                )));
            }
            match owner(&path) {
                Some(kind) if namespaces.has(kind) => Ok((path, value.as_str())),
                Some(kind) => Err(Error::new(format!(
                    "sysctl {key:?} is not allowed as the container has no {} namespace of its own",
                    kind.name()
                ))),
                None if path == "kernel/hostname" => Err(Error::new(format!(
                    "sysctl {key:?} is not allowed: it conflicts with hostname"
                ))),
                None => Err(Error::new(format!(
                    "sysctl {key:?} is not in a separate kernel namespace"
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Linux;

    fn check(key: &str, expect: Option<&str>) {
        let json = r#"{"namespaces":[{"type":"mount"},{"type":"ipc"},{"type":"network"}]}"#;
        let linux: Linux<'_> = serde_json::from_str(json).unwrap();
        let namespaces = super::super::namespaces::plan(Some(&linux)).unwrap();
        let json = format!("{{{key:?}:\"1\"}}");
        let pairs: Pairs<'_> = serde_json::from_str(&json).unwrap();
        let got = plan(&pairs, &namespaces).ok().map(|list| list[0].0.clone());
        assert_eq!(got.as_deref(), expect, "{key}");
    }

    #[test]
    fn only_parameters_of_own_namespaces() {
        check("net.ipv4.ip_forward", Some("net/ipv4/ip_forward"));
        check(
            "net/ipv4/conf/eth0.7/forwarding",
            Some("net/ipv4/conf/eth0.7/forwarding"),
        );
        check(
            "net.ipv4.conf.eth0/7.forwarding",
            Some("net/ipv4/conf/eth0.7/forwarding"),
        );
        check("kernel.shmmax", Some("kernel/shmmax"));
        check("fs.mqueue.msg_max", Some("fs/mqueue/msg_max"));
        check("kernel.domainname", None);
        check("kernel.hostname", None);
        check("vm.swappiness", None);
        check("net/../kernel/core_pattern", None);
        check("user.max_user_namespaces", None);
    }
}
