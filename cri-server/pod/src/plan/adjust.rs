//! What plugins want of a container, made to a plan that stands.
//!
//! Plugins are as mighty as the node's administrator: what they want outweighs the client's wishes
//! and is not measured by the pod's rights. What would harm other containers by mistake is refused
//! all the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, Hooks, Linux, LinuxBlockIo, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxIOPriority, LinuxIntelRdt, LinuxMemoryPolicy, LinuxNamespace, LinuxNamespaceType,
    LinuxNetDevice, LinuxSeccomp, PosixRlimit, Process, Scheduler,
};

use super::{ContainerPlan, EditMount, Edits, PlanError, check, devices, edits, resources};
use crate::container::Resources;
use crate::facts::NodeFacts;
use crate::sandbox::SandboxNamespaces;

/// What plugins want of a container. In pairs, `None` removes what has the name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adjustment {
    /// Annotations of the specification.
    pub annotations: Vec<(String, Option<String>)>,
    /// Variables of the environment.
    pub env: Vec<(String, Option<String>)>,
    /// The command line; empty: as it is.
    pub args: Vec<String>,
    /// Mounts by where they appear.
    pub mounts: Vec<(String, Option<EditMount>)>,
    /// Device nodes by path; the container may use them.
    pub devices: Vec<(String, Option<LinuxDevice>)>,
    /// More rules for devices.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// More programs that the OCI runtime runs.
    pub hooks: Option<Hooks>,
    /// Limits of the process (getrlimit(2)).
    pub rlimits: Vec<PosixRlimit>,
    /// The control group, as in the specification; empty: as it is.
    pub cgroups_path: String,
    /// Score for the out-of-memory killer.
    pub oom_score_adj: Option<i64>,
    /// Priority of input and output.
    pub io_priority: Option<LinuxIOPriority>,
    /// How the process is scheduled.
    pub scheduler: Option<Scheduler>,
    /// Filter of system calls.
    pub seccomp: Option<LinuxSeccomp>,
    /// Namespaces by kind.
    pub namespaces: Vec<(LinuxNamespaceType, Option<LinuxNamespace>)>,
    /// Kernel parameters.
    pub sysctls: Vec<(String, Option<String>)>,
    /// Network links of the host that become the pod's, with their names there.
    pub links: Vec<(String, Option<String>)>,
    /// Class of service.
    pub rdt: RdtChange,
    /// Weights and limits of block devices.
    pub block_io: BlockIoChange,
    /// Where memory comes from.
    pub memory_policy: Option<LinuxMemoryPolicy>,
}

/// What becomes of a class of service of the resctrl file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdtChange {
    /// What was there is removed first.
    pub remove: bool,
    /// The class.
    pub class: Option<String>,
    /// Lines of `schemata`.
    pub schemata: Option<Vec<String>>,
    /// A monitoring group.
    pub monitoring: Option<bool>,
}

/// What becomes of weights and limits of block devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum BlockIoChange {
    /// They stay as they are.
    #[default]
    Keep,
    /// There are none.
    Remove,
    /// These, and no others.
    Set(LinuxBlockIo),
}

