//! `PodSandboxConfig` to [`SandboxSpec`].

use std::net::IpAddr;

use cri_api as cri;
use pod::PlanError as Refused;
use pod::SandboxSpec;
use pod::container::Resources;
use pod::sandbox::{Dns, PidMode, PortMapping, Protocol, SandboxNamespaces};

use super::container::resources;
use super::security::{old_profile, selinux};
use super::{
    absolute_or_empty, account, choice, each, filled, invalid, namespace, not_windows, pairs,
    plain, plains, required, user_namespace, within,
};

/// The sandbox that a client asks for, for the runtime handler of that name.
///
/// # Errors
///
/// [`Refused`] names the field.
pub(in crate::rpc) fn sandbox(
    config: Option<cri::PodSandboxConfig>,
    handler: String,
) -> Result<SandboxSpec, Refused> {
    let config = required("config", config)?;
    let metadata = required("config.metadata", config.metadata)?;
    if config.windows.is_some() {
        return Err(not_windows("config.windows"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    Ok(SandboxSpec {
        name: filled("config.metadata.name", metadata.name)?,
        uid: filled("config.metadata.uid", metadata.uid)?,
        namespace: filled("config.metadata.namespace", metadata.namespace)?,
        attempt: metadata.attempt,
        hostname: plain("config.hostname", config.hostname)?,
        log_directory: absolute_or_empty("config.log_directory", config.log_directory)?,
        dns: config.dns_config.map(dns).transpose()?,
        port_mappings: port_mappings(&config.port_mappings)?,
        labels: pairs("config.labels", config.labels)?,
        annotations: pairs("config.annotations", config.annotations)?,
        cgroup_parent: plain("config.linux.cgroup_parent", linux.cgroup_parent)?,
        sysctls: linux.sysctls.into_iter().collect(),
        namespaces: check_identity(&security)
            .and_then(|()| namespaces(&security.namespace_options.unwrap_or_default()))?,
        privileged: security.privileged,
        handler: plain("runtime_handler", handler)?,
        overhead: limits("overhead", linux.overhead)?,
        resources: limits("resources", linux.resources)?,
        selinux: security.selinux_options.map(selinux),
    })
}

fn limits(
    name: &str,
    asked: Option<cri::LinuxContainerResources>,
) -> Result<Option<Resources>, Refused> {
    asked
        .map(|asked| resources(&format!("config.linux.{name}"), asked))
        .transpose()
}

/// A sandbox has no process whose identity could be set; what contradicts itself is refused all
/// the same.
fn check_identity(security: &cri::LinuxSandboxSecurityContext) -> Result<(), Refused> {
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        let field = "config.linux.security_context.run_as_group";
        return Err(invalid(field, "is given without run_as_user"));
    }
    let field = |name: &str| format!("config.linux.security_context.{name}");
    let ids = [
        ("run_as_user", security.run_as_user),
        ("run_as_group", security.run_as_group),
    ];
    for (name, id) in ids {
        id.map(|id| account(&field(name), id.value)).transpose()?;
    }
    let groups = security.supplemental_groups.clone();
    each(&field("supplemental_groups"), groups, account)?;
    choice::<cri::SupplementalGroupsPolicy>(
        &field("supplemental_groups_policy"),
        security.supplemental_groups_policy,
    )?;
    #[expect(deprecated, reason = "clients older than `seccomp` send it")]
    old_profile(
        &field("seccomp_profile_path"),
        &security.seccomp_profile_path,
    )?;
    for (name, profile) in [
        ("seccomp", &security.seccomp),
        ("apparmor", &security.apparmor),
    ] {
        if let Some(profile) = profile {
            let field = format!("{}.profile_type", field(name));
            choice::<cri::security_profile::ProfileType>(&field, profile.profile_type)?;
        }
    }
    Ok(())
}

fn namespaces(options: &cri::NamespaceOption) -> Result<SandboxNamespaces, Refused> {
    let field = "config.linux.security_context.namespace_options";
    Ok(SandboxNamespaces {
        user: user_namespace(field, options.userns_options.as_ref())?,
        network: namespace(&format!("{field}.network"), options.network)?,
        pid: pid(&format!("{field}.pid"), options.pid)?,
        ipc: namespace(&format!("{field}.ipc"), options.ipc)?,
    })
}

fn pid(field: &str, mode: i32) -> Result<PidMode, Refused> {
    match choice::<cri::NamespaceMode>(field, mode)? {
        cri::NamespaceMode::Pod => Ok(PidMode::Pod),
        cri::NamespaceMode::Container => Ok(PidMode::Container),
        cri::NamespaceMode::Node => Ok(PidMode::Node),
        cri::NamespaceMode::Target => Err(invalid(field, "TARGET is possible for containers only")),
    }
}

fn dns(config: cri::DnsConfig) -> Result<Dns, Refused> {
    Ok(Dns {
        servers: lines("config.dns_config.servers", config.servers)?,
        searches: lines("config.dns_config.searches", config.searches)?,
        options: lines("config.dns_config.options", config.options)?,
    })
}

/// Texts that each become part of one line of a file.
fn lines(field: &str, texts: Vec<String>) -> Result<Vec<String>, Refused> {
    let texts = plains(field, texts)?;
    match texts.iter().position(|text| text.contains('\n')) {
        Some(index) => Err(invalid(&format!("{field}[{index}]"), "holds a line break")),
        None => Ok(texts),
    }
}

fn port_mappings(mappings: &[cri::PortMapping]) -> Result<Vec<PortMapping>, Refused> {
    mappings
        .iter()
        .enumerate()
        .map(|(index, mapping)| port_mapping(&format!("config.port_mappings[{index}]"), mapping))
        .collect()
}

fn port_mapping(field: &str, mapping: &cri::PortMapping) -> Result<PortMapping, Refused> {
    Ok(PortMapping {
        protocol: match choice::<cri::Protocol>(&format!("{field}.protocol"), mapping.protocol)? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port(
            &format!("{field}.container_port"),
            mapping.container_port,
            1,
        )?,
        host_port: port(&format!("{field}.host_port"), mapping.host_port, 0)?,
        host_ip: host_ip(&format!("{field}.host_ip"), &mapping.host_ip)?,
    })
}

fn port(field: &str, value: i32, lowest: i64) -> Result<u16, Refused> {
    let value = within(field, value.into(), lowest..=u16::MAX.into())?;
    Ok(u16::try_from(value).expect("the range just checked is that of u16"))
}

/// An address of the host; the unspecified ones mean all of them.
fn host_ip(field: &str, text: &str) -> Result<Option<IpAddr>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text
        .parse()
        .map_err(|_cause| invalid(field, format!("{text:?} is not an address")))?;
    Ok((!address.is_unspecified()).then_some(address))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pod::sandbox::NamespaceMode;

    use super::*;

    fn config() -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".into(),
                uid: "u1".into(),
                namespace: "shop".into(),
                attempt: 3,
            }),
            log_directory: "/var/log/pods/x".into(),
            labels: HashMap::from([("a.b/c".into(), "d".into())]),
            ..Default::default()
        }
    }

    fn options(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default()
    }

    fn refused(change: impl FnOnce(&mut cri::PodSandboxConfig), expect: &str) {
        let mut config = config();
        change(&mut config);
        let error = sandbox(Some(config), String::new()).expect_err(expect);
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn a_small_one_is_taken() {
        let spec = sandbox(Some(config()), "runc".into()).unwrap();
        assert_eq!(spec.name, "web");
        assert_eq!(spec.attempt, 3);
        assert_eq!(spec.handler, "runc");
        assert_eq!(spec.labels["a.b/c"], "d");
        // What the interface says of options that are not given.
        assert_eq!(spec.namespaces.pid, PidMode::Pod);
        assert_eq!(spec.namespaces.network, NamespaceMode::Pod);
    }

    #[test]
    fn namespaces_of_the_node() {
        let mut config = config();
        *options(&mut config) = cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            pid: cri::NamespaceMode::Container.into(),
            ipc: cri::NamespaceMode::Node.into(),
            userns_options: Some(cri::UserNamespace {
                mode: cri::NamespaceMode::Node.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let namespaces = sandbox(Some(config), String::new()).unwrap().namespaces;
        assert_eq!(namespaces.network, NamespaceMode::Node);
        assert_eq!(namespaces.pid, PidMode::Container);
        assert_eq!(namespaces.ipc, NamespaceMode::Node);
    }

    #[test]
    fn ports() {
        let mut config = config();
        config.port_mappings = vec![cri::PortMapping {
            protocol: cri::Protocol::Udp.into(),
            container_port: 53,
            host_port: 5353,
            host_ip: "0.0.0.0".into(),
        }];
        let expect = PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: None,
        };
        assert_eq!(
            sandbox(Some(config), String::new()).unwrap().port_mappings,
            [expect]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            sandbox(None, String::new()).unwrap_err().to_string(),
            "config: is missing"
        );
        refused(|c| c.metadata = None, "config.metadata: is missing");
        refused(
            |c| c.metadata.get_or_insert_default().namespace = String::new(),
            "config.metadata.namespace: is empty",
        );
        refused(
            |c| c.log_directory = "logs".into(),
            "config.log_directory: \"logs\" is not an absolute path",
        );
        refused(
            |c| c.hostname = "a\0".into(),
            "config.hostname: holds a NUL byte",
        );
        refused(
            |c| c.dns_config.get_or_insert_default().servers = vec!["1.1.1.1\nx".into()],
            "config.dns_config.servers[0]: holds a line break",
        );
        refused(
            |c| c.linux.get_or_insert_default().cgroup_parent = "\0".into(),
            "config.linux.cgroup_parent: holds a NUL byte",
        );
    }

    #[test]
    fn wrong_ports_are_named() {
        let mapping = |container_port, host_port, host_ip: &str, protocol| cri::PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip: host_ip.into(),
        };
        let cases = [
            (
                mapping(0, 1, "", 0),
                "config.port_mappings[0].container_port: 0 is not within 1 to 65535",
            ),
            (
                mapping(1, 65536, "", 0),
                "config.port_mappings[0].host_port: 65536 is not within 0 to 65535",
            ),
            (
                mapping(1, -1, "", 0),
                "config.port_mappings[0].host_port: -1 is not within 0 to 65535",
            ),
            (
                mapping(1, 1, "here", 0),
                "config.port_mappings[0].host_ip: \"here\" is not an address",
            ),
            (
                mapping(1, 1, "", 9),
                "config.port_mappings[0].protocol: 9 is not known",
            ),
        ];
        for (mapping, expect) in cases {
            refused(|c| c.port_mappings = vec![mapping], expect);
        }
    }

    #[test]
    fn wrong_namespaces_are_named() {
        let field = "config.linux.security_context.namespace_options";
        refused(
            |c| options(c).network = 1,
            &format!("{field}.network: CONTAINER is not possible here"),
        );
        refused(
            |c| options(c).ipc = 3,
            &format!("{field}.ipc: TARGET is not possible here"),
        );
        refused(
            |c| options(c).pid = 3,
            &format!("{field}.pid: TARGET is possible for containers only"),
        );
        refused(
            |c| options(c).pid = 17,
            &format!("{field}.pid: 17 is not known"),
        );
        refused(
            |c| options(c).userns_options = Some(cri::UserNamespace::default()),
            &format!("{field}.userns_options.uids: has 0 mappings; exactly one is possible"),
        );
    }

    #[test]
    fn what_the_pod_costs_and_its_context() {
        let mut asked = config();
        let linux = asked.linux.get_or_insert_default();
        linux.overhead = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 7,
            ..Default::default()
        });
        linux
            .security_context
            .get_or_insert_default()
            .selinux_options = Some(cri::SeLinuxOption {
            level: "s0:c1".into(),
            ..Default::default()
        });
        let spec = sandbox(Some(asked), String::new()).unwrap();
        assert_eq!(spec.overhead.map(|limits| limits.memory_limit), Some(7));
        assert_eq!(spec.resources, None);
        assert_eq!(spec.selinux.unwrap().level, "s0:c1");
        refused(
            |c| {
                let linux = c.linux.get_or_insert_default();
                linux.resources.get_or_insert_default().cpu_shares = -1;
            },
            "config.linux.resources.cpu_shares: -1 is not within 0 to 9223372036854775807",
        );
    }

    #[test]
    fn words_of_a_pods_security_are_checked() {
        let field = "config.linux.security_context";
        let security = |change: fn(&mut cri::LinuxSandboxSecurityContext), expect: &str| {
            refused(
                |c| {
                    let linux = c.linux.get_or_insert_default();
                    change(linux.security_context.get_or_insert_default());
                },
                &format!("{field}.{expect}"),
            );
        };
        security(
            |s| s.supplemental_groups_policy = 7,
            "supplemental_groups_policy: 7 is not known",
        );
        #[expect(deprecated, reason = "what older clients send")]
        security(
            |s| s.seccomp_profile_path = "best".into(),
            "seccomp_profile_path: \"best\" is not known",
        );
    }

    #[test]
    fn user_namespaces() {
        let field = "config.linux.security_context.namespace_options.userns_options";
        let mapping = |container_id, host_id, length| cri::IdMapping {
            host_id,
            container_id,
            length,
        };
        let user = |mode, uids: &[cri::IdMapping], gids: &[cri::IdMapping]| {
            Some(cri::UserNamespace {
                mode,
                uids: uids.to_vec(),
                gids: gids.to_vec(),
            })
        };
        let (good, other) = (mapping(0, 1000, 65_536), mapping(0, 70_000, 65_536));
        let cases = [
            (user(1, &[good], &[good]), "mode: CONTAINER is not possible"),
            (user(3, &[good], &[good]), "mode: TARGET is not possible"),
            (user(0, &[good, other], &[good]), "uids: has 2 mappings"),
            (user(0, &[good], &[]), "gids: has 0 mappings"),
            (
                user(0, &[good], &[mapping(1, 1000, 5)]),
                "gids: does not map id 0",
            ),
            (user(0, &[mapping(0, 1000, 0)], &[good]), "uids: maps no id"),
            (
                user(0, &[mapping(0, u32::MAX, 1)], &[good]),
                "uids: maps ids that do not exist",
            ),
        ];
        for (options_of_user, expect) in cases {
            let mut asked = config();
            options(&mut asked).userns_options = options_of_user;
            let error = sandbox(Some(asked), String::new()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}.{expect}")), "{error}");
        }
        let mut asked = config();
        options(&mut asked).userns_options = user(2, &[], &[]);
        let of_node = sandbox(Some(asked), String::new()).unwrap();
        assert_eq!(of_node.namespaces.user, None);
        let mut asked = config();
        options(&mut asked).userns_options = user(0, &[good], &[other]);
        let own = sandbox(Some(asked), String::new()).unwrap().namespaces.user;
        assert_eq!(own.map(|user| user.gids.host), Some(70_000));
    }
}
