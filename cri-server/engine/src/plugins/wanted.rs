//! What plugins want, in the engine's words.
//!
//! Parts of a specification go by its JSON, whose names the interface shares: what the specification
//! does not know is refused, with the plugin named that wants it.

use nri_api as api;
use nri_api::Field;
use pod::container::{Resources, Tuning};
use pod::plan::{Adjustment, BlockIoChange, EditMount, RdtChange};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;

/// An adjustment as a plan takes it, and the limits that it holds.
pub(super) fn adjustment(
    created: &nri::Created,
    id: &str,
) -> Result<(Adjustment, Resources), Error> {
    let wanted = &created.adjust;
    let from = |field: Field| move |reason: String| refused(created, id, field, &reason);
    let linux = wanted.linux.clone().unwrap_or_default();
    let resources = linux.resources.clone().unwrap_or_default();
    let limits = limits_without_rdt(&resources);
    let (mut rdt, class) = (rdt(linux.rdt.as_ref()), resources.rdt_class.as_ref());
    match class.map(|class| class.value.as_str()) {
        None => {}
        Some("") => rdt.remove = true,
        Some(class) => rdt.class = rdt.class.or(Some(class.to_owned())),
    }
    let adjustment = Adjustment {
        annotations: wanted
            .annotations
            .iter()
            .map(|(key, value)| marked(key, value))
            .collect(),
        env: wanted
            .env
            .iter()
            .map(|one| marked(&one.key, &one.value))
            .collect(),
        args: wanted.args.clone(),
        mounts: wanted.mounts.iter().map(mount).collect(),
        devices: parse_all(&linux.devices, device).map_err(from(Field::Devices))?,
        device_rules: parse_all(&resources.devices, device_rule).map_err(from(Field::Devices))?,
        hooks: wanted
            .hooks
            .as_ref()
            .map(hooks)
            .transpose()
            .map_err(from(Field::OciHooks))?,
        rlimits: parse_all(&wanted.rlimits, rlimit).map_err(from(Field::Rlimits))?,
        cgroups_path: linux.cgroups_path.clone(),
        oom_score_adj: linux.oom_score_adj.as_ref().map(|score| score.value),
        io_priority: optional(linux.io_priority.as_ref(), io_priority)
            .map_err(from(Field::IoPriority))?,
        scheduler: optional(linux.scheduler.as_ref(), scheduler)
            .map_err(from(Field::LinuxSched))?,
        seccomp: linux
            .seccomp_policy
            .as_ref()
            .map(seccomp)
            .transpose()
            .map_err(from(Field::SeccompPolicy))?,
        namespaces: parse_all(&linux.namespaces, namespace).map_err(from(Field::Namespace))?,
        sysctls: linux
            .sysctl
            .iter()
            .map(|(key, value)| marked(key, value))
            .collect(),
        links: linux
            .net_devices
            .iter()
            .map(|(key, link)| marked(key, &link.name))
            .collect(),
        rdt,
        // The class goes with the limits; what it comes to is the node's matter.
        block_io: BlockIoChange::Keep,
        memory_policy: linux
            .memory_policy
            .as_ref()
            .map(memory_policy)
            .transpose()
            .map_err(from(Field::MemoryPolicy))?,
    };
    Ok((adjustment, limits))
}

const NO_CLASS: &str = "the class of service of a container is chosen when it is made";

/// The names of devices that plugins add.
pub(crate) fn cdi_devices(created: &nri::Created) -> Vec<String> {
    let devices = created.adjust.cdi_devices.iter();
    devices.map(|device| device.name.clone()).collect()
}

/// A refused field with who set it.
pub(super) fn refused(created: &nri::Created, id: &str, field: Field, reason: &str) -> Error {
    let plugins = nri::owners_of(&created.owners, id, field);
    Error::Invalid(format!(
        "NRI plugin {plugins}: {}: {reason}",
        field.as_str_name()
    ))
}

/// A plan's error about an adjustment, with all plugins that wanted something.
pub(super) fn told_of(created: &nri::Created, id: &str, error: &pod::PlanError) -> Error {
    let of = created.owners.owners.get(id);
    let mut plugins: Vec<&str> = of
        .into_iter()
        .flat_map(|of| {
            let entries = of.compound.values().flat_map(|one| one.owners.values());
            of.simple.values().chain(entries)
        })
        .flat_map(|owners| owners.split(','))
        .map(|owner| owner.trim_start_matches(api::REMOVAL))
        .collect();
    plugins.sort_unstable();
    plugins.dedup();
    Error::Invalid(format!("NRI plugin {}: {error}", plugins.join(", ")))
}

