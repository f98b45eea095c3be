//! Kubernetes' Container Runtime Interface, version v1: its messages, the traits that a server
//! implements, and the clients that call one.
//!
//! Everything here is generated from `api.proto`, which says what each field means. This crate
//! knows nothing of Wherry: what the daemon makes of a message is in `cri-server/src/rpc`.
//!
//! - [`runtime_service_server`] and [`image_service_server`] have the traits to implement,
//!   [`runtime_service_client`] and [`image_service_client`] the callers.
//! - [`MAX_MESSAGE`] is the limit that every known client keeps to, in both directions.

#[expect(missing_docs, reason = "generated; documented in api.proto")]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
mod generated {
    tonic::include_proto!("runtime.v1");
}

pub use generated::*;

use std::fmt;

/// Largest message that clients send and accept, bytes.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Credentials never reach a log: only whether each is there can be printed.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |secret: &str| if secret.is_empty() { "" } else { "<hidden>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::AuthConfig;

    #[test]
    fn credentials_are_not_printed() {
        let auth = AuthConfig {
            username: "anna".into(),
            password: "s3cret".into(),
            auth: "YW5uYTpzM2NyZXQ=".into(),
            registry_token: "t0ken".into(),
            ..AuthConfig::default()
        };
        let shown = format!("{auth:?}");
        assert!(shown.contains("anna"), "{shown}");
        for secret in ["s3cret", "YW5uYTpzM2NyZXQ=", "t0ken"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
