//! What the tests over program boundaries share: real programs, started in folders of their own,
//! and a proof that nothing of them is left.
//!
//! Nothing here knows how Wherry works inside: it starts binaries, speaks CRI, and looks at the
//! kernel's own lists. The picture:
//!
//! ```text
//!   test -- Crictl --.                      .-- Registry (docker-registry on loopback)
//!         \- Client --> Daemon (wherryd) ---'        ^
//!                         |                          '-- image::{Layer, Image} made here
//!                       Scratch (one folder, one cgroup, one bridge) -- Traces: what is left?
//! ```
//!
//! - A [`Daemon`] ends with its test, by `wherryd reset`; what that leaves behind fails the test and
//!   is removed by force.
//! - A test that needs what a machine may lack calls [`skipped`] and returns.
//! - Everything that waits has a limit: [`wait`].

pub mod client;
pub mod conformance;
pub mod crictl;
pub mod daemon;
pub mod debian;
pub mod engines;
pub mod image;
pub mod kubelet;
pub mod node;
pub mod peers;
pub mod pod;
pub mod process;
pub mod programs;
pub mod registry;
pub mod scratch;
pub mod traces;
pub mod wait;

pub use client::Client;
pub use crictl::Crictl;
pub use daemon::Daemon;
pub use kubelet::Kubelet;
pub use node::Node;
pub use registry::Registry;
pub use scratch::Scratch;

use std::path::{Path, PathBuf};

/// Says why a test does not run here; `hack/test` counts these lines.
#[expect(
    clippy::print_stdout,
    reason = "the line is for the reader of the test's output"
)]
pub fn skipped(needs: &str) {
    println!("skipped: needs {needs}");
}

/// The checkout that these tests belong to.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether the long form of the tests was asked for (`hack/test --all`).
pub fn thorough() -> bool {
    std::env::var_os("WHERRY_TEST_ALL").is_some()
}
