//! What a client asks of a sandbox (a pod without its containers).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::{Resources, SelinuxOptions};

/// A sandbox as asked for. Kept byte for byte: lists and status give back what came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Name of the pod, unique within its namespace together with `uid` and `attempt`.
    pub name: String,
    /// The pod's unique id, chosen by the client.
    pub uid: String,
    /// Namespace of the pod (the orchestrator's notion, not the kernel's).
    pub namespace: String,
    /// How often the client made this pod before.
    pub attempt: u32,
    /// Host name seen inside; empty means the node's name.
    pub hostname: String,
    /// Folder on the host below which the containers' logs lie; empty means no logs.
    pub log_directory: String,
    /// What goes into `/etc/resolv.conf`; `None` copies the host's.
    pub dns: Option<Dns>,
    /// Ports of the host that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, given back unaltered.
    pub labels: BTreeMap<String, String>,
    /// Annotations, given back unaltered.
    pub annotations: BTreeMap<String, String>,
    /// Parent control group, as a cgroupfs path or a systemd slice; empty means the engine's own.
    pub cgroup_parent: String,
    /// Kernel parameters to set inside, `net.ipv4.x` or `net/ipv4/x`.
    pub sysctls: BTreeMap<String, String>,
    /// Which kernel namespaces the pod has for itself.
    pub namespaces: SandboxNamespaces,
    /// Whether the pod may hold privileged containers.
    pub privileged: bool,
    /// Name of the runtime handler; empty means the default one.
    pub handler: String,
    /// What the pod takes beside its containers, as the client reckons.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// What its containers may take together; the client itself limits the pod's control group.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// SELinux context of a process of the pod's own, where it has one.
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
}

/// Which kernel namespaces a pod has for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNamespaces {
    /// Network.
    pub network: NamespaceMode,
    /// Process ids.
    pub pid: PidMode,
    /// System V IPC, POSIX queues and `/dev/shm`.
    pub ipc: NamespaceMode,
    /// User and group ids; `None` means the host's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

impl SandboxNamespaces {
    /// User and group id on the host of who is root in the pod.
    #[must_use]
    pub fn root(self) -> (u32, u32) {
        self.user
            .map_or((0, 0), |user| (user.uids.host, user.gids.host))
    }
}

/// A user namespace of the pod's own (user_namespaces(7), KEP-127): which ids its own stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: IdRange,
    /// Group ids.
    pub gids: IdRange,
}

/// The ids from 0 on inside, as the host knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What 0 inside is on the host.
    pub host: u32,
    /// How many ids there are.
    pub length: u32,
}

impl IdRange {
    /// What an id inside is on the host; `None` if there is no such id inside.
    #[must_use]
    pub fn on_host(self, id: u32) -> Option<u32> {
        (id < self.length)
            .then(|| self.host.checked_add(id))
            .flatten()
    }
}

/// Whether a namespace is the pod's or the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

/// Whose process ids the containers of a pod see by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One namespace shared by all containers of the pod.
    Pod,
    /// Each container its own.
    #[default]
    Container,
    /// The host's.
    Node,
}

/// The content of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the pod, never 0.
    pub container_port: u16,
    /// Port of the host; 0 means that none is asked for.
    pub host_port: u16,
    /// Address of the host; `None` means all of them.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl SandboxSpec {
    /// The key under which a retry of the same request finds the operation already running.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "{}_{}_{}_{}",
            self.name, self.namespace, self.uid, self.attempt
        )
    }

    /// Folder of the pod's logs, if it has one.
    #[must_use]
    pub fn log_directory(&self) -> Option<PathBuf> {
        (!self.log_directory.is_empty()).then(|| PathBuf::from(&self.log_directory))
    }
}
