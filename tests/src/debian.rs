//! Debian packages, unpacked into the user's cache and not installed: the contents of test images.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{peers, process};

/// Seconds that fetching packages may take.
const FETCH_LIMIT: u64 = 300;

/// A folder with these packages of the machine's own release unpacked in it.
///
/// # Errors
///
/// If apt cannot fetch them, or there is no room.
pub fn unpacked(packages: &[&str]) -> Result<PathBuf> {
    let cache = peers::cache().join("debian");
    fs::create_dir_all(&cache)?;
    // Tests of several processes may want the same folder at once.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let done = cache.join(packages.join("+"));
    if !done.exists() {
        let fresh = tempfile::tempdir_in(&cache)?;
        fetch(packages, fresh.path())?;
        fs::rename(fresh.path().join("root"), &done)?;
    }
    Ok(done)
}

/// Unpacks packages into `root` of a folder.
fn fetch(packages: &[&str], folder: &std::path::Path) -> Result<()> {
    let mut download = process::limited("apt-get", FETCH_LIMIT);
    download
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
        .args(packages);
    process::ok(download.current_dir(folder)).context("fetching Debian packages")?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            process::ok(
                process::bounded("dpkg")
                    .arg("-x")
                    .arg(&path)
                    .arg(folder.join("root")),
            )?;
        }
    }
    Ok(())
}
