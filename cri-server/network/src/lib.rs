//! The network of a pod: CNI plugins, or the built-in bridge where there are none.
//!
//! Knows nothing of pods beyond an id, a name for CNI and a pinned network namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Which network new pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI if a conflist lies in its folder, else built-in.
    #[default]
    Auto,
    /// CNI only; not ready until a conflist appears.
    Cni,
    /// Built-in only.
    Builtin,
}

/// Configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which network new pods get.
    pub mode: Mode,
    /// Folder of CNI's configuration, `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// Folders of CNI's plugins, `/opt/cni/bin`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Folder of CNI's cached results, `/var/lib/cni/results`.
    pub cni_cache_dir: PathBuf,
    /// Name of the built-in bridge; also names the nft table.
    pub bridge: String,
    /// Range of the built-in network, `10.x.y.z/n`.
    pub subnet: String,
    /// Folder for what must survive a reboot.
    pub root: PathBuf,
    /// Folder for what must not.
    pub state: PathBuf,
}

/// A pod that wants a network.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Id of the sandbox.
    pub id: String,
    /// Pinned network namespace.
    pub netns: PathBuf,
    /// `CNI_ARGS` pairs (`K8S_POD_NAME`, ...).
    pub args: BTreeMap<String, String>,
    /// Host ports.
    pub ports: Vec<Port>,
    /// Control group of the pod, for plugins that ask.
    pub cgroup_parent: String,
    /// Annotations of the pod, for plugins that ask.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads into the pod.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port of the host, never 0.
    pub host: u16,
    /// Port inside.
    pub container: u16,
    /// Address of the host; `None` means all.
    pub host_ip: Option<IpAddr>,
}

/// What a pod got.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attached {
    /// Addresses, the main one first.
    pub ips: Vec<IpAddr>,
    /// The interface inside.
    pub interface: String,
    /// CNI's result, as JSON, for those who show it; empty for the built-in network.
    pub cni_result: String,
}

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network to give (the reason is shown in Status).
    #[error("network is not ready: {0}")]
    NotReady(String),
    /// What was asked for can't be.
    #[error("{0}")]
    Invalid(String),
    /// Another pod or program has it (host port, subnet, bridge name).
    #[error("{0}")]
    Conflict(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The network of one daemon.
#[derive(Debug)]
pub struct Network {}

#[expect(clippy::todo, clippy::unused_async, unused_variables, reason = "signatures first")]
impl Network {
    /// Reads what earlier runs left. Makes nothing yet: the bridge comes with the first pod.
    ///
    /// # Errors
    ///
    /// The configuration is wrong, or the folders cannot be used.
    pub fn open(config: &Config) -> Result<Arc<Self>, Error> {
        todo!()
    }

    /// Whether a pod could get a network now. Cheap.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`] with the reason.
    pub fn status(&self) -> Result<(), Error> {
        todo!()
    }

    /// Gives the namespace its network: loopback up, an interface, addresses, routes, host ports.
    /// What it needs for its undoing lies on disk before the first effect; on failure all is
    /// undone.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn attach(&self, pod: &Attachment) -> Result<Attached, Error> {
        todo!()
    }

    /// Brings up loopback in the namespace of a pod, nothing else.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn loopback(&self, netns: &std::path::Path) -> Result<(), Error> {
        todo!()
    }

    /// Undoes [`Network::attach`], from what lies on disk; already undone is no error. `netns` may
    /// be gone.
    ///
    /// # Errors
    ///
    /// See [`Error`]; may be called again.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        todo!()
    }

    /// Told once at start: the sandboxes that keep their network. All others are detached; rules
    /// and links of those that stay are checked and mended. `rebooted` says that the kernel forgot
    /// everything since.
    pub async fn reconcile(&self, live: &std::collections::HashSet<String>, rebooted: bool) {
        todo!()
    }

    /// Removes every link, rule and file of ours.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn reset(&self) -> Result<(), Error> {
        todo!()
    }
}
