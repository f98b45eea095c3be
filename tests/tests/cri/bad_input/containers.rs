//! Every field of a container.

use cri_api as cri;
use tonic::Code::{InvalidArgument, NotFound, Unimplemented};

use super::asked::{Asked, image};

type Change = fn(&mut cri::ContainerConfig);
type Case = (Change, &'static str);

#[test]
fn every_field_of_a_container() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let before = asked.everything();
    let groups = [TEXTS, MOUNTS, DEVICES, RESOURCES, SECURITY, PROFILES];
    for (change, field) in groups.into_iter().flatten() {
        let answer = changed(&asked, *change);
        asked.expect(answer, InvalidArgument, field);
    }
    let mut nothing = asked.container("wrong");
    nothing.config = None;
    let answer = asked.create(nothing);
    asked.expect(answer, InvalidArgument, "config");
    let windows = changed(&asked, |c| c.windows = Some(Default::default()));
    asked.expect(windows, Unimplemented, "config.windows");
    let never = changed(&asked, |c| c.image = Some(image("localhost/never:pulled")));
    asked.expect(never, NotFound, "localhost/never:pulled");
    let target = changed(&asked, |c| {
        namespaces(c).pid = cri::NamespaceMode::Target.into();
        namespaces(c).target_id = "0123abcd".into();
    });
    asked.expect(target, NotFound, "0123abcd");
    asked.judge(&before);
}

fn changed(asked: &Asked, change: Change) -> Result<String, tonic::Status> {
    let mut request = asked.container("wrong");
    change(request.config.get_or_insert_default());
    asked.create(request)
}

const TEXTS: &[Case] = &[
    (|c| c.metadata = None, "config.metadata"),
    (
        |c| c.metadata.get_or_insert_default().name.clear(),
        "config.metadata.name",
    ),
    (|c| c.image = None, "config.image"),
    (|c| c.image = Some(image("")), "config.image.image"),
    (|c| c.command.push("\0".into()), "config.command[2]"),
    (|c| c.args = vec!["a\0".into()], "config.args[0]"),
    (|c| c.working_dir = "tmp".into(), "config.working_dir"),
    (|c| c.working_dir = "/\0".into(), "config.working_dir"),
    (|c| variable(c, "", b""), "config.envs[0].key"),
    (|c| variable(c, "A=B", b""), "config.envs[0].key"),
    (|c| variable(c, "A", b"\xff"), "config.envs[0].value"),
    (|c| variable(c, "A", b"\0"), "config.envs[0].value"),
    (
        |c| drop(c.labels.insert("k".into(), "v".repeat(1 << 20))),
        "config.labels",
    ),
    (
        |c| drop(c.annotations.insert("k".into(), "v".repeat(1 << 20))),
        "config.annotations",
    ),
    (|c| c.log_path = "/var/log/x".into(), "config.log_path"),
    (|c| c.log_path = "a/../../x".into(), "config.log_path"),
    (|c| c.log_path = "x".repeat(300), "config.log_path"),
    (|c| c.stop_signal = 99, "config.stop_signal"),
    (|c| c.stop_signal = -1, "config.stop_signal"),
];

const MOUNTS: &[Case] = &[
    (
        |c| mount(c).container_path = "c".into(),
        "mounts[0].container_path",
    ),
    (
        |c| mount(c).container_path.clear(),
        "mounts[0].container_path",
    ),
    (
        |c| mount(c).container_path = "/".into(),
        "mounts[0].container_path",
    ),
    (|c| mount(c).host_path = "h".into(), "mounts[0].host_path"),
    (|c| mount(c).host_path.clear(), "mounts[0].host_path"),
    (
        |c| mount(c).host_path = "/etc/passwd/x".into(),
        "mounts[0].host_path",
    ),
    (|c| mount(c).propagation = 5, "mounts[0].propagation"),
    (
        |c| mount(c).recursive_read_only = true,
        "mounts[0].recursive_read_only",
    ),
    (
        |c| mount(c).mount_options = vec!["suid".into()],
        "mounts[0].mount_options[0]",
    ),
    (
        |c| mount(c).image_sub_path = "x".into(),
        "mounts[0].image_sub_path",
    ),
    (
        |c| mount(c).uid_mappings = vec![cri::IdMapping::default()],
        "mounts[0].uidMappings[0]",
    ),
    (
        |c| {
            let ids = cri::IdMapping {
                length: 1,
                ..Default::default()
            };
            mount(c).gid_mappings = vec![ids];
        },
        "mounts[0].uidMappings",
    ),
    (|c| mount(c).image = Some(image("x")), "mounts[0].host_path"),
];

const DEVICES: &[Case] = &[
    (
        |c| device(c).container_path = "null".into(),
        "devices[0].container_path",
    ),
    (|c| device(c).host_path.clear(), "devices[0].host_path"),
    (
        |c| device(c).host_path = "/dev/no-such-device".into(),
        "devices[0].host_path",
    ),
    (
        |c| device(c).permissions = "rwx".into(),
        "devices[0].permissions",
    ),
    (
        |c| c.cdi_devices = vec![cri::CdiDevice::default()],
        "CDI_devices[0]",
    ),
    (
        |c| {
            c.cdi_devices = vec![cri::CdiDevice {
                name: "no.such/device=1".into(),
            }]
        },
        "no.such/device=1",
    ),
];

