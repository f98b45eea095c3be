//! `create`: everything up to the point where the program would start.

use super::bundle::Bundle;
use super::{INIT, hand_over_pidfd, pid_file};
use crate::cli::Values;
use crate::context::Context;
use crate::failure::Result;
use crate::{parent, pid_file as pid, seal, terminal};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    seal::ensure()?;
    let bundle = Bundle::of(context, values, id)?;
    let pid_file = pid_file(values)?;
    let console = values
        .text("console-socket")
        .map(terminal::connect)
        .transpose()?;
    let spec = bundle.spec()?;
    let created = parent::create(
        context,
        &spec,
        &bundle.request(values, false, console.as_ref()),
    )?;
    let pid = created.container.state.init_process_pid;
    let told = hand_over_pidfd(values, &created.child.pidfd, INIT)
        .and_then(|()| pid::write(pid_file.as_deref(), pid));
    if let Err(failure) = told {
        created.container.kill()?;
        created.container.destroy(&context.log)?;
        return Err(failure);
    }
    Ok(0)
}
