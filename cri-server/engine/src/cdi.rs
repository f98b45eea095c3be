//! Devices by name: what a vendor's files say has to be added to a container (Container Device
//! Interface, specification 1.0, `SPEC.md`).
//!
//! The files are read each time a container asks for a device, so that what a driver has written
//! counts at once. How the edits get into a specification is decided by `pod`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pod::ContainerSpec;
use pod::container::Device;
use pod::plan::{EditHook, EditMount, Edits, HookPoint};
use serde::Deserialize;

use crate::error::Error;
use crate::{rootfs, store};

/// Most files of a folder that are read.
const MAX_FILES: usize = 1024;

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 4 << 20;

/// Annotations of older clients: the value of each has names with commas between.
const ANNOTATIONS: &str = "cdi.k8s.io/";

/// A vendor's file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Raw,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Raw,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    env: Vec<String>,
    device_nodes: Vec<RawNode>,
    mounts: Vec<RawMount>,
    hooks: Vec<RawHook>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawNode {
    path: String,
    host_path: String,
    r#type: String,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawMount {
    host_path: PathBuf,
    container_path: String,
    r#type: String,
    options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawHook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// The devices that a container asks for, each once, in the order of asking.
pub(crate) fn wanted(spec: &ContainerSpec) -> Vec<String> {
    let old = spec
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATIONS));
    let old = old.flat_map(|(_, names)| names.split(',').map(str::trim));
    let all = spec.cdi_devices.iter().map(String::as_str).chain(old);
    let mut seen = BTreeSet::new();
    all.filter(|name| !name.is_empty() && seen.insert(*name))
        .map(str::to_owned)
        .collect()
}

/// What has to be added for these devices. A later folder outweighs an earlier one.
pub(crate) fn edits(folders: &[PathBuf], names: &[String]) -> Result<Edits, Error> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let found = folders
        .iter()
        .map(|folder| read_folder(folder))
        .collect::<Vec<_>>();
    let mut applied = BTreeSet::new();
    for name in names {
        let (file, document, device) = find(&found, name)?;
        let failed = |error: io::Error| {
            Error::failed(format!("CDI device {name:?} of {}", file.display()), error)
        };
        if applied.insert(file) {
            apply(&document.container_edits, &mut edits).map_err(failed)?;
        }
        apply(&device.container_edits, &mut edits).map_err(failed)?;
    }
    Ok(edits)
}

type Documents = BTreeMap<PathBuf, Document>;

/// The files of a folder that can be read; none if there is no such folder.
fn read_folder(folder: &Path) -> Documents {
    let names = store::names(folder).unwrap_or_default();
    let mut documents = Documents::new();
    for name in names.into_iter().take(MAX_FILES) {
        let path = folder.join(name);
        match read(&path) {
            Ok(Some(document)) => drop(documents.insert(path, document)),
            Ok(None) => {}
            // One vendor's mistake is not the others'; a device that is missed is named.
            Err(error) => tracing::warn!(?path, %error, "a CDI file cannot be used"),
        }
    }
    documents
}

fn read(path: &Path) -> io::Result<Option<Document>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let Some(format @ ("json" | "yaml" | "yml")) = extension else {
        return Ok(None);
    };
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    parse(format, &text).map(Some)
}

fn parse(format: &str, text: &str) -> io::Result<Document> {
    match format {
        "json" => serde_json::from_str(text).map_err(io::Error::from),
        _ => serde_saphyr::from_str(text).map_err(|error| io::Error::other(error.to_string())),
    }
}

/// The device of a name such as `vendor.example/class=name`.
fn find<'a>(
    folders: &'a [Documents],
    name: &str,
) -> Result<(&'a Path, &'a Document, &'a Named), Error> {
    let whole = || Error::Invalid(format!("CDI_devices: {name:?} is not vendor/class=name"));
    let (kind, device) = name.split_once('=').ok_or_else(whole)?;
    if device.is_empty() || kind.split('/').filter(|part| !part.is_empty()).count() != 2 {
        return Err(whole());
    }
    for documents in folders.iter().rev() {
        let of_kind = documents
            .iter()
            .filter(|(_, document)| document.kind == kind);
        let mut fits = of_kind.flat_map(|(file, document)| {
            let devices = document.devices.iter().filter(|one| one.name == device);
            devices.map(move |one| (file.as_path(), document, one))
        });
        match (fits.next(), fits.next()) {
            (Some(one), None) => return Ok(one),
            (Some((a, ..)), Some((b, ..))) => {
                let (a, b) = (a.display(), b.display());
                return Err(Error::Failed(format!(
                    "CDI device {name:?} is described twice: in {a} and {b}"
                )));
            }
            (None, _) => {}
        }
    }
    Err(Error::Invalid(format!(
        "CDI_devices: {name:?} is not known on this node"
    )))
}

