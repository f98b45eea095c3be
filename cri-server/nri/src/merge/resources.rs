//! Limits of two plugins put together.

use nri_api::{Field, LinuxCpu, LinuxMemory, LinuxResources};

use crate::owners::{Conflict, Owners};

/// Adds what a plugin wants to what is wanted already. What it does not name stays.
pub(super) fn merge(
    owners: &mut Owners,
    known: &mut LinuxResources,
    wanted: &LinuxResources,
    id: &str,
    plugin: &str,
) -> Result<(), Conflict> {
    if let Some(wanted) = &wanted.memory {
        memory(
            owners,
            known.memory.get_or_insert_default(),
            wanted,
            id,
            plugin,
        )?;
    }
    if let Some(wanted) = &wanted.cpu {
        cpu(
            owners,
            known.cpu.get_or_insert_default(),
            wanted,
            id,
            plugin,
        )?;
    }
    for page in &wanted.hugepage_limits {
        owners.claim_entry(id, Field::HugepageLimits, &page.page_size, plugin)?;
        known
            .hugepage_limits
            .retain(|one| one.page_size != page.page_size);
        known.hugepage_limits.push(page.clone());
    }
    for (file, value) in &wanted.unified {
        owners.claim_entry(id, Field::CgroupsUnified, file, plugin)?;
        known.unified.insert(file.clone(), value.clone());
    }
    // Rules add up; nobody owns them.
    known.devices.extend(wanted.devices.iter().cloned());
    let mut take = |field, known: &mut _, wanted: &_| set(owners, id, field, plugin, known, wanted);
    take(
        Field::BlockioClass,
        &mut known.blockio_class,
        &wanted.blockio_class,
    )?;
    take(Field::RdtClass, &mut known.rdt_class, &wanted.rdt_class)?;
    set(
        owners,
        id,
        Field::PidsLimit,
        plugin,
        &mut known.pids,
        &wanted.pids,
    )
}

/// Sets one value that may be missing.
pub(super) fn set<T: Clone>(
    owners: &mut Owners,
    id: &str,
    field: Field,
    plugin: &str,
    known: &mut Option<T>,
    wanted: &Option<T>,
) -> Result<(), Conflict> {
    if wanted.is_some() {
        owners.claim(id, field, plugin)?;
        known.clone_from(wanted);
    }
    Ok(())
}

/// Sets a text that is missing when it is empty.
pub(super) fn set_text(
    owners: &mut Owners,
    id: &str,
    field: Field,
    plugin: &str,
    known: &mut String,
    wanted: &str,
) -> Result<(), Conflict> {
    if !wanted.is_empty() {
        owners.claim(id, field, plugin)?;
        wanted.clone_into(known);
    }
    Ok(())
}

fn memory(
    owners: &mut Owners,
    known: &mut LinuxMemory,
    wanted: &LinuxMemory,
    id: &str,
    plugin: &str,
) -> Result<(), Conflict> {
    let mut long = |field, known: &mut _, wanted: &_| set(owners, id, field, plugin, known, wanted);
    long(Field::MemLimit, &mut known.limit, &wanted.limit)?;
    long(
        Field::MemReservation,
        &mut known.reservation,
        &wanted.reservation,
    )?;
    long(Field::MemSwapLimit, &mut known.swap, &wanted.swap)?;
    long(Field::MemKernelLimit, &mut known.kernel, &wanted.kernel)?;
    long(
        Field::MemTcpLimit,
        &mut known.kernel_tcp,
        &wanted.kernel_tcp,
    )?;
    let (swappiness, to) = (&mut known.swappiness, &wanted.swappiness);
    set(owners, id, Field::MemSwappiness, plugin, swappiness, to)?;
    let mut flag = |field, known: &mut _, wanted: &_| set(owners, id, field, plugin, known, wanted);
    let (killer, to) = (&mut known.disable_oom_killer, &wanted.disable_oom_killer);
    flag(Field::MemDisableOomKiller, killer, to)?;
    flag(
        Field::MemUseHierarchy,
        &mut known.use_hierarchy,
        &wanted.use_hierarchy,
    )
}

fn cpu(
    owners: &mut Owners,
    known: &mut LinuxCpu,
    wanted: &LinuxCpu,
    id: &str,
    plugin: &str,
) -> Result<(), Conflict> {
    let mut long = |field, known: &mut _, wanted: &_| set(owners, id, field, plugin, known, wanted);
    long(Field::CpuQuota, &mut known.quota, &wanted.quota)?;
    let (runtime, to) = (&mut known.realtime_runtime, &wanted.realtime_runtime);
    long(Field::CpuRealtimeRuntime, runtime, to)?;
    let mut whole =
        |field, known: &mut _, wanted: &_| set(owners, id, field, plugin, known, wanted);
    whole(Field::CpuShares, &mut known.shares, &wanted.shares)?;
    whole(Field::CpuPeriod, &mut known.period, &wanted.period)?;
    let (period, to) = (&mut known.realtime_period, &wanted.realtime_period);
    whole(Field::CpuRealtimePeriod, period, to)?;
    set_text(
        owners,
        id,
        Field::CpuSetCpUs,
        plugin,
        &mut known.cpus,
        &wanted.cpus,
    )?;
    set_text(
        owners,
        id,
        Field::CpuSetMems,
        plugin,
        &mut known.mems,
        &wanted.mems,
    )
}
