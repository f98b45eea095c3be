//! A registry on loopback that answers what a test says, truthfully or not, and images for it, made
//! byte by byte so that they can be as wrong as a test wants.
//!
//! Only tests use it. It knows nothing of what it tests: digests and types are spelt here a second
//! time. A real registry, to see that both ends mean the same, is started by the tests themselves.

#![expect(clippy::unwrap_used, reason = "what cannot be prepared fails the test")]

mod images;
mod server;
mod tars;

pub use images::{
    OCI_INDEX, OCI_MANIFEST, Pack, Shelf, TestImage, descriptor, digest, index_of, pack,
};
pub use server::{Reply, Request, Server};
pub use tars::{Head, Tar, pax_record};
