//! The plan of a sandbox, put together from its parts.

use std::net::IpAddr;

use super::{
    Namespace, PlanError, SandboxPaths, SandboxPlan, cgroup, check, files, init, selinux, sysctls,
};
use crate::facts::NodeFacts;
use crate::sandbox::{NamespaceMode, PidMode, PortMapping, SandboxNamespaces, SandboxSpec};

/// Longest host name that the kernel keeps (`HOST_NAME_MAX`, sethostname(2)).
const HOSTNAME_MAX: usize = 64;
/// Size of a pod's `/dev/shm`, bytes. No client can ask for another; one that needs more mounts a
/// volume there.
const SHM_SIZE: u64 = 64 << 20;

/// Plans a sandbox.
///
/// # Errors
///
/// [`PlanError`] names the field that is wrong or cannot be had on this node.
pub fn plan_sandbox(
    id: &str,
    spec: &SandboxSpec,
    paths: &SandboxPaths,
    facts: &NodeFacts,
) -> Result<SandboxPlan, PlanError> {
    check_names(spec)?;
    check_ports(&spec.port_mappings)?;
    check_user(&spec.namespaces, facts)?;
    selinux::labels(spec.selinux.as_ref(), facts)?;
    // Each container lies below the parent; better refused now than with the first of them.
    cgroup::path(&spec.cgroup_parent, id, facts)?;
    let hostname = hostname(spec, facts).to_owned();
    let init = match spec.namespaces.pid == PidMode::Pod || facts.pod_process {
        true => Some(Box::new(init::plan(id, spec, paths, facts)?)),
        false => None,
    };
    Ok(SandboxPlan {
        namespaces: namespaces(spec),
        user: spec.namespaces.user,
        sysctls: sysctls::plan(spec)?,
        etc_hostname: files::hostname(&hostname),
        etc_hosts: files::hosts(facts),
        etc_resolv_conf: files::resolv_conf(spec.dns.as_ref(), facts)?,
        shm_size: (spec.namespaces.ipc == NamespaceMode::Pod).then_some(SHM_SIZE),
        hostname,
        init,
    })
}

/// The name that the pod answers to. A pod on the host's network has the host's.
pub(super) fn hostname<'a>(spec: &'a SandboxSpec, facts: &'a NodeFacts) -> &'a str {
    match spec.namespaces.network == NamespaceMode::Pod && !spec.hostname.is_empty() {
        true => &spec.hostname,
        false => &facts.hostname,
    }
}

fn check_names(spec: &SandboxSpec) -> Result<(), PlanError> {
    let parts = [
        ("name", &spec.name),
        ("namespace", &spec.namespace),
        ("uid", &spec.uid),
    ];
    for (part, text) in parts {
        if text.is_empty() {
            return Err(PlanError::invalid(format!("metadata.{part}"), "is empty"));
        }
    }
    if !spec.log_directory.is_empty() {
        check::absolute("log_directory", &spec.log_directory)?;
    }
    if spec.hostname.is_empty() {
        return Ok(());
    }
    check::one_word("hostname", &spec.hostname)?;
    match spec.hostname.len() <= HOSTNAME_MAX {
        true => Ok(()),
        false => {
            let reason = format!("is longer than {HOSTNAME_MAX} bytes");
            Err(PlanError::invalid("hostname", reason))
        }
    }
}

/// A user namespace has to own what the pod's processes mount: of the host's process ids and queues
/// it could have neither `/proc` nor `/dev/mqueue`.
fn check_user(namespaces: &SandboxNamespaces, facts: &NodeFacts) -> Result<(), PlanError> {
    if namespaces.user.is_none() {
        return Ok(());
    }
    let field = |name: &str| format!("linux.security_context.namespace_options.{name}");
    let shared = "NODE is not possible in a pod with a user namespace of its own";
    if namespaces.pid == PidMode::Node {
        return Err(PlanError::invalid(field("pid"), shared));
    }
    if namespaces.ipc == NamespaceMode::Node {
        return Err(PlanError::invalid(field("ipc"), shared));
    }
    match facts.user_namespaces {
        true => Ok(()),
        false => Err(PlanError::unsupported(
            field("userns_options"),
            "the kernel, the images' file system or the OCI runtime has no user namespaces with \
             idmapped mounts",
        )),
    }
}

