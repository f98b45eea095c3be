//! What is read when somebody looks: the picture that engine and image store publish, and our own
//! process. Nobody waits for it but the one who asks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::{Engine, Leak, Load};
use pod::lifecycle::{ContainerPhase, SandboxPhase};
use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
};

use super::process;
use super::recorder::Recorder;
use super::table::{self, Kind, Metric};
use crate::journal::Journal;
use crate::operations::Operations;
use crate::pressure::{Pressure, Seen};
use crate::traces::Tracer;

/// Most pulls that have figures of their own.
const MAX_PULLS: usize = 64;

/// Where the figures come from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) engine: Arc<Engine>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) tracer: Option<Arc<Tracer>>,
}

/// All metrics in Prometheus' text format.
pub(crate) fn text(sources: &Sources) -> String {
    let mut families = Families::default();
    of_daemon(&mut families, sources);
    of_engine(&mut families, &sources.engine);
    of_plugins(&mut families, &sources.engine.plugin_figures());
    of_images(&mut families, &sources.engine);
    of_pressure(&mut families, &sources.pressure.seen());
    of_process(&mut families, &sources.recorder);
    let mut all = families.0;
    all.extend(sources.recorder.families());
    all.sort_by_key(|family| {
        let place = table::ALL
            .iter()
            .position(|metric| metric.name == family.name());
        place.unwrap_or(usize::MAX)
    });
    TextEncoder::new()
        .encode_to_string(&all)
        .expect("every family has a name and values")
}

