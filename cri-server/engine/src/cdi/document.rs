//! What a vendor writes: the form of the files (Container Device Interface, `SPEC.md`, to version
//! 1.1) and which of them can be used. What their words do to a container is not known here.
//!
//! A file with a word that is not known is refused whole: half of what a device needs is worse than
//! none of it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

/// Newest version whose words are known, as major and minor number.
const NEWEST: (u32, u32) = (1, 1);

/// A vendor's file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    cdi_version: String,
    pub(super) kind: String,
    /// For the vendor's own programs.
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Named>,
    #[serde(default)]
    pub(super) container_edits: Raw,
}

/// A device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: String,
    /// For the vendor's own programs.
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Raw,
}

/// What is to be added to a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<RawNode>,
    pub(super) net_devices: Vec<RawLink>,
    pub(super) mounts: Vec<RawMount>,
    pub(super) hooks: Vec<RawHook>,
    pub(super) intel_rdt: Option<RawRdt>,
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) path: String,
    pub(super) host_path: String,
    pub(super) r#type: String,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLink {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawMount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: String,
    pub(super) r#type: String,
    pub(super) options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawHook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawRdt {
    #[serde(rename = "closID")]
    pub(super) class: String,
    pub(super) l3_cache_schema: String,
    pub(super) mem_bw_schema: String,
    pub(super) schemata: Vec<String>,
    pub(super) enable_monitoring: bool,
    /// The two words for it until version 1.1.
    #[serde(rename = "enableCMT")]
    pub(super) enable_cmt: bool,
    #[serde(rename = "enableMBM")]
    pub(super) enable_mbm: bool,
}

/// Reads the text of a file; `format` is the end of its name.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn parse(format: &str, text: &str) -> io::Result<Document> {
    let document: Document = match format {
        "json" => serde_json::from_str(text).map_err(io::Error::from),
        _ => serde_saphyr::from_str(text).map_err(|error| io::Error::other(error.to_string())),
    }?;
    check_version(&document.cdi_version)?;
    Ok(document)
}

/// A later version may mean something else by a word that is known.
fn check_version(text: &str) -> io::Result<()> {
    let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
    let wrong = |reason: &str| Err(io::Error::other(format!("cdiVersion {text:?} {reason}")));
    match [parts.next(), parts.next(), parts.next(), parts.next()] {
        [Some(Some(major)), Some(Some(minor)), Some(Some(_)), None] => {
            match (major, minor) <= NEWEST {
                true => Ok(()),
                false => wrong("is newer than 1.1.0"),
            }
        }
        _ => wrong("is no version"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for right in ["0.3.0", "0.8.0", "1.0.0", "1.1.0", "1.1.1"] {
            assert!(check_version(right).is_ok(), "{right}");
        }
        for wrong in [
            "", "1", "1.1", "1.2.0", "2.0.0", "1.1.0.0", "v1.0.0", "a.b.c",
        ] {
            assert!(check_version(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_that_are_not_known_are_named() {
        let check = |body: &str, part: &str| {
            let text = format!(
                r#"{{"cdiVersion": "1.1.0", "kind": "v/c", "devices": [
                    {{"name": "a", "containerEdits": {{ {body} }} }}]}}"#
            );
            let error = parse("json", &text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(r#""rlimits": []"#, "rlimits");
        check(
            r#""deviceNodes": [{"path": "/dev/x", "colour": 1}]"#,
            "colour",
        );
        check(r#""intelRdt": {"class": "x"}"#, "class");
        check(r#""netDevices": [{"hostName": "x"}]"#, "hostName");
        let annotated = "cdiVersion: 0.6.0\nkind: v/c\nannotations: {a: b}\ndevices:\n- name: a\n  \
                         annotations: {c: d}\n  containerEdits: {}\n";
        assert!(parse("yaml", annotated).is_ok());
    }
}
