//! Which kernel namespaces a container joins, makes, or shares with the host (namespaces(7)).

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{ContainerInputs, PlanError, SandboxPaths};
use crate::container::{ContainerPidMode, Security};
use crate::facts::NodeFacts;
use crate::sandbox::{NamespaceMode, PidMode, SandboxNamespaces};

const FIELD: &str = "linux.security_context.namespace_options";

/// The namespaces of a container, in the order of the specification's list. One that is missing is
/// the host's.
///
/// A container that asks for the pod's namespace gets whatever the pod has, be it the host's: many
/// clients leave the field of a container at its zero value, which means just that. Only a
/// container that asks for the host's in a pod with its own contradicts its pod.
pub(super) fn plan(
    security: &Security,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
) -> Result<Vec<LinuxNamespace>, PlanError> {
    let pod = &inputs.sandbox.namespaces;
    agrees("network", security.network, pod.network)?;
    agrees("ipc", security.ipc, pod.ipc)?;
    let mut list = pinned(pod, inputs.paths);
    list.extend(pid(security, inputs)?);
    list.push(new(LinuxNamespaceType::Mount));
    if facts.cgroup_v2 && !security.privileged {
        list.push(new(LinuxNamespaceType::Cgroup));
    }
    Ok(list)
}

/// The namespaces that the pod owns for all its containers. The host name goes with the network: a
/// pod on the host's network answers to the host's name.
pub(super) fn pinned(pod: &SandboxNamespaces, paths: &SandboxPaths) -> Vec<LinuxNamespace> {
    let mut list = Vec::new();
    if pod.user.is_some() {
        list.push(joined(
            LinuxNamespaceType::User,
            paths.namespaces.join("user"),
        ));
    }
    if pod.network == NamespaceMode::Pod {
        list.push(joined(
            LinuxNamespaceType::Network,
            paths.namespaces.join("net"),
        ));
        list.push(joined(
            LinuxNamespaceType::Uts,
            paths.namespaces.join("uts"),
        ));
    }
    if pod.ipc == NamespaceMode::Pod {
        list.push(joined(
            LinuxNamespaceType::Ipc,
            paths.namespaces.join("ipc"),
        ));
    }
    list
}

/// A namespace of the container's own.
pub(super) fn new(typ: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ);
    namespace
}

fn joined(typ: LinuxNamespaceType, path: PathBuf) -> LinuxNamespace {
    let mut namespace = new(typ);
    namespace.set_path(Some(path));
    namespace
}

fn agrees(name: &str, asked: NamespaceMode, pod: NamespaceMode) -> Result<(), PlanError> {
    match (asked, pod) {
        (NamespaceMode::Node, NamespaceMode::Pod) => Err(contradicts(name)),
        _ => Ok(()),
    }
}

fn contradicts(name: &str) -> PlanError {
    PlanError::invalid(
        format!("{FIELD}.{name}"),
        "is the node's, but the pod has its own",
    )
}

