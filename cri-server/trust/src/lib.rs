//! Who may have made an image: a policy, and whether signatures satisfy it.
//!
//! Pure, but for reading the policy with its keys and roots once ([`Policy::load`]): bytes in,
//! verdict out. It fetches nothing, and knows neither registries nor stores nor pods; a namespace is
//! a word to it.
//!
//! ```text
//! policy.toml, keys, roots -> Policy::load
//!        namespace, repository -> Policy::demand -> nothing | refused | signatures
//!        Subject, [Evidence]   -> Policy::judge  -> Verdict
//! ```
//!
//! Two forms of evidence are understood, those that cosign writes: a signed payload with its
//! signature beside it ("simple signing"; cosign's `specs/SIGNATURE_SPEC.md`), and Sigstore bundles
//! that hold a signed in-toto statement (sigstore's `protobuf-specs`). What a certificate, a log or a
//! time stamp proves is decided by `sigstore-verify`.

mod evidence;
mod file;
pub mod judge;
mod policy;
mod requirement;
mod simple;
mod verify;

pub use evidence::{Evidence, Simple};
pub use policy::{Demand, Policy, PolicyError, Subject, Verdict};

#[cfg(test)]
mod tests;
