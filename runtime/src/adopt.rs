//! Containers that a runc made and that are still there: its `state.json` read as one of ours, so
//! that a node can change its runtime without emptying it.
//!
//! Only what `state`, `list`, `ps`, `exec`, `kill`, `pause`, `resume`, `update`, `checkpoint` and
//! `delete` need. The rest of runc's file is its own affair. A container that was not started yet is for runc to start:
//! its first process waits in a way of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::hooks::Hook;
use crate::plan::{NamespaceKind, Nature};
use crate::spec::nullable;
use crate::state::{Own, RuncConfig, State};

/// Seconds are nanoseconds in runc's file, as Go has durations.
const NANOSECONDS: i64 = 1_000_000_000;

/// `state.json` as runc writes it.
#[derive(Debug, Deserialize)]
struct Foreign {
    id: String,
    init_process_pid: i32,
    init_process_start: u64,
    created: String,
    #[serde(default)]
    rootless: bool,
    #[serde(default, deserialize_with = "nullable")]
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default, deserialize_with = "nullable")]
    external_descriptors: Vec<String>,
    config: ForeignConfig,
}

#[derive(Debug, Deserialize)]
struct ForeignConfig {
    rootfs: PathBuf,
    #[serde(default, deserialize_with = "nullable")]
    labels: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    namespaces: Vec<ForeignNamespace>,
    #[serde(default)]
    cgroups: ForeignGroup,
    #[serde(default, deserialize_with = "nullable")]
    hooks: ForeignHooks,
    #[serde(default)]
    no_new_keyring: bool,
    #[serde(default)]
    version: String,
    #[serde(default)]
    seccomp: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct ForeignNamespace {
    /// `NEWPID` and the like.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ForeignGroup {
    name: String,
    scope_prefix: String,
    systemd: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ForeignHooks {
    #[serde(deserialize_with = "nullable")]
    poststop: Vec<Hook>,
}

/// Reads runc's state.
pub(crate) fn from_runc(text: &[u8]) -> serde_json::Result<State> {
    let foreign: Foreign = serde_json::from_slice(text)?;
    let own = own(&foreign);
    let mut cgroup_paths = foreign.cgroup_paths;
    if cgroup_paths.len() > 1 {
        // A hybrid host: the v2 side has no controller, and is only to be removed at the end.
        cgroup_paths.remove("");
    }
    Ok(State {
        id: foreign.id,
        init_process_pid: foreign.init_process_pid,
        init_process_start: foreign.init_process_start,
        created: foreign.created,
        rootless: foreign.rootless,
        cgroup_paths,
        external_descriptors: foreign.external_descriptors,
        config: RuncConfig {
            rootfs: foreign.config.rootfs,
            labels: foreign.config.labels,
        },
        wrun: own,
    })
}

fn own(foreign: &Foreign) -> Own {
    let config = &foreign.config;
    let mut annotations: BTreeMap<String, String> = config
        .labels
        .iter()
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let bundle = annotations.remove("bundle").unwrap_or_default();
    let spaces = &config.namespaces;
    let poststop = config.hooks.poststop.iter().map(Hook::seconds_from);
    Own {
        version: Own::version(),
        oci_version: config.version.clone(),
        bundle: PathBuf::from(bundle),
        config: None,
        annotations,
        namespaces: spaces.iter().filter_map(|space| kind(&space.kind)).sum(),
        own_pids: spaces
            .iter()
            .any(|space| space.kind == "NEWPID" && space.path.is_empty()),
        keyring: !config.no_new_keyring,
        seccomp: config.seccomp.is_some(),
        foreign: true,
        other_group: foreign
            .cgroup_paths
            .get("")
            .filter(|_| foreign.cgroup_paths.len() > 1)
            .cloned(),
        resources: None,
        unit: unit(&config.cgroups),
        rdt: None,
        nature: Nature::default(),
        poststart: Vec::new(),
        poststop: poststop.collect(),
    }
}

/// `CLONE_NEW*`.
fn kind(name: &str) -> Option<i32> {
    let short = match name {
        "NEWNS" => "mnt".to_owned(),
        name => name.strip_prefix("NEW")?.to_ascii_lowercase(),
    };
    NamespaceKind::all()
        .find(|kind| kind.file() == short)
        .map(NamespaceKind::flag)
}

/// How runc names the unit that it has systemd make.
fn unit(group: &ForeignGroup) -> Option<String> {
    if !group.systemd {
        return None;
    }
    if group.name.ends_with(".slice") {
        return Some(group.name.clone());
    }
    Some(match group.scope_prefix.as_str() {
        "" => format!("{}.scope", group.name),
        prefix => format!("{prefix}-{}.scope", group.name),
    })
}

impl Hook {
    /// runc's timeout is in nanoseconds.
    fn seconds_from(&self) -> Hook {
        let mut hook = self.clone();
        hook.timeout = hook.timeout.map(|time| (time / NANOSECONDS).max(1));
        hook
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_found() {
        let text = br#"{"id":"a","init_process_pid":7,"init_process_start":9,"created":"T",
            "cgroup_paths":{"":"/u","pids":"/p"},"namespace_paths":{},
            "config":{"rootfs":"/r","labels":["x=y=z","bundle=/b"],"version":"1.2.0",
            "namespaces":[{"type":"NEWNS"},{"type":"NEWPID"},{"type":"NEWNET","path":"/n"}],
            "cgroups":{"name":"a","scope_prefix":"cri","systemd":true},
            "hooks":{"poststop":[{"path":"/h","args":null,"env":null,"dir":"","timeout":5000000000}]}}}"#;
        let state = from_runc(text).unwrap();
        assert_eq!(state.wrun.bundle, PathBuf::from("/b"));
        assert_eq!(state.wrun.annotations["x"], "y=z");
        assert_eq!(state.wrun.unit.as_deref(), Some("cri-a.scope"));
        assert_eq!(state.wrun.other_group, Some(PathBuf::from("/u")));
        assert_eq!(state.cgroup_paths.len(), 1);
        assert_eq!(state.wrun.namespaces, 0x6002_0000);
        assert!(state.wrun.own_pids && state.wrun.keyring && !state.wrun.seccomp);
        assert_eq!(state.wrun.poststop[0].timeout, Some(5));
    }
}