/// Families as they are put together.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// One value of a metric that is no histogram.
    fn set(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let mut sample = Sample::default();
        sample.set_label(pairs(metric, labels));
        let kind = match metric.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
                MetricType::COUNTER
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
                MetricType::GAUGE
            }
        };
        self.add(metric, kind, sample);
    }

    /// Counts of durations.
    fn durations(&mut self, metric: &Metric, labels: &[&str], requests: &nri::Requests) {
        let mut histogram = Histogram::default();
        let (mut all, mut buckets) = (0, Vec::new());
        // Each bucket has those of the ones before it as well; the last, without a bound, is the sum.
        for (bound, count) in nri::BOUNDS.iter().zip(requests.buckets) {
            all += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(all);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(requests.buckets.iter().sum());
        histogram.set_sample_sum(requests.seconds);
        let mut sample = Sample::default();
        sample.set_label(pairs(metric, labels));
        sample.set_histogram(histogram);
        self.add(metric, MetricType::HISTOGRAM, sample);
    }

    fn add(&mut self, metric: &Metric, kind: MetricType, sample: Sample) {
        let known = self
            .0
            .iter_mut()
            .find(|family| family.name() == metric.name);
        if let Some(family) = known {
            return family.mut_metric().push(sample);
        }
        let mut family = MetricFamily::default();
        family.set_name(metric.name.into());
        family.set_help(metric.help.into());
        family.set_field_type(kind);
        family.mut_metric().push(sample);
        self.0.push(family);
    }

    fn number(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        self.set(metric, labels, float(value));
    }

    fn count(&mut self, metric: &Metric, labels: &[&str], value: usize) {
        self.number(metric, labels, u64::try_from(value).unwrap_or(u64::MAX));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers; 53 bits of bytes are enough"
)]
fn float(value: u64) -> f64 {
    value as f64
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<LabelPair> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut pairs: Vec<_> = metric.labels.iter().zip(values).map(pair).collect();
    // As the crate has them that counts.
    pairs.sort_by(|one, other| one.name().cmp(other.name()));
    pairs
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn of_daemon(families: &mut Families, sources: &Sources) {
    families.count(&table::BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    if let Some(tracer) = &sources.tracer {
        let counts = tracer.counts();
        families.number(&table::SPANS, &["sent"], counts.sent.load(Relaxed));
        families.number(&table::SPANS, &["dropped"], counts.dropped.load(Relaxed));
    }
    families.count(&table::UNDER_WAY, &[], sources.operations.count());
}

fn of_engine(families: &mut Families, engine: &Engine) {
    let load = engine.load();
    of_pods(families, &load);
    families.count(&table::SHIMS, &[], load.shims);
    families.count(&table::EXEC_SESSIONS, &[], load.exec_sessions);
    let queued = || load.pods.iter().map(|pod| pod.queued);
    families.count(&table::QUEUED, &[], queued().sum());
    families.count(&table::QUEUED_MOST, &[], queued().max().unwrap_or_default());
    for leak in Leak::ALL {
        families.number(&table::LEAKS, &[leak.name()], engine.leaks().of(leak));
    }
    permits(families, "container_lookup", load.lookups);
}

fn of_plugins(families: &mut Families, figures: &nri::Figures) {
    families.count(&table::PLUGINS, &[], figures.plugins.len());
    for (event, requests) in &figures.requests {
        for (outcome, count) in nri::Outcome::ALL.iter().zip(requests.outcomes) {
            if count > 0 {
                let labels = [event, outcome.name()];
                families.number(&table::PLUGIN_REQUESTS, &labels, count);
            }
        }
        families.durations(&table::PLUGIN_SECONDS, &[event], requests);
    }
    for (end, count) in nri::End::ALL.iter().zip(figures.ends) {
        families.number(&table::PLUGIN_ENDS, &[end.name()], count);
    }
}

fn of_pods(families: &mut Families, load: &Load) {
    let phases = [
        ("reserved", SandboxPhase::Reserved),
        ("ready", SandboxPhase::Ready),
        ("not_ready", SandboxPhase::NotReady),
    ];
    for (name, phase) in phases {
        let pods = load.pods.iter().filter(|pod| pod.phase == phase);
        families.count(&table::PODS, &[name], pods.count());
    }
    let phases = [
        ("created", ContainerPhase::Created),
        ("running", ContainerPhase::Running),
        ("exited", ContainerPhase::Exited),
    ];
    for (name, phase) in phases {
        let containers = load.pods.iter().map(|pod| pod.count(phase));
        families.count(&table::CONTAINERS, &[name], containers.sum());
    }
}

fn permits(families: &mut Families, kind: &str, (all, taken): (usize, usize)) {
    families.count(&table::PERMITS, &[kind], all);
    families.count(&table::PERMITS_TAKEN, &[kind], taken);
}

fn of_images(families: &mut Families, engine: &Engine) {
    let store = engine.images();
    let tally = store.tally();
    families.count(&table::IMAGES, &[], store.list().len());
    families.number(&table::IMAGE_BYTES, &[], store.usage().bytes);
    families.number(&table::WRITABLE_BYTES, &[], store.writable_usage().bytes);
    families.number(&table::TRASH_BYTES, &[], tally.trash.bytes);
    families.number(&table::PULLS, &["ok"], tally.pulled);
    families.number(&table::PULLS, &["error"], tally.failed);
    families.number(&table::PULLS, &["cancelled"], tally.cancelled);
    families.number(&table::PULL_BYTES, &[], tally.received);
    families.number(&table::SCRUBBED, &["whole"], tally.scrubbed_whole);
    families.number(&table::SCRUBBED, &["damaged"], tally.scrubbed_damaged);
    if let Some(time) = tally.scrubbed_at {
        families.set(&table::SCRUBBED_AT, &[], seconds(time));
    }
    permits(families, "image_layer", tally.layer_slots);
    of_pulls(families, &store.pulls());
}

/// Pulls under way; of one name asked for by several, the first.
fn of_pulls(families: &mut Families, pulls: &[image::PullProgress]) {
    families.count(&table::PULLS_UNDER_WAY, &[], pulls.len());
    let mut told = std::collections::BTreeSet::new();
    for pull in pulls.iter().take(MAX_PULLS) {
        if told.insert(pull.reference.as_str()) {
            let labels = [pull.reference.as_str()];
            families.number(&table::PULL_SIZE, &labels, pull.total());
            families.number(&table::PULL_RECEIVED, &labels, pull.received());
        }
    }
}

fn of_pressure(families: &mut Families, seen: &Seen) {
    for one in &seen.usage.used {
        let labels = [one.resource, one.place.as_str()];
        families.number(&table::USED, &labels, one.used);
        families.number(&table::LIMIT, &labels, one.limit);
    }
    if let Some(stalled) = seen.usage.stalled {
        families.set(&table::STALLED, &[], stalled / 100.0);
    }
    let sizes = || seen.usage.logs.iter().map(|(_, bytes)| *bytes);
    families.number(&table::LOG_BYTES, &[], sizes().sum());
    families.number(
        &table::LOG_BYTES_MOST,
        &[],
        sizes().max().unwrap_or_default(),
    );
    for subject in check::pressure::SUBJECTS {
        let short = seen
            .short
            .iter()
            .filter(|one| one.finding.subject == subject);
        families.count(&table::SHORT, &[subject], short.count());
    }
}

fn of_process(families: &mut Families, recorder: &Recorder) {
    let process = process::look();
    families.set(&table::CPU, &[], process.cpu);
    families.number(&table::OPEN_FILES, &[], process.open_files);
    if let Some(most) = process.max_files {
        families.number(&table::MAX_FILES, &[], most);
    }
    families.number(&table::VIRTUAL, &[], process.virtual_memory);
    families.number(&table::RESIDENT, &[], process.resident);
    families.number(&table::THREADS, &[], process.threads);
    families.set(&table::STARTED, &[], seconds(recorder.started));
}
