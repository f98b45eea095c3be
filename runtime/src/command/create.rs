//! `create`: everything up to the point where the program would start.

use super::{bundle, pid_file, preserved, request, shut_others_out};
use crate::cli::Values;
use crate::context::Context;
use crate::failure::Result;
use crate::{parent, pid_file as pid, seal, terminal};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    seal::ensure()?;
    shut_others_out(preserved(values)?)?;
    let (bundle, pid_file) = (bundle(values)?, pid_file(values)?);
    let console = values
        .text("console-socket")
        .map(terminal::connect)
        .transpose()?;
    let bytes = parent::read_config(&bundle)?;
    let spec = parent::parse_config(&bundle, &bytes)?;
    let created = parent::create(
        context,
        &spec,
        &request(values, id, &bundle, console.as_ref())?,
    )?;
    let pid = created.container.state.init_process_pid;
    if let Err(failure) = pid::write(pid_file.as_deref(), pid) {
        created.container.kill()?;
        created.container.destroy()?;
        return Err(failure);
    }
    Ok(0)
}
