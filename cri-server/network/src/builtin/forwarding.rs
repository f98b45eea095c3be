//! The host's switch for forwarding: set when the first pod comes, put back at reset if it was we
//! who set it and nobody else needs it.
//!
//! `<state>/ip_forward` holds the value that we found; it goes with a reboot, as the switch does.

use std::path::{Path, PathBuf};

use crate::netlink::route::Link;
use crate::records::{remove_file, write_file};
use crate::{Error, failed};

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Where the old value lies.
#[derive(Debug)]
pub(crate) struct Forwarding {
    before: PathBuf,
}

impl Forwarding {
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            before: state.join("ip_forward"),
        }
    }

    /// Switches forwarding on; the old value lies on disk first.
    pub(crate) fn enable(&self) -> Result<(), Error> {
        let now = std::fs::read_to_string(SWITCH).map_err(failed(format!("reading {SWITCH}")))?;
        if now.trim() == "1" {
            return Ok(());
        }
        write_file(&self.before, now.trim().as_bytes(), false)?;
        set(SWITCH, "1")
    }

    /// Puts the old value back, unless another bridge is there that may need forwarding.
    pub(crate) fn restore(&self, links: &[Link]) -> Result<(), Error> {
        let Ok(before) = std::fs::read_to_string(&self.before) else {
            return Ok(());
        };
        if links.iter().any(|link| link.kind == "bridge") {
            tracing::info!("net.ipv4.ip_forward stays 1: another bridge may need it");
        } else {
            set(SWITCH, &before)?;
        }
        remove_file(&self.before)
    }
}

/// Lets packets with an address of 127/8 be routed through the link: a host port on 127.0.0.1.
pub(crate) fn allow_loopback_addresses(link: &str) -> Result<(), Error> {
    set(
        &format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"),
        "1",
    )
}

fn set(path: &str, value: &str) -> Result<(), Error> {
    std::fs::write(path, value).map_err(failed(format!("writing {value} to {path}")))
}
