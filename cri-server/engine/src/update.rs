//! Changing the limits of a container that lives.

use oci_spec::runtime::{LinuxBlockIo, LinuxResources};
use pod::container::Resources;
use shim_api::{Update, request};

use crate::error::Error;
use crate::shim::Shim;
use crate::store::ContainerRecord;
use crate::{Inner, blocking, blockio, classes};

/// Sets the limits that `wanted` names; answers with all that hold from now on, and with what holds of
/// block devices.
pub(crate) async fn limits(
    engine: &Inner,
    record: &ContainerRecord,
    shim: &Shim,
    wanted: &Resources,
) -> Result<(Resources, Option<LinuxBlockIo>), Error> {
    let before = record.tuned.as_ref().unwrap_or(&record.spec.resources);
    let limits = before.changed(wanted);
    let mut planned = pod::plan::plan_resources(&limits, &engine.facts)?;
    let score = pod::plan::plan_oom_score(&limits, &engine.facts)?;
    leave_room(engine, &record.cgroup, wanted.memory_limit).await?;
    let mut block_io = record.block_io.clone();
    if let Some(class) = &wanted.blockio_class {
        let after = classes::block_io(engine, class)
            .await
            .map_err(|why| Error::Invalid(format!("blockio_class: {why}")))?;
        let before = block_io.unwrap_or_default();
        planned.set_block_io(Some(blockio::change(&before, &after)));
        block_io = (after != LinuxBlockIo::default()).then_some(after);
    }
    let call = request::Call::Update(Update {
        resources: json(&planned)?,
    });
    shim.call(call, &[]).await?;
    if limits.oom_score_adj != before.oom_score_adj {
        set_oom_score(engine, &record.cgroup, score).await?;
    }
    Ok((limits, block_io))
}

fn json(resources: &LinuxResources) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(resources).map_err(|error| Error::failed("writing limits", error))
}

/// Refuses a limit below what the container holds: v1 would refuse it with a word that explains
/// nothing, v2 would take it and end processes.
async fn leave_room(engine: &Inner, cgroup: &str, limit: i64) -> Result<(), Error> {
    let Some(limit) = u64::try_from(limit).ok().filter(|limit| *limit > 0) else {
        return Ok(());
    };
    let what = "reading what the container uses";
    let group = engine.group(cgroup);
    let group = group.map_err(|error| Error::failed(what, error))?;
    let stats = blocking(move || group.stats()).await;
    let memory = stats.map_err(|error| Error::failed(what, error))?.memory;
    match memory.map(|memory| memory.working_set) {
        Some(used) if used > limit => Err(Error::WrongState(format!(
            "linux.resources.memory_limit_in_bytes: {limit} bytes are less than the {used} that \
             the container uses"
        ))),
        _ => Ok(()),
    }
}

/// OCI runtimes do not change it: it belongs to processes, not to a control group.
async fn set_oom_score(engine: &Inner, cgroup: &str, score: i32) -> Result<(), Error> {
    let what = || format!("setting the oom score of cgroup {cgroup}");
    let group = engine.group(cgroup);
    let group = group.map_err(|error| Error::failed(what(), error))?;
    let set = blocking(move || {
        for pid in group.procs()? {
            // Gone meanwhile, or one that may not be made less likely: the others still are.
            drop(std::fs::write(
                format!("/proc/{pid}/oom_score_adj"),
                score.to_string(),
            ));
        }
        Ok::<(), cgroup::Error>(())
    });
    set.await.map_err(|error| Error::failed(what(), error))
}
