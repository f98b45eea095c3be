//! The one call by which traces go to an OpenTelemetry collector: the part of OTLP 1 that the daemon
//! sends, in `otlp.proto`. What a collector understands beyond it is left out.

#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    reason = "generated; documented in otlp.proto"
)]
mod generated {
    include!(concat!(
        env!("OUT_DIR"),
        "/opentelemetry.proto.collector.trace.v1.rs"
    ));
}

pub use generated::*;
