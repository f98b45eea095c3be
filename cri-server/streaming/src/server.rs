//! The listener: takes a client's connection from its first byte to the end of its session.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::mux::{Driver, Mux};
use crate::negotiate::{Answer, Kind, Protocol, Refusal, Transport, negotiate};
use crate::session::{Forward, Session};
use crate::spdy::Spdy;
use crate::ticket::{Tickets, TooMany};
use crate::tls::{Tls, TlsError};
use crate::websocket::channels::Channels;
use crate::websocket::tunnel::Tunnel;
use crate::wire::Wire;
use crate::{command, forward};

/// How long nothing may move on a session.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take until its request, or its TLS handshake, is complete.
const REQUEST: Duration = Duration::from_secs(10);
/// Most bytes of a request.
const REQUEST_BYTES: usize = 16 * 1024;
/// Most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long accepting pauses when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most ports of a client of the older WebSocket protocol: each takes two of 256 channels.
const MAX_CHANNEL_PORTS: usize = 127;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// One address of this machine; port 0 lets the kernel choose. Whoever reaches it and has a
    /// ticket gets a session, so loopback is the place, unless something in front needs another.
    pub address: SocketAddr,
    /// Without it connections are plain.
    pub tls: Option<Tls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
        }
    }
}

/// Why the server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// `0.0.0.0` or `::` cannot be put into a URL, and is open to everybody.
    #[error("cannot serve streams on {0}: an address of this machine is needed, not all of them")]
    Unspecified(SocketAddr),
    /// The kernel refused.
    #[error("cannot listen for streams on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Gives out tickets, and serves who comes with one. Dropping it ends all sessions.
#[derive(Debug)]
pub struct Server {
    base: String,
    address: SocketAddr,
    desk: Arc<Desk>,
    /// Owns the listener's task, which owns those of the connections.
    _tasks: JoinSet<()>,
}

/// What the server and its connections share.
#[derive(Debug, Default)]
struct Desk {
    tickets: Mutex<Tickets>,
    /// A ticket was issued.
    issued: Notify,
}

/// What a request got.
struct Granted {
    session: Session,
    protocol: Protocol,
    upgrade: OnUpgrade,
}

impl Server {
    /// Listens, from now on.
    ///
    /// # Errors
    /// [`BindError`] says why not.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        if config.address.ip().is_unspecified() {
            return Err(BindError::Unspecified(config.address));
        }
        let tls = config.tls.as_ref().map(Tls::acceptor).transpose()?;
        let failed = |source| BindError::Listen {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let desk = Arc::new(Desk::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, tls, Arc::clone(&desk)));
        tasks.spawn(expire(Arc::clone(&desk)));
        Ok(Self {
            base: format!("{scheme}://{address}"),
            address,
            desk,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that leads to `session`: once, within [`crate::TICKET_LIFE`].
    ///
    /// # Errors
    /// [`TooMany`] when [`crate::MAX_TICKETS`] wait already.
    pub fn ticket(&self, session: Session) -> Result<String, TooMany> {
        let path = session.path();
        let token = self.desk.tickets().issue(session, Instant::now())?;
        self.desk.issued.notify_one();
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

impl Session {
    /// First part of its URL's path.
    fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) | Self::Attach(_) => Kind::Command,
            Self::PortForward(_) => Kind::Forward,
        }
    }

    /// Whether it can be served in `protocol`.
    fn fits(&self, protocol: Protocol) -> bool {
        match (self, protocol.transport) {
            (Self::PortForward(Forward { ports, .. }), Transport::Channels { .. }) => {
                (1..=MAX_CHANNEL_PORTS).contains(&ports.len())
            }
            _ => true,
        }
    }
}

impl Desk {
    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        // No code panics in the middle of a change.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a request. Its ticket is used up only if it is granted.
    fn grant(&self, request: &mut Request<Incoming>) -> Result<Answer<Granted>, Answer<Refusal>> {
        let now = Instant::now();
        let unknown = || Answer {
            verdict: Refusal {
                status: StatusCode::NOT_FOUND,
                text: "no such session".to_owned(),
            },
            headers: Vec::new(),
        };
        let path = request.uri().path().trim_start_matches('/');
        let (path, token) = path.split_once('/').ok_or_else(unknown)?;
        let mut tickets = self.tickets();
        let session = tickets
            .peek(token, now)
            .filter(|session| session.path() == path);
        let session = session.ok_or_else(unknown)?;
        let Answer {
            verdict: protocol,
            headers,
        } = negotiate(session.kind(), request.method(), request.headers())?;
        if !session.fits(protocol) {
            let text = format!("this protocol needs 1 to {MAX_CHANNEL_PORTS} ports asked for");
            let verdict = Refusal {
                status: StatusCode::BAD_REQUEST,
                text,
            };
            return Err(Answer {
                verdict,
                headers: Vec::new(),
            });
        }
        let session = tickets.redeem(token, now).ok_or_else(unknown)?;
        let upgrade = hyper::upgrade::on(request);
        Ok(Answer {
            verdict: Granted {
                session,
                protocol,
                upgrade,
            },
            headers,
        })
    }
}

