//! The layer of the log that hears of operations and steps: they enter the table as their spans
//! open, and leave it, measured, as these close.

use std::fmt::Debug;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id as SpanId, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{ALL, Id, OPERATION, Operation, Operations, STEP};
use crate::metrics::Recorder;

/// The layer.
#[derive(Debug)]
pub(crate) struct Watcher {
    operations: Arc<Operations>,
    recorder: Arc<Recorder>,
}

impl Watcher {
    pub(crate) fn new(operations: &Arc<Operations>, recorder: &Arc<Recorder>) -> Self {
        Self {
            operations: Arc::clone(operations),
            recorder: Arc::clone(recorder),
        }
    }

    /// What it wants to hear of.
    pub(crate) fn filter() -> Targets {
        Targets::new().with_target(ALL, Level::ERROR)
    }

    fn opened(&self, attributes: &Attributes<'_>) -> Option<Arc<Operation>> {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let operation = Operation::new(
            fields.id?,
            fields.service.unwrap_or_default(),
            fields.verb.unwrap_or_default(),
            fields.subject.unwrap_or_default(),
        );
        let operation = Arc::new(operation);
        self.operations.insert(&operation);
        Some(operation)
    }
}

/// What a step keeps in its span.
struct OfStep(Arc<Operation>);

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
                span.extensions_mut().insert(OfStep(operation));
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
        if let Some(OfStep(operation)) = extensions.remove()
            && let Some((name, took)) = operation.end(id.into_u64())
        {
            self.recorder.step(&operation.verb, name, took);
        }
        if let Some(Own(operation)) = extensions.remove() {
            self.operations.remove(&operation);
        }
    }
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
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "allowed_ms" {
            self.allowed = Some(value);
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
            _ => {}
        }
    }
}
