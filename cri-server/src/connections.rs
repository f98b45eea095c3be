//! Connections of gRPC clients: accepted, served until told to stop, left to finish what they began.
//!
//! A client's deadline stays the client's. gRPC sends it along, and tonic's own server would answer
//! CANCELLED at that moment, in a race with the client's timer, which says DEADLINE_EXCEEDED. Here
//! the header is taken out: the client hears its own timer and drops the stream, and the engine's
//! operations go on.
//!
//! Nor is a message that is too long for either side OUT_OF_RANGE here, as tonic has it, but
//! RESOURCE_EXHAUSTED, as gRPC's own list of codes and the other CRI servers have it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulShutdown;
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use tokio::net::{UnixListener, UnixStream};
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tracing::Instrument as _;

use crate::metrics::{Recorder, code_name};
use crate::operations::{Id, OPERATION, Parent};

/// What an HTTP/2 stream may send before it waits, bytes: a list of 500 containers is larger than
/// the protocol's 64 KiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for a connection.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// Largest HTTP/2 frame, bytes.
const MAX_FRAME: u32 = 256 * 1024;
/// What the kernel keeps for a client that is about to read, bytes of its own counting: a list of a
/// thousand containers goes out at once, not in turns with its reader.
const SEND_BUFFER: usize = 1024 * 1024;
/// Requests that a connection may have under way; further ones wait with the client.
const MAX_STREAMS: u32 = 4096;
/// Streams that a client may reset before we saw them; a kubelet cancels in bursts.
const MAX_PENDING_RESETS: usize = 1024;
/// Pause after a connection could not be accepted, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Header with the client's deadline (gRPC over HTTP/2, "Timeout").
const DEADLINE: &str = "grpc-timeout";
/// Header with the client's span (W3C Trace Context).
const TRACE: &str = "traceparent";
/// Most bytes of a service's and of a verb's name that are kept.
const MAX_NAME: usize = 64;

/// Header, or trailer, with the code of an answer.
const CODE: HeaderName = HeaderName::from_static("grpc-status");
/// OUT_OF_RANGE: no handler answers that, so it is tonic's own.
const OUT_OF_RANGE: &str = "11";
/// RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");

/// Serves whoever connects until `stopped` ends; returns when the last request has been answered.
pub(crate) async fn serve(
    listener: UnixListener,
    routes: Routes,
    recorder: &Arc<Recorder>,
    stopped: impl Future<Output = ()>,
) {
    let connections = GracefulShutdown::new();
    let routes = routes.prepare();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => begin(stream, routes.clone(), recorder, &connections),
                Err(error) => {
                    tracing::warn!(%error, "a client cannot connect");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves one connection on a task of its own.
fn begin(
    stream: UnixStream,
    routes: Routes,
    recorder: &Arc<Recorder>,
    connections: &GracefulShutdown,
) {
    let recorder = Arc::clone(recorder);
    let service = service_fn(move |mut request| {
        forget_deadline(&mut request);
        let mut asked = Asked::new(&request, &recorder);
        let answer = routes.clone().call(request).instrument(asked.span.clone());
        async move {
            let response = answer.await.map(told_apart);
            if let Ok(response) = &response {
                asked.answered(response.headers());
            }
            response
        }
    });
    // The system's default does as well.
    if let Err(error) = set_socket_send_buffer_size_force(&stream, SEND_BUFFER) {
        tracing::debug!(%error, "the send buffer of a connection stays as it is");
    }
    let connection = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with its connection, which the graceful stop watches"
    )]
    drop(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    }));
}

/// A request that is counted by its answer, or by its client's leaving.
struct Asked {
    recorder: Arc<Recorder>,
    service: String,
    verb: String,
    since: Instant,
    code: Option<i32>,
    span: tracing::Span,
}

