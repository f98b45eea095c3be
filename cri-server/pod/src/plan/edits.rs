//! What others add to a container for devices of theirs, put into its specification.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxIntelRdt, LinuxNetDevice,
    Mount as OciMount,
};

use super::devices::{self, Devices};
use super::identity::Identity;
use super::{PlanError, check, mounts};
use crate::sandbox::{NamespaceMode, SandboxNamespaces};

const FIELD: &str = "CDI_devices";

/// Version of the OCI runtime specification with network devices, and with lines of `schemata`.
pub(super) const OCI_VERSION: &str = "1.3.0";

/// What vendors add to a container (Container Device Interface, "container edits").
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// Variables of the environment; a later one wins, also over those of the request.
    pub env: Vec<(String, String)>,
    /// Device nodes.
    pub devices: Vec<EditNode>,
    /// Links of the host that become the pod's: the name there, and the name in the pod.
    pub links: Vec<(String, String)>,
    /// Shares of cache and of memory bandwidth.
    pub rdt: Option<EditRdt>,
    /// Mounts; each takes the place of what would be mounted at its path.
    pub mounts: Vec<EditMount>,
    /// Programs that the OCI runtime runs.
    pub hooks: Vec<(HookPoint, EditHook)>,
    /// More groups of the process.
    pub groups: Vec<u32>,
}

/// A device node of a vendor's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditNode {
    /// Path in the container.
    pub path: String,
    /// What it is.
    pub kind: NodeKind,
    /// Major number; 0 for a named pipe.
    pub major: u32,
    /// Minor number; 0 for a named pipe.
    pub minor: u32,
    /// Permission bits; `None`: those that the OCI runtime gives.
    pub mode: Option<u32>,
    /// Owner as the container knows it; `None`: the user of its process.
    pub uid: Option<u32>,
    /// Group as the container knows it; `None`: that of its process.
    pub gid: Option<u32>,
    /// What the container may do with it: of `r`, `w` and `m`; empty: nothing that it may not
    /// already.
    pub permissions: String,
}

/// What a node is (mknod(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A named pipe.
    Fifo,
}

/// A class of service of the resctrl file system (runtime-spec, config-linux.md, "IntelRdt").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditRdt {
    /// The class; empty: one of the container's own.
    pub class: String,
    /// The line for the cache of the third level.
    pub l3_cache: String,
    /// The line for memory bandwidth.
    pub memory_bandwidth: String,
    /// Lines of `schemata` as they are.
    pub schemata: Vec<String>,
    /// A monitoring group for the container.
    pub monitoring: bool,
}

/// A mount of a vendor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditMount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: String,
    /// Type of the file system; empty for a bind mount.
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
}

/// When a hook runs (runtime-spec, config.md, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// The old name of the next one.
    Prestart,
    /// In the runtime's namespaces, before the root is changed.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// After the program has been started.
    Poststart,
    /// After the container has been deleted.
    Poststop,
}

/// A hook of a vendor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditHook {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its environment, `NAME=value`.
    pub env: Vec<String>,
    /// Seconds that it may take; `None`: any time.
    pub timeout: Option<i64>,
}

