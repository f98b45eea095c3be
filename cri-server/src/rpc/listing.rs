//! ListContainers, which a kubelet asks for each second: a container is turned into its bytes once,
//! when it has changed, and not at each list.
//!
//! On the wire a repeated message and repeated bytes are the same (protobuf's encoding of
//! length-delimited fields), so the answer is put together of what is encoded already. Answers
//! before the service that is generated of CRI; knows nothing of its other verbs.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use cri_api as cri;
use engine::{Container, Engine};
use prost::Message as _;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, UnaryService};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::status::answer;
use super::{container, filter, reply};

/// Where clients ask for it.
const PATH: &str = "/runtime.v1.RuntimeService/ListContainers";

const LOCK: &str = "no thread panics while it holds this lock";

/// `ListContainersResponse`, with every container encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Listed {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    containers: Vec<Bytes>,
}

/// A container as it was when it was encoded, with its bytes.
type Encoded = (Arc<Container>, Bytes);

/// The verb.
#[derive(Clone, Debug)]
struct Listing {
    engine: Arc<Engine>,
    /// All containers at the last list, by id.
    encoded: Arc<Mutex<Vec<Encoded>>>,
}

/// Makes `routes` answer this verb from here.
pub(super) fn add(mut routes: Routes, engine: &Arc<Engine>) -> Routes {
    let listing = Listing {
        engine: Arc::clone(engine),
        encoded: Arc::default(),
    };
    let router = routes.axum_router_mut();
    *router = std::mem::take(router).route_service(PATH, listing);
    routes
}

impl Listing {
    fn list(&self, wanted: &cri::ContainerFilter) -> Listed {
        let mut encoded = self.encoded.lock().expect(LOCK);
        *encoded = refresh(&encoded, self.engine.containers());
        let shown = encoded
            .iter()
            .filter(|(container, _)| filter::wants_container(wanted, container));
        Listed {
            containers: shown.map(|(_, bytes)| bytes.clone()).collect(),
        }
    }
}

/// The bytes of all containers; those of containers that have not changed are taken over. Both
/// lists are in the order of ids.
fn refresh(before: &[Encoded], containers: Vec<Arc<Container>>) -> Vec<Encoded> {
    let mut before = before.iter().peekable();
    let encode = |container: Arc<Container>| {
        while before.next_if(|(old, _)| old.id < container.id).is_some() {}
        // A change publishes another value, and the old one is held here: the address tells.
        let same = before.next_if(|(old, _)| Arc::ptr_eq(old, &container));
        let bytes = same.map_or_else(
            || reply::listed_container(&container).encode_to_vec().into(),
            |(_, bytes)| bytes.clone(),
        );
        (container, bytes)
    };
    containers.into_iter().map(encode).collect()
}

impl UnaryService<cri::ListContainersRequest> for Listing {
    type Response = Listed;
    type Future = Ready<Result<Response<Listed>, Status>>;

    fn call(&mut self, request: Request<cri::ListContainersRequest>) -> Self::Future {
        let wanted = container::checked(request.into_inner().filter);
        ready(answer(
            "ListContainers",
            wanted.map(|wanted| self.list(&wanted)),
        ))
    }
}

impl<B> Service<http::Request<B>> for Listing
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let listing = self.clone();
        let limit = Some(cri::MAX_MESSAGE);
        Box::pin(async move {
            let codec = ProstCodec::<Listed, cri::ListContainersRequest>::default();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, limit);
            Ok(grpc.unary(listing, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::samples::container;
    use super::*;

    fn named(id: &str) -> Arc<Container> {
        Arc::new(Container {
            id: id.to_owned(),
            ..container()
        })
    }

    #[test]
    fn the_bytes_are_those_of_the_message() {
        let containers = vec![named("a"), named("b")];
        let message = cri::ListContainersResponse {
            containers: containers
                .iter()
                .map(|container| reply::listed_container(container))
                .collect(),
        };
        let encoded = refresh(&[], containers);
        let listed = Listed {
            containers: encoded.into_iter().map(|(_, bytes)| bytes).collect(),
        };
        let decoded = cri::ListContainersResponse::decode(&*listed.encode_to_vec());
        assert_eq!(decoded, Ok(message));
    }

    #[test]
    fn only_what_has_changed_is_encoded_again() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(named);
        let first = refresh(&[], vec![a, Arc::clone(&b), c, Arc::clone(&d)]);
        let changed = Arc::new(Container {
            created_at: 7,
            ..Container::clone(&named("c"))
        });
        // "a" has gone, "c" has changed, "e" is new.
        let second = refresh(&first, vec![b, Arc::clone(&changed), d, named("e")]);
        let ids: Vec<&str> = second.iter().map(|(it, _)| it.id.as_str()).collect();
        assert_eq!(ids, ["b", "c", "d", "e"]);
        let kept = |new: usize, old: usize| second[new].1.as_ptr() == first[old].1.as_ptr();
        assert!(kept(0, 1) && !kept(1, 2) && kept(2, 3));
        let expected = reply::listed_container(&changed).encode_to_vec();
        assert_eq!(second[1].1, expected);
    }
}
