//! The layer of the log that hears of operations and steps: they enter the table as their spans
//! open, and leave it, measured, as these close.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id as SpanId, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use super::{ALL, Id, OPERATION, Operation, Operations, Parent, STEP, number};
use crate::Watched;
use crate::metrics::Recorder;
use crate::traces::{Ended, Place, Tracer};

/// The layer.
#[derive(Debug)]
pub(crate) struct Watcher {
    operations: Arc<Operations>,
    recorder: Arc<Recorder>,
    tracer: Option<Arc<Tracer>>,
}

impl Watcher {
    pub(crate) fn new(watched: &Watched) -> Self {
        Self {
            operations: Arc::clone(&watched.operations),
            recorder: Arc::clone(&watched.recorder),
            tracer: watched.tracer.clone(),
        }
    }

    /// What it wants to hear of.
    pub(crate) fn filter() -> Targets {
        Targets::new().with_target(ALL, Level::ERROR)
    }

    fn opened(&self, attributes: &Attributes<'_>) -> Option<Arc<Operation>> {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = fields.parent();
        let tracer = self.tracer.as_ref();
        let place = tracer.and_then(|tracer| tracer.place(parent));
        let operation = Operation::new(
            fields.id?,
            fields.service.unwrap_or_default(),
            fields.verb.unwrap_or_default(),
            place,
        );
        let operation = Arc::new(operation);
        self.operations.insert(&operation);
        Some(operation)
    }
}

impl Watcher {
    fn trace(&self, ended: Option<Ended>) {
        if let (Some(tracer), Some(ended)) = (&self.tracer, ended) {
            tracer.take(ended);
        }
    }
}

impl OfStep {
    /// Its span in a trace.
    fn ended(&self, name: &str, took: Duration) -> Option<Ended> {
        let place = Place {
            parent: self.parent,
            ..self.operation.place?
        };
        Some(Ended {
            place,
            id: self.id,
            name: name.into(),
            served: false,
            took,
            attributes: Vec::new(),
            failed: None,
        })
    }
}

/// What a step keeps in its span.
struct OfStep {
    operation: Arc<Operation>,
    /// Its own span in a trace, and that of the step around it; 0 if it is not recorded.
    id: u64,
    parent: u64,
}

/// What an operation keeps in its span.
struct Own(Arc<Operation>);

impl<S> Layer<S> for Watcher
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &SpanId, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        match span.metadata().target() {
            OPERATION => {
                if let Some(operation) = self.opened(attributes) {
                    span.extensions_mut().insert(Own(operation));
                }
            }
            STEP => {
                let own = |span: &tracing_subscriber::registry::SpanRef<'_, S>| {
                    let extensions = span.extensions();
                    extensions.get::<Own>().map(|own| Arc::clone(&own.0))
                };
                let Some(operation) = span.scope().find_map(|span| own(&span)) else {
                    return;
                };
                let mut fields = Fields::default();
                attributes.record(&mut fields);
                operation.begin(id.into_u64(), span.metadata().name(), fields.allowed);
                let around = span.scope().skip(1).find_map(|span| {
                    let extensions = span.extensions();
                    extensions.get::<OfStep>().map(|step| step.id)
                });
                let id = operation.place.map_or(0, |_| number());
                let parent = around.unwrap_or(operation.id.0);
                span.extensions_mut().insert(OfStep {
                    operation,
                    id,
                    parent,
                });
            }
            _ => {}
        }
    }

    fn on_record(&self, id: &SpanId, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let extensions = span.extensions();
        let Some(Own(operation)) = extensions.get() else {
            return;
        };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(subject) = fields.subject {
            operation.set_subject(subject);
        }
        if let Some(code) = fields.code {
            super::lock(&operation.state).answered = Some(code);
        }
    }

    fn on_close(&self, id: SpanId, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let mut extensions = span.extensions_mut();
        if let Some(step) = extensions.remove::<OfStep>()
            && let Some((name, took)) = step.operation.end(id.into_u64())
        {
            self.recorder.step(&step.operation.verb, name, took);
            self.trace(step.ended(name, took));
        }
        if let Some(Own(operation)) = extensions.remove() {
            self.operations.remove(&operation);
            self.trace(operation.ended());
        }
    }
}

/// The id of the operation that the present span belongs to; empty: to none.
pub(crate) fn current() -> String {
    let id = tracing::Span::current().with_subscriber(|(id, dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        let own = |span: SpanRef<'_, Registry>| {
            let extensions = span.extensions();
            extensions.get::<Own>().map(|own| own.0.id.to_string())
        };
        span.scope().find_map(own)
    });
    id.flatten().unwrap_or_default()
}

/// Fields of both kinds of spans.
#[derive(Default)]
struct Fields {
    id: Option<Id>,
    service: Option<String>,
    verb: Option<String>,
    subject: Option<String>,
    code: Option<String>,
    allowed: Option<u64>,
    trace: Option<u128>,
    parent: Option<u64>,
    sampled: bool,
}

impl Fields {
    /// The client's span, if it has told one.
    fn parent(&self) -> Option<Parent> {
        Some(Parent {
            trace: self.trace?,
            span: self.parent?,
            sampled: self.sampled,
        })
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "allowed_ms" {
            self.allowed = Some(value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "sampled" {
            self.sampled = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = || Some(format!("{value:?}"));
        match field.name() {
            "id" => self.id = text().and_then(|text| Id::parse(&text)),
            "service" => self.service = text(),
            "verb" => self.verb = text(),
            "subject" => self.subject = text(),
            "code" => self.code = text(),
            "trace" => self.trace = text().and_then(|text| u128::from_str_radix(&text, 16).ok()),
            "parent" => self.parent = text().and_then(|text| u64::from_str_radix(&text, 16).ok()),
            _ => {}
        }
    }
}
