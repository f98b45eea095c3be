//! `wherryd check`: asks the crate `check` about this host, for this configuration.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use check::{Asked, Weight};

use crate::config::Settings;

/// Prints what was found; fails only if that is not possible. The exit code is 1 where no pod can run.
pub(crate) fn print(settings: &Settings, json: bool) -> Result<ExitCode> {
    let findings = check::host(&asked(settings));
    let text = if json {
        check::json(&findings)
    } else {
        check::text(&findings)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("printing")?;
    Ok(match check::worst(&findings) {
        Weight::Failure => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The same for a report.
pub(crate) fn text(settings: &Settings) -> String {
    check::text(&check::host(&asked(settings)))
}

/// What of the configuration meets the host.
fn asked(settings: &Settings) -> Asked {
    let engine = &settings.engine;
    let mut sockets = vec![settings.listen.clone()];
    sockets.extend(settings.containerd.clone());
    Asked {
        root: engine.root.clone(),
        state: engine.state.clone(),
        cni_conf_dir: engine.network.cni_conf_dir.clone(),
        sockets,
        streaming: settings.streaming.address,
    }
}
