//! The table `[network]`: how pods are connected.

use std::path::Path;

use super::values::Values;
use super::{Error, refuse};

/// Longest name of a network interface (`IFNAMSIZ` less its end).
const MAX_INTERFACE: usize = 15;

pub(super) fn settle(values: &Values, root: &Path, state: &Path) -> Result<network::Config, Error> {
    Ok(network::Config {
        mode: match values.fixed("network.mode").as_str() {
            "cni" => network::Mode::Cni,
            "builtin" => network::Mode::Builtin,
            _ => network::Mode::Auto,
        },
        cni_conf_dir: values.path("network.cni_conf_dir"),
        cni_bin_dirs: values.paths("network.cni_bin_dirs"),
        cni_cache_dir: values.path("network.cni_cache_dir"),
        bridge: bridge(values.fixed("network.bridge"))?,
        subnet: subnet(values.fixed("network.subnet"))?,
        routed: routed(values.texts("network.routed"))?,
        root: root.join("network"),
        state: state.join("network"),
    })
}

fn bridge(name: String) -> Result<String, Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > MAX_INTERFACE || !name.bytes().all(fits) {
        let reason = format!(
            "{name:?} is no name for an interface: 1 to {MAX_INTERFACE} letters, digits, '-', '_'"
        );
        return Err(refuse("network.bridge", reason));
    }
    Ok(name)
}

/// A range with room for a gateway and a pod.
fn subnet(range: String) -> Result<String, Error> {
    match prefix_length(&range) {
        Some(8..=30) => Ok(range),
        _ => Err(refuse(
            "network.subnet",
            format!("{range:?} is no IPv4 range such as 10.213.0.0/16, with 8 to 30 bits fixed"),
        )),
    }
}

/// The number of fixed bits of an IPv4 range, if it is one.
fn prefix_length(range: &str) -> Option<u8> {
    let (address, length) = range.split_once('/')?;
    address.parse::<std::net::Ipv4Addr>().ok()?;
    length.parse().ok()
}

/// Ranges that need no masquerade.
fn routed(ranges: Vec<String>) -> Result<Vec<String>, Error> {
    let wrong = |range: &&String| !matches!(prefix_length(range), Some(0..=32));
    match ranges.iter().find(wrong) {
        None => Ok(ranges),
        Some(range) => Err(refuse(
            "network.routed",
            format!("{range:?} is no IPv4 range such as 10.213.0.0/16"),
        )),
    }
}
