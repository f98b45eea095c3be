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
mod tests;
