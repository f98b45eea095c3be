//! `ContainerConfig` to [`ContainerSpec`].

use cri_api as cri;
use pod::ContainerSpec;
use pod::PlanError as Refused;
use pod::container::{
    Capabilities, ContainerPidMode, Device, GroupsPolicy, Mount, ProfileRequest, Propagation,
    Resources, Security, SelinuxOptions, UserRequest,
};
use pod::sandbox::{NamespaceMode, PidMode, SandboxNamespaces};

use super::{
    absolute, absolute_or_empty, account, choice, filled, invalid, namespace, no_user_namespace,
    pairs, plain, plains, required, unsupported, within,
};

const SECURITY: &str = "config.linux.security_context";
const RESOURCES: &str = "config.linux.resources";

/// The container that a client asks for, in a pod with these namespaces.
///
/// # Errors
///
/// [`Refused`] names the field.
pub(in crate::rpc) fn container(
    config: Option<cri::ContainerConfig>,
    of_pod: SandboxNamespaces,
) -> Result<ContainerSpec, Refused> {
    let config = required("config", config)?;
    let metadata = required("config.metadata", config.metadata)?;
    let image = required("config.image", config.image)?;
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "this is a Linux node"));
    }
    if !config.cdi_devices.is_empty() {
        return Err(unsupported(
            "config.CDI_devices",
            "CDI devices are not supported",
        ));
    }
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerSpec {
        name: filled("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: filled("config.image.image", image.image)?,
        user_specified_image: image.user_specified_image,
        command: plains("config.command", config.command)?,
        args: plains("config.args", config.args)?,
        working_dir: absolute_or_empty("config.working_dir", config.working_dir)?,
        env: each("config.envs", config.envs, variable)?,
        mounts: each("config.mounts", config.mounts, mount)?,
        devices: each("config.devices", config.devices, device)?,
        labels: pairs("config.labels", config.labels)?,
        annotations: pairs("config.annotations", config.annotations)?,
        log_path: log_path("config.log_path", config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: resources(linux.resources.unwrap_or_default())?,
        security: security(linux.security_context.unwrap_or_default(), of_pod)?,
        stop_signal: stop_signal("config.stop_signal", config.stop_signal)?,
    })
}

/// Turns each item of a list, giving it its own field name.
fn each<A, B>(
    field: &str,
    items: Vec<A>,
    turn: impl Fn(&str, A) -> Result<B, Refused>,
) -> Result<Vec<B>, Refused> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| turn(&format!("{field}[{index}]"), item))
        .collect()
}

fn variable(field: &str, pair: cri::KeyValue) -> Result<(String, String), Refused> {
    let name = filled(&format!("{field}.key"), pair.key)?;
    if name.contains('=') {
        return Err(invalid(
            &format!("{field}.key"),
            format!("{name:?} holds '='"),
        ));
    }
    let field = format!("{field}.value");
    let value = String::from_utf8(pair.value)
        .map_err(|_cause| invalid(&field, format!("the value of {name} is not UTF-8")))?;
    Ok((name, plain(&field, value)?))
}

fn mount(field: &str, mount: cri::Mount) -> Result<Mount, Refused> {
    refuse_mounts_not_made(field, &mount)?;
    let propagation = propagation(&format!("{field}.propagation"), mount.propagation)?;
    if mount.recursive_read_only && (!mount.readonly || propagation != Propagation::Private) {
        return Err(invalid(
            &format!("{field}.recursive_read_only"),
            "needs readonly and private propagation",
        ));
    }
    Ok(Mount {
        container_path: absolute(&format!("{field}.container_path"), mount.container_path)?,
        host_path: absolute(&format!("{field}.host_path"), mount.host_path)?,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
    })
}

fn refuse_mounts_not_made(field: &str, mount: &cri::Mount) -> Result<(), Refused> {
    let is_image = mount
        .image
        .as_ref()
        .is_some_and(|image| !image.image.is_empty());
    let asked_for = [
        (is_image, "image", "images as volumes are not supported"),
        (
            !mount.uid_mappings.is_empty(),
            "uidMappings",
            "idmapped mounts are not supported",
        ),
        (
            !mount.gid_mappings.is_empty(),
            "gidMappings",
            "idmapped mounts are not supported",
        ),
        (
            !mount.mount_options.is_empty(),
            "mount_options",
            "mount options are not supported",
        ),
    ];
    match asked_for.iter().find(|(asked, _, _)| *asked) {
        Some((_, name, reason)) => Err(unsupported(&format!("{field}.{name}"), *reason)),
        None => Ok(()),
    }
}