impl Asked {
    fn new<B>(request: &Request<B>, recorder: &Arc<Recorder>) -> Self {
        let (service, verb) = names(request.uri().path());
        let header = request.headers().get(TRACE);
        let parent = header.and_then(|header| Parent::parse(header.to_str().ok()?));
        Self {
            recorder: Arc::clone(recorder),
            service: service.to_owned(),
            verb: verb.to_owned(),
            since: Instant::now(),
            code: None,
            span: span(service, verb, parent),
        }
    }

    /// Takes note of the answer. What fails has its code in the headers; the rest is well, or a
    /// stream.
    fn answered(&mut self, headers: &HeaderMap) {
        let code = headers.get(CODE).and_then(|code| code.to_str().ok());
        let code = code.and_then(|code| code.parse().ok()).unwrap_or_default();
        self.code = Some(code);
        self.span.record("code", code_name(code));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        self.recorder
            .answered(&self.service, &self.verb, self.code, took);
    }
}

/// The span of an operation: at the level of errors, so that its id is in every line that is logged.
fn span(service: &str, verb: &str, parent: Option<Parent>) -> tracing::Span {
    use tracing::field::Empty;
    tracing::error_span!(
        target: OPERATION,
        parent: None,
        "operation",
        id = %Id::new(),
        service,
        verb = %verb,
        subject = Empty,
        code = Empty,
        trace = parent.map(|parent| format!("{:032x}", parent.trace)),
        parent = parent.map(|parent| format!("{:016x}", parent.span)),
        sampled = parent.map(|parent| parent.sampled),
    )
}

/// Service and verb in a path `/package.Service/Verb`, both bounded.
fn names(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (service, verb) = path.split_once('/').unwrap_or((path, ""));
    let bounded = |name: &'_ str| name.floor_char_boundary(MAX_NAME);
    (&service[..bounded(service)], &verb[..bounded(verb)])
}

fn forget_deadline<B>(request: &mut Request<B>) {
    request.headers_mut().remove(DEADLINE);
}

/// The answer with the right code for a message that is too long: in the headers for one that came,
/// in the trailers for one that was to go.
fn told_apart<B: Body<Data = Bytes>>(
    mut response: Response<B>,
) -> Response<impl Body<Data = Bytes, Error = B::Error>> {
    correct(response.headers_mut());
    response.map(|body| {
        body.map_frame(|frame: Frame<Bytes>| match frame.into_trailers() {
            Ok(mut trailers) => {
                correct(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        })
    })
}

fn correct(headers: &mut HeaderMap) {
    if headers.get(CODE).is_some_and(|code| code == OUT_OF_RANGE) {
        headers.insert(CODE, RESOURCE_EXHAUSTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_stays_with_its_client() {
        let mut request = Request::builder()
            .header("grpc-timeout", "5S")
            .header("te", "trailers")
            .body(())
            .unwrap();
        forget_deadline(&mut request);
        assert_eq!(request.headers().len(), 1);
        assert!(request.headers().contains_key("te"));
    }

    #[test]
    fn only_the_one_code_is_another() {
        for (said, told) in [("11", "8"), ("0", "0"), ("5", "5")] {
            let mut headers = HeaderMap::new();
            headers.insert(CODE, said.parse().unwrap());
            correct(&mut headers);
            assert_eq!(headers[CODE], told);
        }
    }

    #[test]
    fn names_of_a_path() {
        let check = |path: &str, service: &str, verb: &str| {
            assert_eq!(names(path), (service, verb), "{path}");
        };
        check(
            "/runtime.v1.RuntimeService/Version",
            "runtime.v1.RuntimeService",
            "Version",
        );
        check("", "", "");
        check("/x", "x", "");
        let long = "\u{fc}".repeat(MAX_NAME);
        check(
            &format!("/{long}/{long}"),
            &long[..MAX_NAME],
            &long[..MAX_NAME],
        );
    }

    #[tokio::test]
    async fn a_stop_closes_the_door() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let recorder = Arc::new(Recorder::new());
        serve(
            listener,
            Routes::default(),
            &recorder,
            std::future::ready(()),
        )
        .await;
        assert!(UnixStream::connect(&path).await.is_err());
    }
}
