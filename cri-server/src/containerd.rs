//! The few calls of containerd's API with which cAdvisor learns whose a control group is.
//!
//! A kubelet without the gate PodAndContainerStatsFromCRI has its container metrics from cAdvisor,
//! which knows two engines and asks their own sockets: of containerd it wants `Version`,
//! `Containers.Get` and `Tasks.Get`. This is a front end of its own beside [`crate::rpc`], on a
//! socket of its own that is served only where the operator names it. Nothing can be changed
//! through it, and every other call of containerd's answers UNIMPLEMENTED.
//!
//! cAdvisor asks as soon as it sees the control group, which is before the container is handed out:
//! one that is being made has its labels here already, and no process yet. Asked again later it
//! would not: what it does not know at that moment stays nameless.

use std::collections::HashMap;
use std::sync::Arc;

use containerd_api::containers::containers_server::{Containers, ContainersServer};
use containerd_api::containers::{Any, Container, GetContainerRequest, GetContainerResponse};
use containerd_api::tasks::tasks_server::{Tasks, TasksServer};
use containerd_api::tasks::{GetRequest, GetResponse, Process, Status as Phase};
use containerd_api::version::version_server::{Version, VersionServer};
use containerd_api::version::{VersionRequest, VersionResponse};
use containerd_api::{NAMESPACE, NAMESPACE_HEADER};
use engine::{Engine, Error};
use pod::lifecycle::ContainerPhase;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::rpc::status;

/// Label that tells a pod from what runs in it.
const KIND: &str = "io.cri-containerd.kind";
/// What an OCI specification is called in an `Any`.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The three services, ready to be served.
pub(crate) fn routes(engine: &Arc<Engine>) -> Routes {
    let front = Arc::new(Front {
        engine: Arc::clone(engine),
    });
    Routes::new(VersionServer::from_arc(Arc::clone(&front)))
        .add_service(ContainersServer::from_arc(Arc::clone(&front)))
        .add_service(TasksServer::from_arc(front))
}

struct Front {
    engine: Arc<Engine>,
}

#[tonic::async_trait]
impl Version for Front {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: "wherry".to_owned(),
        }))
    }
}

#[tonic::async_trait]
impl Containers for Front {
    async fn get(
        &self,
        request: Request<GetContainerRequest>,
    ) -> Result<Response<GetContainerResponse>, Status> {
        check_namespace(&request)?;
        let found = self.find(&request.into_inner().id).await;
        let found = found.map(|container| GetContainerResponse {
            container: Some(container),
        });
        status::answer("get a container for cAdvisor", found)
    }
}

#[tonic::async_trait]
impl Tasks for Front {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        check_namespace(&request)?;
        let request = request.into_inner();
        let found = match request.exec_id.is_empty() {
            true => self.process(&request.container_id),
            false => Err(missing(&request.exec_id)),
        };
        let found = found.map(|process| GetResponse {
            process: Some(process),
        });
        status::answer("get a process for cAdvisor", found)
    }
}

impl Front {
    /// A container, or a pod that has a process, by its id.
    async fn find(&self, id: &str) -> Result<Container, Error> {
        let (labels, kind, image, sandbox) = match self.engine.announced_container(id) {
            Some(container) => (
                container.spec.labels.clone(),
                "container",
                container.image_name.clone(),
                container.sandbox_id.clone(),
            ),
            None => {
                let spec = self.engine.announced_sandbox(id);
                let spec = spec.ok_or_else(|| missing(id))?;
                (spec.labels.clone(), "sandbox", String::new(), id.to_owned())
            }
        };
        let mut labels: HashMap<String, String> = labels.into_iter().collect();
        labels.insert(KIND.to_owned(), kind.to_owned());
        Ok(Container {
            id: id.to_owned(),
            labels,
            image,
            spec: Some(Any {
                type_url: SPEC_TYPE.to_owned(),
                value: self.engine.oci_spec(id).await?,
            }),
            sandbox,
        })
    }

    /// The first process of a container, or that of a pod.
    fn process(&self, id: &str) -> Result<Process, Error> {
        let process = |pid: Option<i32>, status: Phase, exit_status| Process {
            container_id: id.to_owned(),
            id: id.to_owned(),
            pid: pid.and_then(|pid| pid.try_into().ok()).unwrap_or(0),
            status: status.into(),
            exit_status,
        };
        if let Ok(container) = self.engine.container(id) {
            let code = container.exit.as_ref().map_or(0, |exit| exit.code);
            let status = match container.phase {
                ContainerPhase::Created => Phase::Created,
                ContainerPhase::Running => Phase::Running,
                ContainerPhase::Exited => Phase::Stopped,
            };
            return Ok(process(
                container.pid,
                status,
                code.try_into().unwrap_or(u32::MAX),
            ));
        }
        let sandbox = self.engine.sandbox(id)?;
        let pid = sandbox.init_pid.ok_or_else(|| missing(id))?;
        Ok(process(Some(pid), Phase::Running, 0))
    }
}

fn missing(id: &str) -> Error {
    Error::NotFound {
        kind: "container",
        id: id.to_owned(),
    }
}

/// Everything here is in one namespace; of another there is nothing to tell.
fn check_namespace<T>(request: &Request<T>) -> Result<(), Status> {
    let named = request.metadata().get(NAMESPACE_HEADER);
    match named.map(|name| name.as_bytes()) {
        Some(name) if name == NAMESPACE.as_bytes() => Ok(()),
        Some(_) => Err(Status::not_found(format!(
            "all containers are in the namespace {NAMESPACE:?}"
        ))),
        None => Err(Status::invalid_argument(format!(
            "{NAMESPACE_HEADER}: a namespace is wanted"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn namespaces() {
        let check = |name: Option<&'static str>, expect: Result<(), Code>| {
            let mut request = Request::new(());
            if let Some(name) = name {
                let name = name.parse().unwrap();
                request.metadata_mut().insert(NAMESPACE_HEADER, name);
            }
            let found = check_namespace(&request).map_err(|status| status.code());
            assert_eq!(found, expect, "{name:?}");
        };
        check(Some("k8s.io"), Ok(()));
        check(Some("moby"), Err(Code::NotFound));
        check(None, Err(Code::InvalidArgument));
    }
}
