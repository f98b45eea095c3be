//! `wherryd reset`: by the running daemon if there is one, else by opening its folders here.

use anyhow::Result;
use control_api::ResetRequest;
use engine::Engine;

use super::client;
use crate::config::Settings;
use crate::serve::{self, Folders};
use crate::socket;

/// Stops everything and removes every process, link, rule, mount and file of this daemon, but for the
/// images if they are to be kept.
///
/// # Errors
///
/// Something could not be stopped or removed; what could be is gone.
pub(crate) async fn reset(settings: Settings, keep_images: bool) -> Result<()> {
    serve::check_user()?;
    match socket::check_free(&settings.engine.state.join(control_api::SOCKET)) {
        Err(socket::Error::InUse(_)) => {
            let mut client = client::connect(&settings.engine.state).await?;
            client
                .reset(ResetRequest { keep_images })
                .await
                .map_err(|status| client::told(&status))?;
            Ok(())
        }
        other => {
            other?;
            reset_here(settings, keep_images).await
        }
    }
}

async fn reset_here(settings: Settings, keep_images: bool) -> Result<()> {
    let folders = Folders::of(&settings.engine);
    let operator = settings.engine.state.join(control_api::SOCKET);
    Box::pin(Engine::open(settings.engine))
        .await?
        .reset(keep_images)
        .await?;
    for path in [&settings.listen, &operator] {
        socket::remove_stale(path)?;
    }
    folders.remove_if_empty();
    Ok(())
}
