//! A CRI client that blocks.

use std::path::Path;

use anyhow::{Context, Result};
use cri_api::VersionRequest;
use cri_api::image_service_client::ImageServiceClient;
use cri_api::runtime_service_client::RuntimeServiceClient;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// A connection to a CRI server.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects and asks for the version.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub fn connect(socket: &Path) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime
            .block_on(endpoint.connect())
            .context("connecting to the CRI socket")?;
        let client = Client { runtime, channel };
        client.call(async |mut cri| cri.version(VersionRequest::default()).await)?;
        Ok(client)
    }

    /// Makes one call of the runtime service.
    ///
    /// # Errors
    ///
    /// With the status that the server answered.
    pub fn call<T>(
        &self,
        call: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let client = RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(cri_api::MAX_MESSAGE);
        self.runtime
            .block_on(call(client))
            .map(Response::into_inner)
    }

    /// Makes one call of the image service.
    ///
    /// # Errors
    ///
    /// With the status that the server answered.
    pub fn image_call<T>(
        &self,
        call: impl AsyncFnOnce(ImageServiceClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let client = ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(cri_api::MAX_MESSAGE);
        self.runtime
            .block_on(call(client))
            .map(Response::into_inner)
    }

    /// Sends a message to a verb, whether or not it is one of that verb's.
    ///
    /// # Errors
    ///
    /// With the status that the server answered.
    pub fn send(&self, path: &str, message: cri_api::Int64Value) -> Result<(), Status> {
        let path = PathAndQuery::try_from(path.to_owned())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut client = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            let ready = client.ready().await;
            ready.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<_, cri_api::VersionResponse>::default();
            client.unary(Request::new(message), path, codec).await
        })?;
        Ok(())
    }
}