/// Adds variables to an environment.
pub(super) fn add_env(edits: &Edits, env: &mut BTreeMap<String, String>) -> Result<(), PlanError> {
    for (name, value) in &edits.env {
        check::no_nul(FIELD, name)?;
        check::no_nul(FIELD, value)?;
        env.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// Adds groups to those of a process, which stay in order.
pub(super) fn add_groups(edits: &Edits, groups: &mut Vec<u32>) {
    groups.extend(&edits.groups);
    groups.sort_unstable();
    groups.dedup();
}

/// Adds device nodes, each in the place of another at its path.
pub(super) fn add_devices(
    edits: &Edits,
    identity: &Identity,
    privileged: bool,
    all: &mut Devices,
) -> Result<(), PlanError> {
    for edit in &edits.devices {
        let node = node(edit, identity)?;
        all.nodes.retain(|known| known.path() != node.path());
        // The privileged may open all anyway, and nobody asks for a pipe.
        if !privileged && !edit.permissions.is_empty() && edit.kind != NodeKind::Fifo {
            let permissions = devices::permissions(FIELD, &edit.permissions)?;
            all.rules.push(devices::rule_for(&node, permissions));
        }
        all.nodes.push(node);
    }
    Ok(())
}

/// A node belongs to who uses it, unless its vendor says otherwise.
fn node(edit: &EditNode, identity: &Identity) -> Result<LinuxDevice, PlanError> {
    let mut node = LinuxDevice::default();
    node.set_path(check::absolute(FIELD, &edit.path)?);
    node.set_typ(match edit.kind {
        NodeKind::Block => LinuxDeviceType::B,
        NodeKind::Character => LinuxDeviceType::C,
        NodeKind::Fifo => LinuxDeviceType::P,
    });
    node.set_major(edit.major.into());
    node.set_minor(edit.minor.into());
    node.set_file_mode(edit.mode.map(|mode| mode & devices::PERMISSIONS));
    node.set_uid(Some(edit.uid.unwrap_or(identity.uid)));
    node.set_gid(Some(edit.gid.unwrap_or(identity.gid)));
    Ok(node)
}

/// Adds links and the class of service; answers with the version of the specification that these
/// need, if they need another.
pub(super) fn add_resources(
    edits: &Edits,
    pod: &SandboxNamespaces,
    linux: &mut Linux,
) -> Result<Option<&'static str>, PlanError> {
    if !edits.links.is_empty() && pod.network == NamespaceMode::Node {
        let reason = "brings network devices, which needs a network of the pod's own";
        return Err(PlanError::invalid(FIELD, reason));
    }
    let mut links = HashMap::new();
    let mut names = Vec::new();
    for (host, name) in &edits.links {
        if names.contains(&name) || links.contains_key(host) {
            let reason = format!("network device {host:?}, to be {name:?}: one has the same name");
            return Err(PlanError::invalid(FIELD, reason));
        }
        let mut link = LinuxNetDevice::default();
        link.set_name(Some(name.clone()));
        links.insert(host.clone(), link);
        names.push(name);
    }
    let newer = |rdt: &EditRdt| rdt.monitoring || !rdt.schemata.is_empty();
    let needs = !links.is_empty() || edits.rdt.as_ref().is_some_and(newer);
    linux.set_net_devices((!links.is_empty()).then_some(links));
    linux.set_intel_rdt(edits.rdt.as_ref().map(rdt));
    Ok(needs.then_some(OCI_VERSION))
}

fn rdt(edit: &EditRdt) -> LinuxIntelRdt {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(given(&edit.class));
    rdt.set_l3_cache_schema(given(&edit.l3_cache));
    rdt.set_mem_bw_schema(given(&edit.memory_bandwidth));
    rdt.set_schemata((!edit.schemata.is_empty()).then(|| edit.schemata.clone()));
    rdt.set_enable_monitoring(edit.monitoring.then_some(true));
    rdt
}

/// Adds mounts, outer folders before what lies in them. In a pod with a user namespace the files
/// of a bind mount keep their owners' numbers.
pub(super) fn add_mounts(
    edits: &Edits,
    pod: &SandboxNamespaces,
    list: &mut Vec<OciMount>,
) -> Result<(), PlanError> {
    for edit in &edits.mounts {
        let target = check::absolute(FIELD, &edit.target)?;
        let mut options: Vec<&str> = edit.options.iter().map(String::as_str).collect();
        let bind = edit.kind.is_empty() || edit.kind == "bind";
        if bind && !options.iter().any(|one| matches!(*one, "bind" | "rbind")) {
            options.push("rbind");
        }
        let maps = |one: &&str| matches!(*one, "idmap" | "ridmap");
        let user = pod.user.filter(|_| bind && !options.iter().any(maps));
        if user.is_some() {
            options.push(match options.contains(&"rbind") {
                true => "ridmap",
                false => "idmap",
            });
        }
        let kind = if bind { "bind" } else { &edit.kind };
        let mut mount = mounts::mount("/", kind, &edit.source, &options);
        if let Some(user) = user {
            mount.set_uid_mappings(Some(vec![mounts::range(user.uids)]));
            mount.set_gid_mappings(Some(vec![mounts::range(user.gids)]));
        }
        list.retain(|other| *other.destination() != target);
        mount.set_destination(target);
        list.push(mount);
    }
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

/// The hooks; `None` without any.
pub(super) fn hooks(edits: &Edits) -> Option<Hooks> {
    let at = |point| {
        let here = edits.hooks.iter().filter(|(at, _)| *at == point);
        let hooks: Vec<Hook> = here.map(|(_, hook)| one_hook(hook)).collect();
        (!hooks.is_empty()).then_some(hooks)
    };
    if edits.hooks.is_empty() {
        return None;
    }
    let mut hooks = Hooks::default();
    hooks.set_prestart(at(HookPoint::Prestart));
    hooks.set_create_runtime(at(HookPoint::CreateRuntime));
    hooks.set_create_container(at(HookPoint::CreateContainer));
    hooks.set_start_container(at(HookPoint::StartContainer));
    hooks.set_poststart(at(HookPoint::Poststart));
    hooks.set_poststop(at(HookPoint::Poststop));
    Some(hooks)
}

fn one_hook(edit: &EditHook) -> Hook {
    let mut hook = Hook::default();
    hook.set_path(edit.path.clone());
    hook.set_args((!edit.args.is_empty()).then(|| edit.args.clone()));
    hook.set_env((!edit.env.is_empty()).then(|| edit.env.clone()));
    hook.set_timeout(edit.timeout);
    hook
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sandbox::{IdRange, UserNamespace};

    #[test]
    fn a_vendors_mount_takes_the_place_of_another() {
        let edits = Edits {
            mounts: vec![EditMount {
                source: "/opt/lib".into(),
                target: "/a/lib".into(),
                options: vec!["ro".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut list = vec![
            mounts::mount("/a/lib", "bind", Path::new("/other"), &["rbind"]),
            mounts::mount("/a/lib/x/y", "bind", Path::new("/below"), &["rbind"]),
        ];
        let pod = SandboxNamespaces::default();
        add_mounts(&edits, &pod, &mut list).unwrap();
        let sources: Vec<_> = list
            .iter()
            .filter_map(|one| one.source().as_deref())
            .collect();
        assert_eq!(sources, [Path::new("/opt/lib"), Path::new("/below")]);
        assert_eq!(
            list[0].options().as_deref(),
            Some(&["ro".to_owned(), "rbind".to_owned()][..])
        );
        let wrong = Edits {
            mounts: vec![EditMount::default()],
            ..Default::default()
        };
        assert!(add_mounts(&wrong, &pod, &mut list).is_err());
    }

    #[test]
    fn bind_mounts_keep_their_owners_in_a_user_namespace() {
        let range = IdRange {
            host: 70_000,
            length: 65_536,
        };
        let pod = SandboxNamespaces {
            user: Some(UserNamespace {
                uids: range,
                gids: range,
            }),
            ..Default::default()
        };
        let options = |given: &[&str], kind: &str| {
            let edits = Edits {
                mounts: vec![EditMount {
                    source: "/opt/lib".into(),
                    target: "/lib".into(),
                    kind: kind.into(),
                    options: given.iter().map(ToString::to_string).collect(),
                }],
                ..Default::default()
            };
            let mut list = Vec::new();
            add_mounts(&edits, &pod, &mut list).unwrap();
            let maps = list[0].uid_mappings().as_deref().unwrap_or_default();
            let host = maps.first().map(oci_spec::runtime::LinuxIdMapping::host_id);
            (list[0].options().clone().unwrap().join(","), host)
        };
        let own = |text: &str, host| (text.to_owned(), host);
        assert_eq!(options(&["ro"], ""), own("ro,rbind,ridmap", Some(70_000)));
        assert_eq!(options(&["bind"], "bind"), own("bind,idmap", Some(70_000)));
        assert_eq!(options(&["rbind", "idmap"], ""), own("rbind,idmap", None));
        assert_eq!(options(&["ro"], "tmpfs"), own("ro", None));
    }

    fn edit_node() -> EditNode {
        EditNode {
            path: "/dev/thing".into(),
            kind: NodeKind::Character,
            major: 10,
            minor: 229,
            mode: None,
            uid: None,
            gid: Some(44),
            permissions: "rw".into(),
        }
    }

    #[test]
    fn a_node_belongs_to_who_uses_it() {
        let identity = Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
        };
        let pipe = EditNode {
            path: "/run/pipe".into(),
            kind: NodeKind::Fifo,
            major: 0,
            minor: 0,
            mode: Some(0o640),
            ..edit_node()
        };
        let closed = EditNode {
            path: "/dev/closed".into(),
            permissions: String::new(),
            ..edit_node()
        };
        let edits = Edits {
            devices: vec![edit_node(), pipe, closed],
            ..Default::default()
        };
        let mut all = Devices::default();
        add_devices(&edits, &identity, false, &mut all).unwrap();
        let owners: Vec<_> = all.nodes.iter().map(|one| (one.uid(), one.gid())).collect();
        assert_eq!(owners, [(Some(1000), Some(44)); 3]);
        let modes: Vec<_> = all.nodes.iter().map(LinuxDevice::file_mode).collect();
        assert_eq!(modes, [None, Some(0o640), None]);
        let rules: Vec<_> = all.rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["c 10:229 rw"]);
        let mut all = Devices::default();
        add_devices(&edits, &identity, true, &mut all).unwrap();
        assert!(all.rules.is_empty() && all.nodes.len() == 3);
    }

    #[test]
    fn links_and_classes_of_service() {
        let link = |host: &str, name: &str| (host.to_owned(), name.to_owned());
        let with = |links: Vec<(String, String)>, rdt| Edits {
            links,
            rdt,
            ..Default::default()
        };
        let own = SandboxNamespaces::default();
        let add = |edits: &Edits, pod: &SandboxNamespaces| {
            let mut linux = Linux::default();
            let version = add_resources(edits, pod, &mut linux);
            version.map(|version| (version, linux))
        };
        let edits = with(vec![link("eth7", "fast0")], None);
        let (version, linux) = add(&edits, &own).unwrap();
        assert_eq!(version, Some("1.3.0"));
        let links = linux.net_devices().as_ref().unwrap();
        assert_eq!(links["eth7"].name().as_deref(), Some("fast0"));
        let host = SandboxNamespaces {
            network: NamespaceMode::Node,
            ..own
        };
        assert!(add(&edits, &host).is_err());
        for twice in [link("eth8", "fast0"), link("eth7", "slow0")] {
            let edits = with(vec![link("eth7", "fast0"), twice], None);
            assert!(add(&edits, &own).is_err());
        }
        let class = EditRdt {
            class: "gold".into(),
            l3_cache: "L3:0=f".into(),
            ..Default::default()
        };
        let (version, linux) = add(&with(vec![], Some(class)), &host).unwrap();
        let rdt = linux.intel_rdt().as_ref().unwrap();
        assert_eq!((version, rdt.clos_id().as_deref()), (None, Some("gold")));
        assert_eq!(rdt.schemata(), &None);
        let watched = EditRdt {
            monitoring: true,
            ..Default::default()
        };
        let (version, _) = add(&with(vec![], Some(watched)), &own).unwrap();
        assert_eq!(version, Some("1.3.0"));
        let (version, linux) = add(&Edits::default(), &own).unwrap();
        assert!(version.is_none() && linux.intel_rdt().is_none());
    }

    #[test]
    fn hooks_run_when_their_vendor_says() {
        assert_eq!(hooks(&Edits::default()), None);
        let hook = EditHook {
            path: "/bin/hook".into(),
            ..Default::default()
        };
        let edits = Edits {
            hooks: vec![(HookPoint::CreateContainer, hook)],
            groups: vec![7, 5],
            ..Default::default()
        };
        let planned = hooks(&edits).unwrap();
        assert!(planned.prestart().is_none());
        assert_eq!(planned.create_container().as_ref().map(Vec::len), Some(1));
        let mut groups = vec![0, 7];
        add_groups(&edits, &mut groups);
        assert_eq!(groups, [0, 5, 7]);
    }
}
