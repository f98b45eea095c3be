//! What `wherryd` and `wherry-shim` say to each other, and the files that lie between them.
//!
//! The messages are in `shim.proto`. Around them:
//!
//! - The daemon binds a listening `SOCK_SEQPACKET` socket at [`SOCKET`] in the bundle and hands it
//!   to the shim as descriptor [`LISTENER_FD`] (standard input, so that a plain posix_spawn(3) can
//!   hand it over); a connection can be made before the shim has run its first instruction.
//! - The shim's command line is
//!   `wherry-shim --id ID --bundle DIR --runtime PROGRAM --runtime-root DIR [--systemd-cgroup]`.
//! - `wherry-shim delete` with the same flags undoes what a lost shim left: it runs the OCI
//!   runtime's `delete --force` and exits.
//! - `wherry-shim init` is the first process of a shared process id namespace: it reaps, and ends
//!   on SIGTERM.
//! - `wherry-shim namespaces user [net] [ipc] [uts]` makes these namespaces, writes one byte to its
//!   standard output, and ends with its standard input: who started it writes the maps of the user
//!   namespace, and pins all of them, in between.
//! - `wherry-shim features --runtime PROGRAM` becomes the OCI runtime's `features`.
//! - `wherry-shim --version` prints `wherry-shim version VERSION` and `protocol: `[`PROTOCOL`].
//! - When the container has ended, the shim drains its streams, writes [`EXIT_RECORD`] by rename,
//!   tells every connection, runs the OCI runtime's `delete`, and ends. The connection's end means
//!   that nothing of the container is left but files.

#[expect(missing_docs, reason = "generated; documented in shim.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wherry.shim.v1.rs"));
}

pub use generated::*;

/// Which requests and fields there are: raised with each that the other side has to know. A daemon
/// drives shims of every number, since nothing is ever taken away: an older one answers what it does
/// not know with `UNKNOWN_REQUEST`, a newer one knows all that the daemon can ask for.
pub const PROTOCOL: u32 = 1;

/// Name of the socket in the bundle.
pub const SOCKET: &str = "shim.sock";

/// Descriptor under which the shim finds its listening socket.
pub const LISTENER_FD: i32 = 0;

/// Name of the exit record in the bundle: one [`ExitRecord`], written by rename.
pub const EXIT_RECORD: &str = "exit";

/// Name of the file with the pid of the container's init, written by the OCI runtime.
pub const PID_FILE: &str = "init.pid";

/// Largest packet on the socket, bytes. A larger request is refused before it is sent.
pub const MAX_PACKET: usize = 128 * 1024;

/// Most descriptors beside one packet.
pub const MAX_FDS: usize = 3;