fn propagation(field: &str, value: i32) -> Result<Propagation, Refused> {
    Ok(match choice::<cri::MountPropagation>(field, value)? {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    })
}

fn device(field: &str, device: cri::Device) -> Result<Device, Refused> {
    if !device
        .permissions
        .chars()
        .all(|letter| "rwm".contains(letter))
    {
        let reason = format!("{:?} has more than r, w and m", device.permissions);
        return Err(invalid(&format!("{field}.permissions"), reason));
    }
    Ok(Device {
        container_path: absolute(&format!("{field}.container_path"), device.container_path)?,
        host_path: absolute(&format!("{field}.host_path"), device.host_path)?,
        permissions: device.permissions,
    })
}

/// A path that stays below the pod's log directory.
fn log_path(field: &str, path: String) -> Result<String, Refused> {
    let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if leaves {
        return Err(invalid(
            field,
            format!("{path:?} leaves the pod's log directory"),
        ));
    }
    plain(field, path)
}

fn resources(resources: cri::LinuxContainerResources) -> Result<Resources, Refused> {
    let at_least =
        |name: &str, value, low| within(&format!("{RESOURCES}.{name}"), value, low..=i64::MAX);
    let text = |name: &str, value| plain(&format!("{RESOURCES}.{name}"), value);
    Ok(Resources {
        cpu_period: at_least("cpu_period", resources.cpu_period, 0)?,
        cpu_quota: resources.cpu_quota,
        cpu_shares: at_least("cpu_shares", resources.cpu_shares, 0)?,
        memory_limit: at_least("memory_limit_in_bytes", resources.memory_limit_in_bytes, 0)?,
        oom_score_adj: within(
            &format!("{RESOURCES}.oom_score_adj"),
            resources.oom_score_adj,
            -1000..=1000,
        )?,
        cpuset_cpus: text("cpuset_cpus", resources.cpuset_cpus)?,
        cpuset_mems: text("cpuset_mems", resources.cpuset_mems)?,
        hugepages: each(
            &format!("{RESOURCES}.hugepage_limits"),
            resources.hugepage_limits,
            huge,
        )?,
        unified: resources.unified.into_iter().collect(),
        // -1 means no limit.
        memory_swap_limit: at_least(
            "memory_swap_limit_in_bytes",
            resources.memory_swap_limit_in_bytes,
            -1,
        )?,
    })
}

fn huge(field: &str, limit: cri::HugepageLimit) -> Result<(String, u64), Refused> {
    Ok((
        filled(&format!("{field}.page_size"), limit.page_size)?,
        limit.limit,
    ))
}

fn security(
    context: cri::LinuxContainerSecurityContext,
    of_pod: SandboxNamespaces,
) -> Result<Security, Refused> {
    let (network, ipc, pid) = namespaces(context.namespace_options, of_pod)?;
    let capabilities = context.capabilities.unwrap_or_default();
    #[expect(
        deprecated,
        reason = "clients older than the fields that replace them send these"
    )]
    let (seccomp_path, apparmor_name) = (context.seccomp_profile_path, context.apparmor_profile);
    let group = context.run_as_group.map(|group| group.value);
    let user = user(context.run_as_user, context.run_as_username)?;
    Ok(Security {
        privileged: context.privileged,
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        network,
        ipc,
        pid,
        group: check_group(group, &user)?,
        user,
        supplemental_groups: each(
            &format!("{SECURITY}.supplemental_groups"),
            context.supplemental_groups,
            account,
        )?,
        groups_policy: groups_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: each(
            &format!("{SECURITY}.masked_paths"),
            context.masked_paths,
            absolute,
        )?,
        readonly_paths: each(
            &format!("{SECURITY}.readonly_paths"),
            context.readonly_paths,
            absolute,
        )?,
        seccomp: seccomp(context.seccomp, &seccomp_path)?,
        apparmor: apparmor(context.apparmor, &apparmor_name)?,
        selinux: context.selinux_options.map(selinux),
    })
}

