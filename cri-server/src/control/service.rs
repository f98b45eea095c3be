//! The daemon's end of the operator's socket.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use control_api::control_server::{Control, ControlServer};
use control_api::{
    CheckImagesRequest, CheckImagesResponse, DebugRequest, DebugResponse, ExplainImageRequest,
    ExplainImageResponse, ExportImagesRequest, ExportImagesResponse, Image, ImportImagesRequest,
    ImportImagesResponse, ListImagesRequest, ListImagesResponse, MetricsRequest, MetricsResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, ResetRequest,
    ResetResponse,
};
use engine::{Engine, Error};
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::metrics::{self, Sources};
use crate::rpc::status;
use crate::serve::ResetWish;

use super::pulling::Pulling;
use super::{debug, fsck};

/// The operator's service, ready to be served; it hands a wish for a reset to `reset`.
pub(crate) fn routes(sources: &Sources, reset: mpsc::Sender<ResetWish>) -> Routes {
    let engine = Arc::clone(&sources.engine);
    let sources = sources.clone();
    Routes::new(ControlServer::new(Operator {
        engine,
        sources,
        reset,
    }))
}

struct Operator {
    engine: Arc<Engine>,
    sources: Sources,
    reset: mpsc::Sender<ResetWish>,
}

#[tonic::async_trait]
impl Control for Operator {
    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self
            .engine
            .images()
            .list()
            .iter()
            .map(|image| shown(image))
            .collect();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let PullImageRequest { reference } = request.into_inner();
        let pulled = self.engine.images().pull(&reference, None).await;
        let pulled = pulled.map(|id| PullImageResponse { id });
        status::answer("pull an image", pulled.map_err(Error::from))
    }

    type PullImageShownStream = Pin<Box<Pulling>>;

    async fn pull_image_shown(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullImageShownStream>, Status> {
        let PullImageRequest { reference } = request.into_inner();
        let pulling = Pulling::begin(Arc::clone(self.engine.images()), reference);
        Ok(Response::new(Box::pin(pulling)))
    }

    async fn export_images(
        &self,
        request: Request<ExportImagesRequest>,
    ) -> Result<Response<ExportImagesResponse>, Status> {
        let ExportImagesRequest { names, path } = request.into_inner();
        check_absolute(&path)?;
        let exported = self.engine.images().export(&names, Path::new(&path)).await;
        let exported = exported.map(|()| ExportImagesResponse {});
        status::answer("export images", exported.map_err(Error::from))
    }

    async fn check_images(
        &self,
        request: Request<CheckImagesRequest>,
    ) -> Result<Response<CheckImagesResponse>, Status> {
        let CheckImagesRequest { repair } = request.into_inner();
        let checked = self.engine.images().check(repair).await;
        let checked = checked.map(fsck::shown);
        status::answer("check images", checked.map_err(Error::from))
    }

    async fn explain_image(
        &self,
        request: Request<ExplainImageRequest>,
    ) -> Result<Response<ExplainImageResponse>, Status> {
        let ExplainImageRequest { reference } = request.into_inner();
        let explained = self.engine.images().explain(&reference).await;
        let explained = explained.map(|lines| ExplainImageResponse { lines });
        status::answer("explain an image", explained.map_err(Error::from))
    }

    async fn import_images(
        &self,
        request: Request<ImportImagesRequest>,
    ) -> Result<Response<ImportImagesResponse>, Status> {
        let ImportImagesRequest { path } = request.into_inner();
        check_absolute(&path)?;
        let imported = self.engine.images().import(Path::new(&path)).await;
        let imported = imported.map(|ids| ImportImagesResponse { ids });
        status::answer("import images", imported.map_err(Error::from))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let RemoveImageRequest { name } = request.into_inner();
        // A person who mistypes wants to hear of it; only CRI's removal is idempotent.
        if self.engine.images().resolve(&name).is_none() {
            return Err(Status::not_found(format!("image {name:?} not found")));
        }
        let removed = self.engine.images().remove(&name).await;
        let removed = removed.map(|()| RemoveImageResponse {});
        status::answer("remove an image", removed.map_err(Error::from))
    }

    async fn debug(
        &self,
        request: Request<DebugRequest>,
    ) -> Result<Response<DebugResponse>, Status> {
        let DebugRequest { log } = request.into_inner();
        Ok(Response::new(debug::now(&self.sources, log)))
    }

    async fn metrics(
        &self,
        _: Request<MetricsRequest>,
    ) -> Result<Response<MetricsResponse>, Status> {
        let sources = self.sources.clone();
        let text = tokio::task::spawn_blocking(move || metrics::text(&sources)).await;
        let text = text.map_err(|_stopped| Status::unavailable("the daemon stops"))?;
        Ok(Response::new(MetricsResponse { text }))
    }

    async fn reset(
        &self,
        request: Request<ResetRequest>,
    ) -> Result<Response<ResetResponse>, Status> {
        let (reply, result) = oneshot::channel();
        let keep_images = request.into_inner().keep_images;
        let wish = ResetWish { keep_images, reply };
        let unavailable = || Status::unavailable("a reset is under way already");
        self.reset.try_send(wish).map_err(|_second| unavailable())?;
        let result = result.await.map_err(|_dropped| unavailable())?;
        status::answer("reset", result.map(|()| ResetResponse {}))
    }
}

/// The daemon's working folder is not the operator's.
fn check_absolute(path: &str) -> Result<(), Status> {
    if Path::new(path).is_absolute() {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "path: {path:?} is not absolute"
    )))
}

fn shown(image: &image::Image) -> Image {
    Image {
        id: image.id.clone(),
        tags: image.tags.clone(),
        digests: image.digests.clone(),
        size: image.size,
    }
}
