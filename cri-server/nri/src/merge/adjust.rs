//! What plugins want of a container that is being made, field by field.

use std::collections::{BTreeMap, BTreeSet};

use nri_api::{
    Container, ContainerAdjustment, Field, Hooks, KeyValue, LinuxContainer,
    LinuxContainerAdjustment, LinuxDevice, LinuxNamespace, LinuxRdt, Mount, REMOVAL,
};

use super::{Creation, resources};
use crate::owners::{Conflict, Owners};

/// The key without its mark of removal, and whether it had one.
pub(crate) fn marked(key: &str) -> (&str, bool) {
    key.strip_prefix(REMOVAL)
        .map_or((key, false), |key| (key, true))
}

/// Who asks, of which container.
struct Claim<'a> {
    owners: &'a mut Owners,
    id: &'a str,
    plugin: &'a str,
}

impl Claim<'_> {
    fn field(&mut self, field: Field) -> Result<(), Conflict> {
        self.owners.claim(self.id, field, self.plugin)
    }

    fn entry(&mut self, field: Field, key: &str) -> Result<(), Conflict> {
        self.owners.claim_entry(self.id, field, key, self.plugin)
    }

    fn clear(&mut self, field: Field) {
        self.owners.clear(self.id, field, self.plugin);
    }

    fn clear_entry(&mut self, field: Field, key: &str) {
        self.owners.clear_entry(self.id, field, key, self.plugin);
    }
}

