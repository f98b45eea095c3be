//! A dockerd of one test program's own: own data, own sockets, own containerd, no bridge, no
//! firewall.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Engine, Kind, path_with, runtime};
use crate::process::{self, Running};
use crate::traces::mounts;
use crate::{Scratch, peers, wait};

/// First id on the host and number of ids of a remapped dockerd's containers.
const REMAPPED: (u32, u32) = (200_000, 65536);

/// Makes the ids of [`REMAPPED`] known to this dockerd only, then becomes it.
const WITH_IDS: &str = r#"
mount --make-rslave /
mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"
"#;

/// Starts it and waits until it serves.
pub(super) fn start(kind: Kind, scratch: Scratch) -> Result<Option<Engine>> {
    let Some(dockerd) = peers::peer("docker/bin/dockerd") else {
        return Ok(None);
    };
    let programs = peers::folder().join("docker/bin");
    let path = |name: &str| scratch.join(name).display().to_string();
    let socket = format!("unix://{}", path("docker.sock"));
    let mut config = json!({
        "data-root": path("data"),
        "exec-root": path("run"),
        "pidfile": path("pid"),
        "hosts": [socket],
        "bridge": "none",
        // For checkpoints.
        "experimental": true,
        "iptables": false,
        "ip6tables": false,
        "cgroup-parent": scratch.cgroup(),
        "runtimes": {"wrun": {"path": runtime()}},
        "default-runtime": "wrun",
    });
    if kind == Kind::DockerRemapped {
        config["userns-remap"] = json!("daemon:daemon");
    }
    let file = path("daemon.json");
    fs::write(&file, config.to_string())?;
    let ids = path("ids");
    fs::write(&ids, format!("daemon:{}:{}\n", REMAPPED.0, REMAPPED.1))?;

    let mut command = match kind {
        Kind::DockerRemapped => process::lasting("unshare"),
        _ => process::lasting(&dockerd),
    };
    if kind == Kind::DockerRemapped {
        command
            .args(["-m", "sh", "-ec", WITH_IDS, &ids])
            .arg(&dockerd);
    }
    command.args(["--config-file", &file]);
    command.env("PATH", path_with(&programs));
    let log = scratch.join("log");
    let daemon = Running::spawn(&mut command, &log)?;
    let engine = Engine {
        kind,
        image: String::new(),
        program: programs.join("docker"),
        globals: vec!["-H".into(), socket],
        environment: vec![("DOCKER_CONFIG", path("client"))],
        scratch,
        daemon: Some(daemon),
    };
    let served = wait::until("dockerd", || engine.ok(&["version"]).ok());
    served.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(Some(engine))
}

/// Removes what dockerd leaves mounted by itself: the host's network, once a container has used it.
pub(super) fn forget(scratch: &Scratch) {
    let network = scratch.join("run/netns/default");
    if mounts(&network).contains(&network) {
        process::run(process::bounded("umount").arg(network)).ok();
    }
}
