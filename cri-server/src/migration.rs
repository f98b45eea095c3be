//! `wherryd migrate`: what another engine was told becomes our files, and its images become ours.
//!
//! How the others keep their things, the crate `migrate` knows.

mod images;
mod plan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use migrate::{Image, Moved};

use crate::cli::{Flags, Migrate, Other, Part};
use crate::config::{self, DEFAULT_FILE};
use crate::control::client::print;
use crate::serve;
use plan::Plan;

/// Where the others' configuration lies.
const CONTAINERD: &str = "/etc/containerd/config.toml";

/// Takes over what is wanted, and says what was done.
///
/// # Errors
///
/// Something of theirs cannot be read, or something of ours is there already.
pub(crate) fn migrate(wanted: &Migrate, flags: &Flags, programs: &Path) -> Result<ExitCode> {
    serve::check_user()?;
    let (moved, images) = theirs(wanted)?;
    if wanted.only != Some(Part::Images) {
        let plan = Plan::of(moved, flags)?;
        print(&plan.shown(wanted.dry_run))?;
        if !wanted.dry_run {
            plan.carry_out(wanted.force)?;
        }
    }
    if wanted.only == Some(Part::Config) {
        return Ok(ExitCode::SUCCESS);
    }
    if wanted.dry_run {
        return print(&images::listed(&images)).map(|()| ExitCode::SUCCESS);
    }
    let settings = config::load(flags, programs)?;
    let runtime = crate::runtime().context("starting threads")?;
    runtime.block_on(images::take_along(&images, &settings))
}

/// What they were told, and their images.
fn theirs(wanted: &Migrate) -> Result<(Moved, Vec<Image>)> {
    match wanted.from.map_or_else(present, Ok)? {
        Other::Containerd => {
            let file = wanted.source.clone().unwrap_or_else(|| CONTAINERD.into());
            check_named(wanted.source.as_deref())?;
            let told = migrate::containerd(&file)?;
            let root = wanted.store.clone().unwrap_or(told.root);
            Ok((told.moved, migrate::containerd_images(&root)?))
        }
        Other::Crio => {
            check_named(wanted.source.as_deref())?;
            let default = migrate::CrioFiles::default();
            let told = migrate::crio(&migrate::CrioFiles {
                config: wanted.source.clone().unwrap_or(default.config),
                containers: wanted.containers.clone(),
            })?;
            let root = wanted.store.clone().unwrap_or_else(|| told.root.clone());
            let images = migrate::crio_images(&root, &|name| told.is_pinned(name))?;
            Ok((told.moved, images))
        }
    }
}

/// A file that somebody names has to be there.
fn check_named(file: Option<&Path>) -> Result<()> {
    match file {
        Some(file) if !file.exists() => bail!("{} is not there", file.display()),
        _ => Ok(()),
    }
}

/// The engine that has been on this node.
fn present() -> Result<Other> {
    let any = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    let containerd = any(&[CONTAINERD, "/var/lib/containerd"]);
    let crio = any(&["/etc/crio", "/var/lib/crio"]);
    match (containerd, crio) {
        (true, false) => Ok(Other::Containerd),
        (false, true) => Ok(Other::Crio),
        (true, true) => bail!("both containerd and CRI-O have been here: say --from"),
        (false, false) => bail!(
            "neither containerd nor CRI-O has been here; --from, --source and --store say where"
        ),
    }
}

/// Our configuration file.
fn own_file(flags: &Flags) -> PathBuf {
    flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into())
}