impl Creation {
    /// Takes what a plugin wants of the container into both what the next plugin sees and what all
    /// want together.
    pub(super) fn adjust(
        &mut self,
        wanted: ContainerAdjustment,
        plugin: &str,
    ) -> Result<(), Conflict> {
        let id = &self.id();
        let seen = self.request.container.get_or_insert_default();
        let all = &mut self.adjust;
        let mut claim = Claim {
            owners: &mut self.owners,
            id,
            plugin,
        };
        let claim = &mut claim;
        let (field, to) = (Field::Annotations, &mut all.annotations);
        map(claim, field, wanted.annotations, &mut seen.annotations, to)?;
        list(
            claim,
            Field::Mounts,
            wanted.mounts,
            &mut seen.mounts,
            &mut all.mounts,
        )?;
        env(claim, wanted.env, &mut seen.env, &mut all.env)?;
        args(claim, wanted.args, seen, &mut all.args)?;
        if let Some(wanted) = &wanted.hooks {
            let (seen, all) = (&mut seen.hooks, &mut all.hooks);
            hooks(
                claim,
                wanted,
                seen.get_or_insert_default(),
                all.get_or_insert_default(),
            );
        }
        for limit in wanted.rlimits {
            claim.entry(Field::Rlimits, &limit.r#type)?;
            seen.rlimits.retain(|one| one.r#type != limit.r#type);
            seen.rlimits.push(limit.clone());
            all.rlimits.push(limit);
        }
        // What such a device brings is not known here: the others do not see it.
        for device in wanted.cdi_devices {
            claim.entry(Field::CdiDevices, &device.name)?;
            all.cdi_devices.push(device);
        }
        if let Some(wanted) = wanted.linux {
            let seen = seen.linux.get_or_insert_default();
            linux(claim, wanted, seen, all.linux.get_or_insert_default())?;
        }
        Ok(())
    }
}

fn linux(
    claim: &mut Claim<'_>,
    wanted: LinuxContainerAdjustment,
    seen: &mut LinuxContainer,
    all: &mut LinuxContainerAdjustment,
) -> Result<(), Conflict> {
    list(
        claim,
        Field::Devices,
        wanted.devices,
        &mut seen.devices,
        &mut all.devices,
    )?;
    if let Some(wanted) = &wanted.resources {
        // Claimed once, merged twice.
        let (mut again, id, plugin) = (Owners::default(), claim.id, claim.plugin);
        let known = all.resources.get_or_insert_default();
        resources::merge(claim.owners, known, wanted, id, plugin)?;
        let known = seen.resources.get_or_insert_default();
        resources::merge(&mut again, known, wanted, id, plugin)?;
    }
    if !wanted.cgroups_path.is_empty() {
        claim.field(Field::CgroupsPath)?;
        seen.cgroups_path.clone_from(&wanted.cgroups_path);
        all.cgroups_path = wanted.cgroups_path;
    }
    set(
        claim,
        Field::OomScoreAdj,
        wanted.oom_score_adj,
        Some(&mut seen.oom_score_adj),
        &mut all.oom_score_adj,
    )?;
    set(
        claim,
        Field::IoPriority,
        wanted.io_priority,
        Some(&mut seen.io_priority),
        &mut all.io_priority,
    )?;
    set(
        claim,
        Field::SeccompPolicy,
        wanted.seccomp_policy,
        Some(&mut seen.seccomp_policy),
        &mut all.seccomp_policy,
    )?;
    set(
        claim,
        Field::LinuxSched,
        wanted.scheduler,
        Some(&mut seen.scheduler),
        &mut all.scheduler,
    )?;
    set(
        claim,
        Field::MemoryPolicy,
        wanted.memory_policy,
        None,
        &mut all.memory_policy,
    )?;
    namespaces(
        claim,
        wanted.namespaces,
        &mut seen.namespaces,
        &mut all.namespaces,
    )?;
    map(
        claim,
        Field::Sysctl,
        wanted.sysctl,
        &mut seen.sysctl,
        &mut all.sysctl,
    )?;
    let (field, to) = (Field::LinuxNetDevices, &mut all.net_devices);
    map(claim, field, wanted.net_devices, &mut seen.net_devices, to)?;
    wanted.rdt.map_or(Ok(()), |wanted| {
        rdt(claim, wanted, &mut seen.rdt, &mut all.rdt)
    })
}

/// A value that is set as a whole.
fn set<T: Clone>(
    claim: &mut Claim<'_>,
    field: Field,
    wanted: Option<T>,
    seen: Option<&mut Option<T>>,
    all: &mut Option<T>,
) -> Result<(), Conflict> {
    if wanted.is_some() {
        claim.field(field)?;
        if let Some(seen) = seen {
            seen.clone_from(&wanted);
        }
        *all = wanted;
    }
    Ok(())
}

/// Entries by key: set, removed, or removed and set anew.
fn map<V: Clone + Default>(
    claim: &mut Claim<'_>,
    field: Field,
    wanted: BTreeMap<String, V>,
    seen: &mut BTreeMap<String, V>,
    all: &mut BTreeMap<String, V>,
) -> Result<(), Conflict> {
    let (removals, additions): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|(key, _)| marked(key).1);
    for (key, _) in removals {
        let name = marked(&key).0;
        claim.clear_entry(field, name);
        seen.remove(name);
        all.remove(name);
        all.insert(key, V::default());
    }
    for (key, value) in additions {
        claim.entry(field, &key)?;
        seen.insert(key.clone(), value.clone());
        all.insert(key, value);
    }
    Ok(())
}

/// Something that is found by a path.
trait Keyed: Clone {
    fn key(&self) -> &str;
}

impl Keyed for Mount {
    fn key(&self) -> &str {
        &self.destination
    }
}

impl Keyed for LinuxDevice {
    fn key(&self) -> &str {
        &self.path
    }
}

impl Keyed for KeyValue {
    fn key(&self) -> &str {
        &self.key
    }
}

/// Entries in a list: set in the place of what was there, removed, or removed and set anew.
fn list<T: Keyed>(
    claim: &mut Claim<'_>,
    field: Field,
    wanted: Vec<T>,
    seen: &mut Vec<T>,
    all: &mut Vec<T>,
) -> Result<(), Conflict> {
    let add = changes(claim, field, wanted, all)?;
    let named = |one: &T| add.iter().any(|(key, _)| key == one.key());
    seen.retain(|one| !named(one));
    seen.extend(add.into_iter().filter_map(|(_, one)| one));
    Ok(())
}

/// Takes a plugin's changes into those of all; answers with what each means for its key.
fn changes<T: Keyed>(
    claim: &mut Claim<'_>,
    field: Field,
    wanted: Vec<T>,
    all: &mut Vec<T>,
) -> Result<Vec<(String, Option<T>)>, Conflict> {
    let (removals, additions): (Vec<T>, Vec<T>) =
        wanted.into_iter().partition(|one| marked(one.key()).1);
    let mut changes = Vec::new();
    for removal in removals {
        let key = marked(removal.key()).0.to_owned();
        claim.clear_entry(field, &key);
        all.retain(|one| marked(one.key()).0 != key);
        if additions.iter().all(|one| one.key() != key) {
            all.push(removal);
        }
        changes.push((key, None));
    }
    for addition in additions {
        let key = addition.key().to_owned();
        claim.entry(field, &key)?;
        all.push(addition.clone());
        changes.push((key, Some(addition)));
    }
    Ok(changes)
}

/// The environment; what is seen of it has its own form.
fn env(
    claim: &mut Claim<'_>,
    wanted: Vec<KeyValue>,
    seen: &mut Vec<String>,
    all: &mut Vec<KeyValue>,
) -> Result<(), Conflict> {
    let changes = changes(claim, Field::Env, wanted, all)?;
    let names: BTreeSet<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
    seen.retain(|line| !names.contains(line.split('=').next().unwrap_or_default()));
    let set = changes.iter().filter_map(|(_, one)| one.as_ref());
    seen.extend(set.map(|one| format!("{}={}", one.key, one.value)));
    Ok(())
}

/// The command line. An empty word before it replaces that of another plugin.
fn args(
    claim: &mut Claim<'_>,
    mut wanted: Vec<String>,
    seen: &mut Container,
    all: &mut Vec<String>,
) -> Result<(), Conflict> {
    let Some(first) = wanted.first() else {
        return Ok(());
    };
    if first.is_empty() {
        wanted.remove(0);
        claim.clear(Field::Args);
    }
    claim.field(Field::Args)?;
    seen.args.clone_from(&wanted);
    *all = wanted;
    Ok(())
}

fn hooks(claim: &mut Claim<'_>, wanted: &Hooks, seen: &mut Hooks, all: &mut Hooks) {
    if *wanted == Hooks::default() {
        return;
    }
    claim.owners.join(claim.id, Field::OciHooks, claim.plugin);
    for known in [seen, all] {
        let wanted = wanted.clone();
        known.prestart.extend(wanted.prestart);
        known.create_runtime.extend(wanted.create_runtime);
        known.create_container.extend(wanted.create_container);
        known.start_container.extend(wanted.start_container);
        known.poststart.extend(wanted.poststart);
        known.poststop.extend(wanted.poststop);
    }
}

/// Namespaces by type: each is set or removed by one plugin.
fn namespaces(
    claim: &mut Claim<'_>,
    wanted: Vec<LinuxNamespace>,
    seen: &mut Vec<LinuxNamespace>,
    all: &mut Vec<LinuxNamespace>,
) -> Result<(), Conflict> {
    for namespace in wanted {
        let (kind, removal) = marked(&namespace.r#type);
        claim.entry(Field::Namespace, kind)?;
        seen.retain(|one| one.r#type != kind);
        if !removal {
            seen.push(namespace.clone());
        }
        all.push(namespace);
    }
    Ok(())
}

/// The class of service, value by value; all of it may be removed first.
fn rdt(
    claim: &mut Claim<'_>,
    wanted: LinuxRdt,
    seen: &mut Option<LinuxRdt>,
    all: &mut Option<LinuxRdt>,
) -> Result<(), Conflict> {
    use Field::{RdtClosId, RdtEnableMonitoring, RdtSchemata};
    if wanted.remove {
        for field in [RdtClosId, RdtSchemata, RdtEnableMonitoring] {
            claim.clear(field);
        }
        *seen = None;
        *all = Some(LinuxRdt {
            remove: true,
            ..Default::default()
        });
    }
    let LinuxRdt {
        clos_id,
        schemata,
        enable_monitoring,
        ..
    } = wanted;
    if clos_id.is_none() && schemata.is_none() && enable_monitoring.is_none() {
        return Ok(());
    }
    let (seen, all) = (seen.get_or_insert_default(), all.get_or_insert_default());
    set(
        claim,
        RdtClosId,
        clos_id,
        Some(&mut seen.clos_id),
        &mut all.clos_id,
    )?;
    set(
        claim,
        RdtSchemata,
        schemata,
        Some(&mut seen.schemata),
        &mut all.schemata,
    )?;
    let (to, into) = (&mut seen.enable_monitoring, &mut all.enable_monitoring);
    set(
        claim,
        RdtEnableMonitoring,
        enable_monitoring,
        Some(to),
        into,
    )
}

#[cfg(test)]
mod tests {
    use nri_api::{
        CdiDevice, CreateContainerRequest, CreateContainerResponse, Hook, LinuxCpu, LinuxPids,
        LinuxResources, OptionalInt, OptionalInt64, OptionalRepeatedString, OptionalString,
        OptionalUInt64, PosixRlimit,
    };

    use super::*;

    fn creation() -> Creation {
        let container = Container {
            id: "c".into(),
            env: vec!["PATH=/bin".into(), "HOME=/".into()],
            mounts: vec![mount("/etc", "tmpfs"), mount("/data", "bind")],
            annotations: [("old".to_owned(), "1".to_owned())].into(),
            args: vec!["/bin/sh".into()],
            linux: Some(LinuxContainer {
                namespaces: vec![namespace("network"), namespace("ipc")],
                ..Default::default()
            }),
            ..Default::default()
        };
        Creation::new(CreateContainerRequest {
            pod: None,
            container: Some(container),
        })
    }

    fn mount(destination: &str, kind: &str) -> Mount {
        Mount {
            destination: destination.into(),
            r#type: kind.into(),
            ..Default::default()
        }
    }

    fn namespace(kind: &str) -> LinuxNamespace {
        LinuxNamespace {
            r#type: kind.into(),
            path: String::new(),
        }
    }

    fn variable(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
        }
    }

    #[track_caller]
    fn take(creation: &mut Creation, plugin: &str, adjust: ContainerAdjustment) {
        answer(creation, plugin, adjust).unwrap();
    }

    fn answer(
        creation: &mut Creation,
        plugin: &str,
        adjust: ContainerAdjustment,
    ) -> Result<(), String> {
        let answer = CreateContainerResponse {
            adjust: Some(adjust),
            ..Default::default()
        };
        let taken = creation.take(answer, plugin);
        taken.map_err(|error| error.to_string())
    }

    fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
        ContainerAdjustment {
            linux: Some(linux),
            ..Default::default()
        }
    }

    /// Two plugins that want the same are in each other's way, whatever the field.
    #[track_caller]
    fn conflict(adjust: &ContainerAdjustment, field: &str) {
        let mut creation = creation();
        take(&mut creation, "10-a", adjust.clone());
        let error = answer(&mut creation, "20-b", adjust.clone()).unwrap_err();
        let text = format!("plugins \"20-b\" and \"10-a\" both set {field}");
        assert!(error.starts_with(&text), "{error}");
    }

    fn seen(creation: &Creation) -> &Container {
        creation.request.container.as_ref().unwrap()
    }

    #[test]
    fn the_next_plugin_sees_what_the_last_has_changed() {
        let mut creation = creation();
        take(
            &mut creation,
            "10-a",
            ContainerAdjustment {
                env: vec![variable("HOME", "/root"), variable("-PATH", "")],
                mounts: vec![mount("-/etc", ""), mount("/new", "tmpfs")],
                annotations: [("-old", ""), ("new", "2")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                args: vec!["/bin/a".into()],
                ..Default::default()
            },
        );
        let found = seen(&creation);
        assert_eq!(found.env, ["HOME=/root"]);
        let mounts: Vec<_> = found.mounts.iter().map(|one| &one.destination).collect();
        assert_eq!(mounts, ["/data", "/new"]);
        assert_eq!(found.annotations.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(found.args, ["/bin/a"]);
        let adjust = &creation.adjust;
        let keys: Vec<_> = adjust.env.iter().map(|one| &one.key).collect();
        assert_eq!(keys, ["-PATH", "HOME"]);
        let mounts: Vec<_> = adjust.mounts.iter().map(|one| &one.destination).collect();
        assert_eq!(mounts, ["-/etc", "/new"]);
        assert_eq!(
            adjust.annotations.keys().collect::<Vec<_>>(),
            ["-old", "new"]
        );
    }

    #[test]
    fn what_is_removed_can_be_set_by_who_removes_it() {
        let mut creation = creation();
        let args = |words: &[&str]| ContainerAdjustment {
            args: words.iter().map(ToString::to_string).collect(),
            env: vec![variable("X", words[words.len() - 1])],
            ..Default::default()
        };
        take(&mut creation, "10-a", args(&["/a"]));
        assert!(answer(&mut creation, "20-b", args(&["/b"])).is_err());
        let mut wanted = args(&["", "/b"]);
        wanted.env.insert(0, variable("-X", ""));
        take(&mut creation, "20-b", wanted);
        assert_eq!(creation.adjust.args, ["/b"]);
        assert_eq!(creation.adjust.env, [variable("X", "/b")]);
        assert!(seen(&creation).env.contains(&"X=/b".to_owned()));
    }

    #[test]
    fn every_field_has_one_owner() {
        let pair = |key: &str| (key.to_owned(), "1".to_owned());
        conflict(
            &ContainerAdjustment {
                annotations: [pair("x")].into(),
                ..Default::default()
            },
            "Annotations x",
        );
        conflict(
            &ContainerAdjustment {
                mounts: vec![mount("/m", "tmpfs")],
                ..Default::default()
            },
            "Mounts /m",
        );
        conflict(
            &ContainerAdjustment {
                env: vec![variable("E", "1")],
                ..Default::default()
            },
            "Env E",
        );
        conflict(
            &ContainerAdjustment {
                args: vec!["/x".into()],
                ..Default::default()
            },
            "Args",
        );
        let limit = PosixRlimit {
            r#type: "RLIMIT_CORE".into(),
            ..Default::default()
        };
        conflict(
            &ContainerAdjustment {
                rlimits: vec![limit],
                ..Default::default()
            },
            "Rlimits RLIMIT_CORE",
        );
        let device = CdiDevice {
            name: "v/c=d".into(),
        };
        conflict(
            &ContainerAdjustment {
                cdi_devices: vec![device],
                ..Default::default()
            },
            "CdiDevices v/c=d",
        );
    }

    #[test]
    fn every_field_of_linux_has_one_owner() {
        let device = LinuxDevice {
            path: "/dev/x".into(),
            ..Default::default()
        };
        let node = || LinuxContainerAdjustment::default();
        let check = |adjust: LinuxContainerAdjustment, field: &str| conflict(&linux(adjust), field);
        check(
            LinuxContainerAdjustment {
                devices: vec![device],
                ..node()
            },
            "Devices /dev/x",
        );
        check(
            LinuxContainerAdjustment {
                cgroups_path: "/x".into(),
                ..node()
            },
            "CgroupsPath",
        );
        let score = Some(OptionalInt { value: 0 });
        check(
            LinuxContainerAdjustment {
                oom_score_adj: score,
                ..node()
            },
            "OomScoreAdj",
        );
        check(
            LinuxContainerAdjustment {
                io_priority: Some(Default::default()),
                ..node()
            },
            "IoPriority",
        );
        check(
            LinuxContainerAdjustment {
                seccomp_policy: Some(Default::default()),
                ..node()
            },
            "SeccompPolicy",
        );
        check(
            LinuxContainerAdjustment {
                scheduler: Some(Default::default()),
                ..node()
            },
            "LinuxSched",
        );
        check(
            LinuxContainerAdjustment {
                memory_policy: Some(Default::default()),
                ..node()
            },
            "MemoryPolicy",
        );
        check(
            LinuxContainerAdjustment {
                namespaces: vec![namespace("-ipc")],
                ..node()
            },
            "Namespace ipc",
        );
        let pair = ("a.b".to_owned(), "1".to_owned());
        check(
            LinuxContainerAdjustment {
                sysctl: [pair].into(),
                ..node()
            },
            "Sysctl a.b",
        );
        let link = ("eth7".to_owned(), Default::default());
        check(
            LinuxContainerAdjustment {
                net_devices: [link].into(),
                ..node()
            },
            "LinuxNetDevices eth7",
        );
        let class = LinuxRdt {
            clos_id: Some(OptionalString { value: "x".into() }),
            ..Default::default()
        };
        check(
            LinuxContainerAdjustment {
                rdt: Some(class),
                ..node()
            },
            "RdtClosID",
        );
        let resources = |cpu: LinuxCpu, pids| LinuxContainerAdjustment {
            resources: Some(LinuxResources {
                cpu: Some(cpu),
                pids,
                ..Default::default()
            }),
            ..Default::default()
        };
        let cpu = LinuxCpu {
            shares: Some(OptionalUInt64 { value: 2 }),
            ..Default::default()
        };
        check(resources(cpu, None), "CPUShares");
        check(
            resources(LinuxCpu::default(), Some(LinuxPids { limit: 3 })),
            "PidsLimit",
        );
    }

    #[test]
    fn every_limit_has_one_owner() {
        let long = || Some(OptionalInt64 { value: 1 });
        let whole = || Some(OptionalUInt64 { value: 1 });
        let flag = || Some(nri_api::OptionalBool { value: true });
        let text = || Some(OptionalString { value: "x".into() });
        let page = nri_api::HugepageLimit {
            page_size: "2MB".into(),
            limit: 1,
        };
        let all = LinuxResources {
            memory: Some(nri_api::LinuxMemory {
                limit: long(),
                reservation: long(),
                swap: long(),
                kernel: long(),
                kernel_tcp: long(),
                swappiness: whole(),
                disable_oom_killer: flag(),
                use_hierarchy: flag(),
            }),
            cpu: Some(LinuxCpu {
                shares: whole(),
                quota: long(),
                period: whole(),
                realtime_runtime: long(),
                realtime_period: whole(),
                cpus: "0".into(),
                mems: "0".into(),
            }),
            hugepage_limits: vec![page],
            blockio_class: text(),
            rdt_class: text(),
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            devices: Vec::new(),
            pids: Some(LinuxPids { limit: 1 }),
        };
        let mut creation = creation();
        let wanted = LinuxContainerAdjustment {
            resources: Some(all.clone()),
            ..Default::default()
        };
        take(&mut creation, "10-a", linux(wanted));
        let merged = creation.adjust.linux.clone().unwrap().resources;
        assert_eq!(merged, Some(all.clone()));
        assert_eq!(seen(&creation).linux.as_ref().unwrap().resources, Some(all));
        let of = &creation.owners.0.owners["c"];
        let simple: Vec<i32> = of.simple.keys().copied().collect();
        // MemLimit to PidsLimit, and the two classes.
        assert_eq!(simple, (8..=23).chain(25..=26).collect::<Vec<_>>());
        let compound: Vec<i32> = of.compound.keys().copied().collect();
        assert_eq!(
            compound,
            [Field::HugepageLimits as i32, Field::CgroupsUnified as i32]
        );
    }

    #[test]
    fn hooks_and_namespaces_add_up() {
        let mut creation = creation();
        let hook = |path: &str| ContainerAdjustment {
            hooks: Some(Hooks {
                poststart: vec![Hook {
                    path: path.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        take(&mut creation, "10-a", hook("/a"));
        take(&mut creation, "20-b", hook("/b"));
        let hooks = creation.adjust.hooks.clone().unwrap();
        assert_eq!(hooks.poststart.len(), 2);
        assert_eq!(seen(&creation).hooks, creation.adjust.hooks);
        take(
            &mut creation,
            "10-a",
            linux(LinuxContainerAdjustment {
                namespaces: vec![namespace("-ipc"), namespace("cgroup")],
                ..Default::default()
            }),
        );
        let seen = &seen(&creation).linux.as_ref().unwrap().namespaces;
        let kinds: Vec<_> = seen.iter().map(|one| &one.r#type).collect();
        assert_eq!(kinds, ["network", "cgroup"]);
    }

    #[test]
    fn classes_of_service_are_removed_and_set() {
        let mut creation = creation();
        let class = |class: &str, remove| {
            linux(LinuxContainerAdjustment {
                rdt: Some(LinuxRdt {
                    clos_id: (!class.is_empty()).then(|| OptionalString {
                        value: class.into(),
                    }),
                    schemata: None,
                    enable_monitoring: None,
                    remove,
                }),
                ..Default::default()
            })
        };
        take(&mut creation, "10-a", class("gold", false));
        take(&mut creation, "20-b", class("", true));
        let found = |creation: &Creation| creation.adjust.linux.clone().unwrap().rdt.unwrap();
        assert!(found(&creation).remove && found(&creation).clos_id.is_none());
        let lines = linux(LinuxContainerAdjustment {
            rdt: Some(LinuxRdt {
                schemata: Some(OptionalRepeatedString {
                    value: vec!["L3:0=f".into()],
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        take(&mut creation, "20-b", lines);
        let found = found(&creation);
        assert!(found.remove && found.schemata.is_some());
    }
}
