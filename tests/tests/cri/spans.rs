//! Traces: what an OpenTelemetry collector gets, and what becomes of the daemon without it.

use std::sync::{Arc, Mutex};

use cri_api::VersionRequest;
use otlp_api::trace_service_server::{TraceService, TraceServiceServer};
use otlp_api::{ExportTraceServiceRequest, ExportTraceServiceResponse, Span};
use tests::{Node, wait};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A collector that keeps all that it gets, as long as it lives.
struct Collector {
    address: String,
    spans: Spans,
    runtime: Option<Runtime>,
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let name = &resource.resource.unwrap().attributes[0];
            assert_eq!(name.key, "service.name");
            kept.extend(
                resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans),
            );
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn start() -> Collector {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let spans = Spans::default();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(spans.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // It ends with the runtime.
        drop(runtime.spawn(server));
        Collector {
            address,
            spans,
            runtime: Some(runtime),
        }
    }

    /// Waits for a span that is as wanted.
    fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        wait::until(what, || {
            let kept = self.spans.0.lock().unwrap();
            kept.iter().find(|span| wanted(span)).cloned()
        })
        .unwrap()
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A request for the version as a part of a trace.
fn traced(parent: &str) -> Request<VersionRequest> {
    let mut request = Request::new(VersionRequest::default());
    let parent = parent.parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    request
}

#[test]
fn operations_and_their_steps_are_spans_and_the_collector_may_go() {
    let mut collector = Collector::start();
    let lines = format!("[tracing]\nendpoint = \"http://{}\"\n", collector.address);
    let Some(node) = Node::start_with(|setup| setup.config(&lines)).unwrap() else {
        return;
    };
    let pod = node.run("traced", "exec sleep 1000").unwrap();
    let name = "runtime.v1.RuntimeService/RunPodSandbox";
    let operation = collector.span(name, |span| span.name == name);
    assert_eq!(operation.trace_id.len(), 16);
    assert!(operation.parent_span_id.is_empty() && operation.status.is_none());
    let has = |key: &str, value: &str| {
        let text = otlp_api::any_value::Value::StringValue(value.to_owned());
        let mut all = operation.attributes.iter();
        let found = all.find(|one| one.key == key).unwrap();
        assert_eq!(found.value.as_ref().unwrap().value, Some(text));
    };
    has("rpc.method", "RunPodSandbox");
    has("rpc.response.status_code", "OK");
    has("wherry.subject", "default/traced");
    let step = collector.span("its step", |span| {
        span.name == "network_setup" && span.trace_id == operation.trace_id
    });
    assert_eq!(step.parent_span_id, operation.span_id);
    assert!(step.start_time_unix_nano >= operation.start_time_unix_nano);
    assert!(step.end_time_unix_nano <= operation.end_time_unix_nano);

    // What a client traces belongs to its trace, and what it does not trace to none.
    let client = node.daemon.client().unwrap();
    let call = |parent: &str| {
        let request = traced(parent);
        client
            .call(async |mut cri| cri.version(request).await)
            .unwrap();
    };
    call("00-11111111111111111111111111111111-2222222222222222-00");
    call("00-33333333333333333333333333333333-4444444444444444-01");
    let traced = collector.span("the client's trace", |span| span.trace_id == [0x33; 16]);
    assert_eq!(traced.parent_span_id, [0x44; 8]);
    assert_eq!(traced.name, "runtime.v1.RuntimeService/Version");
    let kept = collector.spans.0.lock().unwrap().clone();
    assert!(kept.iter().all(|span| span.trace_id != [0x11; 16]));
    let failed = client.call(async |mut cri| {
        let request = cri_api::StartContainerRequest {
            container_id: "none".into(),
        };
        cri.start_container(request).await
    });
    failed.unwrap_err();
    let failed = collector.span("a failure", |span| span.status.is_some());
    assert_eq!(failed.status.unwrap().message, "NOT_FOUND");

    collector.stop();
    wait::until("spans to be dropped", || {
        node.exec(&pod.container, "true").ok()?;
        let metrics = node.daemon.command(&["metrics"]).ok()?.ok().ok()?;
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("wherryd_trace_spans_total{result=\"dropped\"} "));
        (dropped?.parse::<u64>().ok()? > 0).then_some(())
    })
    .unwrap();
    node.remove(&pod).unwrap();
    let log = node.daemon.log();
    let told = log.matches("traces cannot be sent").count();
    assert_eq!(told, 1, "{log}");
}