/// Limits for a container that is there; the error says which cannot be.
pub(super) fn limits(resources: &api::LinuxResources) -> Result<Resources, String> {
    let named = |class: &Option<api::OptionalString>| {
        class.as_ref().is_some_and(|class| !class.value.is_empty())
    };
    match named(&resources.rdt_class) {
        true => Err(NO_CLASS.to_owned()),
        false => Ok(limits_without_rdt(resources)),
    }
}

fn limits_without_rdt(resources: &api::LinuxResources) -> Resources {
    let memory = resources.memory.unwrap_or_default();
    let cpu = resources.cpu.clone().unwrap_or_default();
    let long = |value: &Option<api::OptionalInt64>| value.as_ref().map(|one| one.value);
    let whole = |value: &Option<api::OptionalUInt64>| {
        let value = value.as_ref().map_or(0, |one| one.value);
        i64::try_from(value).unwrap_or(i64::MAX)
    };
    let flag = |value: &Option<api::OptionalBool>| value.as_ref().map(|one| one.value);
    let pages = resources.hugepage_limits.iter();
    Resources {
        cpu_period: whole(&cpu.period),
        cpu_quota: long(&cpu.quota).unwrap_or(0),
        cpu_shares: whole(&cpu.shares),
        memory_limit: long(&memory.limit).unwrap_or(0),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepages: pages
            .map(|one| (one.page_size.clone(), one.limit))
            .collect(),
        unified: resources.unified.clone(),
        memory_swap_limit: long(&memory.swap).unwrap_or(0),
        tuning: Tuning {
            memory_reservation: long(&memory.reservation),
            memory_kernel: long(&memory.kernel),
            memory_kernel_tcp: long(&memory.kernel_tcp),
            swappiness: memory.swappiness.as_ref().map(|one| one.value),
            disable_oom_killer: flag(&memory.disable_oom_killer),
            use_hierarchy: flag(&memory.use_hierarchy),
            realtime_runtime: long(&cpu.realtime_runtime),
            realtime_period: cpu.realtime_period.as_ref().map(|one| one.value),
            pids: resources.pids.as_ref().map(|one| one.limit),
        },
        blockio_class: resources
            .blockio_class
            .as_ref()
            .map(|class| class.value.clone()),
    }
}

