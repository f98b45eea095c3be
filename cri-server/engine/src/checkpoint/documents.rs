//! What a checkpoint says of its container, as JSON with the names that other engines use.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::archive::{self, CONFIG, DELETED, LOG, SPEC, STATUS};
use crate::now;
use crate::view::{Container, Sandbox};

/// What `config.dump` says that matters for a restore.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Config {
    rootfs_image: String,
    rootfs_image_ref: String,
    rootfs_image_name: String,
}

impl Config {
    /// Names of the image, the most exact first.
    pub(super) fn images(&self) -> impl Iterator<Item = &str> {
        let names = [
            &self.rootfs_image_ref,
            &self.rootfs_image_name,
            &self.rootfs_image,
        ];
        names
            .into_iter()
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }
}

/// What `spec.dump` says that matters for a restore.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) args: Vec<String>,
    pub(super) cwd: String,
    pub(super) terminal: bool,
    /// Where something of the host was mounted.
    pub(super) binds: Vec<String>,
}

/// Reads both documents from a folder.
pub(super) fn read(folder: &Path) -> io::Result<(Config, Process)> {
    let config = archive::document(&folder.join(CONFIG))?;
    let spec: Spec = serde_json::from_slice(&archive::document(&folder.join(SPEC))?)?;
    Ok((serde_json::from_slice(&config)?, process(&spec)))
}

fn process(spec: &Spec) -> Process {
    let process = spec.process().as_ref();
    Process {
        args: process.and_then(|p| p.args().clone()).unwrap_or_default(),
        cwd: process
            .map(|p| p.cwd().to_string_lossy().into_owned())
            .unwrap_or_default(),
        terminal: process.is_some_and(|p| p.terminal().unwrap_or_default()),
        binds: binds(spec),
    }
}

/// Places of a specification at which something of the host is mounted.
pub(super) fn binds(spec: &Spec) -> Vec<String> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let is_bind = |mount: &&oci_spec::runtime::Mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        mount.typ().as_deref() == Some("bind")
            || options
                .iter()
                .any(|option| option == "bind" || option == "rbind")
    };
    let place =
        |mount: &oci_spec::runtime::Mount| mount.destination().to_string_lossy().into_owned();
    mounts.iter().filter(is_bind).map(place).collect()
}

/// Paths that a container had deleted; none where nothing is said.
pub(super) fn deleted(folder: &Path) -> io::Result<Vec<String>> {
    match archive::document(&folder.join(DELETED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => Ok(serde_json::from_slice(&bytes?)?),
    }
}

/// Writes all documents of a container, and its log, beside its images.
pub(super) fn write(
    folder: &Path,
    sandbox: &Sandbox,
    container: &Container,
    deleted: &[String],
) -> io::Result<()> {
    let put = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    put(CONFIG, &config(sandbox, container))?;
    put(STATUS, &status(container))?;
    if !deleted.is_empty() {
        put(DELETED, &json!(deleted))?;
    }
    fs::copy(container.bundle.join("config.json"), folder.join(SPEC))?;
    match &container.log_path {
        Some(log) => match fs::copy(log, folder.join(LOG)) {
            // Its client has taken it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            copied => copied.map(drop),
        },
        None => Ok(()),
    }
}

fn config(sandbox: &Sandbox, container: &Container) -> Value {
    json!({
        "id": container.id,
        "name": container.spec.name,
        "rootfsImage": container.image_name,
        "rootfsImageRef": container.image_ref,
        "rootfsImageName": container.image_name,
        "runtime": sandbox.spec.handler,
        "createdTime": moment(container.created_at),
        "checkpointedTime": moment(now()),
        "restored": false,
    })
}

fn status(container: &Container) -> Value {
    let spec = &container.spec;
    let mount = |mount: &::pod::container::Mount| {
        json!({
            "container_path": mount.container_path,
            "host_path": mount.host_path,
            "readonly": mount.readonly,
        })
    };
    json!({
        "id": container.id,
        "metadata": {"name": spec.name, "attempt": spec.attempt},
        "created_at": container.created_at,
        "started_at": container.started_at,
        "image": {"image": spec.image, "user_specified_image": spec.user_specified_image},
        "image_ref": container.image_ref,
        "labels": spec.labels,
        "annotations": spec.annotations,
        "mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "log_path": container.log_path,
    })
}

/// Nanoseconds since the epoch, as RFC 3339 has them.
fn moment(nanoseconds: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into());
    let text = moment.ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_other_engines_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put(
            CONFIG,
            r#"{"id":"1","rootfsImageName":"a:1","rootfsImageRef":"sha256:5","restored":false}"#,
        );
        put(
            SPEC,
            r#"{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/w",
                "terminal":true,"user":{"uid":0,"gid":0}},
                "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                    {"destination":"/data","source":"/d","options":["rbind"]},
                    {"destination":"/etc/hosts","type":"bind","source":"/h"}]}"#,
        );
        let (config, process) = read(dir.path()).unwrap();
        assert_eq!(config.images().collect::<Vec<_>>(), ["sha256:5", "a:1"]);
        assert_eq!(
            (process.args, process.terminal),
            (vec!["sh".to_owned()], true)
        );
        assert_eq!(process.cwd, "/w");
        assert_eq!(process.binds, ["/data", "/etc/hosts"]);
        assert!(deleted(dir.path()).unwrap().is_empty());
        put(DELETED, r#"["/etc/x"]"#);
        assert_eq!(deleted(dir.path()).unwrap(), ["/etc/x"]);
        put(DELETED, "{");
        assert!(deleted(dir.path()).is_err());
    }

    #[test]
    fn moments() {
        assert_eq!(moment(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
