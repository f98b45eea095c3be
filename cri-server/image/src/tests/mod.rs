//! The crate as its users see it, against registries on loopback and the real file system.

mod bad_input;
mod damage;
mod debian;
mod exports;
mod forms;
mod images;
mod imports;
mod mounts;
mod node;
mod parts;
mod pulls;
mod referrers;
mod registries;
mod room;
pub(crate) mod server;
mod signatures;
pub(crate) mod tars;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::Limits;
use crate::{Config, Store, Usage};

/// A store of its own below `root`, whose waits are short.
fn store_at(root: &Path) -> Arc<Store> {
    store_with(root, limits())
}

fn store_with(root: &Path, limits: Limits) -> Arc<Store> {
    let config = Config::new(root.join("store"), root.join("certs.d"), "this".into());
    Store::open_with(&config, limits).unwrap()
}

/// Waits that are short, but for the one in which a server has to answer.
fn limits() -> Limits {
    Limits {
        // Long enough for a machine that has much other work.
        silence: Duration::from_secs(3),
        attempts: 3,
        pause: Duration::from_millis(2),
        longest_pause: Duration::from_secs(2),
        slowest: 100,
        slow_for: Duration::from_millis(400),
        grace: Duration::ZERO,
        patience: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// A temporary folder on a real file system: overlayfs takes no writable layer on every one.
fn temp() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("wherry-image-")
        .tempdir()
        .unwrap()
}

/// What is left of half-made things below a store: nothing, once the trash is empty.
fn left_overs(root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for folder in ["staging", "layers/sha256", "images", "trash"] {
        let Ok(entries) = std::fs::read_dir(root.join("store").join(folder)) else {
            continue;
        };
        left.extend(
            entries
                .flatten()
                .map(|e| format!("{folder}/{}", e.file_name().to_string_lossy())),
        );
    }
    left
}

/// Waits until nothing half-made is left; cancelled work ends on threads of its own.
async fn nothing_left(root: &Path) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !left_overs(root).is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "left: {:?}",
            left_overs(root)
        );
        tokio::task::yield_now().await;
    }
}

/// Waits until a store uses nothing: what is being deleted counts as well.
async fn unused(store: &Store) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.usage() != Usage::default() {
        let usage = store.usage();
        assert!(tokio::time::Instant::now() < deadline, "{usage:?}");
        tokio::task::yield_now().await;
    }
}

/// Writes `hosts.toml` for a registry.
fn hosts_toml(root: &Path, registry: &str, text: &str) {
    let folder = root.join("certs.d").join(registry);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}
