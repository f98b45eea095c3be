//! One run of critest against a CRI socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::expectations::{self, Outcome, Spec};
use crate::{peers, process};

/// Seconds that one run of critest may take.
const LIMIT: u64 = 1800;

/// Runs a copy of critest that [`super::images::adapt_critest`] made; it ends with 1 when a spec
/// failed, so only its report counts. Log and report are kept in `out`.
///
/// # Errors
///
/// If critest cannot be started or writes no report.
pub fn run(
    program: &Path,
    socket: &Path,
    out: &Path,
    flags: &[String],
) -> Result<BTreeMap<String, Spec>> {
    let endpoint = format!("unix://{}", socket.display());
    let (report, config) = (out.join("report.json"), out.join("crictl.yaml"));
    fs::remove_file(&report).ok();
    fs::write(
        &config,
        format!("runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 60\n"),
    )?;
    let mut critest = process::limited(program, LIMIT);
    critest
        .arg(format!("--config={}", config.display()))
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .args(flags)
        .env("PATH", path(program)?);
    let output = process::run(&mut critest)?;
    fs::write(
        out.join("critest.log"),
        format!("{}{}", output.stdout, output.stderr),
    )?;
    let Ok(text) = fs::read_to_string(&report) else {
        bail!(
            "critest wrote no report:\n{}{}",
            output.stdout,
            output.stderr
        );
    };
    expectations::read(&text)
}

/// Where critest looks for itself and for ginkgo, which it needs to run specs in parallel.
fn path(program: &Path) -> Result<OsString> {
    let mut folders: Vec<PathBuf> = program.parent().map(Path::to_owned).into_iter().collect();
    folders.push(peers::folder().join("bin"));
    let rest = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&rest));
    Ok(std::env::join_paths(folders)?)
}

/// Counts of what ended in which way, for a reader.
pub fn figures(specs: &BTreeMap<String, Spec>) -> String {
    let count = |outcome| {
        let of = specs.values().filter(|spec| spec.outcome == outcome);
        of.count()
    };
    format!(
        "{} passed, {} failed, {} skipped of {}",
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Skipped),
        specs.len()
    )
}
