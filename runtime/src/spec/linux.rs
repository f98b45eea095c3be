//! The `linux` part of `config.json`.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::{Pairs, RawMemoryPolicy, RawPersonality, Text, nullable};

/// `linux`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Linux<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) namespaces: Vec<RawNamespace<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid_mappings: Vec<RawIdMap>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gid_mappings: Vec<RawIdMap>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) time_offsets: BTreeMap<Text<'a>, RawTimeOffset>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) devices: Vec<RawDevice<'a>>,
    #[serde(borrow)]
    pub(crate) cgroups_path: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) resources: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) rootfs_propagation: Text<'a>,
    #[serde(borrow)]
    pub(crate) seccomp: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) sysctl: Pairs<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) masked_paths: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) readonly_paths: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) mount_label: Text<'a>,
    #[serde(borrow)]
    pub(crate) intel_rdt: Option<RawIntelRdt<'a>>,
    #[serde(borrow)]
    pub(crate) memory_policy: Option<RawMemoryPolicy<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) net_devices: BTreeMap<Text<'a>, RawNetDevice<'a>>,
    #[serde(borrow)]
    pub(crate) personality: Option<RawPersonality<'a>>,
}

/// One of `linux.namespaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawNamespace<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) path: Text<'a>,
}

/// One range of ids.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct RawIdMap {
    #[serde(rename = "containerID")]
    pub(crate) container_id: u32,
    #[serde(rename = "hostID")]
    pub(crate) host_id: u32,
    pub(crate) size: u32,
}

/// One of `linux.timeOffsets`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTimeOffset {
    pub(crate) secs: i64,
    pub(crate) nanosecs: u32,
}

/// One of `linux.devices`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawDevice<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow)]
    pub(crate) path: Text<'a>,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) file_mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// One of `linux.netDevices`; its key is the name on the host.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawNetDevice<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) name: Text<'a>,
}

/// `linux.intelRdt`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawIntelRdt<'a> {
    #[serde(borrow, rename = "closID", deserialize_with = "nullable")]
    pub(crate) clos_id: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) l3_cache_schema: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) mem_bw_schema: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) schemata: Vec<Text<'a>>,
    pub(crate) enable_monitoring: bool,
}
