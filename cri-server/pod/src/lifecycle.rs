//! What may happen to a sandbox or a container next.

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Its process waits to be released.
    Created,
    /// Its process runs.
    Running,
    /// Its process is gone.
    Exited,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Its name is taken, nothing else is certain.
    Reserved,
    /// It has its namespaces and addresses.
    Ready,
    /// It is stopped, or was lost with the boot it lived in.
    NotReady,
}