/// Namespaces of a container. Network and IPC are the pod's: a client that says nothing of them
/// gets what the pod has, and so does one that says POD, which the wire cannot tell apart.
fn namespaces(
    options: Option<cri::NamespaceOption>,
    of_pod: SandboxNamespaces,
) -> Result<(NamespaceMode, NamespaceMode, ContainerPidMode), Refused> {
    let Some(options) = options else {
        return Ok((of_pod.network, of_pod.ipc, pid_of_pod(of_pod.pid)));
    };
    let field = format!("{SECURITY}.namespace_options");
    no_user_namespace(&field, options.userns_options.as_ref())?;
    let shared = |name: &str, mode, of_pod| {
        let field = format!("{field}.{name}");
        match (namespace(&field, mode)?, of_pod) {
            (NamespaceMode::Node, NamespaceMode::Pod) => Err(invalid(
                &field,
                "NODE is asked for in a pod that has its own",
            )),
            (_, of_pod) => Ok(of_pod),
        }
    };
    Ok((
        shared("network", options.network, of_pod.network)?,
        shared("ipc", options.ipc, of_pod.ipc)?,
        pid(&field, options.pid, options.target_id, of_pod.pid)?,
    ))
}

fn pid_of_pod(mode: PidMode) -> ContainerPidMode {
    match mode {
        PidMode::Pod => ContainerPidMode::Pod,
        PidMode::Container => ContainerPidMode::Container,
        PidMode::Node => ContainerPidMode::Node,
    }
}

/// Whose process ids the container sees. POD means whatever the pod has for its containers.
fn pid(
    field: &str,
    mode: i32,
    target: String,
    of_pod: PidMode,
) -> Result<ContainerPidMode, Refused> {
    match choice::<cri::NamespaceMode>(&format!("{field}.pid"), mode)? {
        cri::NamespaceMode::Pod => Ok(pid_of_pod(of_pod)),
        cri::NamespaceMode::Container => Ok(ContainerPidMode::Container),
        cri::NamespaceMode::Node => Ok(ContainerPidMode::Node),
        cri::NamespaceMode::Target => Ok(ContainerPidMode::Target(filled(
            &format!("{field}.target_id"),
            target,
        )?)),
    }
}

fn user(number: Option<cri::Int64Value>, name: String) -> Result<UserRequest, Refused> {
    match number {
        Some(_) if !name.is_empty() => Err(invalid(
            &format!("{SECURITY}.run_as_username"),
            "is given beside run_as_user",
        )),
        Some(number) => Ok(UserRequest::Uid(account(
            &format!("{SECURITY}.run_as_user"),
            number.value,
        )?)),
        None if name.is_empty() => Ok(UserRequest::Image),
        None => Ok(UserRequest::Name(plain(
            &format!("{SECURITY}.run_as_username"),
            name,
        )?)),
    }
}

fn check_group(group: Option<i64>, user: &UserRequest) -> Result<Option<i64>, Refused> {
    let field = format!("{SECURITY}.run_as_group");
    match group {
        Some(_) if *user == UserRequest::Image => Err(invalid(&field, "is given without a user")),
        Some(group) => account(&field, group).map(Some),
        None => Ok(None),
    }
}

fn groups_policy(value: i32) -> Result<GroupsPolicy, Refused> {
    let field = format!("{SECURITY}.supplemental_groups_policy");
    Ok(
        match choice::<cri::SupplementalGroupsPolicy>(&field, value)? {
            cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        },
    )
}

fn seccomp(profile: Option<cri::SecurityProfile>, path: &str) -> Result<ProfileRequest, Refused> {
    let (field, request) = profile_of("seccomp", "seccomp_profile_path", profile, path)?;
    if let ProfileRequest::Localhost(path) = &request
        && !path.starts_with('/')
    {
        return Err(invalid(&field, format!("{path:?} is not an absolute path")));
    }
    Ok(request)
}

