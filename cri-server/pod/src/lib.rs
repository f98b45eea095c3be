//! What a sandbox and a container are, what may happen to them next, and the OCI spec each gets.
//!
//! Everything here is a decision: plain values in, plain values out. Time, ids, facts of the host
//! and configuration come in as arguments; nothing here opens a file, reads a clock, makes a random
//! number or calls the kernel, and nothing here knows which client asked or how bytes travel.

pub mod container;
pub mod facts;
pub mod lifecycle;
pub mod plan;
pub mod sandbox;

pub use container::ContainerSpec;
pub use facts::NodeFacts;
pub use plan::{ContainerPlan, PlanError, SandboxPlan, plan_container, plan_sandbox};
pub use sandbox::SandboxSpec;
