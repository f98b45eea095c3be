//! Devices by name: what a vendor's files say has to be added to a container (Container Device
//! Interface, specification 1.1, `SPEC.md`).
//!
//! The files are read each time a container asks for a device, so that what a driver has written
//! counts at once; [`document`] knows their form. How the edits get into a specification is decided
//! by `pod`.

mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pod::ContainerSpec;
use pod::plan::{EditHook, EditMount, EditNode, EditRdt, Edits, HookPoint, NodeKind};

use self::document::{Document, Named, Raw, RawNode, RawRdt};
use crate::error::Error;
use crate::store;

/// Most files of a folder that are read.
const MAX_FILES: usize = 1024;

/// Largest file that is read, bytes.
const MAX_FILE: u64 = 4 << 20;

/// Annotations of older clients: the value of each has names with commas between.
const ANNOTATIONS: &str = "cdi.k8s.io/";

/// What a container may do with a device whose file does not say: all.
const ALL: &str = "rwm";
/// The word of a file for a device that may only be seen.
const NONE: &str = "none";

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
    let mut unusable = Vec::new();
    let found = folders
        .iter()
        .map(|folder| read_folder(folder, &mut unusable))
        .collect::<Vec<_>>();
    let mut applied = BTreeSet::new();
    for name in names {
        let (file, document, device) = find(&found, name, &unusable)?;
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
fn read_folder(folder: &Path, unusable: &mut Vec<String>) -> Documents {
    let names = store::names(folder).unwrap_or_default();
    let mut documents = Documents::new();
    for name in names.into_iter().take(MAX_FILES) {
        let path = folder.join(name);
        match read(&path) {
            Ok(Some(document)) => drop(documents.insert(path, document)),
            Ok(None) => {}
            // One vendor's mistake is not the others'; a device that is missed is named.
            Err(error) => {
                tracing::warn!(?path, %error, "a CDI file cannot be used");
                unusable.push(format!("{} cannot be used: {error}", path.display()));
            }
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
    document::parse(format, &text).map(Some)
}

/// The device of a name such as `vendor.example/class=name`.
fn find<'a>(
    folders: &'a [Documents],
    name: &str,
    unusable: &[String],
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
    // It may be in a file that cannot be read.
    let beside = unusable.first().map(|text| format!(" ({text})"));
    Err(Error::Invalid(format!(
        "CDI_devices: {name:?} is not known on this node{}",
        beside.unwrap_or_default()
    )))
}

fn apply(raw: &Raw, edits: &mut Edits) -> io::Result<()> {
    for line in &raw.env {
        let pair = line.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            pair.ok_or_else(|| io::Error::other(format!("env {line:?} is not NAME=value")))?;
        edits.env.push((name.to_owned(), value.to_owned()));
    }
    for raw in &raw.device_nodes {
        edits.devices.push(node(raw)?);
    }
    for link in &raw.net_devices {
        if link.host_interface_name.is_empty() || link.name.is_empty() {
            return Err(io::Error::other("a network device without both its names"));
        }
        edits
            .links
            .push((link.host_interface_name.clone(), link.name.clone()));
    }
    if let Some(raw) = &raw.intel_rdt {
        // The class of a container is one: the device's outweighs that of its file.
        edits.rdt = Some(rdt(raw)?);
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

/// A node as the file has it, with what the host's says in the place of what it leaves out.
fn node(raw: &RawNode) -> io::Result<EditNode> {
    let host_path = match raw.host_path.as_str() {
        "" => &raw.path,
        path => path,
    };
    let wrong = |reason: String| io::Error::other(format!("device node {host_path:?}: {reason}"));
    let said = kind(&raw.r#type).map_err(wrong)?;
    let (kind, major, minor) = match said {
        Some(NodeKind::Fifo) => (NodeKind::Fifo, 0, 0),
        Some(kind) if raw.major != 0 => (kind, raw.major, raw.minor),
        said => {
            let found = on_host(Path::new(host_path)).map_err(|error| wrong(error.to_string()))?;
            if said.is_some_and(|said| said != found.0) {
                return Err(wrong(format!("its type is not {:?} here", raw.r#type)));
            }
            match raw.major {
                0 => found,
                major => (found.0, major, raw.minor),
            }
        }
    };
    let permissions = match raw.permissions.as_str() {
        "" => ALL,
        NONE => "",
        given => given,
    };
    Ok(EditNode {
        path: raw.path.clone(),
        kind,
        major,
        minor,
        mode: raw.file_mode,
        uid: raw.uid,
        gid: raw.gid,
        permissions: permissions.to_owned(),
    })
}

/// The kind that a file names, if it names one.
fn kind(text: &str) -> Result<Option<NodeKind>, String> {
    Ok(Some(match text {
        "" => return Ok(None),
        "b" => NodeKind::Block,
        "c" | "u" => NodeKind::Character,
        "p" => NodeKind::Fifo,
        other => return Err(format!("its type {other:?} is none of b, c, u and p")),
    }))
}

fn on_host(path: &Path) -> io::Result<(NodeKind, u32, u32)> {
    let found = fs::metadata(path)?;
    let (of, device) = (found.file_type(), found.rdev());
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    if of.is_block_device() {
        Ok((NodeKind::Block, major, minor))
    } else if of.is_char_device() {
        Ok((NodeKind::Character, major, minor))
    } else if of.is_fifo() {
        Ok((NodeKind::Fifo, 0, 0))
    } else {
        Err(io::Error::other("is no device"))
    }
}

fn rdt(raw: &RawRdt) -> io::Result<EditRdt> {
    let class = raw.class.as_str();
    let names = class == "/" || !class.contains(['/', '\n']) && !matches!(class, "." | "..");
    if !names {
        return Err(io::Error::other(format!(
            "intelRdt.closID {class:?} is no name"
        )));
    }
    Ok(EditRdt {
        class: class.to_owned(),
        l3_cache: raw.l3_cache_schema.clone(),
        memory_bandwidth: raw.mem_bw_schema.clone(),
        schemata: raw.schemata.clone(),
        monitoring: raw.enable_monitoring || raw.enable_cmt || raw.enable_mbm,
    })
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
        let expect = EditNode {
            path: "/dev/thing".into(),
            kind: NodeKind::Character,
            major: 1,
            minor: 3,
            mode: None,
            uid: None,
            gid: None,
            permissions: "rwm".into(),
        };
        assert_eq!(edits.devices, [expect]);
    }

    fn node_of(text: &str) -> Result<EditNode, String> {
        node(&serde_json::from_str(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_need_not_be_there_if_its_file_says_all() {
        let node = node_of(
            r#"{"path": "/dev/none", "type": "b", "major": 7, "minor": 5, "permissions": "none",
                "fileMode": 384, "uid": 3, "gid": 4}"#,
        )
        .unwrap();
        let numbers = (node.kind, node.major, node.minor, node.mode);
        assert_eq!(numbers, (NodeKind::Block, 7, 5, Some(0o600)));
        assert_eq!((node.uid, node.gid), (Some(3), Some(4)));
        assert_eq!(node.permissions, "");
        let pipe = node_of(r#"{"path": "/run/none", "type": "p"}"#).unwrap();
        assert_eq!((pipe.kind, pipe.major), (NodeKind::Fifo, 0));
        let wrong = |text: &str, part: &str| {
            let error = node_of(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        wrong(r#"{"path": "/dev/none"}"#, "No such file");
        wrong(
            r#"{"path": "/dev/null", "type": "b"}"#,
            "its type is not \"b\"",
        );
        wrong(
            r#"{"path": "/dev/null", "type": "x"}"#,
            "none of b, c, u and p",
        );
        wrong(r#"{"path": "/etc"}"#, "is no device");
    }

    #[test]
    fn links_and_classes_come_along() {
        let text = r#"{"cdiVersion": "1.1.0", "kind": "v/c",
            "containerEdits": {"intelRdt": {"closID": "silver", "enableCMT": true}},
            "devices": [{"name": "a", "containerEdits": {
                "netDevices": [{"hostInterfaceName": "eth7", "name": "fast0"}],
                "intelRdt": {"closID": "gold", "schemata": ["L3:0=f"]}}},
                {"name": "b", "containerEdits": {"netDevices": [{"name": "fast1"}]}},
                {"name": "c", "containerEdits": {"intelRdt": {"closID": "../x"}}}]}"#;
        let folder = folder(&[("x.json", text)]);
        let of = |name: &str| edits(&[folder.path().into()], &names(&[name]));
        let found = of("v/c=a").unwrap();
        assert_eq!(found.links, [("eth7".to_owned(), "fast0".to_owned())]);
        let rdt = found.rdt.unwrap();
        assert_eq!((rdt.class.as_str(), rdt.monitoring), ("gold", false));
        assert_eq!(rdt.schemata, ["L3:0=f"]);
        assert!(
            of("v/c=b")
                .unwrap_err()
                .to_string()
                .contains("both its names")
        );
        assert!(of("v/c=c").unwrap_err().to_string().contains("is no name"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let text = JSON.replace("0.6.0", "7.0.0");
        let folder = folder(&[("x.json", &text)]);
        let asked = names(&["test.example/thing=a"]);
        let error = edits(&[folder.path().into()], &asked).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("x.json cannot be used: cdiVersion"),
            "{error}"
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
