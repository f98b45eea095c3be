//! The Node Resource Interface: messages that a container engine and its plugins exchange, the names
//! of their calls, and the two messages of the frames that these travel in.
//!
//! The messages are generated from the `.proto` files beside this one, which say what each field
//! means. How bytes travel is not here, nor who calls whom when. This crate knows nothing of Wherry.

#![expect(missing_docs, reason = "generated; documented in nri.proto")]

include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));

/// What a frame holds.
pub mod ttrpc {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

/// The service that a plugin offers.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The service that the engine offers.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// The version of NRI that these messages are of.
pub const VERSION: &str = "v0.12.5";

/// Where plugins find the engine, unless told otherwise.
pub const SOCKET: &str = "/var/run/nri/nri.sock";

/// A key that begins with it removes what has the rest of the key.
pub const REMOVAL: char = '-';
