//! Verbs that run something in a container.

use cri_api as cri;
use engine::{Engine, Error};

use super::request;

pub(super) async fn sync(
    engine: &Engine,
    asked: cri::ExecSyncRequest,
) -> Result<cri::ExecSyncResponse, Error> {
    let command = request::command("cmd", asked.cmd)?;
    let timeout = request::seconds("timeout", asked.timeout)?;
    // Zero stands for no limit on this wire.
    let timeout = (!timeout.is_zero()).then_some(timeout);
    let output = engine
        .exec_sync(&asked.container_id, command, timeout)
        .await?;
    Ok(cri::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    })
}