/// Drops sessions nobody came for.
async fn expire(desk: Arc<Desk>) {
    loop {
        let next = desk.tickets().next_end();
        match next {
            Some(end) => sleep_until(end).await,
            None => desk.issued.notified().await,
        }
        desk.tickets().expire(Instant::now());
    }
}

/// Accepts connections, each served by a task of its own.
async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, desk: Arc<Desk>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places)
            .acquire_owned()
            .await
            .expect("it is never closed");
        match listener.accept().await {
            Ok((socket, _)) => {
                let (tls, desk) = (tls.clone(), Arc::clone(&desk));
                connections.spawn(async move {
                    connect(socket, tls, &desk).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for streams");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while let Some(ended) = connections.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a streaming session failed");
            }
        }
    }
}

async fn connect(socket: TcpStream, tls: Option<TlsAcceptor>, desk: &Desk) {
    if let Err(error) = prepare(&socket) {
        return tracing::debug!(%error, "cannot prepare a connection for streams");
    }
    let Some(tls) = tls else {
        return request(socket, desk).await;
    };
    match timeout(REQUEST, tls.accept(socket)).await {
        Ok(Ok(socket)) => request(socket, desk).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took longer than {REQUEST:?}"),
    }
}

/// Small packets go out at once, and a vanished client is noticed within two minutes.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(socket, 4)?;
    Ok(())
}

/// Reads requests until one is granted, and runs its session.
async fn request(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, desk: &Desk) {
    let slot = Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        let response = match desk.grant(&mut request) {
            Ok(Answer { verdict, headers }) => {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
                respond(StatusCode::SWITCHING_PROTOCOLS, String::new(), headers)
            }
            Err(Answer {
                verdict: Refusal { status, text },
                mut headers,
            }) => {
                headers.push((CONNECTION, HeaderValue::from_static("close")));
                respond(status, text, headers)
            }
        };
        ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request for streams failed");
    }
    if let Some(granted) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
        run(granted).await;
    }
}

fn respond(
    status: StatusCode,
    text: String,
    headers: Vec<(hyper::header::HeaderName, HeaderValue)>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// A session from its first stream to its end.
async fn run(
    Granted {
        session,
        protocol,
        upgrade,
    }: Granted,
) {
    let socket = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a connection could not be upgraded"),
    };
    let kind = session.path();
    tracing::debug!(kind, ?protocol, "a session begins");
    let mux = Mux::new(wire(protocol));
    let driver = Driver::new(mux.clone(), socket, IDLE);
    let work = async {
        tokio::select! {
            // The client left: the work is dropped where it stands.
            () = mux.over() => {}
            () = Box::pin(work(&mux, session, protocol)) => mux.close(true),
        }
    };
    // The work first: streams of channels have to be there before their first bytes are read.
    let ((), end) = tokio::join!(biased; work, driver);
    tracing::debug!(kind, %end, "a session ended");
}

fn wire(protocol: Protocol) -> Box<dyn Wire> {
    match protocol.transport {
        Transport::Spdy => Box::new(Spdy::default()),
        Transport::Tunnel => Box::new(Tunnel::default()),
        Transport::Channels {
            encoding,
            close_signal,
        } => Box::new(Channels::new(encoding, close_signal)),
    }
}

async fn work(mux: &Mux, session: Session, protocol: Protocol) {
    let has_channels = matches!(protocol.transport, Transport::Channels { .. });
    match session {
        Session::Exec(command) | Session::Attach(command) if has_channels => {
            command::serve_channels(mux, protocol.version, command).await;
        }
        Session::Exec(command) | Session::Attach(command) => {
            command::serve_opened(mux, protocol.version, command).await;
        }
        Session::PortForward(forward) if has_channels => {
            forward::serve_channels(mux, forward).await;
        }
        Session::PortForward(forward) => forward::serve_opened(mux, forward).await,
    }
}
