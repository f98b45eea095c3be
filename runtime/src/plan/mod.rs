//! What is to be done, decided: from a [`Spec`] and facts about the host to an [`InitPlan`].
//!
//! Everything here is pure: no file is read and no kernel asked. `init` carries the plan out from top
//! to bottom; what it finds in the rootfs on its way (a missing program, a symlink) is its business.

mod capabilities;
mod devices;
mod identity;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod process;
mod rdt;
mod rlimits;
mod scheduling;
mod sysctl;

use std::path::{Path, PathBuf};

pub(crate) use capabilities::{CapabilityPlan, NAMES as CAPABILITY_NAMES};
pub(crate) use devices::{Device, DeviceKind};
pub(crate) use identity::Identity;
pub(crate) use mount_options::{Options as MountOptions, names as mount_option_names};
pub(crate) use mounts::{Mount, Source};
pub(crate) use namespaces::{Kind as NamespaceKind, Namespaces};
pub(crate) use net_devices::NetDevice;
pub(crate) use process::ProcessPlan;
pub(crate) use rdt::Rdt;
pub(crate) use rlimits::Limit;
pub(crate) use scheduling::{Nature, memory_policy_names};

use crate::spec::Spec;

/// Facts about the host that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFacts {
    /// Highest capability that the kernel knows.
    pub(crate) last_capability: u8,
    /// May make device nodes: has `CAP_MKNOD` in the initial user namespace.
    pub(crate) may_make_nodes: bool,
    /// Control groups are one v2 hierarchy.
    pub(crate) cgroup_v2: bool,
}

/// Choices of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    /// `--no-pivot`.
    pub(crate) no_pivot: bool,
    /// `--no-new-keyring`.
    pub(crate) no_new_keyring: bool,
}

/// Why a configuration cannot be carried out.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid configuration: {0}")]
pub(crate) struct Error(pub(crate) String);

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

/// Shorthand of this room.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Things that are wrong but do not keep a container from running.
pub(crate) type Warnings = Vec<String>;

/// All that the first process of a container does, in the order of the fields.
#[derive(Debug)]
pub(crate) struct InitPlan<'a> {
    /// Name of the session keyring to join, if a new one is wanted.
    pub(crate) keyring: Option<String>,
    pub(crate) namespaces: Namespaces<'a>,
    /// Links of the host that move into the container's network namespace.
    pub(crate) net_devices: Vec<NetDevice<'a>>,
    /// Cache and memory bandwidth.
    pub(crate) rdt: Option<Rdt>,
    pub(crate) rootfs: Rootfs,
    pub(crate) mounts: Vec<Mount<'a>>,
    /// `None`: `/dev` is the host's or another's, and nothing is made in it.
    pub(crate) devices: Option<Vec<Device<'a>>>,
    pub(crate) hostname: Option<&'a str>,
    pub(crate) domainname: Option<&'a str>,
    /// Paths below `/proc/sys`, and their values.
    pub(crate) sysctls: Vec<(String, &'a str)>,
    pub(crate) readonly_paths: Vec<&'a str>,
    pub(crate) masked_paths: Vec<&'a str>,
    pub(crate) mount_label: &'a str,
    pub(crate) nature: Nature,
    pub(crate) process: ProcessPlan<'a>,
}

impl InitPlan<'_> {
    /// Who is to own the control group, as the host numbers users; `None` to leave it.
    pub(crate) fn owner_of_group(&self) -> Option<u32> {
        let writable = |mount: &Mount<'_>| {
            mount.source == Source::CgroupV2 && mount.attr.set & sys::mount::RDONLY == 0
        };
        let owned = self.namespaces.is_new(NamespaceKind::User)
            && self.namespaces.is_new(NamespaceKind::Cgroup)
            && self.mounts.iter().any(writable);
        let maps = self.namespaces.uid_maps.iter();
        let root = maps.filter(|_| owned).find(|map| map.container_id == 0);
        root.map(|map| map.host_id)
    }
}