fn apply(raw: &Raw, edits: &mut Edits) -> io::Result<()> {
    for line in &raw.env {
        let pair = line.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            pair.ok_or_else(|| io::Error::other(format!("env {line:?} is not NAME=value")))?;
        edits.env.push((name.to_owned(), value.to_owned()));
    }
    for node in &raw.device_nodes {
        edits.devices.push(device(node)?);
    }
    edits
        .mounts
        .extend(raw.mounts.iter().map(|mount| EditMount {
            source: mount.host_path.clone(),
            target: mount.container_path.clone(),
            kind: mount.r#type.clone(),
            options: mount.options.clone(),
        }));
    for hook in &raw.hooks {
        edits.hooks.push((
            point(&hook.hook_name)?,
            EditHook {
                path: hook.path.clone(),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout: hook.timeout,
            },
        ));
    }
    edits
        .groups
        .extend(raw.additional_gids.iter().filter(|gid| **gid != 0));
    Ok(())
}

/// A device as the host has it, with what the file says in its place.
fn device(node: &RawNode) -> io::Result<(pod::facts::HostDevice, Device)> {
    let host_path = if node.host_path.is_empty() {
        &node.path
    } else {
        &node.host_path
    };
    let wrong = |reason: &str| io::Error::other(format!("device node {host_path:?}: {reason}"));
    let metadata = fs::metadata(host_path).map_err(|error| {
        io::Error::new(error.kind(), format!("device node {host_path:?}: {error}"))
    })?;
    let found = rootfs::host_device(Path::new(host_path), &metadata);
    let mut found = found.ok_or_else(|| wrong("is no device"))?;
    match node.r#type.as_str() {
        "" => {}
        "b" => found.block = true,
        "c" | "u" => found.block = false,
        _ => return Err(wrong("its type is none of b, c and u")),
    }
    found.major = node.major.unwrap_or(found.major);
    found.minor = node.minor.unwrap_or(found.minor);
    found.mode = node.file_mode.unwrap_or(found.mode);
    found.uid = node.uid.unwrap_or(found.uid);
    found.gid = node.gid.unwrap_or(found.gid);
    let permissions = if node.permissions.is_empty() {
        "rwm"
    } else {
        &node.permissions
    };
    let device = Device {
        container_path: node.path.clone(),
        host_path: host_path.clone(),
        permissions: permissions.to_owned(),
    };
    Ok((found, device))
}

fn point(name: &str) -> io::Result<HookPoint> {
    Ok(match name {
        "prestart" => HookPoint::Prestart,
        "createRuntime" => HookPoint::CreateRuntime,
        "createContainer" => HookPoint::CreateContainer,
        "startContainer" => HookPoint::StartContainer,
        "poststart" => HookPoint::Poststart,
        "poststop" => HookPoint::Poststop,
        other => return Err(io::Error::other(format!("there is no hook {other:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cdiVersion": "0.6.0", "kind": "test.example/thing",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [{"name": "a", "containerEdits": {"env": ["A=x=y"], "additionalGids": [0, 7],
            "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/null"}]}},
            {"name": "b", "containerEdits": {}}]}"#;
    const YAML: &str = "cdiVersion: 0.6.0\nkind: test.example/thing\ndevices:\n- name: a\n  \
        containerEdits:\n    mounts:\n    - hostPath: /etc\n      containerPath: /other\n      \
        options: [ro]\n    hooks:\n    - hookName: createContainer\n      path: /bin/true\n";

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn edits_of_a_file_count_once() {
        let folder = folder(&[("x.json", JSON), ("broken.json", "{"), ("README", "no")]);
        let asked = names(&["test.example/thing=a", "test.example/thing=b"]);
        let edits = edits(&[folder.path().into()], &asked).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(edits.env, [pair("ALL", "1"), pair("A", "x=y")]);
        assert_eq!(edits.groups, [7]);
        let (found, device) = &edits.devices[0];
        assert_eq!((found.major, found.minor), (1, 3));
        assert_eq!(
            (&*device.container_path, &*device.permissions),
            ("/dev/thing", "rwm")
        );
    }

    #[test]
    fn a_later_folder_outweighs_an_earlier_one() {
        let (first, second) = (folder(&[("x.json", JSON)]), folder(&[("x.yaml", YAML)]));
        let folders = [first.path().into(), second.path().into(), "/no/such".into()];
        let edits = edits(&folders, &names(&["test.example/thing=a"])).unwrap();
        assert!(edits.env.is_empty());
        assert_eq!(edits.mounts[0].target, "/other");
        assert_eq!(edits.hooks[0].0, HookPoint::CreateContainer);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = folder(&[("x.json", JSON), ("y.json", JSON)]);
        let check = |name: &str, part: &str| {
            let error = edits(&[folder.path().into()], &names(&[name])).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        };
        check("test.example/thing=a", "is described twice");
        check(
            "test.example/thing=c",
            "\"test.example/thing=c\" is not known",
        );
        check("thing=c", "is not vendor/class=name");
        check("a/b/c=d", "is not vendor/class=name");
    }

    #[test]
    fn names_come_from_both_places() {
        let spec = ContainerSpec {
            cdi_devices: names(&["v/c=1"]),
            annotations: [("cdi.k8s.io/x".to_owned(), "v/c=2, v/c=1".to_owned())].into(),
            ..ContainerSpec::default()
        };
        assert_eq!(wanted(&spec), ["v/c=1", "v/c=2"]);
    }
}
