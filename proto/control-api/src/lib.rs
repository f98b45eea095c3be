//! What `wherryd`'s subcommands ask the running daemon: the contract of the operator's socket.
//!
//! The messages and the service are in `control.proto`. The socket is [`SOCKET`] in the daemon's
//! state folder, mode 0600: whoever may open it may do everything. It is no front end for other
//! programs; those speak CRI.

#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    reason = "generated; documented in control.proto"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wherry.control.v1.rs"));
}

pub use generated::*;

/// Name of the operator's socket in the daemon's state folder.
pub const SOCKET: &str = "control.sock";
