//! What a host has and lacks to run pods, in words, with the cure.
//!
//! ```text
//! the host -look-> Facts -judge-> Findings -show-> text, JSON
//! ```
//!
//! It changes nothing and needs no running daemon. Only `look` and `tried` touch the system; what a fact means
//! is decided in `judge`, which is pure.

mod facts;
mod judge;
mod look;
pub mod pressure;
mod show;
mod tried;

use std::path::PathBuf;

use serde::Serialize;

pub use show::{json, text};

/// What is asked about: the parts of the daemon's configuration that meet the host.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Folder for what survives a reboot.
    pub root: PathBuf,
    /// Folder for what does not survive a reboot.
    pub state: PathBuf,
    /// Where configurations of CNI are looked for.
    pub cni_conf_dir: PathBuf,
    /// The daemon's sockets.
    pub sockets: Vec<PathBuf>,
    /// Where exec, attach and port-forward are served; port 0 is any.
    pub streaming: std::net::SocketAddr,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Good,
    /// Worth knowing; nothing to be done.
    Note,
    /// Something will not work, or not well.
    Warning,
    /// No pod can run.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What it is about: a short name that stays the same from version to version.
    pub subject: &'static str,
    /// How much it matters.
    pub weight: Weight,
    /// What was found, with the numbers.
    pub found: String,
    /// What to do about it, as a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Looks at this host.
#[must_use]
pub fn host(asked: &Asked) -> Vec<Finding> {
    let mut findings = judge::all(&look::host(asked));
    findings.extend(pressure::host_wide());
    findings
}

/// The heaviest of the findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Weight {
    let weights = findings.iter().map(|finding| finding.weight);
    weights.max().unwrap_or(Weight::Good)
}