/// A name with its value, or with none if it is marked for removal.
fn marked(key: &str, value: &str) -> (String, Option<String>) {
    match key.strip_prefix(api::REMOVAL) {
        Some(name) => (name.to_owned(), None),
        None => (key.to_owned(), Some(value.to_owned())),
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn parse_all<T, U>(all: &[T], one: impl Fn(&T) -> Result<U, String>) -> Result<Vec<U>, String> {
    all.iter().map(one).collect()
}

fn optional<T, U>(
    value: Option<&T>,
    one: impl Fn(&T) -> Result<Option<U>, String>,
) -> Result<Option<U>, String> {
    value.map_or(Ok(None), one)
}

fn mount(wanted: &api::Mount) -> (String, Option<EditMount>) {
    let (target, set) = marked(&wanted.destination, "");
    let mount = set.map(|_| EditMount {
        source: wanted.source.clone().into(),
        target: target.clone(),
        kind: wanted.r#type.clone(),
        options: wanted.options.clone(),
    });
    (target, mount)
}

type Named<T> = (String, Option<T>);

fn device(wanted: &api::LinuxDevice) -> Result<Named<oci_spec::runtime::LinuxDevice>, String> {
    let (path, set) = marked(&wanted.path, "");
    if set.is_none() {
        return Ok((path, None));
    }
    let id = |id: &Option<api::OptionalUInt32>| id.as_ref().map(|id| id.value);
    let node = parse(json!({
        "path": path,
        "type": wanted.r#type,
        "major": wanted.major,
        "minor": wanted.minor,
        "fileMode": wanted.file_mode.as_ref().map(|mode| mode.value & 0o7777),
        "uid": id(&wanted.uid),
        "gid": id(&wanted.gid),
    }))?;
    Ok((path, Some(node)))
}

fn device_rule(
    wanted: &api::LinuxDeviceCgroup,
) -> Result<oci_spec::runtime::LinuxDeviceCgroup, String> {
    let kind = match wanted.r#type.as_str() {
        "" => "a",
        kind => kind,
    };
    parse(json!({
        "allow": wanted.allow,
        "type": kind,
        "major": wanted.major.as_ref().map(|number| number.value),
        "minor": wanted.minor.as_ref().map(|number| number.value),
        "access": wanted.access,
    }))
}

fn hooks(wanted: &api::Hooks) -> Result<oci_spec::runtime::Hooks, String> {
    let hook = |hook: &api::Hook| {
        json!({
            "path": hook.path,
            "args": hook.args,
            "env": hook.env,
            "timeout": hook.timeout.as_ref().map(|seconds| seconds.value),
        })
    };
    let at = |hooks: &[api::Hook]| hooks.iter().map(hook).collect::<Vec<_>>();
    parse(json!({
        "prestart": at(&wanted.prestart),
        "createRuntime": at(&wanted.create_runtime),
        "createContainer": at(&wanted.create_container),
        "startContainer": at(&wanted.start_container),
        "poststart": at(&wanted.poststart),
        "poststop": at(&wanted.poststop),
    }))
}

fn rlimit(wanted: &api::PosixRlimit) -> Result<oci_spec::runtime::PosixRlimit, String> {
    parse(json!({"type": wanted.r#type, "hard": wanted.hard, "soft": wanted.soft}))
}

/// No class means that there is no wish, as nothing else sets one.
fn io_priority(
    wanted: &api::LinuxIoPriority,
) -> Result<Option<oci_spec::runtime::LinuxIOPriority>, String> {
    match wanted.class() {
        api::IoPrioClass::IoprioClassNone => Ok(None),
        class => {
            let class = class.as_str_name();
            parse(json!({"class": class, "priority": wanted.priority})).map(Some)
        }
    }
}

fn scheduler(wanted: &api::LinuxScheduler) -> Result<Option<oci_spec::runtime::Scheduler>, String> {
    if wanted.policy() == api::LinuxSchedulerPolicy::SchedNone {
        return Ok(None);
    }
    let flags: Vec<&str> = wanted.flags().map(|flag| flag.as_str_name()).collect();
    let time = |nanoseconds: u64| (nanoseconds != 0).then_some(nanoseconds);
    parse(json!({
        "policy": wanted.policy().as_str_name(),
        "nice": wanted.nice,
        "priority": wanted.priority,
        "flags": flags,
        "runtime": time(wanted.runtime),
        "deadline": time(wanted.deadline),
        "period": time(wanted.period),
    }))
    .map(Some)
}

fn seccomp(wanted: &api::LinuxSeccomp) -> Result<oci_spec::runtime::LinuxSeccomp, String> {
    let errno = |errno: &Option<api::OptionalUInt32>| errno.as_ref().map(|errno| errno.value);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let argument = |one: &api::LinuxSeccompArg| json!({"index": one.index, "value": one.value, "valueTwo": one.value_two, "op": one.op});
    let call = |one: &api::LinuxSyscall| {
        json!({
            "names": one.names,
            "action": one.action,
            "errnoRet": errno(&one.errno_ret),
            "args": one.args.iter().map(argument).collect::<Vec<_>>(),
        })
    };
    parse(json!({
        "defaultAction": wanted.default_action,
        "defaultErrnoRet": errno(&wanted.default_errno),
        "architectures": wanted.architectures,
        "flags": wanted.flags,
        "listenerPath": text(&wanted.listener_path),
        "listenerMetadata": text(&wanted.listener_metadata),
        "syscalls": wanted.syscalls.iter().map(call).collect::<Vec<_>>(),
    }))
}

type NamespaceChange = (
    oci_spec::runtime::LinuxNamespaceType,
    Option<oci_spec::runtime::LinuxNamespace>,
);

fn namespace(wanted: &api::LinuxNamespace) -> Result<NamespaceChange, String> {
    let (kind, set) = marked(&wanted.r#type, "");
    let path = (!wanted.path.is_empty()).then_some(&wanted.path);
    let namespace = match set {
        Some(_) => Some(parse(json!({"type": kind, "path": path}))?),
        None => None,
    };
    Ok((parse(json!(kind))?, namespace))
}

fn rdt(wanted: Option<&api::LinuxRdt>) -> RdtChange {
    let Some(wanted) = wanted else {
        return RdtChange::default();
    };
    RdtChange {
        remove: wanted.remove,
        class: wanted.clos_id.as_ref().map(|class| class.value.clone()),
        schemata: wanted.schemata.as_ref().map(|lines| lines.value.clone()),
        monitoring: wanted.enable_monitoring.as_ref().map(|on| on.value),
    }
}

fn memory_policy(
    wanted: &api::LinuxMemoryPolicy,
) -> Result<oci_spec::runtime::LinuxMemoryPolicy, String> {
    let flags: Vec<&str> = wanted.flags().map(|flag| flag.as_str_name()).collect();
    parse(json!({"mode": wanted.mode().as_str_name(), "nodes": wanted.nodes, "flags": flags}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(linux: api::LinuxContainerAdjustment) -> nri::Created {
        let adjust = api::ContainerAdjustment {
            linux: Some(linux),
            ..Default::default()
        };
        nri::Created {
            adjust,
            ..Default::default()
        }
    }

    #[track_caller]
    fn refuse(linux: api::LinuxContainerAdjustment, part: &str) {
        let error = adjustment(&created(linux), "c").unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn names_of_the_specification_are_understood() {
        let linux = api::LinuxContainerAdjustment {
            scheduler: Some(api::LinuxScheduler {
                policy: api::LinuxSchedulerPolicy::SchedDeadline.into(),
                flags: vec![api::LinuxSchedulerFlag::SchedFlagReclaim.into()],
                runtime: 1,
                ..Default::default()
            }),
            io_priority: Some(api::LinuxIoPriority {
                class: api::IoPrioClass::IoprioClassBe.into(),
                priority: 3,
            }),
            memory_policy: Some(api::LinuxMemoryPolicy {
                mode: api::MpolMode::MpolPreferred.into(),
                nodes: "0".into(),
                flags: vec![api::MpolFlag::MpolFStaticNodes.into()],
            }),
            seccomp_policy: Some(api::LinuxSeccomp {
                default_action: "SCMP_ACT_ERRNO".into(),
                default_errno: Some(api::OptionalUInt32 { value: 1 }),
                architectures: vec!["SCMP_ARCH_X86_64".into()],
                flags: vec!["SECCOMP_FILTER_FLAG_LOG".into()],
                syscalls: vec![api::LinuxSyscall {
                    names: vec!["read".into()],
                    action: "SCMP_ACT_ALLOW".into(),
                    args: vec![api::LinuxSeccompArg {
                        op: "SCMP_CMP_EQ".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            namespaces: vec![
                api::LinuxNamespace {
                    r#type: "-ipc".into(),
                    path: String::new(),
                },
                api::LinuxNamespace {
                    r#type: "network".into(),
                    path: "/run/netns/x".into(),
                },
            ],
            ..Default::default()
        };
        let (found, limits) = adjustment(&created(linux), "c").unwrap();
        assert_eq!(limits, Resources::default());
        let spec = serde_json::to_value(found.seccomp.unwrap()).unwrap();
        assert_eq!(spec["defaultErrnoRet"], 1);
        assert!(found.scheduler.is_some() && found.io_priority.is_some());
        assert!(found.memory_policy.is_some());
        assert!(found.namespaces[0].1.is_none() && found.namespaces[1].1.is_some());
    }

    #[test]
    fn what_the_specification_does_not_know_is_refused() {
        let none = api::LinuxContainerAdjustment::default;
        let seccomp_policy = Some(api::LinuxSeccomp {
            default_action: "SCMP_ACT_NONSENSE".into(),
            ..Default::default()
        });
        refuse(
            api::LinuxContainerAdjustment {
                seccomp_policy,
                ..none()
            },
            "SeccompPolicy: ",
        );
        let namespaces = vec![api::LinuxNamespace {
            r#type: "nonsense".into(),
            path: String::new(),
        }];
        refuse(
            api::LinuxContainerAdjustment {
                namespaces,
                ..none()
            },
            "Namespace: ",
        );
    }

    #[test]
    fn limits_go_there_and_back() {
        let limits = Resources {
            cpu_period: 1000,
            cpu_quota: -1,
            cpu_shares: 3,
            memory_limit: 4,
            oom_score_adj: 0,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![("2MB".into(), 5)],
            unified: [("memory.high".to_owned(), "6".to_owned())].into(),
            memory_swap_limit: 7,
            tuning: Tuning {
                memory_reservation: Some(8),
                memory_kernel: Some(9),
                memory_kernel_tcp: Some(10),
                swappiness: Some(11),
                disable_oom_killer: Some(true),
                use_hierarchy: Some(false),
                realtime_runtime: Some(12),
                realtime_period: Some(13),
                pids: Some(14),
            },
            blockio_class: Some("slow".into()),
        };
        let told = super::super::told::resources(&limits);
        assert_eq!(super::limits(&told), Ok(limits));
        let classes = api::LinuxResources {
            rdt_class: Some(api::OptionalString {
                value: "gold".into(),
            }),
            ..Default::default()
        };
        assert!(super::limits(&classes).is_err());
    }
}
