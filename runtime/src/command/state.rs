//! `state`: what a container is, as JSON.

use std::path::Path;

use serde::Serialize;

use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Result, because};
use crate::print;
use std::collections::BTreeMap;

/// runtime-spec "State", with runc's additions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    oci_version: &'a str,
    pub(super) id: &'a str,
    pub(super) pid: i32,
    pub(super) status: &'static str,
    pub(super) bundle: &'a Path,
    rootfs: &'a Path,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub(super) owner: String,
}

/// What `state` and `list` show of a container.
pub(super) fn shown(container: &Container, owner: String) -> Result<Shown<'_>> {
    let status = container.status()?;
    let state = &container.state;
    Ok(Shown {
        oci_version: &state.wrun.oci_version,
        id: &state.id,
        pid: if status == Status::Stopped {
            0
        } else {
            state.init_process_pid
        },
        status: status.name(),
        bundle: &state.wrun.bundle,
        rootfs: &state.config.rootfs,
        created: &state.created,
        annotations: &state.wrun.annotations,
        owner,
    })
}

pub(super) fn run(context: &Context, id: &str) -> Result<u8> {
    let container = Container::load(&context.root, id)?;
    let shown = shown(&container, String::new())?;
    let text =
        serde_json::to_string_pretty(&shown).map_err(|error| because("write the state", &error))?;
    print(&text);
    Ok(0)
}
