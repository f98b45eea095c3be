//! `delete`: removes what is kept of a container, killing it first if that is wanted.

use crate::cgroups::{self, Asked, ContainerGroup};
use crate::cli::Values;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::state::{Error, Folder, Noted};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    let force = values.is_set("force");
    let folder = Folder::of(&context.root, id)?;
    let _lock = match folder.lock() {
        Err(Error::DoesNotExist) if force => return Ok(0),
        lock => lock?,
    };
    let container = match Container::load(&context.root, id) {
        Err(Error::DoesNotExist) if force => {
            delete_half_made(context, &folder, id)?;
            return Ok(0);
        }
        container => container?,
    };
    match container.status()? {
        Status::Stopped => {}
        Status::Running | Status::Paused if !force => {
            let status = container.status()?.name();
            return Err(Failure::new(format!(
                "cannot delete container {id} that is not stopped: {status}"
            )));
        }
        _ => container.kill()?,
    }
    container.destroy(&context.log)?;
    Ok(0)
}

/// A maker that was killed half-way leaves a folder without a state, and perhaps a group.
fn delete_half_made(context: &Context, folder: &Folder, id: &str) -> Result<()> {
    if let Some(noted) = folder.noted_groups() {
        let Noted(manager, path) = noted;
        let host = cgroups::detect(manager)?;
        let asked = Asked {
            manager,
            path: path.as_deref(),
            id,
            rootless: context.rootless,
        };
        let group = ContainerGroup::plan(host.as_ref(), asked)?;
        group.kill()?;
        group.remove()?;
    }
    folder.remove()
}
