//! `config.json` and `process.json` as borrowed structs: what this runtime reads of runtime-spec 1.3.
//!
//! Strings point into the file's bytes, so that parsing allocates next to nothing. Enumerations stay
//! strings here; `plan` judges them, because some unknown names are errors and others only warn.
//! `resources` and `seccomp` stay raw text for the crates that own them. Unknown fields are ignored,
//! as the specification demands ("Extensibility").

mod linux;
mod scheduling;
mod text;

pub(crate) use linux::{Linux, RawDevice, RawIdMap, RawIntelRdt, RawNetDevice, RawTimeOffset};
pub(crate) use scheduling::{
    RawAffinity, RawIoPriority, RawMemoryPolicy, RawPersonality, RawScheduler,
};
pub(crate) use text::Text;

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// Key-value pairs; sorted, so that what is written from them is stable.
pub(crate) type Pairs<'a> = BTreeMap<Text<'a>, Text<'a>>;

/// Go writes an empty list or map as null; both mean "nothing".
pub(crate) fn nullable<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec<'a> {
    #[serde(borrow)]
    pub(crate) oci_version: Text<'a>,
    #[serde(borrow)]
    pub(crate) process: Option<Process<'a>>,
    #[serde(borrow)]
    pub(crate) root: Option<Root<'a>>,
    #[serde(borrow)]
    pub(crate) hostname: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) domainname: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) mounts: Vec<RawMount<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) hooks: Hooks<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) annotations: Pairs<'a>,
    #[serde(borrow)]
    pub(crate) linux: Option<Linux<'a>>,
}

/// `root`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Root<'a> {
    #[serde(borrow)]
    pub(crate) path: Text<'a>,
    pub(crate) readonly: bool,
}

/// `process`, and the whole of `process.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Process<'a> {
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    #[serde(borrow)]
    pub(crate) user: User<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) args: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) env: Vec<Text<'a>>,
    #[serde(borrow)]
    pub(crate) cwd: Text<'a>,
    #[serde(borrow)]
    pub(crate) capabilities: Option<RawCapabilities<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) rlimits: Vec<RawRlimit<'a>>,
    pub(crate) no_new_privileges: bool,
    #[serde(borrow)]
    pub(crate) apparmor_profile: Option<Text<'a>>,
    pub(crate) oom_score_adj: Option<i32>,
    #[serde(borrow)]
    pub(crate) selinux_label: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) io_priority: Option<RawIoPriority<'a>>,
    #[serde(borrow)]
    pub(crate) scheduler: Option<RawScheduler<'a>>,
    #[serde(borrow, rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Option<RawAffinity<'a>>,
}

/// `process.consoleSize`, in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsoleSize {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

/// `process.user`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) additional_gids: Vec<u32>,
    #[serde(borrow)]
    pub(crate) username: Option<Text<'a>>,
}

/// `process.capabilities`: five lists of names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawCapabilities<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) bounding: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) effective: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) inheritable: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) permitted: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) ambient: Vec<Text<'a>>,
}

/// One of `process.rlimits`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawRlimit<'a> {
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Text<'a>,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// One of `mounts`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawMount<'a> {
    #[serde(borrow)]
    pub(crate) destination: Text<'a>,
    #[serde(borrow, rename = "type", deserialize_with = "nullable")]
    pub(crate) kind: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) source: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) options: Vec<Text<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) uid_mappings: Vec<RawIdMap>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) gid_mappings: Vec<RawIdMap>,
}

/// `hooks`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hooks<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) prestart: Vec<RawHook<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) create_runtime: Vec<RawHook<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) create_container: Vec<RawHook<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) start_container: Vec<RawHook<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) poststart: Vec<RawHook<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) poststop: Vec<RawHook<'a>>,
}

/// One hook.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawHook<'a> {
    #[serde(borrow)]
    pub(crate) path: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) args: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) env: Vec<Text<'a>>,
    /// Seconds.
    pub(crate) timeout: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let text = r#"{"ociVersion":"1.3.0","hostname":"a\nb","process":null,"mounts":null}"#;
        let spec: Spec<'_> = serde_json::from_str(text).unwrap();
        assert!(spec.oci_version.is_borrowed());
        assert_eq!(spec.hostname.unwrap().as_str(), "a\nb");
        assert!(spec.mounts.is_empty() && spec.process.is_none());
    }

    #[test]
    fn what_is_not_json_says_where() {
        let error = serde_json::from_str::<Spec<'_>>("{\"ociVersion\": }").unwrap_err();
        assert_eq!(error.line(), 1);
    }
}
