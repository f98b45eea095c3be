//! Every field of a pod.

use cri_api as cri;
use tonic::Code::{self, InvalidArgument, Unimplemented};

use super::asked::{Asked, namespaces, run, sandbox};

type Change = fn(&mut cri::PodSandboxConfig);
type Case = (Change, &'static str);

#[test]
fn every_field_of_a_pod() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let before = asked.everything();
    for (change, field) in TEXTS.iter().chain(PORTS).chain(LINUX).chain(NAMESPACES) {
        let answer = changed(&asked, *change);
        asked.expect(answer, InvalidArgument, field);
    }
    let windows = changed(&asked, |c| c.windows = Some(Default::default()));
    asked.expect(windows, Unimplemented, "config.windows");
    handlers(&mut asked, InvalidArgument);
    asked.judge(&before);
}

fn changed(asked: &Asked, change: Change) -> Result<String, tonic::Status> {
    let mut config = sandbox(&asked.node, "wrong");
    change(&mut config);
    run(&asked.client, config)
}

fn handlers(asked: &mut Asked, code: Code) {
    for handler in ["gvisor", "../wrun", "wrun\0"] {
        let request = cri::RunPodSandboxRequest {
            config: Some(sandbox(&asked.node, "wrong")),
            runtime_handler: handler.into(),
        };
        let answer = asked
            .client
            .call(async |mut cri| cri.run_pod_sandbox(request).await);
        asked.expect(answer, code, "runtime_handler");
    }
}

const TEXTS: &[Case] = &[
    (|c| c.metadata = None, "config.metadata"),
    (|c| metadata(c).name.clear(), "config.metadata.name"),
    (|c| metadata(c).uid.clear(), "config.metadata.uid"),
    (
        |c| metadata(c).namespace.clear(),
        "config.metadata.namespace",
    ),
    (|c| metadata(c).uid.push('\0'), "config.metadata.uid"),
    (|c| c.hostname = "a b".into(), "hostname"),
    (|c| c.hostname = "a".repeat(65), "hostname"),
    (|c| c.hostname.push('\0'), "hostname"),
    (|c| c.log_directory = "logs".into(), "config.log_directory"),
    (
        |c| c.log_directory = "/x".repeat(3000),
        "config.log_directory",
    ),
    (
        |c| c.log_directory.push_str(&"x".repeat(256)),
        "config.log_directory",
    ),
    (
        |c| dns(c).servers = vec!["1.1.1.1\nx".into()],
        "config.dns_config.servers[0]",
    ),
    (
        |c| dns(c).searches = vec!["a".into(), "b\0".into()],
        "config.dns_config.searches[1]",
    ),
    (
        |c| dns(c).options = vec!["a b".into()],
        "dns_config.options",
    ),
    (
        |c| drop(c.labels.insert("k".into(), "v".repeat(1 << 20))),
        "config.labels",
    ),
    (
        |c| drop(c.annotations.insert("k".repeat(1 << 20), "v".into())),
        "config.annotations",
    ),
];

const PORTS: &[Case] = &[
    (
        |c| c.port_mappings = vec![mapping(0, 0)],
        "port_mappings[0].container_port",
    ),
    (
        |c| c.port_mappings = vec![mapping(1, 0), mapping(65_536, 0)],
        "port_mappings[1].container_port",
    ),
    (
        |c| c.port_mappings = vec![mapping(1, -1)],
        "port_mappings[0].host_port",
    ),
    (
        |c| c.port_mappings = vec![mapping(1, 65_536)],
        "port_mappings[0].host_port",
    ),
    (
        |c| c.port_mappings = vec![mapping(1, 9), mapping(2, 9)],
        "port_mappings[1].host_port",
    ),
    (
        |c| {
            let host_ip = "here".into();
            c.port_mappings = vec![cri::PortMapping {
                host_ip,
                ..mapping(1, 1)
            }];
        },
        "port_mappings[0].host_ip",
    ),
    (
        |c| {
            c.port_mappings = vec![cri::PortMapping {
                protocol: 9,
                ..mapping(1, 1)
            }]
        },
        "port_mappings[0].protocol",
    ),
];

