//! The two gRPC services: which verb goes where. It holds no decision; that it is long is CRI's doing.

use std::sync::Arc;

use ::streaming::Server;
use cri_api as cri;
use cri_api::image_service_server::ImageService;
use cri_api::runtime_service_server::RuntimeService;
use engine::Engine;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::status::answer;
use super::stream::{Parts, parts};
use super::{
    checkpoint, container, events, exec, image, metrics, runtime, sandbox, stats, streaming,
};
use crate::pressure::Pressure;

/// Both services of one engine.
#[derive(Debug)]
pub(super) struct Cri {
    engine: Arc<Engine>,
    streaming: Arc<Server>,
    pressure: Arc<Pressure>,
}

impl Cri {
    pub(super) fn new(
        engine: Arc<Engine>,
        streaming: Arc<Server>,
        pressure: Arc<Pressure>,
    ) -> Self {
        Self {
            engine,
            streaming,
            pressure,
        }
    }
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    type StreamPodSandboxesStream = Parts<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Parts<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Parts<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Parts<cri::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = BoxStream<cri::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Parts<cri::StreamPodSandboxMetricsResponse>;

    async fn version(
        &self,
        _: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        Ok(Response::new(runtime::version()))
    }

    async fn status(
        &self,
        request: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        Ok(Response::new(
            runtime::status(&self.engine, &self.pressure, request.into_inner()).await,
        ))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Result<Response<cri::RuntimeConfigResponse>, Status> {
        Ok(Response::new(runtime::config(&self.engine)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<cri::UpdateRuntimeConfigResponse>, Status> {
        answer(
            "UpdateRuntimeConfig",
            runtime::update(&self.engine, request.into_inner()).await,
        )
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        answer(
            "RunPodSandbox",
            sandbox::run(&self.engine, request.into_inner()).await,
        )
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        answer(
            "StopPodSandbox",
            sandbox::stop(&self.engine, request.into_inner()).await,
        )
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        answer(
            "RemovePodSandbox",
            sandbox::remove(&self.engine, request.into_inner()).await,
        )
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        answer(
            "PodSandboxStatus",
            sandbox::status(&self.engine, &request.into_inner()),
        )
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let all = sandbox::list(&self.engine, request.into_inner().filter);
        let whole = all.map(|items| cri::ListPodSandboxResponse { items });
        answer("ListPodSandbox", whole)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let all = sandbox::list(&self.engine, request.into_inner().filter);
        let all = answer("StreamPodSandboxes", all)?.into_inner();
        Ok(parts(all, |pod_sandboxes| {
            cri::StreamPodSandboxesResponse { pod_sandboxes }
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<cri::UpdatePodSandboxResourcesResponse>, Status> {
        answer(
            "UpdatePodSandboxResources",
            sandbox::update(&self.engine, request.into_inner()).await,
        )
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        answer(
            "CreateContainer",
            container::create(&self.engine, request.into_inner()).await,
        )
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        answer(
            "StartContainer",
            container::start(&self.engine, request.into_inner()).await,
        )
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        answer(
            "StopContainer",
            container::stop(&self.engine, request.into_inner()).await,
        )
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        answer(
            "RemoveContainer",
            container::remove(&self.engine, request.into_inner()).await,
        )
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        answer(
            "ContainerStatus",
            container::status(&self.engine, request.into_inner()).await,
        )
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        // Asked for by its path it is answered in `listing`, with less to do.
        let all = container::list(&self.engine, request.into_inner().filter);
        let whole = all.map(|containers| cri::ListContainersResponse { containers });
        answer("ListContainers", whole)
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let all = container::list(&self.engine, request.into_inner().filter);
        let all = answer("StreamContainers", all)?.into_inner();
        Ok(parts(all, |containers| cri::StreamContainersResponse {
            containers,
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Result<Response<cri::UpdateContainerResourcesResponse>, Status> {
        answer(
            "UpdateContainerResources",
            container::update(&self.engine, request.into_inner()).await,
        )
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Result<Response<cri::ReopenContainerLogResponse>, Status> {
        answer(
            "ReopenContainerLog",
            container::reopen_log(&self.engine, request.into_inner()).await,
        )
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        answer(
            "ExecSync",
            exec::sync(&self.engine, request.into_inner()).await,
        )
    }

    async fn exec(
        &self,
        request: Request<cri::ExecRequest>,
    ) -> Result<Response<cri::ExecResponse>, Status> {
        answer(
            "Exec",
            streaming::exec(&self.engine, &self.streaming, request.into_inner()),
        )
    }

    async fn attach(
        &self,
        request: Request<cri::AttachRequest>,
    ) -> Result<Response<cri::AttachResponse>, Status> {
        answer(
            "Attach",
            streaming::attach(&self.engine, &self.streaming, request.get_ref()),
        )
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Result<Response<cri::PortForwardResponse>, Status> {
        answer(
            "PortForward",
            streaming::port_forward(&self.engine, &self.streaming, request.into_inner()),
        )
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Result<Response<cri::ContainerStatsResponse>, Status> {
        answer(
            "ContainerStats",
            stats::container(&self.engine, request.into_inner()).await,
        )
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Result<Response<cri::ListContainerStatsResponse>, Status> {
        let stats = stats::containers(&self.engine, request.into_inner().filter).await;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let all = stats::containers(&self.engine, request.into_inner().filter).await;
        Ok(parts(all, |container_stats| {
            cri::StreamContainerStatsResponse { container_stats }
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Result<Response<cri::PodSandboxStatsResponse>, Status> {
        answer(
            "PodSandboxStats",
            stats::sandbox(&self.engine, request.into_inner()).await,
        )
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Result<Response<cri::ListPodSandboxStatsResponse>, Status> {
        let stats = stats::sandboxes(&self.engine, request.into_inner().filter).await;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let all = stats::sandboxes(&self.engine, request.into_inner().filter).await;
        Ok(parts(all, |pod_sandbox_stats| {
            cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        Ok(Response::new(events::stream(&self.engine)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Result<Response<cri::ListMetricDescriptorsResponse>, Status> {
        Ok(Response::new(metrics::descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<cri::ListPodSandboxMetricsResponse>, Status> {
        let pod_metrics = metrics::list(&self.engine).await;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse {
            pod_metrics,
        }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let all = metrics::list(&self.engine).await;
        Ok(parts(all, |pod_sandbox_metrics| {
            cri::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Result<Response<cri::CheckpointContainerResponse>, Status> {
        answer(
            "CheckpointContainer",
            checkpoint::container(&self.engine, request.into_inner()).await,
        )
    }

    async fn checkpoint_pod(
        &self,
        request: Request<cri::CheckpointPodRequest>,
    ) -> Result<Response<cri::CheckpointPodResponse>, Status> {
        answer(
            "CheckpointPod",
            checkpoint::pod(&self.engine, request.into_inner()).await,
        )
    }

    async fn restore_pod(
        &self,
        request: Request<cri::RestorePodRequest>,
    ) -> Result<Response<cri::RestorePodResponse>, Status> {
        answer(
            "RestorePod",
            checkpoint::restore(&self.engine, request.into_inner()).await,
        )
    }
}

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Parts<cri::StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = image::list(&self.engine, request.into_inner().filter);
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let all = image::list(&self.engine, request.into_inner().filter);
        Ok(parts(all, |images| cri::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        answer(
            "ImageStatus",
            image::status(&self.engine, request.into_inner()),
        )
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        answer(
            "PullImage",
            image::pull(&self.engine, request.into_inner()).await,
        )
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        answer(
            "RemoveImage",
            image::remove(&self.engine, request.into_inner()).await,
        )
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        Ok(Response::new(image::fs_info(&self.engine)))
    }
}
