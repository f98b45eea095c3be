//! Where the programs lie that `hack/peers` brings.

use std::path::PathBuf;

use crate::process;

/// The folder of the peers: `$WHERRY_PEERS`, else in the user's cache.
pub fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("WHERRY_PEERS").unwrap_or_else(|| cache().join("peers"))
}

/// The project's folder in the user's cache.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("wherry")
}

/// A peer by its path below the folder; `None`, after saying so, if it is not there.
pub fn peer(path: &str) -> Option<PathBuf> {
    let found = folder().join(path);
    if found.exists() {
        return Some(found);
    }
    crate::skipped(&format!("{path} of `hack/peers`"));
    None
}

/// A peer, or else the machine's own program of that name.
pub fn peer_or_installed(name: &str) -> Option<PathBuf> {
    let peer = folder().join("bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(peer)
        .chain(std::env::split_paths(&path).map(|folder| folder.join(name)))
        .chain([PathBuf::from("/usr/sbin").join(name)])
        .find(|program| program.exists());
    if found.is_none() {
        crate::skipped(name);
    }
    found
}

/// Whether this machine has a criu that works, with what it needs; says so if not.
pub fn criu_works() -> bool {
    let Some(criu) = peer_or_installed("criu") else {
        return false;
    };
    let checked = process::run(process::bounded(criu).arg("check"));
    if !checked.is_ok_and(|said| said.code == 0) {
        crate::skipped("criu that works on this kernel");
        return false;
    }
    peer_or_installed("iptables-restore").is_some()
}
