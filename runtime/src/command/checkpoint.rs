//! `checkpoint`: a container into images, after which it is gone unless told otherwise.

use crate::cli::Values;
use crate::container::{Container, Status};
use crate::context::Context;
use crate::criu::dump::{Wanted, dump};
use crate::criu::options::{self, Folders};
use crate::criu::warn_ordinary_user;
use crate::failure::{Failure, Result};

pub(super) fn run(context: &Context, values: &Values, id: &str) -> Result<u8> {
    warn_ordinary_user(context, "checkpoint");
    let container = Container::load(&context.root, id)?;
    let status = container.status()?;
    if matches!(status, Status::Created | Status::Stopped) {
        let status = status.name();
        return Err(Failure::new(format!(
            "Container cannot be checkpointed in {status} state"
        )));
    }
    let wanted = Wanted {
        folders: Folders::of(values)?,
        options: options::options(values)?,
        memory_only: values.is_set("pre-dump"),
        status_fd: status_fd(values)?,
    };
    let goes_on = wanted.options.leave_running || wanted.memory_only;
    dump(context, &container, &wanted)?;
    if !goes_on {
        remove(context, &container);
    }
    Ok(0)
}

fn status_fd(values: &Values) -> Result<Option<i32>> {
    let given = values.text("status-fd").filter(|text| *text != "-1");
    let number = |text: &str| {
        text.parse().map_err(|_not_a_number| {
            Failure::new(format!("invalid value {text:?} for flag -status-fd"))
        })
    };
    given.map(number).transpose()
}

/// The images are complete: what is left of the container is no reason to call them bad.
fn remove(context: &Context, container: &Container) {
    let removed = container
        .folder
        .lock()
        .map_err(Failure::from)
        .and_then(|_lock| {
            container.kill()?;
            container.destroy(&context.log)
        });
    if let Err(failure) = removed {
        context.log.warning(&failure.to_string());
    }
}
