//! Port-forward: one connection into the pod for each pair of a data and an error stream.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy, split};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::mux::{Incoming, Mux, Reader, Writer};
use crate::session::{Connection, Forward};
use crate::wire::Headers;

/// How long the second stream of a pair may take after the first.
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// How long the connection into the pod may take.
const DIAL: Duration = Duration::from_secs(30);

/// What a stream of a pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Data,
    Error,
}

/// What a stream's headers say.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    role: Role,
    port: u16,
    /// The same for both streams of a pair.
    request: String,
}

/// Both streams of a pair.
#[derive(Debug)]
struct Pair {
    mux: Mux,
    port: u16,
    data: (u32, Reader, Writer),
    error: Writer,
    /// Whether the client can end one direction alone.
    half_close: bool,
}

/// A stream that waits for its other half.
#[derive(Debug)]
struct Waiting {
    role: Role,
    port: u16,
    incoming: Incoming,
    until: Instant,
}

/// Serves a client that opens a pair of streams for each connection, until it leaves.
pub(crate) async fn serve_opened(mux: &Mux, forward: Forward) {
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    // Ends with this function, and every connection with it.
    let mut running = JoinSet::new();
    loop {
        let next = waiting.values().map(|waiting| waiting.until).min();
        tokio::select! {
            incoming = mux.incoming() => match incoming {
                Some(incoming) => {
                    if let Some(pair) = add(mux, &mut waiting, incoming) {
                        running.spawn(pair.run(forward.clone()));
                    }
                }
                None => return,
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                give_up(mux, &mut waiting);
            }
            Some(_) = running.join_next() => {}
        }
    }
}

/// Takes a stream in; its pair once that is complete.
fn add(mux: &Mux, waiting: &mut HashMap<String, Waiting>, incoming: Incoming) -> Option<Pair> {
    let stream = incoming.stream;
    let Some(Label {
        role,
        port,
        request,
    }) = label(stream, &incoming.headers)
    else {
        mux.refuse(stream);
        return None;
    };
    match waiting.remove(&request) {
        None => {
            mux.accept(stream);
            let until = Instant::now() + STREAM_CREATION;
            waiting.insert(
                request,
                Waiting {
                    role,
                    port,
                    incoming,
                    until,
                },
            );
            None
        }
        Some(first) if first.role == role || first.port != port => {
            mux.refuse(stream);
            waiting.insert(request, first);
            None
        }
        Some(first) => {
            mux.accept(stream);
            let (data, error) = match role {
                Role::Data => (incoming, first.incoming),
                Role::Error => (first.incoming, incoming),
            };
            let data = (data.stream, data.reader, data.writer);
            Some(Pair {
                mux: mux.clone(),
                port,
                data,
                error: error.writer,
                half_close: true,
            })
        }
    }
}

/// Resets streams whose other half did not come in time.
fn give_up(mux: &Mux, waiting: &mut HashMap<String, Waiting>) {
    let now = Instant::now();
    for (_, late) in waiting.extract_if(|_, waiting| waiting.until <= now) {
        mux.abandon(late.incoming.stream);
    }
}

fn label(stream: u32, headers: &Headers) -> Option<Label> {
    let role = match headers.get("streamtype")? {
        "data" => Role::Data,
        "error" => Role::Error,
        _ => return None,
    };
    let port = headers
        .get("port")?
        .parse()
        .ok()
        .filter(|port| *port != 0)?;
    // Clients from before request ids open the error stream and then the data stream.
    let request = headers
        .get("requestid")
        .map(str::to_owned)
        .or_else(|| match role {
            Role::Error => Some(format!("stream {stream}")),
            Role::Data => Some(format!("stream {}", stream.checked_sub(2)?)),
        })?;
    Some(Label {
        role,
        port,
        request,
    })
}

/// Serves a client of the older WebSocket protocol: channels 2n and 2n + 1 carry data and errors
/// of the n-th port, all of them from the start; it is over when the last one is.
pub(crate) async fn serve_channels(mux: &Mux, forward: Forward) {
    let mut running = JoinSet::new();
    for (port, number) in forward.ports.iter().zip(0_u32..) {
        let ((reader, data), (_, error)) = (mux.ends(2 * number), mux.ends(2 * number + 1));
        let data = (2 * number, reader, data);
        let mut pair = Pair {
            mux: mux.clone(),
            port: *port,
            data,
            error,
            half_close: false,
        };
        let forward = forward.clone();
        running.spawn(async move {
            if pair.introduce().await.is_ok() {
                pair.run(forward).await;
            }
        });
    }
    while running.join_next().await.is_some() {}
}

impl Pair {
    /// The first message on each channel is its port, little endian.
    async fn introduce(&mut self) -> io::Result<()> {
        let port = self.port.to_le_bytes();
        self.data.2.write_all(&port).await?;
        self.error.write_all(&port).await
    }

    /// Connects and carries until both directions are over.
    async fn run(mut self, forward: Forward) {
        let port = self.port;
        let dialled = timeout(DIAL, forward.dialer.dial(port)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(connection) => self.carry(connection).await,
            Err(problem) => {
                tracing::debug!(port, %problem, "cannot forward a port");
                let text = format!("error forwarding port {port}: {problem}");
                if let Err(problem) = self.error.write_all(text.as_bytes()).await {
                    tracing::debug!(port, %problem, "the client left before it could read why");
                }
                self.mux.abandon(self.data.0);
            }
        }
    }

    async fn carry(self, connection: Box<dyn Connection>) {
        let (stream, mut reader, mut writer) = self.data;
        let (mut from_pod, mut to_pod) = split(connection);
        let down = async {
            copy(&mut from_pod, &mut writer).await?;
            writer.shutdown().await
        };
        let up = async {
            copy(&mut reader, &mut to_pod).await?;
            to_pod.shutdown().await
        };
        let carried = if self.half_close {
            tokio::try_join!(down, up).map(drop)
        } else {
            // Such a client cannot say that it sends no more: the pod alone decides.
            until_first(down, up).await
        };
        if let Err(problem) = carried {
            tracing::debug!(port = self.port, %problem, "a forwarded connection broke");
            self.mux.abandon(stream);
        }
    }
}

/// Polls both; ends with `down`, or when `up` fails.
async fn until_first(
    down: impl Future<Output = io::Result<()>>,
    up: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let endless = async {
        up.await?;
        std::future::pending().await
    };
    tokio::select! { result = down => result, result = endless => result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_headers_mean() {
        let check = |stream, pairs: &[(&str, &str)], expect: Option<(Role, u16, &str)>| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()));
            let expect = expect.map(|(role, port, request)| Label {
                role,
                port,
                request: request.to_owned(),
            });
            assert_eq!(label(stream, &Headers(pairs.collect())), expect);
        };
        let (data, error) = (("streamtype", "data"), ("streamtype", "error"));
        check(
            3,
            &[data, ("port", "80"), ("requestid", "7")],
            Some((Role::Data, 80, "7")),
        );
        check(
            1,
            &[error, ("port", "80")],
            Some((Role::Error, 80, "stream 1")),
        );
        check(
            3,
            &[data, ("port", "80")],
            Some((Role::Data, 80, "stream 1")),
        );
        check(1, &[data, ("port", "80")], None);
        check(3, &[data], None);
        check(3, &[data, ("port", "0")], None);
        check(3, &[data, ("port", "65536")], None);
        check(3, &[("streamtype", "stdin"), ("port", "80")], None);
        check(3, &[("port", "80")], None);
    }
}
