//! The crate as its users see it, against registries on loopback and the real file system.

mod bad_input;
mod damage;
mod exports;
pub(crate) mod forms;
mod imports;
mod mounts;
mod pulls;
mod room;
mod signatures;
mod workers;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::Limits;

use crate::{Config, Error, Store, Usage};

/// How long anything may take that ends by itself. What empties the trash only runs when nothing else
/// does, so that on a machine with other work it takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store of its own below `root`, whose waits are short.
fn store_at(root: &Path) -> Arc<Store> {
    store_with(root, &limits())
}

fn store_with(root: &Path, limits: &Limits) -> Arc<Store> {
    let config = config(root, "this");
    open_store(&config, limits).unwrap()
}

/// A store below `root` in the boot of that name, which unpacks as the daemon does: by processes.
fn config(root: &Path, boot: &str) -> Config {
    let mut config = Config::new(root.join("store"), root.join("certs.d"), boot.to_owned());
    config.worker = Some(workers::worker());
    config
}

/// Opens a store that was just closed, too. A program that another test starts holds a copy of the
/// lock, as of all descriptors, for the moment until it is executed.
fn open_store(config: &Config, limits: &Limits) -> Result<Arc<Store>, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Store::open_with(config, limits.clone(), Duration::ZERO) {
            Err(error)
                if error.to_string().contains("another daemon") && Instant::now() < deadline =>
            {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
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
    let deadline = tokio::time::Instant::now() + PATIENCE;
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
    let deadline = tokio::time::Instant::now() + PATIENCE;
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
