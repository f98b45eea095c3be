//! The HTTP server at which Prometheus asks for the metrics. It knows one path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Sources, text};
use crate::socket::{self, Bound};

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8;
/// How long a client may take for its request, and between two of them.
const REQUEST: Duration = Duration::from_secs(120);
/// Most bytes of a request's head.
const REQUEST_BYTES: usize = 16 * 1024;
/// Pause after a connection could not be accepted, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Mode of the socket: root and its group.
const MODE: u32 = 0o660;
/// The one path.
const PATH: &str = "/metrics";
/// Prometheus' text format.
const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A port.
    Tcp(SocketAddr),
    /// A socket.
    Unix(PathBuf),
}

/// The address, bound.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Takes the name away in the end.
        _name: Bound,
    },
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// It is taken.
    pub(crate) async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => {
                let bound = TcpListener::bind(address).await;
                let listener = bound.with_context(|| format!("serving metrics on {address}"))?;
                let address = listener.local_addr()?;
                tracing::info!(%address, "metrics are served");
                Ok(Self::Tcp(listener))
            }
            Address::Unix(path) => {
                let mut bound = socket::bind(path, MODE)?;
                let listener = bound.take().context("a socket is served once")?;
                Ok(Self::Unix {
                    listener,
                    _name: bound,
                })
            }
        }
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, sources: &Sources) -> Infallible {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Whoever is connected goes with this.
        let mut connections = JoinSet::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("nobody closes the semaphore");
            while connections.try_join_next().is_some() {}
            let sources = sources.clone();
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(async move {
                        answer(stream, &sources).await;
                        drop(permit);
                    })
                }),
                Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(async move {
                        answer(stream, &sources).await;
                        drop(permit);
                    })
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "a reader of metrics cannot connect");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, sources: &Sources) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let asked = (request.method().clone(), request.uri().path().to_owned());
        async move { Ok::<_, Infallible>(respond(&asked.0, &asked.1, sources).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a reader of metrics broke off");
    }
}

async fn respond(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    if path != PATH {
        return refused(StatusCode::NOT_FOUND);
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut response = refused(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let sources = sources.clone();
    // It reads files of /proc.
    let Ok(text) = tokio::task::spawn_blocking(move || text(&sources)).await else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, FORMAT);
    response
}

fn refused(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
