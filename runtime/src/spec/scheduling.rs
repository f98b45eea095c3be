//! How processes are scheduled, what they take themselves for, where their memory comes from.

use serde::Deserialize;

use super::{Text, nullable};

/// `process.scheduler`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawScheduler<'a> {
    #[serde(borrow)]
    pub(crate) policy: Text<'a>,
    pub(crate) nice: i32,
    pub(crate) priority: i32,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) flags: Vec<Text<'a>>,
    /// Nanoseconds, as the next two.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// `process.ioPriority`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawIoPriority<'a> {
    #[serde(borrow)]
    pub(crate) class: Text<'a>,
    pub(crate) priority: i64,
}

/// `process.execCPUAffinity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawAffinity<'a> {
    #[serde(borrow)]
    pub(crate) initial: Text<'a>,
    #[serde(borrow, rename = "final")]
    pub(crate) last: Text<'a>,
}

/// `linux.personality`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawPersonality<'a> {
    #[serde(borrow)]
    pub(crate) domain: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) flags: Vec<Text<'a>>,
}

/// `linux.memoryPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawMemoryPolicy<'a> {
    #[serde(borrow)]
    pub(crate) mode: Text<'a>,
    #[serde(borrow)]
    pub(crate) nodes: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub(crate) flags: Vec<Text<'a>>,
}