/// Makes an adjustment to a plan. `limits` are those that hold from now on, `id` is the container's.
///
/// # Errors
///
/// [`PlanError`] names the field as plugins know it.
pub fn adjust(
    plan: &mut ContainerPlan,
    adjustment: &Adjustment,
    limits: &Resources,
    (id, pod): (&str, &SandboxNamespaces),
    facts: &NodeFacts,
) -> Result<(), PlanError> {
    let cgroup = match adjustment.cgroups_path.as_str() {
        "" => plan.cgroup.clone(),
        path => own_group(path, id, facts)?,
    };
    let spec = &mut plan.spec;
    let mut process = spec.process().clone().unwrap_or_default();
    adjust_process(&mut process, adjustment, limits, facts)?;
    let mut env = process.env().clone().unwrap_or_default();
    adjust_env(&mut env, &mut plan.env, &adjustment.env)?;
    process.set_env(Some(env));
    spec.set_process(Some(process));

    let mut annotations = spec.annotations().clone().unwrap_or_default();
    change_map(&mut annotations, &adjustment.annotations);
    spec.set_annotations(Some(annotations));

    let mut mounts = spec.mounts().clone().unwrap_or_default();
    adjust_mounts(&mut mounts, adjustment, pod)?;
    spec.set_mounts(Some(mounts));
    if let Some(more) = &adjustment.hooks {
        let hooks = spec.hooks().clone().unwrap_or_default();
        spec.set_hooks(Some(add_hooks(&hooks, more)));
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_cgroups_path(Some(PathBuf::from(&cgroup)));
    adjust_linux(&mut linux, adjustment, limits, facts)?;
    if let Some(version) = needs(&linux) {
        spec.set_version(version.to_owned());
    }
    spec.set_linux(Some(linux));
    plan.cgroup = cgroup;
    Ok(())
}

/// A group that no other container has: whatever runs in it is ended with the container.
fn own_group(path: &str, id: &str, facts: &NodeFacts) -> Result<String, PlanError> {
    const FIELD: &str = "linux.cgroups_path";
    check::no_nul(FIELD, path)?;
    let name = match facts.systemd_cgroup {
        true => path.rsplit(':').next(),
        false => {
            check::absolute(FIELD, path)?;
            path.rsplit('/').next()
        }
    };
    let plain = !path.split('/').any(|part| matches!(part, "." | ".."));
    match plain && name.is_some_and(|name| name.contains(id)) {
        true => Ok(path.to_owned()),
        false => Err(PlanError::invalid(
            FIELD,
            format!("{path:?} is no group of this container alone: its last part has no {id}"),
        )),
    }
}

fn adjust_process(
    process: &mut Process,
    adjustment: &Adjustment,
    limits: &Resources,
    facts: &NodeFacts,
) -> Result<(), PlanError> {
    if !adjustment.args.is_empty() {
        for arg in &adjustment.args {
            check::no_nul("args", arg)?;
        }
        process.set_args(Some(adjustment.args.clone()));
    }
    let mut rlimits = process.rlimits().clone().unwrap_or_default();
    for limit in &adjustment.rlimits {
        if limit.soft() > limit.hard() {
            let reason = format!(
                "{:?}: {} is more than {}",
                limit.typ(),
                limit.soft(),
                limit.hard()
            );
            return Err(PlanError::invalid("rlimits", reason));
        }
        rlimits.retain(|known| known.typ() != limit.typ());
        rlimits.push(*limit);
    }
    process.set_rlimits((!rlimits.is_empty()).then_some(rlimits));
    if adjustment.oom_score_adj.is_some() {
        process.set_oom_score_adj(Some(resources::oom_score_adj(limits, facts)?));
    }
    if let Some(priority) = &adjustment.io_priority {
        process.set_io_priority(Some(*priority));
    }
    if let Some(scheduler) = &adjustment.scheduler {
        process.set_scheduler(Some(scheduler.clone()));
    }
    Ok(())
}

/// Changes the lines of an environment where they are; new ones come last.
fn adjust_env(
    lines: &mut Vec<String>,
    known: &mut std::collections::BTreeMap<String, String>,
    changes: &[(String, Option<String>)],
) -> Result<(), PlanError> {
    for (name, value) in changes {
        if name.is_empty() || name.contains('=') {
            return Err(PlanError::invalid("env", format!("{name:?} is no name")));
        }
        check::no_nul("env", name)?;
        let place = lines
            .iter()
            .position(|line| line.split('=').next() == Some(name));
        match (value, place) {
            (None, Some(place)) => drop(lines.remove(place)),
            (None, None) => {}
            (Some(value), place) => {
                check::no_nul("env", value)?;
                let line = format!("{name}={value}");
                match place {
                    Some(place) => lines[place] = line,
                    None => lines.push(line),
                }
            }
        }
        match value {
            Some(value) => drop(known.insert(name.clone(), value.clone())),
            None => drop(known.remove(name)),
        }
    }
    Ok(())
}

fn change_map(map: &mut HashMap<String, String>, changes: &[(String, Option<String>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

fn adjust_mounts(
    list: &mut Vec<oci_spec::runtime::Mount>,
    adjustment: &Adjustment,
    pod: &SandboxNamespaces,
) -> Result<(), PlanError> {
    for (place, _) in adjustment
        .mounts
        .iter()
        .filter(|(_, mount)| mount.is_none())
    {
        list.retain(|mount| mount.destination().as_path() != Path::new(place));
    }
    let added = adjustment.mounts.iter();
    let edits = Edits {
        mounts: added.filter_map(|(_, mount)| mount.clone()).collect(),
        ..Edits::default()
    };
    edits::add_mounts(&edits, pod, list)
}

fn add_hooks(known: &Hooks, more: &Hooks) -> Hooks {
    let joined = |one: &Option<Vec<Hook>>, other: &Option<Vec<Hook>>| {
        let all: Vec<Hook> = [one, other]
            .into_iter()
            .flatten()
            .flatten()
            .cloned()
            .collect();
        (!all.is_empty()).then_some(all)
    };
    let mut hooks = Hooks::default();
    hooks.set_prestart(joined(known.prestart(), more.prestart()));
    hooks.set_create_runtime(joined(known.create_runtime(), more.create_runtime()));
    hooks.set_create_container(joined(known.create_container(), more.create_container()));
    hooks.set_start_container(joined(known.start_container(), more.start_container()));
    hooks.set_poststart(joined(known.poststart(), more.poststart()));
    hooks.set_poststop(joined(known.poststop(), more.poststop()));
    hooks
}

fn adjust_linux(
    linux: &mut Linux,
    adjustment: &Adjustment,
    limits: &Resources,
    facts: &NodeFacts,
) -> Result<(), PlanError> {
    let before = linux.resources().clone().unwrap_or_default();
    let mut rules = before.devices().clone().unwrap_or_default();
    let mut nodes = linux.devices().clone().unwrap_or_default();
    for (path, node) in &adjustment.devices {
        let path = check::absolute("linux.devices", path)?;
        nodes.retain(|known| *known.path() != path);
        if let Some(node) = node {
            if node.typ() != LinuxDeviceType::P {
                rules.push(devices::rule_for(node, permissions(node)));
            }
            nodes.push(node.clone());
        }
    }
    rules.extend(adjustment.device_rules.iter().cloned());
    linux.set_devices((!nodes.is_empty()).then_some(nodes));
    let mut planned = resources::plan_resources(limits, facts)?;
    planned.set_devices(Some(rules));
    planned.set_block_io(match &adjustment.block_io {
        BlockIoChange::Keep => before.block_io().clone(),
        BlockIoChange::Remove => None,
        BlockIoChange::Set(block_io) => Some(block_io.clone()),
    });
    linux.set_resources(Some(planned));

    if let Some(filter) = &adjustment.seccomp {
        linux.set_seccomp(Some(filter.clone()));
    }
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for (kind, namespace) in &adjustment.namespaces {
        namespaces.retain(|known| known.typ() != *kind);
        namespaces.extend(namespace.clone());
    }
    linux.set_namespaces(Some(namespaces));
    let mut sysctls = linux.sysctl().clone().unwrap_or_default();
    change_map(&mut sysctls, &adjustment.sysctls);
    linux.set_sysctl((!sysctls.is_empty()).then_some(sysctls));
    let mut links = linux.net_devices().clone().unwrap_or_default();
    for (host, name) in &adjustment.links {
        links.remove(host);
        if let Some(name) = name {
            let mut link = LinuxNetDevice::default();
            link.set_name((!name.is_empty()).then(|| name.clone()));
            links.insert(host.clone(), link);
        }
    }
    linux.set_net_devices((!links.is_empty()).then_some(links));
    let rdt = adjusted_rdt(linux.intel_rdt().as_ref(), &adjustment.rdt);
    linux.set_intel_rdt(rdt);
    if let Some(policy) = &adjustment.memory_policy {
        linux.set_memory_policy(Some(policy.clone()));
    }
    Ok(())
}

/// A block device may be made anew as well, as the interface has it.
fn permissions(node: &LinuxDevice) -> &'static str {
    match node.typ() {
        LinuxDeviceType::B => "rwm",
        _ => "rw",
    }
}

fn adjusted_rdt(known: Option<&LinuxIntelRdt>, change: &RdtChange) -> Option<LinuxIntelRdt> {
    let known = known.filter(|_| !change.remove);
    let sets = change.class.is_some() || change.schemata.is_some() || change.monitoring.is_some();
    if !sets {
        return known.cloned();
    }
    let mut rdt = known.cloned().unwrap_or_default();
    if change.class.is_some() {
        rdt.set_clos_id(change.class.clone());
    }
    if change.schemata.is_some() {
        rdt.set_schemata(change.schemata.clone());
    }
    if change.monitoring.is_some() {
        rdt.set_enable_monitoring(change.monitoring);
    }
    Some(rdt)
}

/// The version of the specification that a runtime has to know, if it is not the usual one.
fn needs(linux: &Linux) -> Option<&'static str> {
    let rdt = linux.intel_rdt().as_ref();
    let newer =
        rdt.is_some_and(|rdt| rdt.schemata().is_some() || rdt.enable_monitoring().is_some());
    let needs = newer || linux.net_devices().is_some() || linux.memory_policy().is_some();
    needs.then_some(edits::OCI_VERSION)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::container::{Accounts, ContainerSpec, ImageFacts};
    use crate::plan::{ContainerInputs, SandboxPaths, plan_container};
    use crate::sandbox::SandboxSpec;

    const ID: &str = "c1";

    fn planned() -> ContainerPlan {
        let inputs = ContainerInputs {
            id: ID,
            sandbox_id: "s1",
            sandbox: &SandboxSpec::default(),
            paths: &SandboxPaths::default(),
            image: &ImageFacts {
                cmd: vec!["/bin/true".into()],
                env: vec!["A=1".into(), "B=2".into()],
                ..Default::default()
            },
            accounts: &Accounts::default(),
            target_pid: None,
            devices: &[],
            shares: &crate::plan::Shares::default(),
            edits: &Edits::default(),
            seccomp_profile: None,
            mount_sources: &[],
        };
        let spec = ContainerSpec {
            name: "web".into(),
            ..Default::default()
        };
        plan_container(&spec, &inputs, &NodeFacts::default()).unwrap()
    }

    fn try_with(adjustment: &Adjustment, limits: &Resources) -> Result<ContainerPlan, PlanError> {
        let mut plan = planned();
        let about = (ID, &SandboxNamespaces::default());
        adjust(&mut plan, adjustment, limits, about, &NodeFacts::default())?;
        Ok(plan)
    }

    /// The specification as JSON.
    #[track_caller]
    fn with(adjustment: &Adjustment) -> Value {
        let plan = try_with(adjustment, &Resources::default()).unwrap();
        serde_json::to_value(plan.spec).unwrap()
    }

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, Option<String>) {
        (key.to_owned(), (value != "-").then(|| value.to_owned()))
    }

    #[test]
    fn nothing_changes_nothing() {
        let before = planned();
        let after = try_with(&Adjustment::default(), &Resources::default()).unwrap();
        assert_eq!(after, before);
    }

    #[test]
    fn the_process() {
        let spec = with(&Adjustment {
            env: vec![pair("A", "-"), pair("B", "x=y"), pair("C", "")],
            args: vec!["/bin/other".into()],
            rlimits: vec![parse(json!({"type": "RLIMIT_CORE", "hard": 2, "soft": 1}))],
            io_priority: Some(parse(json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}))),
            scheduler: Some(parse(json!({"policy": "SCHED_BATCH", "nice": 3}))),
            annotations: vec![pair("io.kubernetes.cri.sandbox-uid", "-"), pair("x", "1")],
            ..Default::default()
        });
        let process = &spec["process"];
        let env = process["env"].as_array().unwrap();
        assert!(env.contains(&json!("B=x=y")) && env.contains(&json!("C=")));
        assert!(
            !env.iter()
                .any(|line| line.as_str().unwrap().starts_with("A="))
        );
        assert_eq!(process["args"], json!(["/bin/other"]));
        assert_eq!(process["rlimits"][0]["soft"], 1);
        assert_eq!(process["ioPriority"]["class"], "IOPRIO_CLASS_IDLE");
        assert_eq!(process["scheduler"]["policy"], "SCHED_BATCH");
        assert_eq!(spec["annotations"]["x"], "1");
        assert!(
            spec["annotations"]
                .get("io.kubernetes.cri.sandbox-uid")
                .is_none()
        );
    }

    #[test]
    fn mounts_and_hooks() {
        let mount = |target: &str| EditMount {
            source: "/src".into(),
            target: target.into(),
            kind: "bind".into(),
            options: vec!["ro".into(), "bind".into()],
        };
        let spec = with(&Adjustment {
            mounts: vec![
                ("/sys".into(), None),
                ("/a/b".into(), Some(mount("/a/b"))),
                ("/a".into(), Some(mount("/a"))),
            ],
            hooks: Some(parse(json!({"poststop": [{"path": "/bin/x"}]}))),
            ..Default::default()
        });
        let places = spec["mounts"].as_array().unwrap().iter();
        let places: Vec<_> = places
            .map(|one| one["destination"].as_str().unwrap())
            .collect();
        assert!(!places.contains(&"/sys"), "{places:?}");
        let place = |path: &str| places.iter().position(|one| *one == path).unwrap();
        assert!(place("/a") < place("/a/b"), "{places:?}");
        assert_eq!(spec["hooks"]["poststop"][0]["path"], "/bin/x");
    }

    #[test]
    fn linux() {
        let node = json!({"path": "/dev/x", "type": "b", "major": 7, "minor": 1});
        let own = LinuxNamespaceType::Cgroup;
        let spec = with(&Adjustment {
            devices: vec![("/dev/x".into(), Some(parse(node)))],
            device_rules: vec![parse(json!({"allow": false, "access": "m"}))],
            cgroups_path: "/other/c1".into(),
            seccomp: Some(parse(json!({"defaultAction": "SCMP_ACT_ALLOW"}))),
            namespaces: vec![
                (LinuxNamespaceType::Ipc, None),
                (own, Some(parse(json!({"type": "cgroup"})))),
            ],
            sysctls: vec![pair("net.core.somaxconn", "7")],
            links: vec![pair("eth7", "fast0")],
            rdt: RdtChange {
                class: Some("gold".into()),
                ..Default::default()
            },
            memory_policy: Some(parse(json!({"mode": "MPOL_BIND", "nodes": "0"}))),
            ..Default::default()
        });
        let linux = &spec["linux"];
        assert_eq!(spec["ociVersion"], "1.3.0");
        assert_eq!(linux["devices"][0]["path"], "/dev/x");
        let rules = linux["resources"]["devices"].as_array().unwrap();
        assert_eq!(rules[rules.len() - 2]["access"], "rwm");
        assert_eq!(linux["cgroupsPath"], "/other/c1");
        assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
        let namespaces = linux["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "cgroup"})));
        assert!(!namespaces.iter().any(|one| one["type"] == "ipc"));
        assert_eq!(linux["sysctl"]["net.core.somaxconn"], "7");
        assert_eq!(linux["netDevices"]["eth7"]["name"], "fast0");
        assert_eq!(linux["intelRdt"]["closID"], "gold");
        assert_eq!(linux["memoryPolicy"]["nodes"], "0");
    }

    #[test]
    fn limits_are_planned_anew() {
        let limits = Resources {
            cpu_shares: 77,
            oom_score_adj: 300,
            ..Default::default()
        };
        let scored = Adjustment {
            oom_score_adj: Some(300),
            ..Default::default()
        };
        let plan = try_with(&scored, &limits).unwrap();
        let spec = serde_json::to_value(plan.spec).unwrap();
        assert_eq!(spec["process"]["oomScoreAdj"], 300);
        assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 77);
        assert!(
            !spec["linux"]["resources"]["devices"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn a_group_is_the_containers_own() {
        let check = |path: &str, expect: bool| {
            let adjustment = Adjustment {
                cgroups_path: path.into(),
                ..Default::default()
            };
            let found = try_with(&adjustment, &Resources::default());
            assert_eq!(found.is_ok(), expect, "{path}: {found:?}");
        };
        check("/special/c1", true);
        check("/special/x-c1", true);
        for path in ["/", "/kubepods", "/c1/x", "/x/../c1", "c1", "/c1/"] {
            check(path, false);
        }
    }

    #[test]
    fn classes_of_service() {
        let known: LinuxIntelRdt = parse(json!({"closID": "old", "enableMonitoring": true}));
        let change = |remove, class: Option<&str>| RdtChange {
            remove,
            class: class.map(str::to_owned),
            ..Default::default()
        };
        let after = |change: &RdtChange| adjusted_rdt(Some(&known), change);
        assert_eq!(after(&change(false, None)), Some(known.clone()));
        assert_eq!(after(&change(true, None)), None);
        let replaced = after(&change(true, Some("new"))).unwrap();
        assert_eq!(replaced.clos_id().as_deref(), Some("new"));
        assert!(replaced.enable_monitoring().is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |adjustment: Adjustment, part: &str| {
            let error = try_with(&adjustment, &Resources::default()).unwrap_err();
            assert!(error.to_string().starts_with(part), "{error}");
        };
        let env = vec![pair("", "x")];
        check(
            Adjustment {
                env,
                ..Default::default()
            },
            "env: ",
        );
        let args = vec!["a\0".into()];
        check(
            Adjustment {
                args,
                ..Default::default()
            },
            "args: ",
        );
        let limit = parse(json!({"type": "RLIMIT_CORE", "hard": 1, "soft": 2}));
        let rlimits = vec![limit];
        check(
            Adjustment {
                rlimits,
                ..Default::default()
            },
            "rlimits: ",
        );
    }
}