const RESOURCES: &[Case] = &[
    (|c| resources(c).cpu_period = -1, "cpu_period"),
    (|c| resources(c).cpu_period = 5, "cpu_period"),
    (|c| resources(c).cpu_quota = 5, "cpu_quota"),
    (|c| resources(c).cpu_shares = -1, "cpu_shares"),
    (
        |c| resources(c).memory_limit_in_bytes = -1,
        "memory_limit_in_bytes",
    ),
    (
        |c| resources(c).memory_swap_limit_in_bytes = -2,
        "memory_swap_limit_in_bytes",
    ),
    (
        |c| {
            resources(c).memory_limit_in_bytes = 2 << 20;
            resources(c).memory_swap_limit_in_bytes = 1 << 20;
        },
        "memory_swap_limit_in_bytes",
    ),
    (|c| resources(c).oom_score_adj = 1001, "oom_score_adj"),
    (|c| resources(c).cpuset_cpus = "0-".into(), "cpuset_cpus"),
    (|c| resources(c).cpuset_mems = "x".into(), "cpuset_mems"),
    (
        |c| resources(c).hugepage_limits = vec![cri::HugepageLimit::default()],
        "hugepage_limits[0].page_size",
    ),
];

const SECURITY: &[Case] = &[
    (
        |c| security(c).privileged = true,
        "security_context.privileged",
    ),
    (
        |c| capabilities(c).add_capabilities = vec!["MOON".into()],
        "security_context.capabilities",
    ),
    (
        |c| capabilities(c).drop_capabilities = vec!["MOON".into()],
        "security_context.capabilities",
    ),
    (|c| run_as(c, -1), "security_context.run_as_user"),
    (|c| run_as(c, 1 << 32), "security_context.run_as_user"),
    (
        |c| {
            run_as(c, 1);
            security(c).run_as_username = "x".into();
        },
        "security_context.run_as_username",
    ),
    (
        |c| security(c).run_as_username = "nobody-here".into(),
        "security_context.run_as_username",
    ),
    (
        |c| security(c).run_as_group = Some(cri::Int64Value { value: 1 }),
        "security_context.run_as_group",
    ),
    (
        |c| security(c).supplemental_groups = vec![0, -1],
        "security_context.supplemental_groups[1]",
    ),
    (
        |c| security(c).supplemental_groups_policy = 2,
        "security_context.supplemental_groups_policy",
    ),
    (
        |c| security(c).masked_paths = vec!["proc".into()],
        "security_context.masked_paths[0]",
    ),
    (
        |c| security(c).readonly_paths = vec!["/\0".into()],
        "security_context.readonly_paths[0]",
    ),
    (|c| namespaces(c).network = 2, "namespace_options.network"),
    (|c| namespaces(c).network = 9, "namespace_options.network"),
    (|c| namespaces(c).ipc = 2, "namespace_options.ipc"),
    (|c| namespaces(c).pid = 9, "namespace_options.pid"),
    (|c| namespaces(c).pid = 3, "namespace_options.target_id"),
    (
        |c| {
            let mapping = cri::IdMapping {
                host_id: 100_000,
                container_id: 0,
                length: 65_536,
            };
            namespaces(c).userns_options = Some(cri::UserNamespace {
                mode: 0,
                uids: vec![mapping],
                gids: vec![mapping],
            });
        },
        "namespace_options.userns_options",
    ),
];

const PROFILES: &[Case] = &[
    (
        |c| security(c).seccomp = profile(9, ""),
        "security_context.seccomp.profile_type",
    ),
    (
        |c| security(c).seccomp = profile(2, ""),
        "security_context.seccomp.localhost_ref",
    ),
    (
        |c| security(c).seccomp = profile(2, "/no/such/profile"),
        "security_context.seccomp",
    ),
    (
        |c| security(c).apparmor = profile(9, ""),
        "security_context.apparmor.profile_type",
    ),
    (
        |c| security(c).apparmor = profile(2, "localhost/"),
        "security_context.apparmor.localhost_ref",
    ),
    (
        |c| {
            let options = cri::SeLinuxOption {
                r#type: "a b".into(),
                ..Default::default()
            };
            security(c).selinux_options = Some(options);
        },
        "security_context.selinux_options",
    ),
];

fn variable(config: &mut cri::ContainerConfig, key: &str, value: &[u8]) {
    config.envs.push(cri::KeyValue {
        key: key.into(),
        value: value.into(),
    });
}

fn mount(config: &mut cri::ContainerConfig) -> &mut cri::Mount {
    if config.mounts.is_empty() {
        config.mounts.push(cri::Mount {
            container_path: "/c".into(),
            host_path: "/tmp".into(),
            ..Default::default()
        });
    }
    &mut config.mounts[0]
}

fn device(config: &mut cri::ContainerConfig) -> &mut cri::Device {
    config.devices.push(cri::Device {
        container_path: "/dev/null".into(),
        host_path: "/dev/null".into(),
        permissions: "rw".into(),
    });
    &mut config.devices[0]
}

fn linux(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerConfig {
    config.linux.get_or_insert_default()
}

fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    linux(config).resources.get_or_insert_default()
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    linux(config).security_context.get_or_insert_default()
}

fn namespaces(config: &mut cri::ContainerConfig) -> &mut cri::NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

fn capabilities(config: &mut cri::ContainerConfig) -> &mut cri::Capability {
    security(config).capabilities.get_or_insert_default()
}

fn run_as(config: &mut cri::ContainerConfig, value: i64) {
    security(config).run_as_user = Some(cri::Int64Value { value });
}

fn profile(profile_type: i32, name: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type,
        localhost_ref: name.into(),
    })
}