/// Refuses port 0 of the pod, and two mappings that want the same port of the host.
fn check_ports(ports: &[PortMapping]) -> Result<(), PlanError> {
    for (place, port) in ports.iter().enumerate() {
        let field = format!("port_mappings[{place}]");
        if port.container_port == 0 {
            return Err(PlanError::invalid(
                format!("{field}.container_port"),
                "is 0",
            ));
        }
        if let Some(other) = ports[..place].iter().position(|other| collide(port, other)) {
            let reason = format!("{} is taken by port_mappings[{other}]", port.host_port);
            return Err(PlanError::invalid(format!("{field}.host_port"), reason));
        }
    }
    Ok(())
}

fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    let same_port = a.host_port != 0 && a.host_port == b.host_port && a.protocol == b.protocol;
    same_port && overlap(a.host_ip, b.host_ip)
}

/// Whether some address of the host is meant by both; none and the unspecified one mean all.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) if a.is_ipv4() == b.is_ipv4() => {
            a == b || a.is_unspecified() || b.is_unspecified()
        }
        (Some(_), Some(_)) => false,
        _ => true,
    }
}

fn namespaces(spec: &SandboxSpec) -> Vec<Namespace> {
    let mut list = Vec::new();
    if spec.namespaces.user.is_some() {
        list.push(Namespace::User);
    }
    if spec.namespaces.network == NamespaceMode::Pod {
        list.extend([Namespace::Network, Namespace::Uts]);
    }
    if spec.namespaces.ipc == NamespaceMode::Pod {
        list.push(Namespace::Ipc);
    }
    if spec.namespaces.pid == PidMode::Pod {
        list.push(Namespace::Pid);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Protocol, SandboxNamespaces};

    fn spec() -> SandboxSpec {
        SandboxSpec {
            name: "n".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            ..Default::default()
        }
    }

    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, PlanError> {
        let facts = NodeFacts {
            hostname: "node".into(),
            ..Default::default()
        };
        plan_sandbox("s1", spec, &SandboxPaths::default(), &facts)
    }

    #[track_caller]
    fn refuse(spec: &SandboxSpec, part: &str) {
        let error = plan(spec).unwrap_err();
        assert!(error.to_string().starts_with(part), "{error}");
    }

    #[test]
    fn names_are_checked() {
        refuse(
            &SandboxSpec {
                name: String::new(),
                ..spec()
            },
            "metadata.name: ",
        );
        refuse(
            &SandboxSpec {
                namespace: String::new(),
                ..spec()
            },
            "metadata.namespace: ",
        );
        refuse(
            &SandboxSpec {
                uid: String::new(),
                ..spec()
            },
            "metadata.uid: ",
        );
        refuse(
            &SandboxSpec {
                hostname: "a b".into(),
                ..spec()
            },
            "hostname: ",
        );
        refuse(
            &SandboxSpec {
                hostname: "a".repeat(65),
                ..spec()
            },
            "hostname: ",
        );
        refuse(
            &SandboxSpec {
                log_directory: "x".into(),
                ..spec()
            },
            "log_directory: ",
        );
        refuse(
            &SandboxSpec {
                cgroup_parent: "/a/..".into(),
                ..spec()
            },
            "linux.cgroup_parent: ",
        );
        plan(&SandboxSpec {
            hostname: "a".repeat(64),
            ..spec()
        })
        .unwrap();
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_the_hosts_name() {
        let mut spec = SandboxSpec {
            hostname: "web".into(),
            ..spec()
        };
        let own = plan(&spec).unwrap();
        assert_eq!((&own.hostname[..], &own.etc_hostname[..]), ("web", "web\n"));
        spec.namespaces.network = NamespaceMode::Node;
        let host = plan(&spec).unwrap();
        assert_eq!(
            (&host.hostname[..], &host.etc_hostname[..]),
            ("node", "node\n")
        );
        assert_eq!(plan(&self::spec()).unwrap().hostname, "node");
    }

    #[test]
    fn namespaces_follow_the_request() {
        use Namespace::{Ipc, Network, Pid, Uts};
        use NamespaceMode::{Node, Pod};
        let check = |network, ipc, pid, expect: &[Namespace]| {
            let namespaces = SandboxNamespaces {
                network,
                ipc,
                pid,
                user: None,
            };
            let found = plan(&SandboxSpec {
                namespaces,
                ..spec()
            })
            .unwrap();
            assert_eq!(found.namespaces, expect);
            assert_eq!(found.init.is_some(), expect.contains(&Pid));
            assert_eq!(found.shm_size.is_some(), expect.contains(&Ipc));
        };
        check(Pod, Pod, PidMode::Container, &[Network, Uts, Ipc]);
        check(Pod, Pod, PidMode::Pod, &[Network, Uts, Ipc, Pid]);
        check(Node, Node, PidMode::Node, &[]);
        check(Node, Pod, PidMode::Node, &[Ipc]);
    }

    #[test]
    fn a_user_namespace_owns_what_its_pod_mounts() {
        let range = crate::sandbox::IdRange {
            host: 100_000,
            length: 65_536,
        };
        let namespaces = SandboxNamespaces {
            user: Some(crate::sandbox::UserNamespace {
                uids: range,
                gids: range,
            }),
            ..Default::default()
        };
        let check = |namespaces, possible, part: &str| {
            let facts = NodeFacts {
                user_namespaces: possible,
                ..Default::default()
            };
            let spec = SandboxSpec {
                namespaces,
                ..spec()
            };
            let error = plan_sandbox("s1", &spec, &SandboxPaths::default(), &facts).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        check(namespaces, false, "namespace_options.userns_options: ");
        let of_node = SandboxNamespaces {
            pid: PidMode::Node,
            ..namespaces
        };
        check(of_node, true, "namespace_options.pid: ");
        let of_node = SandboxNamespaces {
            ipc: NamespaceMode::Node,
            ..namespaces
        };
        check(of_node, true, "namespace_options.ipc: ");
        let facts = NodeFacts {
            user_namespaces: true,
            ..Default::default()
        };
        let spec = SandboxSpec {
            namespaces,
            ..spec()
        };
        let plan = plan_sandbox("s1", &spec, &SandboxPaths::default(), &facts).unwrap();
        assert_eq!(plan.namespaces[0], Namespace::User);
        assert_eq!(plan.user, namespaces.user);
        assert_eq!(range.on_host(7), Some(100_007));
        assert_eq!(range.on_host(65_536), None);
    }

    fn port(container: u16, host: u16, ip: Option<&str>, protocol: Protocol) -> PortMapping {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortMapping {
            protocol,
            container_port: container,
            host_port: host,
            host_ip,
        }
    }

    #[test]
    fn one_host_port_leads_to_one_place() {
        use Protocol::{Tcp, Udp};
        let check = |port_mappings: Vec<PortMapping>, fits: bool| {
            assert_eq!(
                plan(&SandboxSpec {
                    port_mappings,
                    ..spec()
                })
                .is_ok(),
                fits
            );
        };
        let any = None;
        check(vec![port(80, 0, any, Tcp), port(81, 0, any, Tcp)], true);
        check(
            vec![port(80, 8080, any, Tcp), port(81, 8080, any, Udp)],
            true,
        );
        check(
            vec![port(80, 8080, any, Tcp), port(81, 8080, any, Tcp)],
            false,
        );
        check(
            vec![
                port(80, 8080, any, Tcp),
                port(80, 8080, Some("10.0.0.1"), Tcp),
            ],
            false,
        );
        let (a, b) = (Some("10.0.0.1"), Some("10.0.0.2"));
        check(vec![port(80, 8080, a, Tcp), port(80, 8080, b, Tcp)], true);
        check(
            vec![port(80, 8080, a, Tcp), port(80, 8080, Some("0.0.0.0"), Tcp)],
            false,
        );
        check(
            vec![port(80, 8080, a, Tcp), port(80, 8080, Some("::"), Tcp)],
            true,
        );
        check(vec![port(0, 8080, any, Tcp)], false);
        let twice = vec![
            port(80, 1, any, Tcp),
            port(81, 2, any, Tcp),
            port(82, 1, any, Tcp),
        ];
        let spec = SandboxSpec {
            port_mappings: twice,
            ..spec()
        };
        refuse(
            &spec,
            "port_mappings[2].host_port: 1 is taken by port_mappings[0]",
        );
    }
}
