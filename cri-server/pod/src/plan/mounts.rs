//! What is mounted into a container, and in which order.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount as OciMount};

use super::{ContainerInputs, PlanError, SandboxPaths, check};
use crate::container::{ContainerSpec, IdMap, Mount, Propagation};
use crate::facts::NodeFacts;
use crate::sandbox::{IdRange, NamespaceMode, SandboxNamespaces, UserNamespace};

/// Shared memory of the host, for pods without an IPC namespace of their own.
const HOST_SHM: &str = "/dev/shm";

/// Group of terminals.
const TTY: u32 = 5;

/// The mounts of a container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mounts {
    /// In the order in which they are made: outer folders before what lies in them.
    pub(super) list: Vec<OciMount>,
    /// How the root has to propagate, so that the mounts can do as they are asked.
    pub(super) rootfs_propagation: Option<String>,
}

/// The file systems of every container, the pod's files, then what the client asks for. A mount of
/// the client's takes the place of ours at the same path.
pub(super) fn plan(
    spec: &ContainerSpec,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
) -> Result<Mounts, PlanError> {
    let asked = asked(spec, inputs, facts)?;
    let covered = |path: &Path| asked.iter().any(|mount| mount.destination() == path);
    let own_dev = !covered(Path::new("/dev"));
    let mut list = file_systems(spec.security.privileged, &inputs.sandbox.namespaces, facts);
    list.retain(|mount| own_dev || !mount.destination().starts_with("/dev"));
    list.extend(pod_files(spec, inputs.paths));
    list.push(shared_memory(inputs));
    list.retain(|mount| !covered(mount.destination()));
    list.extend(asked);
    // Stable: of two mounts at the same path the later one lies on top, as the client wrote it.
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(Mounts {
        list,
        rootfs_propagation: rootfs_propagation(&spec.mounts),
    })
}