fn apparmor(profile: Option<cri::SecurityProfile>, name: &str) -> Result<ProfileRequest, Refused> {
    let (field, request) = profile_of("apparmor", "apparmor_profile", profile, name)?;
    if request == ProfileRequest::Localhost(String::new()) {
        return Err(invalid(&field, "names no profile"));
    }
    Ok(request)
}

/// A profile from the field, else from the deprecated one; with the name of the field that counts.
fn profile_of(
    name: &str,
    old_name: &str,
    profile: Option<cri::SecurityProfile>,
    old: &str,
) -> Result<(String, ProfileRequest), Refused> {
    match profile {
        Some(profile) => {
            let field = format!("{SECURITY}.{name}");
            let request = profile_request(&field, &profile)?;
            Ok((format!("{field}.localhost_ref"), request))
        }
        None => {
            let field = format!("{SECURITY}.{old_name}");
            let request = old_profile(&field, old)?;
            Ok((field, request))
        }
    }
}

fn profile_request(field: &str, profile: &cri::SecurityProfile) -> Result<ProfileRequest, Refused> {
    use cri::security_profile::ProfileType;

    Ok(
        match choice(&format!("{field}.profile_type"), profile.profile_type)? {
            ProfileType::RuntimeDefault => ProfileRequest::RuntimeDefault,
            ProfileType::Unconfined => ProfileRequest::Unconfined,
            ProfileType::Localhost => {
                let name = &profile.localhost_ref;
                ProfileRequest::Localhost(name.strip_prefix("localhost/").unwrap_or(name).into())
            }
        },
    )
}

/// The words of the time before profiles had types.
fn old_profile(field: &str, text: &str) -> Result<ProfileRequest, Refused> {
    match text {
        "" | "unconfined" => Ok(ProfileRequest::Unconfined),
        "runtime/default" | "docker/default" => Ok(ProfileRequest::RuntimeDefault),
        other => match other.strip_prefix("localhost/") {
            Some(name) => Ok(ProfileRequest::Localhost(name.into())),
            None => Err(invalid(field, format!("{other:?} is not known"))),
        },
    }
}

fn selinux(options: cri::SeLinuxOption) -> SelinuxOptions {
    SelinuxOptions {
        user: options.user,
        role: options.role,
        type_: options.r#type,
        level: options.level,
    }
}

