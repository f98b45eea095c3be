//! podman in folders of one test program's own, with the drop-in that `wrun` ships.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Engine, Kind, path_with, runtime};
use crate::traces::{children, mounts, remove_parent};
use crate::{Scratch, checkout, peers, process};

/// The part of `containers.conf` that belongs to `wrun`.
const DROP_IN: &str = "runtime/containers.conf.d/50-wrun.conf";

/// Where that file says that `wrun` is.
const INSTALLED: &str = "/usr/local/bin/wrun";

/// Writes its configuration.
pub(super) fn start(scratch: Scratch, registry: &str) -> Result<Option<Engine>> {
    let Some(program) = peers::peer("podman/bin/podman") else {
        return Ok(None);
    };
    let programs = peers::folder().join("podman/bin");
    let path = |name: &str| scratch.join(name).display().to_string();
    let write = |name: &str, text: String| {
        fs::write(scratch.join(name), text)?;
        anyhow::Ok(path(name))
    };
    // Locks in files: those in shared memory have one name for the whole machine.
    let main = write(
        "containers.conf",
        format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             lock_type = \"file\"\ntmp_dir = {:?}\nvolume_path = {:?}\n\
             conmon_path = [{:?}]\nhelper_binaries_dir = [{:?}]\n\
             [network]\nnetwork_config_dir = {:?}\n",
            path("tmp"),
            path("volumes"),
            programs.join("conmon"),
            programs,
            path("networks"),
        ),
    )?;
    let shipped = fs::read_to_string(checkout().join(DROP_IN)).context(DROP_IN)?;
    anyhow::ensure!(
        shipped.contains(INSTALLED),
        "{DROP_IN} names no {INSTALLED}"
    );
    let shipped = shipped.replace(INSTALLED, &runtime().display().to_string());
    let drop_in = write("wrun.conf", shipped)?;
    let storage = write(
        "storage.conf",
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n",
            path("data"),
            path("run")
        ),
    )?;
    let registries = write(
        "registries.conf",
        format!("[[registry]]\nlocation = {registry:?}\ninsecure = true\n"),
    )?;
    write(
        "policy.json",
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#.to_owned(),
    )?;
    Ok(Some(Engine {
        kind: Kind::Podman,
        image: String::new(),
        program,
        globals: Vec::new(),
        environment: vec![
            ("CONTAINERS_CONF", main),
            ("CONTAINERS_CONF_OVERRIDE", drop_in),
            ("CONTAINERS_STORAGE_CONF", storage),
            ("CONTAINERS_REGISTRIES_CONF", registries),
            ("PODMAN_IGNORE_CGROUPSV1_WARNING", "1".into()),
            ("PATH", path_with(&programs)),
        ],
        scratch,
        daemon: None,
    }))
}

/// Removes what podman leaves without any container: the mount of its storage, and the control
/// groups of its own processes and of its pods.
pub(super) fn forget(scratch: &Scratch) {
    for mount in mounts(&scratch.join("data")).iter().rev() {
        if mount.ends_with("overlay") {
            process::run(process::bounded("umount").arg(mount)).ok();
        }
    }
    remove_parent(&format!("{}/conmon", scratch.name()));
    // A pod's own group bears its id and nothing more; a container's group starts with `libpod-`.
    for hierarchy in children(Path::new("/sys/fs/cgroup")) {
        let groups = children(&hierarchy.join(scratch.name())).into_iter();
        for group in groups.filter(|group| is_id(group)) {
            fs::remove_dir(group).ok();
        }
    }
}

/// Whether the last part of a path is an id of podman's: 64 hex digits.
fn is_id(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.is_some_and(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
