//! A connection to a plugin: calls out, requests in, over one socket.
//!
//! Two tasks hold the socket's halves. A call puts its bytes into a bounded queue and waits for the
//! answer of its stream; whoever gives a call up leaves nothing half written. It knows the calls'
//! names as text only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nri_api::ttrpc::{Request, Response, Status};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::figures::End;
use crate::wire::{self, Decoder, Kind, MAX_DATA, Message, Nonsense};

/// Messages that may wait to be written to a plugin.
const OUTGOING: usize = 16;
/// Requests of a plugin that may wait; a further one is refused.
const INCOMING: usize = 16;
/// How long a plugin may take to read what was said to it before its connection ended.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const READ: usize = 16 << 10;

const LOCK: &str = "no thread panics while it holds this lock";

/// Codes of gRPC that are told apart here.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("its connection has ended")]
    Closed,
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("its answer is nonsense: {0}")]
    Nonsense(String),
    #[error("a message of {0} bytes is longer than a message may be")]
    TooLong(usize),
    /// The plugin's own error.
    #[error("{}", .0.message)]
    Refused(Status),
}

/// A request of the plugin's.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: u32,
    pub(crate) request: Request,
}

type Waiting = oneshot::Sender<Result<Vec<u8>, CallError>>;

/// One end of a connection; it ends when [`Self::close`] is called or the plugin goes.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<HashMap<u32, Waiting>>,
    next: AtomicU32,
    closed: watch::Sender<bool>,
    /// Why it ended, once it has.
    why: OnceLock<End>,
}

impl Connection {
    /// Takes a socket over; answers with the requests that come from the plugin, which end with the
    /// connection.
    pub(crate) fn start(socket: UnixStream) -> (Arc<Self>, mpsc::Receiver<Incoming>) {
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (requests, incoming) = mpsc::channel(INCOMING);
        let connection = Arc::new(Self {
            outgoing,
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            closed: watch::channel(false).0,
            why: OnceLock::new(),
        });
        let (read, write) = socket.into_split();
        let reader = Arc::clone(&connection);
        let writer = Arc::clone(&connection);
        #[expect(clippy::disallowed_methods, reason = "both end with the connection")]
        {
            drop(tokio::spawn(reader.read(read, requests)));
            drop(tokio::spawn(writer.write(write, queue)));
        }
        (connection, incoming)
    }