const LINUX: &[Case] = &[
    (
        |c| linux(c).cgroup_parent = "/../..".into(),
        "linux.cgroup_parent",
    ),
    (|c| linux(c).cgroup_parent.push('\0'), "linux.cgroup_parent"),
    (
        |c| sysctl(c, "kernel.panic", "1"),
        "sysctls[\"kernel.panic\"]",
    ),
    (|c| sysctl(c, "nonsense", "1"), "sysctls[\"nonsense\"]"),
    (
        |c| sysctl(c, "net.../../kernel/panic", "1"),
        "sysctls[\"net.../../kernel/panic\"]",
    ),
    (
        |c| sysctl(c, "net.ipv4.ip_forward", "1\0"),
        "sysctls[\"net.ipv4.ip_forward\"]",
    ),
    (
        |c| {
            namespaces(c).ipc = cri::NamespaceMode::Node.into();
            sysctl(c, "kernel.shmmax", "1");
        },
        "sysctls[\"kernel.shmmax\"]",
    ),
    (
        |c| {
            namespaces(c).network = cri::NamespaceMode::Node.into();
            sysctl(c, "net.core.somaxconn", "1");
        },
        "sysctls[\"net.core.somaxconn\"]",
    ),
    (
        |c| linux(c).overhead.get_or_insert_default().cpu_shares = -1,
        "config.linux.overhead.cpu_shares",
    ),
    (
        |c| linux(c).resources.get_or_insert_default().oom_score_adj = 2000,
        "config.linux.resources.oom_score_adj",
    ),
    (
        |c| security(c).supplemental_groups_policy = 7,
        "security_context.supplemental_groups_policy",
    ),
    (
        |c| {
            let options = cri::SeLinuxOption {
                level: "s0 x".into(),
                ..Default::default()
            };
            security(c).selinux_options = Some(options);
        },
        "security_context.selinux_options",
    ),
    (
        #[expect(deprecated, reason = "what older clients send")]
        |c| security(c).seccomp_profile_path = "best".into(),
        "security_context.seccomp_profile_path",
    ),
    (
        |c| security(c).run_as_group = Some(cri::Int64Value { value: 1 }),
        "security_context.run_as_group",
    ),
    (
        |c| security(c).run_as_user = Some(cri::Int64Value { value: -1 }),
        "security_context.run_as_user",
    ),
    (
        |c| security(c).supplemental_groups = vec![1 << 32],
        "security_context.supplemental_groups[0]",
    ),
    (
        |c| {
            let profile = cri::SecurityProfile {
                profile_type: 9,
                ..Default::default()
            };
            security(c).seccomp = Some(profile);
        },
        "security_context.seccomp.profile_type",
    ),
];

const NAMESPACES: &[Case] = &[
    (|c| namespaces(c).network = 17, "namespace_options.network"),
    (|c| namespaces(c).network = 1, "namespace_options.network"),
    (|c| namespaces(c).ipc = -1, "namespace_options.ipc"),
    (|c| namespaces(c).ipc = 3, "namespace_options.ipc"),
    (|c| namespaces(c).pid = 3, "namespace_options.pid"),
    (|c| namespaces(c).pid = 4, "namespace_options.pid"),
    (|c| user(c, 9, 0, 65_536), "userns_options.mode"),
    (|c| user(c, 2, 0, 65_536), "userns_options"),
    (|c| user(c, 0, 1, 0), "userns_options.uids"),
    (|c| user(c, 0, u32::MAX - 1, 2), "userns_options.uids"),
    (
        |c| {
            user(c, 0, 100_000, 65_536);
            namespaces(c).pid = cri::NamespaceMode::Node.into();
        },
        "namespace_options.pid",
    ),
];

fn metadata(config: &mut cri::PodSandboxConfig) -> &mut cri::PodSandboxMetadata {
    config.metadata.get_or_insert_default()
}

fn dns(config: &mut cri::PodSandboxConfig) -> &mut cri::DnsConfig {
    config.dns_config.get_or_insert_default()
}

fn linux(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    config.linux.get_or_insert_default()
}

fn security(config: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn sysctl(config: &mut cri::PodSandboxConfig, name: &str, value: &str) {
    linux(config).sysctls.insert(name.into(), value.into());
}

/// A user namespace with `length` ids of the host from `host_id` on, 0 and up inside.
fn user(config: &mut cri::PodSandboxConfig, mode: i32, host_id: u32, length: u32) {
    let mapping = cri::IdMapping {
        host_id,
        container_id: 0,
        length,
    };
    namespaces(config).userns_options = Some(cri::UserNamespace {
        mode,
        uids: vec![mapping],
        gids: vec![mapping],
    });
}

fn mapping(container_port: i32, host_port: i32) -> cri::PortMapping {
    cri::PortMapping {
        container_port,
        host_port,
        ..Default::default()
    }
}
