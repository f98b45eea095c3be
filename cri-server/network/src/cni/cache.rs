//! What a network gave, kept where libcni keeps it: `<cache>/<network>-<container>-<interface>`.
//!
//! The format is libcni's (`cniCacheV1`), so that a node can change its engine, and back, without
//! losing the way to give addresses back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::NetworkList;
use crate::records::{Record, remove_file, write_file};
use crate::{Error, failed};

const KIND: &str = "cniCacheV1";

/// libcni's file, field by field.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    /// The list's bytes in base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

/// Where the result of the attachment lies.
pub(crate) fn path(folder: &Path, network: &NetworkList, record: &Record) -> PathBuf {
    folder.join(format!(
        "{}-{}-{}",
        network.name, record.id, record.interface
    ))
}

/// Keeps a result.
pub(crate) fn keep(
    folder: &Path,
    network: &NetworkList,
    record: &Record,
    args: &BTreeMap<String, String>,
    capabilities: &Map<String, Value>,
    result: &Value,
) -> Result<(), Error> {
    std::fs::create_dir_all(folder)
        .map_err(failed(format!("making folder {}", folder.display())))?;
    let cached = Cached {
        kind: KIND.to_owned(),
        container_id: record.id.clone(),
        config: STANDARD.encode(network.value.to_string()),
        if_name: record.interface.clone(),
        network_name: network.name.clone(),
        netns: record.netns.display().to_string(),
        cni_args: args.clone().into_iter().collect(),
        capability_args: capabilities.clone(),
        result: Some(result.clone()),
    };
    let bytes = serde_json::to_vec(&cached).expect("JSON values have string keys only");
    write_file(&path(folder, network, record), &bytes, true)
}

/// The kept result, if there is one that can be read.
pub(crate) fn result(folder: &Path, network: &NetworkList, record: &Record) -> Option<Value> {
    let bytes = std::fs::read(path(folder, network, record)).ok()?;
    let cached: Cached = serde_json::from_slice(&bytes).ok()?;
    cached.result.filter(|_| cached.kind == KIND)
}

/// Forgets a result; gone already is no error.
pub(crate) fn forget(folder: &Path, network: &NetworkList, record: &Record) -> Result<(), Error> {
    remove_file(&path(folder, network, record))
}