    /// Calls the plugin.
    pub(crate) async fn call(
        &self,
        method: &str,
        payload: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = Request {
            service: nri_api::PLUGIN_SERVICE.into(),
            method: method.into(),
            payload,
            timeout_nano: i64::try_from(within.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let data = request.encode_to_vec();
        if data.len() > MAX_DATA {
            return Err(CallError::TooLong(data.len()));
        }
        // Who calls uses odd numbers.
        let stream = self.next.fetch_add(2, Ordering::Relaxed);
        let bytes = wire::encode(wire::PLUGIN, stream, Kind::Request, &data);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect(LOCK).insert(stream, answer);
        let exchange = async {
            if self.is_closed() || self.outgoing.send(bytes).await.is_err() {
                return Err(CallError::Closed);
            }
            let mut closed = self.closed.subscribe();
            tokio::select! {
                biased;
                answer = answered => answer.unwrap_or(Err(CallError::Closed)),
                _ = closed.wait_for(|closed| *closed) => Err(CallError::Closed),
            }
        };
        let result = tokio::time::timeout(within, exchange).await;
        self.waiting.lock().expect(LOCK).remove(&stream);
        result.unwrap_or(Err(CallError::TimedOut(within)))
    }

    /// Answers a request of the plugin. One that does not read its answers does not get them.
    pub(crate) fn answer(&self, to: &Incoming, result: Result<Vec<u8>, Status>) {
        let response = match result {
            Ok(payload) => Response {
                status: None,
                payload,
            },
            Err(status) => Response {
                status: Some(status),
                payload: Vec::new(),
            },
        };
        let mut data = response.encode_to_vec();
        data.truncate(MAX_DATA);
        let bytes = wire::encode(wire::RUNTIME, to.stream, Kind::Response, &data);
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outgoing.try_send(bytes) {
            self.close(End::Deaf);
        }
    }

    /// Ends the connection, if it has not ended.
    pub(crate) fn close(&self, why: End) {
        // The first reason is the one.
        let _known = self.why.set(why);
        self.closed.send_replace(true);
    }

    /// Why it ended; of one that has not, that the plugin went.
    pub(crate) fn why(&self) -> End {
        self.why.get().copied().unwrap_or(End::Left)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits for the connection's end.
    pub(crate) async fn ended(&self) {
        let mut closed = self.closed.subscribe();
        drop(
            closed
                .wait_for(|closed| *closed)
                .await
                .map(|closed| *closed),
        );
    }

    async fn write(
        self: Arc<Self>,
        mut socket: OwnedWriteHalf,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) {
        loop {
            // What was said before the end is still written, a refusal above all.
            let bytes = tokio::select! {
                biased;
                bytes = queue.recv() => bytes,
                () = self.ended() => None,
            };
            let Some(bytes) = bytes else { return };
            let too_long = async {
                self.ended().await;
                tokio::time::sleep(LINGER).await;
            };
            let written = tokio::select! {
                biased;
                written = socket.write_all(&bytes) => written.is_ok(),
                () = too_long => false,
            };
            if !written {
                return self.close(End::Left);
            }
        }
    }

    async fn read(self: Arc<Self>, socket: OwnedReadHalf, requests: mpsc::Sender<Incoming>) {
        tokio::select! {
            () = self.ended() => {}
            result = self.read_all(socket, &requests) => {
                let mut why = End::Left;
                if let Err(nonsense) = result {
                    why = End::Nonsense;
                    tracing::warn!(%nonsense, "a plugin's connection is ended");
                    let waiting = std::mem::take(&mut *self.waiting.lock().expect(LOCK));
                    for (_, waiter) in waiting {
                        drop(waiter.send(Err(CallError::Nonsense(nonsense.to_string()))));
                    }
                }
                self.close(why);
            }
        }
    }

    async fn read_all(
        &self,
        mut socket: OwnedReadHalf,
        requests: &mpsc::Sender<Incoming>,
    ) -> Result<(), Nonsense> {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; READ];
        while let Ok(length @ 1..) = socket.read(&mut buffer).await {
            decoder.push(&buffer[..length]);
            while let Some(message) = decoder.next()? {
                self.take(&message, requests);
            }
        }
        Ok(())
    }

    fn take(&self, message: &Message, requests: &mpsc::Sender<Incoming>) {
        match (message.connection, message.kind) {
            (wire::PLUGIN, Kind::Response) => {
                // Nobody waits any more: the answer came too late.
                let waiter = self.waiting.lock().expect(LOCK).remove(&message.stream);
                if let Some(waiter) = waiter {
                    drop(waiter.send(payload(&message.data)));
                }
            }
            (wire::RUNTIME, Kind::Request) => {
                let stream = message.stream;
                let refuse = |code, message: &str| {
                    let request = Request::default();
                    let status = status(code, message);
                    self.answer(&Incoming { stream, request }, Err(status));
                };
                match Request::decode(&*message.data) {
                    Ok(request) => {
                        if requests.try_send(Incoming { stream, request }).is_err() {
                            refuse(code::RESOURCE_EXHAUSTED, "too many requests at once");
                        }
                    }
                    Err(error) => refuse(code::INVALID_ARGUMENT, &error.to_string()),
                }
            }
            (connection, kind) => {
                tracing::debug!(connection, ?kind, "a message that nobody waits for");
            }
        }
    }
}

/// An error for the other side.
pub(crate) fn status(code: i32, message: impl Into<String>) -> Status {
    Status {
        code,
        message: message.into(),
    }
}

fn payload(data: &[u8]) -> Result<Vec<u8>, CallError> {
    let response = Response::decode(data);
    let response = response.map_err(|error| CallError::Nonsense(error.to_string()))?;
    match response.status.filter(|status| status.code != 0) {
        None => Ok(response.payload),
        Some(status) => Err(CallError::Refused(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// Reads the next message at the plugin's end.
    async fn heard(socket: &mut UnixStream, decoder: &mut Decoder) -> Message {
        let mut buffer = [0; 512];
        loop {
            if let Some(message) = decoder.next().unwrap() {
                return message;
            }
            let length = socket.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0, "the connection has ended");
            decoder.push(&buffer[..length]);
        }
    }

    fn respond(stream: u32, response: &Response) -> Vec<u8> {
        wire::encode(
            wire::PLUGIN,
            stream,
            Kind::Response,
            &response.encode_to_vec(),
        )
    }

    #[test]
    fn answers_find_their_calls() {
        runtime().block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (connection, _incoming) = Connection::start(ours);
            let plugin = async {
                let mut decoder = Decoder::default();
                let one = heard(&mut theirs, &mut decoder).await;
                let two = heard(&mut theirs, &mut decoder).await;
                assert_eq!((one.stream, two.stream), (1, 3));
                let refused = Response {
                    status: Some(status(code::UNIMPLEMENTED, "no")),
                    payload: Vec::new(),
                };
                let good = Response {
                    status: None,
                    payload: b"yes".to_vec(),
                };
                theirs.write_all(&respond(3, &refused)).await.unwrap();
                theirs.write_all(&respond(1, &good)).await.unwrap();
                theirs
            };
            let one = connection.call("One", b"1".to_vec(), LONG);
            let two = connection.call("Two", b"2".to_vec(), LONG);
            let (one, two, theirs) = tokio::join!(one, two, plugin);
            assert_eq!(one.unwrap(), b"yes");
            assert!(matches!(two, Err(CallError::Refused(status)) if status.code == 12));
            drop(theirs);
            connection.ended().await;
            let late = connection.call("Three", Vec::new(), LONG).await;
            assert!(matches!(late, Err(CallError::Closed)));
        });
    }

    #[test]
    fn silence_is_not_waited_for() {
        runtime().block_on(async {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let (connection, _incoming) = Connection::start(ours);
            // More than the socket and the queue hold: it is not written either.
            for _ in 0..24 {
                let call = connection.call("Any", vec![0; 100_000], SOON).await;
                assert!(matches!(call, Err(CallError::TimedOut(SOON))), "{call:?}");
            }
            assert!(connection.waiting.lock().unwrap().is_empty());
        });
    }

    #[test]
    fn nonsense_ends_it() {
        runtime().block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (connection, mut incoming) = Connection::start(ours);
            let call = connection.call("Any", Vec::new(), LONG);
            let nonsense = theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (call, written) = tokio::join!(call, nonsense);
            written.unwrap();
            assert!(matches!(call, Err(CallError::Nonsense(_))), "{call:?}");
            connection.ended().await;
            assert!(incoming.recv().await.is_none());
        });
    }

    #[test]
    fn requests_come_in_and_are_bounded() {
        runtime().block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (connection, mut incoming) = Connection::start(ours);
            let request = Request {
                method: "UpdateContainers".into(),
                ..Default::default()
            };
            let data = request.encode_to_vec();
            for stream in 0..=16 {
                let bytes = wire::encode(wire::RUNTIME, 1 + 2 * stream, Kind::Request, &data);
                theirs.write_all(&bytes).await.unwrap();
            }
            let mut decoder = Decoder::default();
            let refused = heard(&mut theirs, &mut decoder).await;
            let response = Response::decode(&*refused.data).unwrap();
            assert_eq!(response.status.unwrap().code, code::RESOURCE_EXHAUSTED);
            let first = incoming.recv().await.unwrap();
            assert_eq!(first.request.method, "UpdateContainers");
            connection.answer(&first, Ok(b"done".to_vec()));
            let answer = heard(&mut theirs, &mut decoder).await;
            assert_eq!((answer.connection, answer.stream), (wire::RUNTIME, 1));
        });
    }
}
