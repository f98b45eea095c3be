//! The calls of containerd's API that cAdvisor makes to learn whose a control group is: messages,
//! the traits that a server implements, and the clients that call one.
//!
//! Everything here is generated from the `.proto` files beside it, which say what each field means.
//! It is not containerd's API: every other call is missing, and answers UNIMPLEMENTED. This crate
//! knows nothing of Wherry.

/// What is known of a container.
#[expect(missing_docs, reason = "generated; documented in containers.proto")]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod containers {
    tonic::include_proto!("containerd.services.containers.v1");
}

/// What is known of its process.
#[expect(missing_docs, reason = "generated; documented in tasks.proto")]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}

/// Who answers.
#[expect(missing_docs, reason = "generated; documented in version.proto")]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod version {
    tonic::include_proto!("containerd.services.version.v1");
}

/// The namespace in which everything of Kubernetes' is.
pub const NAMESPACE: &str = "k8s.io";

/// Metadata key with the namespace that a call is about.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
