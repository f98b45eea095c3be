//! Serves the test images from a registry on loopback until its standard input ends.
//!
//! For people and scripts that want to try a CRI server: `FOLDER/certs.d` then holds a hosts.toml
//! for each registry that the images' names belong to.

#![expect(clippy::print_stdout, reason = "it says where the registry is")]

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tests::conformance::images;
use tests::{Registry, daemon};

fn main() -> Result<()> {
    let folder = std::env::args()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: images FOLDER")?;
    let registry =
        Registry::start(&folder.join("registry"))?.context("docker-registry is not installed")?;
    let digest = images::push_all(&registry)?;
    for host in images::HOSTS.into_iter().chain([registry.host.as_str()]) {
        let hosts = folder.join("certs.d").join(host);
        fs::create_dir_all(&hosts)?;
        fs::write(
            hosts.join("hosts.toml"),
            daemon::hosts(host, &registry.host)?,
        )?;
    }
    println!("registry {}", registry.host);
    println!("pinned {digest}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