/// The signal's name as the rest of the world writes it: `SIGTERM`, `SIGRTMIN+3`.
fn stop_signal(field: &str, value: i32) -> Result<Option<String>, Refused> {
    let signal: cri::Signal = choice(field, value)?;
    if signal == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name();
    let name = name.strip_prefix("SIGNAL_").unwrap_or(name);
    Ok(Some(name.replace("PLUS", "+").replace("MINUS", "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "main".into(),
                attempt: 1,
            }),
            image: Some(cri::ImageSpec {
                image: "busybox".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn context(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
        config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    fn turned(change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<ContainerSpec, String> {
        turned_in(SandboxNamespaces::default(), change)
    }

    fn turned_in(
        of_pod: SandboxNamespaces,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<ContainerSpec, String> {
        let mut config = config();
        change(&mut config);
        container(Some(config), of_pod).map_err(|error| error.to_string())
    }

    fn refused(change: impl FnOnce(&mut cri::ContainerConfig), expect: &str) {
        assert_eq!(turned(change).expect_err(expect), expect);
    }

    #[test]
    fn a_small_one_is_taken() {
        let spec = turned(|_| {}).unwrap();
        assert_eq!((spec.name.as_str(), spec.attempt), ("main", 1));
        assert_eq!(spec.image, "busybox");
        assert_eq!(spec.stop_signal, None);
        assert_eq!(spec.security, Security::default());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(container(None, SandboxNamespaces::default()).is_err());
        refused(|c| c.metadata = None, "config.metadata: is missing");
        refused(|c| c.image = None, "config.image: is missing");
        refused(
            |c| c.image = Some(cri::ImageSpec::default()),
            "config.image.image: is empty",
        );
    }

    #[test]
    fn wrong_texts_are_named() {
        refused(
            |c| c.args = vec!["\0".into()],
            "config.args[0]: holds a NUL byte",
        );
        refused(
            |c| c.working_dir = "x".into(),
            "config.working_dir: \"x\" is not an absolute path",
        );
        let log = |path: &str| {
            refused(
                |c| c.log_path = path.into(),
                &format!("config.log_path: {path:?} leaves the pod's log directory"),
            );
        };
        log("/var/log/x");
        log("a/../../x");
    }

    #[test]
    fn wrong_variables_are_named() {
        let pair = |key: &str, value: &[u8]| cri::KeyValue {
            key: key.into(),
            value: value.into(),
        };
        refused(
            |c| c.envs = vec![pair("", b"")],
            "config.envs[0].key: is empty",
        );
        refused(
            |c| c.envs = vec![pair("A=B", b"")],
            "config.envs[0].key: \"A=B\" holds '='",
        );
        refused(
            |c| c.envs = vec![pair("A", b"1"), pair("B", b"\xff")],
            "config.envs[1].value: the value of B is not UTF-8",
        );
    }

    #[test]
    fn mounts() {
        let mount = cri::Mount {
            container_path: "/c".into(),
            host_path: "/h".into(),
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..Default::default()
        };
        let spec = turned(|c| c.mounts = vec![mount.clone()]).unwrap();
        assert_eq!(spec.mounts[0].propagation, Propagation::Bidirectional);
        let wrong = |change: fn(&mut cri::Mount), expect: &str| {
            let mut mount = mount.clone();
            change(&mut mount);
            refused(
                |c| c.mounts = vec![mount],
                &format!("config.mounts[0].{expect}"),
            );
        };
        wrong(
            |m| m.container_path = "c".into(),
            "container_path: \"c\" is not an absolute path",
        );
        wrong(
            |m| m.host_path = String::new(),
            "host_path: \"\" is not an absolute path",
        );
        wrong(|m| m.propagation = 5, "propagation: 5 is not known");
        wrong(
            |m| m.recursive_read_only = true,
            "recursive_read_only: needs readonly and private propagation",
        );
        wrong(
            |m| {
                m.image = Some(cri::ImageSpec {
                    image: "x".into(),
                    ..Default::default()
                })
            },
            "image: images as volumes are not supported",
        );
        wrong(
            |m| m.uid_mappings = vec![cri::IdMapping::default()],
            "uidMappings: idmapped mounts are not supported",
        );
    }

    #[test]
    fn devices() {
        let device = cri::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/x".into(),
            permissions: "rwx".into(),
        };
        refused(
            |c| c.devices = vec![device],
            "config.devices[0].permissions: \"rwx\" has more than r, w and m",
        );
    }

    #[test]
    fn users() {
        let spec = turned(|c| {
            context(c).run_as_user = Some(cri::Int64Value { value: 7 });
            context(c).run_as_group = Some(cri::Int64Value { value: 8 });
        });
        let security = spec.unwrap().security;
        assert_eq!(
            (security.user, security.group),
            (UserRequest::Uid(7), Some(8))
        );
        refused(
            |c| context(c).run_as_group = Some(cri::Int64Value { value: 8 }),
            "config.linux.security_context.run_as_group: is given without a user",
        );
        refused(
            |c| context(c).run_as_user = Some(cri::Int64Value { value: -1 }),
            "config.linux.security_context.run_as_user: -1 is not within 0 to 4294967294",
        );
        refused(
            |c| {
                context(c).run_as_user = Some(cri::Int64Value { value: 1 });
                context(c).run_as_username = "x".into();
            },
            "config.linux.security_context.run_as_username: is given beside run_as_user",
        );
        refused(
            |c| context(c).supplemental_groups = vec![1, 1 << 40],
            "config.linux.security_context.supplemental_groups[1]: 1099511627776 is not within 0 to 4294967294",
        );
    }

    #[test]
    fn namespaces_come_from_the_pod() {
        let node = SandboxNamespaces {
            network: NamespaceMode::Node,
            pid: PidMode::Node,
            ipc: NamespaceMode::Node,
        };
        let silent = turned_in(node, |_| {}).unwrap().security;
        assert_eq!(silent.network, NamespaceMode::Node);
        assert_eq!(silent.pid, ContainerPidMode::Node);
        let said_pod = turned_in(node, |c| {
            context(c).namespace_options = Some(Default::default())
        });
        assert_eq!(said_pod.unwrap().security.ipc, NamespaceMode::Node);
        refused(
            |c| {
                context(c).namespace_options = Some(cri::NamespaceOption {
                    network: 2,
                    ..Default::default()
                });
            },
            "config.linux.security_context.namespace_options.network: NODE is asked for in a pod that has its own",
        );
    }

    #[test]
    fn a_target_must_be_named() {
        let target = |id: &str| cri::NamespaceOption {
            pid: cri::NamespaceMode::Target.into(),
            target_id: id.into(),
            ..Default::default()
        };
        let spec = turned(|c| context(c).namespace_options = Some(target("abc"))).unwrap();
        assert_eq!(spec.security.pid, ContainerPidMode::Target("abc".into()));
        refused(
            |c| context(c).namespace_options = Some(target("")),
            "config.linux.security_context.namespace_options.target_id: is empty",
        );
    }

    #[test]
    fn profiles() {
        let typed = |profile_type, name: &str| cri::SecurityProfile {
            profile_type,
            localhost_ref: name.into(),
        };
        let seccomp = |profile| {
            turned(|c| context(c).seccomp = Some(profile)).map(|spec| spec.security.seccomp)
        };
        assert_eq!(seccomp(typed(0, "")), Ok(ProfileRequest::RuntimeDefault));
        assert_eq!(seccomp(typed(1, "")), Ok(ProfileRequest::Unconfined));
        assert_eq!(
            seccomp(typed(2, "/p")),
            Ok(ProfileRequest::Localhost("/p".into()))
        );
        assert!(
            seccomp(typed(2, "p"))
                .unwrap_err()
                .contains("seccomp.localhost_ref: \"p\"")
        );
        assert!(
            seccomp(typed(3, ""))
                .unwrap_err()
                .contains("seccomp.profile_type: 3")
        );
    }

    #[test]
    #[expect(deprecated, reason = "what older clients send")]
    fn old_profiles() {
        let seccomp = |text: &str| {
            turned(|c| context(c).seccomp_profile_path = text.into())
                .map(|spec| spec.security.seccomp)
        };
        assert_eq!(seccomp(""), Ok(ProfileRequest::Unconfined));
        assert_eq!(
            seccomp("runtime/default"),
            Ok(ProfileRequest::RuntimeDefault)
        );
        assert_eq!(
            seccomp("localhost//p"),
            Ok(ProfileRequest::Localhost("/p".into()))
        );
        assert!(
            seccomp("best")
                .unwrap_err()
                .contains("seccomp_profile_path: \"best\"")
        );
    }

    #[test]
    fn limits_out_of_range_are_named() {
        let resources = |change: fn(&mut cri::LinuxContainerResources), expect: &str| {
            refused(
                |c| {
                    change(
                        c.linux
                            .get_or_insert_default()
                            .resources
                            .get_or_insert_default(),
                    )
                },
                &format!("config.linux.resources.{expect}"),
            );
        };
        resources(
            |r| r.oom_score_adj = 1001,
            "oom_score_adj: 1001 is not within -1000 to 1000",
        );
        resources(
            |r| r.cpu_shares = -1,
            "cpu_shares: -1 is not within 0 to 9223372036854775807",
        );
        resources(
            |r| r.hugepage_limits = vec![cri::HugepageLimit::default()],
            "hugepage_limits[0].page_size: is empty",
        );
    }

    #[test]
    fn stop_signals() {
        let name = |signal: cri::Signal| {
            turned(|c| c.stop_signal = signal.into())
                .unwrap()
                .stop_signal
        };
        assert_eq!(name(cri::Signal::Sigusr1).as_deref(), Some("SIGUSR1"));
        assert_eq!(
            name(cri::Signal::Sigrtminplus3).as_deref(),
            Some("SIGRTMIN+3")
        );
        assert_eq!(
            name(cri::Signal::Sigrtmaxminus2).as_deref(),
            Some("SIGRTMAX-2")
        );
        refused(
            |c| c.stop_signal = 99,
            "config.stop_signal: 99 is not known",
        );
    }
}
