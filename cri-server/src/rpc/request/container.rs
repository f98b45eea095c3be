//! `ContainerConfig` to [`ContainerSpec`].

use std::path::PathBuf;

use cri_api as cri;
use pod::ContainerSpec;
use pod::PlanError as Refused;
use pod::container::{
    Connections, Device, IdMap, IdMaps, ImageNotes, ImageVolume, Mount, Propagation, Resources,
    Restriction,
};
use pod::sandbox::SandboxNamespaces;

use super::security::security;
use super::{
    absolute, absolute_or_empty, check_mapping, choice, each, filled, invalid, not_windows, pairs,
    plain, plains, required, within,
};

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
        return Err(not_windows("config.windows"));
    }
    let linux = config.linux.unwrap_or_default();
    // No image has such a name: it is the archive of a checkpoint.
    let checkpoint = image
        .image
        .starts_with('/')
        .then(|| PathBuf::from(&image.image));
    Ok(ContainerSpec {
        name: filled("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: filled("config.image.image", image.image)?,
        user_specified_image: image.user_specified_image,
        image_notes: ImageNotes {
            annotations: pairs("config.image.annotations", image.annotations)?,
            handler: image.runtime_handler,
        },
        command: plains("config.command", config.command)?,
        args: plains("config.args", config.args)?,
        working_dir: absolute_or_empty("config.working_dir", config.working_dir)?,
        env: each("config.envs", config.envs, variable)?,
        mounts: each("config.mounts", config.mounts, mount)?,
        devices: each("config.devices", config.devices, device)?,
        cdi_devices: each("config.CDI_devices", config.cdi_devices, cdi_device)?,
        labels: pairs("config.labels", config.labels)?,
        annotations: pairs("config.annotations", config.annotations)?,
        log_path: log_path("config.log_path", config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: resources(
            "config.linux.resources",
            linux.resources.unwrap_or_default(),
        )?,
        security: security(linux.security_context.unwrap_or_default(), of_pod)?,
        stop_signal: stop_signal("config.stop_signal", config.stop_signal)?,
        checkpoint,
        connections: Connections::default(),
    })
}

/// A device by the name that its vendor gives it.
fn cdi_device(field: &str, device: cri::CdiDevice) -> Result<String, Refused> {
    filled(&format!("{field}.name"), device.name)
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
    let propagation = propagation(&format!("{field}.propagation"), mount.propagation)?;
    if mount.recursive_read_only && (!mount.readonly || propagation != Propagation::Private) {
        return Err(invalid(
            &format!("{field}.recursive_read_only"),
            "needs readonly and private propagation",
        ));
    }
    let image = image_volume(field, &mount, propagation)?;
    let id_maps = id_maps(field, &mount)?;
    Ok(Mount {
        container_path: absolute(&format!("{field}.container_path"), mount.container_path)?,
        host_path: match image {
            None => absolute(&format!("{field}.host_path"), mount.host_path)?,
            Some(_) => String::new(),
        },
        image,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
        restrictions: each(
            &format!("{field}.mount_options"),
            mount.mount_options,
            |field, name| restriction(field, &name),
        )?,
        id_maps,
    })
}

/// The image that is to be mounted, if one is named.
fn image_volume(
    field: &str,
    mount: &cri::Mount,
    propagation: Propagation,
) -> Result<Option<ImageVolume>, Refused> {
    let named = |image: &&cri::ImageSpec| !image.image.is_empty();
    let Some(image) = mount.image.as_ref().filter(named) else {
        let nowhere = mount.image_sub_path.is_empty();
        let refused = || invalid(&format!("{field}.image_sub_path"), "needs an image");
        return if nowhere { Ok(None) } else { Err(refused()) };
    };
    let wrong = |name: &str, reason: &str| Err(invalid(&format!("{field}.{name}"), reason));
    if !mount.host_path.is_empty() {
        return wrong("host_path", "cannot be had together with an image");
    }
    if !mount.readonly {
        return wrong("readonly", "an image can only be mounted read-only");
    }
    if propagation != Propagation::Private {
        return wrong("propagation", "that of an image can only be private");
    }
    let path = &mount.image_sub_path;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return wrong("image_sub_path", "leaves the image");
    }
    Ok(Some(ImageVolume {
        image: plain(&format!("{field}.image.image"), image.image.clone())?,
        user_specified_image: image.user_specified_image.clone(),
        notes: ImageNotes {
            annotations: pairs(
                &format!("{field}.image.annotations"),
                image.annotations.clone(),
            )?,
            handler: image.runtime_handler.clone(),
        },
        sub_path: plain(&format!("{field}.image_sub_path"), path.clone())?,
    }))
}

