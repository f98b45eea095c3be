//! What is counted as it happens: answers and steps. Costs some hundred nanoseconds each.

use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::table::{self, Metric};

/// Label of a verb that no service has: what strangers write is not remembered.
const OTHER: &str = "other";
/// The code of a verb that nobody knows (google.rpc.Code).
const UNIMPLEMENTED: i32 = 12;
/// The code for a client that went first.
const CANCELLED: i32 = 1;

/// The counters.
#[derive(Debug)]
pub(crate) struct Recorder {
    operations: IntCounterVec,
    operation_seconds: HistogramVec,
    step_seconds: HistogramVec,
    pub(super) started: SystemTime,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let metric = table::OPERATIONS;
        let opts = Opts::new(metric.name, metric.help);
        Self {
            operations: IntCounterVec::new(opts, metric.labels)
                .expect("the table has a name and labels"),
            operation_seconds: histogram(&table::OPERATION_SECONDS),
            step_seconds: histogram(&table::STEP_SECONDS),
            started: SystemTime::now(),
        }
    }

    /// How long the daemon has been running.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }

    /// Counts an answer to a request; no code stands for a client that went before it.
    pub(crate) fn answered(&self, service: &str, verb: &str, code: Option<i32>, took: Duration) {
        let code = code.unwrap_or(CANCELLED);
        let (service, verb) = match code {
            UNIMPLEMENTED => (OTHER, OTHER),
            _ => (service, verb),
        };
        let labels = [service, verb, code_name(code)];
        self.operations.with_label_values(&labels).inc();
        let seconds = self.operation_seconds.with_label_values(&[service, verb]);
        seconds.observe(took.as_secs_f64());
    }

    /// Counts a step that has ended.
    pub(crate) fn step(&self, verb: &str, step: &str, took: Duration) {
        let seconds = self.step_seconds.with_label_values(&[verb, step]);
        seconds.observe(took.as_secs_f64());
    }

    /// All that was counted, by metric.
    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.operations.collect();
        families.extend(self.operation_seconds.collect());
        families.extend(self.step_seconds.collect());
        // What has no values yet has nothing to say.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn histogram(metric: &Metric) -> HistogramVec {
    let opts = HistogramOpts::new(metric.name, metric.help).buckets(table::SECONDS.to_vec());
    HistogramVec::new(opts, metric.labels).expect("the table has a name, labels and bounds")
}

/// The name of a gRPC code.
pub(crate) fn code_name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    NAMES.get(index).copied().unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_ask_for_makes_no_label() {
        let recorder = Recorder::new();
        for verb in ["A", "B", "C"] {
            recorder.answered("some.Service", verb, Some(12), Duration::ZERO);
        }
        recorder.answered("some.Service", "Good", None, Duration::ZERO);
        let families = recorder.families();
        let labels: Vec<Vec<&str>> = families[0]
            .get_metric()
            .iter()
            .map(|metric| metric.get_label().iter().map(|pair| pair.value()).collect())
            .collect();
        assert!(
            labels.contains(&vec!["UNIMPLEMENTED", "other", "other"]),
            "{labels:?}"
        );
        assert!(
            labels.contains(&vec!["CANCELLED", "some.Service", "Good"]),
            "{labels:?}"
        );
        assert_eq!(labels.len(), 2);
    }
}