/// A mount by its four fields.
pub(super) fn mount(destination: &str, typ: &str, source: &Path, options: &[&str]) -> OciMount {
    let mut mount = OciMount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(typ.to_owned()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

/// `/proc`, as every container has it.
pub(super) fn proc() -> OciMount {
    mount(
        "/proc",
        "proc",
        Path::new("proc"),
        &["nosuid", "noexec", "nodev"],
    )
}

/// An empty `/dev`, as every container has it; the runtime fills it.
pub(super) fn dev() -> OciMount {
    let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    mount("/dev", "tmpfs", Path::new("tmpfs"), &options)
}

fn file_systems(
    privileged: bool,
    namespaces: &SandboxNamespaces,
    facts: &NodeFacts,
) -> Vec<OciMount> {
    let access = if privileged { "rw" } else { "ro" };
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    let has_tty = |user: UserNamespace| user.gids.on_host(TTY).is_some();
    if namespaces.user.is_none_or(has_tty) {
        pts.push("gid=5");
    }
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", access];
    vec![
        proc(),
        dev(),
        mount("/dev/pts", "devpts", Path::new("devpts"), &pts),
        mount(
            "/dev/mqueue",
            "mqueue",
            Path::new("mqueue"),
            &["nosuid", "noexec", "nodev"],
        ),
        sys(access, namespaces, facts),
        mount("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &cgroup),
    ]
}

/// The kernel's objects. Who does not own the network namespace cannot mount them anew: such a pod
/// sees the host's, which it has already by its network, and may change nothing.
fn sys(access: &str, namespaces: &SandboxNamespaces, facts: &NodeFacts) -> OciMount {
    let mut options = vec!["nosuid", "noexec", "nodev"];
    if namespaces.user.is_none() || namespaces.network == NamespaceMode::Pod {
        options.push(access);
        return mount("/sys", "sysfs", Path::new("sysfs"), &options);
    }
    options.extend(["rbind", "rprivate"]);
    options.push(if facts.recursive_read_only {
        "rro"
    } else {
        "ro"
    });
    mount("/sys", "bind", Path::new("/sys"), &options)
}

fn pod_files(spec: &ContainerSpec, paths: &SandboxPaths) -> [OciMount; 3] {
    let access = if spec.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    [
        ("/etc/hostname", &paths.hostname),
        ("/etc/hosts", &paths.hosts),
        ("/etc/resolv.conf", &paths.resolv_conf),
    ]
    .map(|(place, source)| mount(place, "bind", source, &["rbind", "rprivate", access]))
}

fn shared_memory(inputs: &ContainerInputs<'_>) -> OciMount {
    let source = match inputs.sandbox.namespaces.ipc {
        NamespaceMode::Pod => inputs.paths.shm.as_path(),
        NamespaceMode::Node => Path::new(HOST_SHM),
    };
    mount("/dev/shm", "bind", source, &["rbind", "rprivate", "rw"])
}

fn asked(
    spec: &ContainerSpec,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
) -> Result<Vec<OciMount>, PlanError> {
    let one = |(place, mount): (usize, &Mount)| {
        let field = format!("mounts[{place}]");
        let given = match &mount.image {
            None => check::absolute(&format!("{field}.host_path"), &mount.host_path)?,
            Some(_) => PathBuf::new(),
        };
        let source = inputs.mount_sources.get(place).cloned().unwrap_or(given);
        bind(&field, mount, &source, facts)
    };
    spec.mounts.iter().enumerate().map(one).collect()
}

fn bind(
    field: &str,
    asked: &Mount,
    source: &Path,
    facts: &NodeFacts,
) -> Result<OciMount, PlanError> {
    let place_field = format!("{field}.container_path");
    let place = check::absolute(&place_field, &asked.container_path)?;
    if place == Path::new("/") {
        return Err(PlanError::invalid(
            place_field,
            "is the root itself, which the image gives",
        ));
    }
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = access(field, asked, facts)?;
    let mut options = vec!["rbind", propagation, access];
    options.extend(asked.restrictions.iter().map(|one| one.name()));
    let mut bind = mount("/", "bind", source, &options);
    bind.set_destination(place);
    // The files of an image have the pod's ids already.
    if let (Some(maps), None) = (&asked.id_maps, &asked.image) {
        bind.set_uid_mappings(Some(maps.uids.iter().map(mapping).collect()));
        bind.set_gid_mappings(Some(maps.gids.iter().map(mapping).collect()));
    }
    Ok(bind)
}

/// Ids in a row: what the file system has is "in the container" to the specification.
fn mapping(map: &IdMap) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(map.from)
        .host_id(map.to)
        .size(map.length)
        .build()
        .expect("all three fields are set")
}

/// The ids of a user namespace, for a mount whose files keep their owners' numbers in it.
pub(super) fn range(range: IdRange) -> LinuxIdMapping {
    mapping(&IdMap {
        from: 0,
        to: range.host,
        length: range.length,
    })
}

/// How much may be written through the mount.
fn access(field: &str, asked: &Mount, facts: &NodeFacts) -> Result<&'static str, PlanError> {
    if !asked.recursive_read_only {
        return Ok(if asked.readonly { "ro" } else { "rw" });
    }
    let field = format!("{field}.recursive_read_only");
    if !asked.readonly || asked.propagation != Propagation::Private {
        return Err(PlanError::invalid(
            field,
            "needs readonly and private propagation",
        ));
    }
    match facts.recursive_read_only {
        true => Ok("rro"),
        // The word is how clients know this error from others.
        false => Err(PlanError::unsupported(
            field,
            "RROUnsupported: the kernel cannot do it",
        )),
    }
}

/// Mounts can come in from the host, or go out to it, only where the root lets them pass.
fn rootfs_propagation(mounts: &[Mount]) -> Option<String> {
    let any = |wanted| mounts.iter().any(|mount| mount.propagation == wanted);
    match (
        any(Propagation::Bidirectional),
        any(Propagation::HostToContainer),
    ) {
        (true, _) => Some("rshared".to_owned()),
        (false, true) => Some("rslave".to_owned()),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Accounts, ImageFacts};
    use crate::sandbox::SandboxSpec;

    fn asked(place: &str) -> Mount {
        let (container_path, host_path) = (place.into(), "/host".into());
        Mount {
            container_path,
            host_path,
            ..Default::default()
        }
    }

    fn plan_for(spec: &ContainerSpec, sandbox: &SandboxSpec) -> Result<Mounts, PlanError> {
        let paths = SandboxPaths {
            shm: "/run/pod/shm".into(),
            hosts: "/run/pod/hosts".into(),
            ..Default::default()
        };
        let inputs = ContainerInputs {
            id: "c",
            sandbox_id: "s",
            sandbox,
            paths: &paths,
            image: &ImageFacts::default(),
            accounts: &Accounts::default(),
            target_pid: None,
            devices: &[],
            shares: &crate::plan::Shares::default(),
            edits: &Default::default(),
            seccomp_profile: None,
            mount_sources: &[],
        };
        plan(spec, &inputs, &NodeFacts::default())
    }

    /// Destination, source and last option of each mount, in order.
    fn lines(mounts: Vec<Mount>) -> Vec<String> {
        let spec = ContainerSpec {
            mounts,
            ..Default::default()
        };
        let planned = plan_for(&spec, &SandboxSpec::default()).unwrap();
        let line = |mount: &OciMount| {
            let source = mount.source().as_ref().unwrap().display();
            let option = mount.options().as_ref().unwrap().last().unwrap();
            format!("{} {source} {option}", mount.destination().display())
        };
        planned.list.iter().map(line).collect()
    }

    #[test]
    fn outer_folders_come_first_and_order_is_kept() {
        let found = lines(vec![
            asked("/a/b/c"),
            asked("/a/"),
            asked("/etc"),
            asked("/a//b"),
        ]);
        let expect = [
            "/proc proc nodev",
            "/dev tmpfs size=65536k",
            "/sys sysfs ro",
            "/a /host rw",
            "/etc /host rw",
            "/dev/pts devpts gid=5",
            "/dev/mqueue mqueue nodev",
            "/etc/hostname  rw",
            "/etc/hosts /run/pod/hosts rw",
            "/etc/resolv.conf  rw",
            "/dev/shm /run/pod/shm rw",
            "/a/b /host rw",
            "/sys/fs/cgroup cgroup ro",
            "/a/b/c /host rw",
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn a_mount_of_the_clients_takes_the_place_of_ours() {
        let found = lines(vec![asked("/etc/hosts"), asked("/dev/shm"), asked("/sys")]);
        for place in ["/etc/hosts", "/dev/shm", "/sys"] {
            let prefix = format!("{place} ");
            let here: Vec<_> = found
                .iter()
                .filter(|line| line.starts_with(&prefix))
                .collect();
            assert_eq!(here, [&format!("{place} /host rw")]);
        }
        let found = lines(vec![asked("/dev")]);
        assert!(!found.iter().any(|line| line.starts_with("/dev/pts")));
        assert!(found.iter().any(|line| line == "/dev/shm /run/pod/shm rw"));
    }

    #[test]
    fn options_follow_the_request() {
        let check = |mount: Mount, rro: bool, expect: Result<&[&str], &str>| {
            let facts = NodeFacts {
                recursive_read_only: rro,
                ..Default::default()
            };
            match (bind("mounts[0]", &mount, Path::new("/src"), &facts), expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found.options().as_ref().unwrap(), expect),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, expect) => panic!("{found:?} instead of {expect:?}"),
            }
        };
        let shared = Propagation::Bidirectional;
        let slave = Propagation::HostToContainer;
        let rro = Mount {
            readonly: true,
            recursive_read_only: true,
            ..asked("/a")
        };
        check(asked("/a"), false, Ok(&["rbind", "rprivate", "rw"]));
        check(
            Mount {
                readonly: true,
                ..asked("/a")
            },
            false,
            Ok(&["rbind", "rprivate", "ro"]),
        );
        check(
            Mount {
                propagation: shared,
                ..asked("/a")
            },
            false,
            Ok(&["rbind", "rshared", "rw"]),
        );
        check(
            Mount {
                propagation: slave,
                ..asked("/a")
            },
            false,
            Ok(&["rbind", "rslave", "rw"]),
        );
        check(rro.clone(), true, Ok(&["rbind", "rprivate", "rro"]));
        check(
            rro.clone(),
            false,
            Err("mounts[0].recursive_read_only: RROUnsupported"),
        );
        check(
            Mount {
                readonly: false,
                ..rro.clone()
            },
            true,
            Err("needs readonly"),
        );
        check(
            Mount {
                propagation: slave,
                ..rro
            },
            true,
            Err("needs readonly"),
        );
        check(
            asked("a"),
            true,
            Err("mounts[0].container_path: \"a\" is not an absolute"),
        );
        check(
            asked("/a/.."),
            true,
            Err("mounts[0].container_path: is the root"),
        );
    }

    #[test]
    fn the_root_lets_mounts_pass_where_they_are_asked_to() {
        let one = |propagation| Mount {
            propagation,
            ..asked("/a")
        };
        let check = |mounts: &[Mount], expect: Option<&str>| {
            assert_eq!(rootfs_propagation(mounts).as_deref(), expect);
        };
        check(&[one(Propagation::Private)], None);
        check(&[one(Propagation::HostToContainer)], Some("rslave"));
        let both = [
            one(Propagation::HostToContainer),
            one(Propagation::Bidirectional),
        ];
        check(&both, Some("rshared"));
    }

    #[test]
    fn a_pod_without_ipc_of_its_own_sees_the_hosts_shared_memory() {
        let mut sandbox = SandboxSpec::default();
        sandbox.namespaces.ipc = NamespaceMode::Node;
        let mounts = plan_for(&ContainerSpec::default(), &sandbox).unwrap();
        let shm = mounts
            .list
            .iter()
            .find(|mount| mount.destination() == Path::new("/dev/shm"));
        assert_eq!(
            shm.unwrap().source().as_deref(),
            Some(Path::new("/dev/shm"))
        );
    }

    #[test]
    fn a_relative_source_is_refused() {
        let mounts = vec![
            asked("/a"),
            Mount {
                host_path: String::new(),
                ..asked("/b")
            },
        ];
        let spec = ContainerSpec {
            mounts,
            ..Default::default()
        };
        let error = plan_for(&spec, &SandboxSpec::default()).unwrap_err();
        assert!(
            error.to_string().starts_with("mounts[1].host_path: "),
            "{error}"
        );
    }
}
