//! Traces for an OpenTelemetry collector: each operation and each of its steps a span, sent in
//! batches by a task of its own. Nobody waits for the collector: what does not fit into the queue, or
//! cannot be sent, is dropped and counted.
//!
//! The crates opentelemetry, opentelemetry-otlp and tracing-opentelemetry would do the same with a
//! registry of providers, metrics and logs of their own; operations and steps are in a table here
//! already, and the protocol is one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use otlp_api::any_value::Value;
use otlp_api::span::SpanKind;
use otlp_api::status::StatusCode;
use otlp_api::trace_service_client::TraceServiceClient;
use otlp_api::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span, Status,
};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::operations::{Parent, number};

/// Spans that may wait to be sent; further ones are dropped.
const QUEUE: usize = 4096;
/// Most spans that are sent at once.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch, the connection included.
const PATIENCE: Duration = Duration::from_secs(5);
/// The name under which the daemon is known to whoever reads traces.
const NAME: &str = "wherryd";

/// Where traces go, and how many.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The collector's gRPC endpoint.
    pub(crate) endpoint: Endpoint,
    /// Of a thousand operations that no client traces, so many are.
    pub(crate) per_mille: u64,
}

/// Takes spans, and says of which operations they are wanted.
#[derive(Debug)]
pub(crate) struct Tracer {
    queue: mpsc::Sender<Span>,
    per_mille: u64,
    counts: Arc<Counts>,
}

/// What became of the spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// The place of an operation in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) trace: u128,
    /// 0 for the first span of a trace.
    pub(crate) parent: u64,
}

/// A span that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) place: Place,
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Whether it is what a client asked for.
    pub(crate) served: bool,
    pub(crate) took: Duration,
    pub(crate) attributes: Vec<(&'static str, String)>,
    /// The name of the code, if that is not OK.
    pub(crate) failed: Option<String>,
}

/// The other end of a tracer: sends what it takes.
#[derive(Debug)]
pub(crate) struct Sender {
    queue: mpsc::Receiver<Span>,
    endpoint: Endpoint,
    counts: Arc<Counts>,
}

/// A tracer and its sender.
pub(crate) fn new(config: &Config) -> (Tracer, Sender) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let tracer = Tracer {
        queue: sender,
        per_mille: config.per_mille,
        counts: Arc::clone(&counts),
    };
    let endpoint = config.endpoint.clone();
    let sender = Sender {
        queue: receiver,
        endpoint: endpoint.connect_timeout(PATIENCE).timeout(PATIENCE),
        counts,
    };
    (tracer, sender)
}

impl Tracer {
    /// Where an operation belongs, if it is recorded: as its client says, else by lot.
    pub(crate) fn place(&self, parent: Option<Parent>) -> Option<Place> {
        match parent {
            Some(parent) => parent.sampled.then_some(Place {
                trace: parent.trace,
                parent: parent.span,
            }),
            None => (number() % 1000 < self.per_mille).then(|| Place {
                trace: (u128::from(number()) << 64) | u128::from(number()),
                parent: 0,
            }),
        }
    }

    /// Takes a span. Never waits.
    pub(crate) fn take(&self, ended: Ended) {
        if self.queue.try_send(encode(ended)).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// What became of all spans so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

fn encode(ended: Ended) -> Span {
    let end = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = end.unwrap_or_default();
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let parent = match ended.place.parent {
        0 => Vec::new(),
        parent => parent.to_be_bytes().into(),
    };
    let kind = if ended.served {
        SpanKind::Server
    } else {
        SpanKind::Internal
    };
    let status = ended.failed.map(|message| Status {
        message,
        code: StatusCode::Error.into(),
    });
    Span {
        trace_id: ended.place.trace.to_be_bytes().into(),
        span_id: ended.id.to_be_bytes().into(),
        parent_span_id: parent,
        name: ended.name,
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(end.saturating_sub(ended.took)),
        end_time_unix_nano: nanoseconds(end),
        attributes: ended.attributes.into_iter().map(text).collect(),
        status,
    }
}

fn text((key, value): (&str, String)) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value)),
        }),
    }
}

impl Sender {
    /// Sends until the tracer is gone.
    pub(crate) async fn run(mut self) {
        let client = TraceServiceClient::new(self.endpoint.connect_lazy());
        let mut reachable = true;
        loop {
            let mut batch = Vec::new();
            // The first is waited for, further ones for a moment.
            if self.queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let more = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if self.queue.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            drop(tokio::time::timeout(LINGER, more).await);
            let count = u64::try_from(batch.len()).unwrap_or_default();
            let sent = send(client.clone(), batch).await;
            let counter = if sent.is_ok() {
                &self.counts.sent
            } else {
                &self.counts.dropped
            };
            counter.fetch_add(count, Relaxed);
            match &sent {
                Err(error) if reachable => {
                    let endpoint = self.endpoint.uri();
                    tracing::warn!(%endpoint, error, "traces cannot be sent; they are dropped");
                }
                Ok(()) if !reachable => tracing::info!("traces are sent again"),
                _ => {}
            }
            reachable = sent.is_ok();
        }
    }
}

async fn send(mut client: TraceServiceClient<Channel>, spans: Vec<Span>) -> Result<(), String> {
    let scope = InstrumentationScope {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let attributes = [
        ("service.name", NAME.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", host),
        ("process.pid", std::process::id().to_string()),
    ];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.map(text).into(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
            }],
        }],
    };
    let answer = tokio::time::timeout(PATIENCE, client.export(request)).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(per_mille: u64) -> (Tracer, Sender) {
        new(&Config {
            endpoint: Endpoint::from_static("http://127.0.0.1:1"),
            per_mille,
        })
    }

    fn ended() -> Ended {
        Ended {
            place: Place {
                trace: 7,
                parent: 0,
            },
            id: 1,
            name: "x".into(),
            served: true,
            took: Duration::from_secs(1),
            attributes: Vec::new(),
            failed: None,
        }
    }

    #[test]
    fn a_client_says_what_is_recorded() {
        let parent = |sampled| {
            Some(Parent {
                trace: 5,
                span: 6,
                sampled,
            })
        };
        let place = Some(Place {
            trace: 5,
            parent: 6,
        });
        for per_mille in [0, 1000] {
            let (tracer, _sender) = tracer(per_mille);
            assert_eq!(tracer.place(parent(true)), place);
            assert_eq!(tracer.place(parent(false)), None);
            assert_eq!(tracer.place(None).is_some(), per_mille == 1000);
        }
    }

    #[test]
    fn nobody_waits_for_room_in_the_queue() {
        let (tracer, _sender) = tracer(1000);
        for _ in 0..QUEUE + 3 {
            tracer.take(ended());
        }
        assert_eq!(tracer.counts().dropped.load(Relaxed), 3);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_dropped() {
        let (tracer, sender) = tracer(1000);
        tracer.take(ended());
        let counts = Arc::clone(&tracer.counts);
        drop(tracer);
        sender.run().await;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        assert_eq!((count(&counts.sent), count(&counts.dropped)), (0, 1));
    }

    #[test]
    fn a_span_on_the_wire() {
        let span = encode(ended());
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert!(span.parent_span_id.is_empty() && span.status.is_none());
        let took = span.end_time_unix_nano - span.start_time_unix_nano;
        assert_eq!(took, 1_000_000_000);
    }
}
