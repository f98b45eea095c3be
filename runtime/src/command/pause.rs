//! `pause` and `resume`.

use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Stops all processes where they are.
pub(super) fn pause(context: &Context, id: &str) -> Result<u8> {
    let container = Container::load(&context.root, id)?;
    match container.status()? {
        Status::Running | Status::Created => container.group()?.freeze()?,
        Status::Paused => return Err(Failure::new("container already paused")),
        Status::Stopped => return Err(Failure::new("container not running or created: stopped")),
    }
    Ok(0)
}

/// Lets them go on.
pub(super) fn resume(context: &Context, id: &str) -> Result<u8> {
    let container = Container::load(&context.root, id)?;
    if container.status()? != Status::Paused {
        return Err(Failure::new("container not paused"));
    }
    container.group()?.thaw()?;
    Ok(0)
}
