//! ListContainers, which a kubelet asks for each second: a container is turned into its bytes once,
//! when it has changed, and not at each list.
//!
//! On the wire a repeated message and repeated bytes are the same (protobuf's encoding of
//! length-delimited fields), so the answer is put together of what is encoded already; and the
//! answer to who wants all containers is kept whole until one of them changes. Answers before the
//! service that is generated of CRI; knows nothing of its other verbs.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes};
use cri_api as cri;
use engine::{Container, Engine};
use prost::Message as _;
use tonic::codec::{Codec, EncodeBuf, Encoder};
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

/// What is kept from one list to the next.
#[derive(Debug, Default)]
struct Kept {
    /// All containers, by id.
    encoded: Vec<Encoded>,
    /// The answer with all of them, once somebody has asked for it.
    whole: Option<Bytes>,
}

/// The verb.
#[derive(Clone, Debug)]
struct Listing {
    engine: Arc<Engine>,
    kept: Arc<Mutex<Kept>>,
}

/// Makes `routes` answer this verb from here.
pub(super) fn add(mut routes: Routes, engine: &Arc<Engine>) -> Routes {
    let listing = Listing {
        engine: Arc::clone(engine),
        kept: Arc::default(),
    };
    let router = routes.axum_router_mut();
    *router = std::mem::take(router).route_service(PATH, listing);
    routes
}

impl Listing {
    fn list(&self, wanted: &cri::ContainerFilter) -> Bytes {
        let mut kept = self.kept.lock().expect(LOCK);
        kept.refresh(self.engine.containers());
        match *wanted == cri::ContainerFilter::default() {
            true => kept.whole(),
            false => kept.some(wanted),
        }
    }
}

impl Kept {
    /// Takes over how the containers, in the order of their ids, are now.
    fn refresh(&mut self, containers: Vec<Arc<Container>>) {
        let known = self.encoded.iter().map(|(container, _)| container);
        let same = self.encoded.len() == containers.len()
            && known
                .zip(&containers)
                .all(|(old, new)| Arc::ptr_eq(old, new));
        if !same {
            self.encoded = refresh(&self.encoded, containers);
            self.whole = None;
        }
    }

    /// The answer with all containers.
    fn whole(&mut self) -> Bytes {
        let all = || message(self.encoded.iter());
        self.whole.get_or_insert_with(all).clone()
    }

    /// The answer with those that are wanted.
    fn some(&self, wanted: &cri::ContainerFilter) -> Bytes {
        let shown = self.encoded.iter();
        message(shown.filter(|(container, _)| filter::wants_container(wanted, container)))
    }
}

/// The bytes of an answer.
fn message<'a>(shown: impl Iterator<Item = &'a Encoded>) -> Bytes {
    let containers = shown.map(|(_, bytes)| bytes.clone()).collect();
    Listed { containers }.encode_to_vec().into()
}

/// Requests as any, answers that are bytes already.
#[derive(Debug, Default)]
struct BytesCodec(ProstCodec<(), cri::ListContainersRequest>);

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = cri::ListContainersRequest;
    type Encoder = BytesEncoder;
    type Decoder = <ProstCodec<(), cri::ListContainersRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}

#[derive(Debug)]
struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // At once: a buffer that grows by and by is copied each time.
        buffer.reserve(bytes.len());
        buffer.put(bytes);
        Ok(())
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
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

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
            let mut grpc =
                Grpc::new(BytesCodec::default()).apply_max_message_size_config(limit, limit);
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
        let mut kept = Kept::default();
        kept.refresh(containers);
        let decoded = |bytes: Bytes| cri::ListContainersResponse::decode(bytes);
        assert_eq!(decoded(kept.whole()), Ok(message.clone()));
        let wanted = cri::ContainerFilter {
            id: "b".to_owned(),
            ..Default::default()
        };
        let one = cri::ListContainersResponse {
            containers: message.containers[1..].to_vec(),
        };
        assert_eq!(decoded(kept.some(&wanted)), Ok(one));
    }

    #[test]
    fn the_whole_answer_is_kept_until_a_container_changes() {
        let [a, b] = ["a", "b"].map(named);
        let mut kept = Kept::default();
        kept.refresh(vec![Arc::clone(&a), b]);
        let first = kept.whole();
        let all: Vec<_> = kept.encoded.iter().map(|(it, _)| Arc::clone(it)).collect();
        kept.refresh(all);
        assert_eq!(kept.whole().as_ptr(), first.as_ptr());
        kept.refresh(vec![Arc::clone(&a), named("b")]);
        assert_ne!(kept.whole().as_ptr(), first.as_ptr());
        kept.refresh(vec![a]);
        assert!(kept.whole().len() < first.len());
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