fn pid(
    security: &Security,
    inputs: &ContainerInputs<'_>,
) -> Result<Option<LinuxNamespace>, PlanError> {
    let typ = LinuxNamespaceType::Pid;
    let pod = inputs.sandbox.namespaces.pid;
    match (&security.pid, pod) {
        (ContainerPidMode::Node | ContainerPidMode::Pod, PidMode::Node) => Ok(None),
        (ContainerPidMode::Node, _) => Err(contradicts("pid")),
        (ContainerPidMode::Pod, PidMode::Pod) => {
            Ok(Some(joined(typ, inputs.paths.namespaces.join("pid"))))
        }
        (ContainerPidMode::Pod, PidMode::Container) | (ContainerPidMode::Container, _) => {
            Ok(Some(new(typ)))
        }
        (ContainerPidMode::Target(id), _) => {
            let process = inputs.target_pid.ok_or_else(|| {
                let reason = format!("{id:?} is no running container of this pod");
                PlanError::invalid(format!("{FIELD}.target_id"), reason)
            })?;
            Ok(Some(joined(
                typ,
                PathBuf::from(format!("/proc/{process}/ns/pid")),
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Accounts, ImageFacts};
    use crate::sandbox::SandboxSpec;

    /// `expect` is the list as `type` or `type=path`, or a part of the error.
    #[track_caller]
    fn check(security: &Security, pod: SandboxNamespaces, v2: bool, expect: Result<&str, &str>) {
        let sandbox = SandboxSpec {
            namespaces: pod,
            ..Default::default()
        };
        let paths = SandboxPaths {
            namespaces: "/ns".into(),
            ..Default::default()
        };
        let inputs = ContainerInputs {
            id: "c",
            sandbox_id: "s",
            sandbox: &sandbox,
            paths: &paths,
            image: &ImageFacts::default(),
            accounts: &Accounts::default(),
            target_pid: Some(77),
            devices: &[],
            shares: &crate::plan::Shares::default(),
            edits: &Default::default(),
            seccomp_profile: None,
            mount_sources: &[],
        };
        let facts = NodeFacts {
            cgroup_v2: v2,
            ..Default::default()
        };
        let text = |namespace: &LinuxNamespace| match namespace.path() {
            Some(path) => format!("{}={}", namespace.typ(), path.display()),
            None => namespace.typ().to_string(),
        };
        match (plan(security, &inputs, &facts), expect) {
            (Ok(found), Ok(expect)) => {
                assert_eq!(found.iter().map(text).collect::<Vec<_>>().join(" "), expect);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    fn security(pid: ContainerPidMode) -> Security {
        Security {
            pid,
            ..Default::default()
        }
    }

    use NamespaceMode::{Node, Pod};
    const OWN: SandboxNamespaces = SandboxNamespaces {
        network: Pod,
        pid: PidMode::Container,
        ipc: Pod,
        user: None,
    };
    const HOST: SandboxNamespaces = SandboxNamespaces {
        network: Node,
        pid: PidMode::Node,
        ipc: Node,
        user: None,
    };
    const PINNED: &str = "net=/ns/net uts=/ns/uts ipc=/ns/ipc";

    #[test]
    fn a_container_joins_what_the_pod_has() {
        let own = security(ContainerPidMode::Container);
        check(&own, OWN, false, Ok(&format!("{PINNED} pid mnt")));
        check(&own, OWN, true, Ok(&format!("{PINNED} pid mnt cgroup")));
        check(&own, HOST, false, Ok("pid mnt"));
        let privileged = Security {
            privileged: true,
            ..own
        };
        check(&privileged, OWN, true, Ok(&format!("{PINNED} pid mnt")));
    }

    #[test]
    fn process_ids() {
        let shared = SandboxNamespaces {
            pid: PidMode::Pod,
            ..OWN
        };
        let pod = security(ContainerPidMode::Pod);
        check(
            &pod,
            shared,
            false,
            Ok(&format!("{PINNED} pid=/ns/pid mnt")),
        );
        check(&pod, OWN, false, Ok(&format!("{PINNED} pid mnt")));
        check(&pod, HOST, false, Ok("mnt"));
        check(&security(ContainerPidMode::Node), HOST, false, Ok("mnt"));
        check(
            &security(ContainerPidMode::Node),
            OWN,
            false,
            Err("namespace_options.pid: "),
        );
        let target = security(ContainerPidMode::Target("x".into()));
        check(
            &target,
            OWN,
            false,
            Ok(&format!("{PINNED} pid=/proc/77/ns/pid mnt")),
        );
    }

    #[test]
    fn a_container_cannot_ask_for_more_of_the_host_than_its_pod() {
        let own = security(ContainerPidMode::Container);
        check(
            &Security {
                network: Node,
                ..own.clone()
            },
            OWN,
            false,
            Err("options.network: "),
        );
        check(
            &Security {
                ipc: Node,
                ..own.clone()
            },
            OWN,
            false,
            Err("options.ipc: "),
        );
        check(
            &Security {
                network: Node,
                ipc: Node,
                ..own
            },
            HOST,
            false,
            Ok("pid mnt"),
        );
    }
}
