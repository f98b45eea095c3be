//! Verbs on images.

use std::collections::HashMap;
use std::sync::Arc;

use cri_api as cri;
use engine::{Engine, Error};
use serde_json::{Value, json};

use super::{now, reply, request, usage};

/// Images, or the one that the filter names.
pub(super) fn list(engine: &Engine, wanted: Option<cri::ImageFilter>) -> Vec<cri::Image> {
    let name = wanted
        .and_then(|filter| filter.image)
        .map(|image| image.image);
    let images: Vec<Arc<image::Image>> = match name.as_deref() {
        None | Some("") => engine.images().list(),
        Some(name) => engine.images().resolve(name).into_iter().collect(),
    };
    images.iter().map(|image| reply::image(image)).collect()
}

/// An image; none of that name is an empty answer, not an error.
pub(super) fn status(
    engine: &Engine,
    asked: cri::ImageStatusRequest,
) -> Result<cri::ImageStatusResponse, Error> {
    let name = request::image_name("image", asked.image)?;
    let Some(image) = engine.images().resolve(&name) else {
        return Ok(cri::ImageStatusResponse::default());
    };
    let shown = asked.verbose.then(|| info(&image));
    Ok(cri::ImageStatusResponse {
        image: Some(reply::image(&image)),
        info: shown.unwrap_or_default(),
    })
}

/// The image's configuration, as received.
fn info(image: &image::Image) -> HashMap<String, String> {
    let config: Value = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    HashMap::from([(
        "info".to_owned(),
        json!({ "imageSpec": config }).to_string(),
    )])
}

/// Gets an image. A client that goes away takes its interest with it: the last one ends the pull.
pub(super) async fn pull(
    engine: &Engine,
    asked: cri::PullImageRequest,
) -> Result<cri::PullImageResponse, Error> {
    check_handler(engine, asked.image.as_ref())?;
    let name = request::image_name("image", asked.image)?;
    let credentials = asked.auth.map(request::credentials);
    let pod = asked.sandbox_config.and_then(|config| config.metadata);
    let namespace = pod.map(|pod| pod.namespace).unwrap_or_default();
    let pulled = engine
        .images()
        .pull_for(&name, credentials.as_ref(), &namespace);
    let image_ref = pulled.await?;
    Ok(cri::PullImageResponse { image_ref })
}

/// Images are the same for all handlers, but one that does not exist is a mistake.
fn check_handler(engine: &Engine, image: Option<&cri::ImageSpec>) -> Result<(), Error> {
    let name = image.map_or("", |image| image.runtime_handler.as_str());
    let known = |name: &str| engine.status().handlers.iter().any(|one| one.name == name);
    match name.is_empty() || known(name) {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "image.runtime_handler: no runtime for {name:?} is configured"
        ))),
    }
}

pub(super) async fn remove(
    engine: &Engine,
    asked: cri::RemoveImageRequest,
) -> Result<cri::RemoveImageResponse, Error> {
    let name = request::image_name("image", asked.image)?;
    match engine.images().remove(&name).await {
        Ok(()) | Err(image::Error::NotFound(_)) => Ok(cri::RemoveImageResponse {}),
        Err(error) => Err(error.into()),
    }
}

/// How much images and writable layers take. Clients ask at once when they connect, and take an
/// error for a broken daemon: this never fails.
pub(super) fn fs_info(engine: &Engine) -> cri::ImageFsInfoResponse {
    let images = engine.images();
    let used = |used| vec![usage::file_system(now(), images.mountpoint(), used)];
    cri::ImageFsInfoResponse {
        image_filesystems: used(images.usage()),
        container_filesystems: used(images.writable_usage()),
    }
}