/// What a mount may be told to forbid (KEP-5855).
fn restriction(field: &str, name: &str) -> Result<Restriction, Refused> {
    let all = [Restriction::NoExec, Restriction::NoDev, Restriction::NoSuid];
    let known = all.into_iter().find(|one| one.name() == name);
    known.ok_or_else(|| invalid(field, format!("{name:?} is none of noexec, nodev, nosuid")))
}

/// How the ids of the source are to appear.
fn id_maps(field: &str, mount: &cri::Mount) -> Result<Option<IdMaps>, Refused> {
    let maps = |name: &str, mappings: &[cri::IdMapping]| {
        each(&format!("{field}.{name}"), mappings.to_vec(), id_map)
    };
    let uids = maps("uidMappings", &mount.uid_mappings)?;
    let gids = maps("gidMappings", &mount.gid_mappings)?;
    let lacks = |name: &str| Err(invalid(&format!("{field}.{name}"), "is missing"));
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => lacks("uidMappings"),
        (false, true) => lacks("gidMappings"),
        (false, false) => Ok(Some(IdMaps { uids, gids })),
    }
}

fn id_map(field: &str, mapping: cri::IdMapping) -> Result<IdMap, Refused> {
    check_mapping(field, mapping)?;
    Ok(IdMap {
        from: mapping.container_id,
        to: mapping.host_id,
        length: mapping.length,
    })
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
    super::path(field, path)
}

/// Limits; `field` is where they stand in the message.
///
/// # Errors
///
/// [`Refused`] names the field.
pub(in crate::rpc) fn resources(
    field: &str,
    resources: cri::LinuxContainerResources,
) -> Result<Resources, Refused> {
    let at_least =
        |name: &str, value, low| within(&format!("{field}.{name}"), value, low..=i64::MAX);
    let text = |name: &str, value| plain(&format!("{field}.{name}"), value);
    Ok(Resources {
        cpu_period: at_least("cpu_period", resources.cpu_period, 0)?,
        cpu_quota: resources.cpu_quota,
        cpu_shares: at_least("cpu_shares", resources.cpu_shares, 0)?,
        memory_limit: at_least("memory_limit_in_bytes", resources.memory_limit_in_bytes, 0)?,
        oom_score_adj: within(
            &format!("{field}.oom_score_adj"),
            resources.oom_score_adj,
            -1000..=1000,
        )?,
        cpuset_cpus: text("cpuset_cpus", resources.cpuset_cpus)?,
        cpuset_mems: text("cpuset_mems", resources.cpuset_mems)?,
        hugepages: each(
            &format!("{field}.hugepage_limits"),
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
        ..Resources::default()
    })
}

fn huge(field: &str, limit: cri::HugepageLimit) -> Result<(String, u64), Refused> {
    Ok((
        filled(&format!("{field}.page_size"), limit.page_size)?,
        limit.limit,
    ))
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
        let expect = pod::container::Security {
            apparmor: pod::container::ProfileRequest::RuntimeDefault,
            ..Default::default()
        };
        assert_eq!(spec.security, expect);
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
            |m| m.uid_mappings = vec![cri::IdMapping::default()],
            "uidMappings[0]: maps no id",
        );
    }

    #[test]
    fn images_as_volumes() {
        let mount = cri::Mount {
            container_path: "/c".into(),
            readonly: true,
            image: Some(cri::ImageSpec {
                image: "x".into(),
                ..Default::default()
            }),
            image_sub_path: "etc/x".into(),
            ..Default::default()
        };
        let spec = turned(|c| c.mounts = vec![mount.clone()]).unwrap();
        let volume = spec.mounts[0].image.as_ref().unwrap();
        assert_eq!(
            (volume.image.as_str(), volume.sub_path.as_str()),
            ("x", "etc/x")
        );
        let wrong = |change: fn(&mut cri::Mount), expect: &str| {
            let mut mount = mount.clone();
            change(&mut mount);
            refused(
                |c| c.mounts = vec![mount],
                &format!("config.mounts[0].{expect}"),
            );
        };
        wrong(
            |m| m.readonly = false,
            "readonly: an image can only be mounted read-only",
        );
        wrong(
            |m| m.host_path = "/h".into(),
            "host_path: cannot be had together with an image",
        );
        wrong(
            |m| m.image_sub_path = "a/../../b".into(),
            "image_sub_path: leaves the image",
        );
        wrong(|m| m.image = None, "image_sub_path: needs an image");
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
