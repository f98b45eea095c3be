//! Mounts of an image with very many layers, without the rest of a container's making.

use std::time::Instant;

use anyhow::{Context as _, Result};
use bench::samples::{Sample, Samples};
use tests::{Registry, Scratch};

use crate::content;

/// What the row is called.
pub(crate) const WORK: &str = "mount, 100 layers";
/// How many layers.
const LAYERS: usize = 100;
/// How often it is mounted.
const MOUNTS: usize = 30;

/// Pulls the image into a store of its own and mounts it again and again.
pub(crate) fn measure(scratch: &Scratch, registry: &Registry, table: &mut Samples) -> Result<()> {
    let reference = content::publish_many(registry, LAYERS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(mount(scratch, &reference, table))
        .context("mounting 100 layers")
}

async fn mount(scratch: &Scratch, reference: &str, table: &mut Samples) -> Result<()> {
    let config = image::Config::new(
        scratch.join("store"),
        scratch.join("certs.d"),
        "this".into(),
    );
    let store = image::Store::open(&config)?;
    let target = scratch.join("mounted");
    std::fs::create_dir(&target)?;
    store.pull(reference, None).await?;
    for number in 0..MOUNTS {
        let container = format!("bench{number}");
        let started = Instant::now();
        store
            .mount_rootfs(reference, &container, &target, None)
            .await?;
        let sample = Sample {
            wall: started.elapsed(),
            ..Sample::default()
        };
        table.add(WORK, "wherryd", sample);
        store.unmount_rootfs(&container, &target).await?;
    }
    Ok(())
}