/// The root of the container.
#[derive(Debug)]
pub(crate) struct Rootfs {
    /// Absolute, on the host.
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
    /// How mounts and unmounts cross the border, for the root and for binds that say nothing else.
    pub(crate) propagation: mounts::Propagation,
    /// The configuration names a propagation for the root.
    pub(crate) propagation_given: bool,
    /// Old-style: move the mount and chroot, for a root on an initramfs.
    pub(crate) no_pivot: bool,
}

/// Decides everything about the first process of container `id` with its bundle in `bundle`.
///
/// # Errors
///
/// What the configuration lacks, contradicts itself in, or asks for and cannot be had.
pub(crate) fn init<'a>(
    spec: &'a Spec<'a>,
    id: &str,
    bundle: &Path,
    facts: HostFacts,
    choices: Choices,
) -> Result<(InitPlan<'a>, Warnings)> {
    let mut warnings = Warnings::new();
    let linux = spec.linux.as_ref();
    let process = spec
        .process
        .as_ref()
        .ok_or_else(|| Error::new("process is missing"))?;
    let namespaces = namespaces::plan(linux)?;
    let rootfs = rootfs(spec, bundle, choices)?;
    refuse_two_domainnames(spec)?;
    let owns_uts = namespaces.has(NamespaceKind::Uts);
    let mut mounts = mounts::plan(&spec.mounts, bundle, facts, rootfs.propagation)?;
    if namespaces.is_new(NamespaceKind::User)
        && mounts::leave_unknown_group_out(&mut mounts, &namespaces.gid_maps)
    {
        let text = "devpts: its gid is not mapped in the container, so it is left out";
        warnings.push(text.to_owned());
    }
    let plan = InitPlan {
        keyring: (!choices.no_new_keyring).then(|| format!("_ses.{id}")),
        mounts,
        devices: devices::plan(spec, &namespaces, facts)?,
        hostname: needs_uts(spec.hostname.as_deref(), "hostname", owns_uts)?,
        domainname: needs_uts(spec.domainname.as_deref(), "domainname", owns_uts)?,
        sysctls: linux.map_or(Ok(Vec::new()), |linux| {
            sysctl::plan(&linux.sysctl, &namespaces)
        })?,
        readonly_paths: linux.map_or_else(Vec::new, |l| paths(&l.readonly_paths)),
        masked_paths: linux.map_or_else(Vec::new, |l| paths(&l.masked_paths)),
        mount_label: linux.map_or("", |linux| linux.mount_label.as_str()),
        nature: linux.map_or(Ok(Nature::default()), nature)?,
        process: process::plan(process, facts, &mut warnings)?,
        net_devices: linux.map_or(Ok(Vec::new()), |linux| {
            net_devices::plan(&linux.net_devices, &namespaces)
        })?,
        rdt: linux
            .and_then(|linux| linux.intel_rdt.as_ref())
            .map(|raw| rdt::plan(raw, id))
            .transpose()?,
        namespaces,
        rootfs,
    };
    Ok((plan, warnings))
}

/// Decides everything about a further process.
///
/// # Errors
///
/// As for [`init`].
pub(crate) fn exec<'a>(
    process: &'a crate::spec::Process<'a>,
    facts: HostFacts,
) -> Result<(ProcessPlan<'a>, Warnings)> {
    let mut warnings = Warnings::new();
    let plan = process::plan(process, facts, &mut warnings)?;
    Ok((plan, warnings))
}

fn nature(linux: &crate::spec::Linux<'_>) -> Result<Nature> {
    let personality = linux.personality.as_ref().map(scheduling::personality);
    let memory = linux.memory_policy.as_ref().map(scheduling::memory_policy);
    Ok(Nature {
        personality: personality.transpose()?,
        memory: memory.transpose()?,
    })
}

