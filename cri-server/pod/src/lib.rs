//! What a sandbox and a container are, what may happen to them next, and the OCI spec each gets.
//!
//! Everything here is a decision: plain values in, plain values out. Time, ids, facts of the host
//! and configuration come in as arguments; nothing here opens a file, reads a clock, makes a random
//! number or calls the kernel, and nothing here knows which client asked or how bytes travel.
//!
//! ```text
//! SandboxSpec   + NodeFacts              -plan_sandbox->   SandboxPlan   namespaces, files
//! ContainerSpec + image, pod, NodeFacts  -plan_container-> ContainerPlan OCI spec, ids, signal
//! Request + phases          -lifecycle->       a decision     begin, join, wait, refuse
//! ```
//!
//! # Pod rules
//!
//! What holds in every plan. Each rule has its tests in the module that is named.
//!
//! - **A request is refused as a whole, and the field is named** as the client named it. What can
//!   never be right is [`PlanError::Invalid`]; what only this node lacks is
//!   [`PlanError::Unsupported`]. Nothing asked for in the name of security is left out silently: no
//!   filter in the kernel, no AppArmor profile to be had, a capability that the node cannot give
//!   are errors. SELinux options on a node without SELinux mean nothing and are passed over, since
//!   clients send them everywhere.
//! - **Namespaces** (`plan/namespaces.rs`). Network, IPC and host name are the pod's or the host's;
//!   the host name goes with the network. A container that says "the pod's" gets what the pod has,
//!   because clients leave that field at its zero value; one that says "the host's" in a pod with
//!   its own is refused. Each container has its own mounts, and its own view of control groups
//!   where those are unified and it is not privileged.
//! - **Process ids.** A pod that shares them has a built-in init (`plan/init.rs`), without rights,
//!   files or identity; nobody needs an image for it.
//! - **Privileged** means all capabilities that the engine holds, all devices, writable `/sys` and
//!   control groups, nothing masked, no filter. It needs a pod that is privileged too.
//! - **Identity** (`plan/identity.rs`) comes from the image's accounts, never the host's. A group
//!   needs a user beside it. The groups hold the primary one and are in rising order.
//! - **Capabilities** (`plan/capabilities.rs`): `ALL` first, then what is added, then what is
//!   dropped. The inheritable set holds the ambient ones only.
//! - **Masked and read-only paths** are exactly those of the request; an empty list means none.
//! - **Mounts** (`plan/mounts.rs`): a mount of the client's replaces ours at the same path; outer
//!   folders are mounted first; at the same path the later one lies on top.
//! - **Kernel parameters** (`plan/sysctls.rs`) are those of namespaces that the pod has for itself.
//! - **Swap**: a container with a memory limit has none, unless it says so.
//! - **Adjustments** (`plan/adjust.rs`) of plugins are made to a plan that stands: they outweigh what
//!   the client asked for, and get no further than the control group that the container has to itself.
//! - **Annotations** of the client never reach the OCI runtime, where any could mean something;
//!   only the engine's own do, under `io.kubernetes.cri.`.

pub mod container;
pub mod facts;
pub mod lifecycle;
pub mod plan;
pub mod sandbox;

pub use container::ContainerSpec;
pub use facts::NodeFacts;
pub use plan::{ContainerPlan, PlanError, SandboxPlan, plan_container, plan_sandbox};
pub use sandbox::SandboxSpec;
