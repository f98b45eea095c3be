//! Their images into our store: by the running daemon if there is one, else by opening its store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use control_api::ImportImagesRequest;
use control_api::control_client::ControlClient;
use image::Store;
use migrate::Image;
use tonic::transport::Channel;

use crate::config::Settings;
use crate::control::client::{self, print};
use crate::socket;

/// The folder below the root in which an image is laid out; gone afterwards.
const PLACE: &str = "migrate";

/// Whoever takes images in.
enum Taker {
    Daemon(Box<ControlClient<Channel>>),
    Store(Arc<Store>),
}

/// What would be taken along.
pub(super) fn listed(images: &[Image]) -> String {
    let line = |image: &Image| format!("image {}\n", named(image));
    images.iter().map(line).collect()
}

/// Takes all images along, one by one, so that no more than one lies on the disk twice.
pub(super) async fn take_along(images: &[Image], settings: &Settings) -> Result<ExitCode> {
    let mut taker = Taker::find(settings).await?;
    let place = settings.engine.root.join(PLACE);
    let mut failed = 0_usize;
    for image in images {
        match take(&mut taker, image, &place).await {
            Ok(()) => print(&format!("image {}: taken along\n", named(image)))?,
            Err(error) => {
                failed += 1;
                print(&format!(
                    "image {}: NOT taken along: {error:#}\n",
                    named(image)
                ))?;
            }
        }
    }
    print(&format!(
        "{} images taken along, {failed} not\n",
        images.len() - failed
    ))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn take(taker: &mut Taker, image: &Image, place: &Path) -> Result<()> {
    clear(place)?;
    std::fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
    let taken = match image.lay_out(place) {
        Ok(()) => taker.import(place).await,
        Err(error) => Err(error.into()),
    };
    clear(place)?;
    taken
}

/// Removes what is left of an image, here or of an earlier run.
fn clear(place: &Path) -> Result<()> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", place.display()))
        }
        _ => Ok(()),
    }
}

fn named(image: &Image) -> String {
    let pinned = if image.pinned { " (pinned)" } else { "" };
    format!("{}{pinned}", image.names.join(", "))
}

impl Taker {
    async fn find(settings: &Settings) -> Result<Self> {
        let operator: PathBuf = settings.engine.state.join(control_api::SOCKET);
        match socket::check_free(&operator) {
            Err(socket::Error::InUse(_)) => {
                let client = client::connect(&settings.engine.state).await?;
                Ok(Self::Daemon(Box::new(client)))
            }
            other => {
                other?;
                let config = image::Config {
                    scrub: None,
                    ..settings.engine.image.clone()
                };
                let store = Store::open(&config).context("opening the image store")?;
                Ok(Self::Store(store))
            }
        }
    }

    async fn import(&mut self, folder: &Path) -> Result<()> {
        match self {
            Self::Store(store) => store.import(folder).await.map(drop).map_err(Into::into),
            Self::Daemon(client) => {
                let path = folder
                    .to_str()
                    .context("the root folder is not UTF-8")?
                    .to_owned();
                let imported = client.import_images(ImportImagesRequest { path }).await;
                imported.map(drop).map_err(|status| client::told(&status))
            }
        }
    }
}