fn rootfs(spec: &Spec<'_>, bundle: &Path, choices: Choices) -> Result<Rootfs> {
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| Error::new("root is missing"))?;
    if root.path.is_empty() {
        return Err(Error::new("root.path is empty"));
    }
    let name = spec
        .linux
        .as_ref()
        .map_or("", |linux| linux.rootfs_propagation.as_str());
    Ok(Rootfs {
        path: bundle.join(root.path.as_str()),
        readonly: root.readonly,
        propagation: mounts::Propagation::of_rootfs(name)?,
        propagation_given: !name.is_empty(),
        no_pivot: choices.no_pivot,
    })
}

/// Neither of two different names would be sure to hold.
fn refuse_two_domainnames(spec: &Spec<'_>) -> Result<()> {
    let linux = spec.linux.as_ref();
    let sysctl = linux.and_then(|linux| {
        let mut values = linux.sysctl.iter();
        values.find(|(key, _)| matches!(key.as_str(), "kernel.domainname" | "kernel/domainname"))
    });
    match (spec.domainname.as_deref(), sysctl) {
        (Some(name), Some((_, value))) if !name.is_empty() && value.as_str() != name => Err(
            Error::new("sysctl \"kernel.domainname\" conflicts with the OCI domainname"),
        ),
        _ => Ok(()),
    }
}

fn needs_uts<'a>(name: Option<&'a str>, what: &str, owned: bool) -> Result<Option<&'a str>> {
    match name {
        None | Some("") => Ok(None),
        Some(_) if !owned => Err(Error::new(format!(
            "unable to set {what} without a private UTS namespace"
        ))),
        name => Ok(name),
    }
}

fn paths<'a>(list: &'a [crate::spec::Text<'a>]) -> Vec<&'a str> {
    list.iter().map(crate::spec::Text::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: HostFacts = HostFacts {
        last_capability: 40,
        may_make_nodes: true,
        cgroup_v2: false,
    };

    fn check(json: &str, expect: &str) {
        let spec: Spec<'_> = serde_json::from_str(json).unwrap();
        let got = init(&spec, "c1", Path::new("/b"), FACTS, Choices::default());
        match got {
            Ok((plan, _)) => assert_eq!(expect, "", "planned: {plan:?}"),
            Err(error) => {
                assert!(
                    !expect.is_empty() && error.0.contains(expect),
                    "{error} lacks {expect:?}"
                );
            }
        }
    }

    const MINIMAL: &str = r#"{"process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},
        "linux":{"namespaces":[{"type":"mount"}]"#;

    #[test]
    fn what_is_missing_is_named() {
        check("{}", "process is missing");
        check(
            r#"{"process":{"args":["sh"],"cwd":"/"}}"#,
            "mount namespace",
        );
        check(
            r#"{"process":{"args":["sh"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}"#,
            "root is missing",
        );
        check(&format!("{MINIMAL}}}}}"), "");
    }

    #[test]
    fn a_host_name_needs_its_own_namespace() {
        check(
            &format!("{MINIMAL}}},\"hostname\":\"x\"}}"),
            "without a private UTS namespace",
        );
        check(
            &format!("{MINIMAL}}},\"domainname\":\"x\"}}"),
            "unable to set domainname",
        );
        check(
            &format!(
                "{MINIMAL},\"sysctl\":{{\"kernel.domainname\":\"y\"}}}},\"domainname\":\"x\"}}"
            ),
            "conflicts with the OCI domainname",
        );
    }

    #[test]
    fn a_relative_root_lies_in_the_bundle() {
        let json = format!("{MINIMAL}}}}}");
        let spec: Spec<'_> = serde_json::from_str(&json).unwrap();
        let (plan, _) = init(&spec, "c1", Path::new("/b"), FACTS, Choices::default()).unwrap();
        assert_eq!(plan.rootfs.path, Path::new("/b/rootfs"));
        assert_eq!(plan.keyring.as_deref(), Some("_ses.c1"));
    }
}
