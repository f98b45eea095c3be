//! What the daemon does at a moment: every request from its arrival until the last of its work is
//! done, each under an id of its own, with the steps that are under way in it.
//!
//! A request is a span of the target [`OPERATION`], and so has its id in every line of the log that
//! is written on its behalf, in whatever crate. A step is a span of the target [`STEP`] inside it,
//! which the crates below open where they begin something that may take long; they know nothing of
//! who looks. [`watcher`] hears of both and keeps the table here. Nothing is decided here, and
//! nobody waits for it.

mod identity;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::traces::{Ended, Place};

pub(crate) use identity::{Id, Parent, number};
pub(crate) use watcher::{Watcher, current};

/// Target of the spans that are operations.
pub(crate) const OPERATION: &str = "wherry::operation";
/// Target of the spans that are steps of an operation; the crates below spell it out.
pub(crate) const STEP: &str = "wherry::step";
/// What both begin with, for filters.
pub(crate) const ALL: &str = "wherry::";
/// Time after which an operation is told in the log as one that may be stuck. The limits of single
/// steps (a call of a shim, sources of mounts, a CNI plugin) are below it.
pub(crate) const STUCK: Duration = Duration::from_secs(120);
/// Most letters of a subject that are kept.
const MAX_SUBJECT: usize = 256;

/// All operations under way.
#[derive(Debug, Default)]
pub(crate) struct Operations(Mutex<BTreeMap<u64, Arc<Operation>>>);

/// An operation under way.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) id: Id,
    /// The gRPC service, with its package.
    pub(crate) service: String,
    pub(crate) verb: String,
    pub(crate) since: Instant,
    /// Where it belongs in a trace, if it is recorded.
    place: Option<Place>,
    state: Mutex<State>,
}

/// What changes of it.
#[derive(Debug, Default)]
struct State {
    subject: String,
    /// The name of the code that was answered; the work may go on.
    answered: Option<String>,
    steps: Vec<Step>,
    /// What its steps may take beyond the usual.
    allowed: Duration,
    told: bool,
}

/// A step under way.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    span: u64,
    pub(crate) name: &'static str,
    pub(crate) since: Instant,
}

/// An operation at a moment, to be shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: Id,
    pub(crate) service: String,
    pub(crate) verb: String,
    pub(crate) subject: String,
    pub(crate) age: Duration,
    pub(crate) answered: Option<String>,
    /// The outermost first.
    pub(crate) steps: Vec<(&'static str, Duration)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operations {
    /// All of them as they are now, the oldest first.
    pub(crate) fn shown(&self, now: Instant) -> Vec<Shown> {
        let all: Vec<_> = lock(&self.0).values().cloned().collect();
        let mut all: Vec<_> = all.iter().map(|operation| operation.shown(now)).collect();
        all.sort_by_key(|shown| std::cmp::Reverse(shown.age));
        all
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Those that take longer than anything should; each is named once.
    pub(crate) fn stuck(&self, now: Instant) -> Vec<Shown> {
        let all: Vec<_> = lock(&self.0).values().cloned().collect();
        let stuck = all.iter().filter(|operation| operation.gets_stuck(now));
        stuck.map(|operation| operation.shown(now)).collect()
    }

    fn insert(&self, operation: &Arc<Operation>) {
        lock(&self.0).insert(operation.id.0, Arc::clone(operation));
    }

    fn remove(&self, operation: &Operation) {
        lock(&self.0).remove(&operation.id.0);
    }
}

impl Operation {
    fn new(id: Id, service: String, verb: String, place: Option<Place>) -> Self {
        Self {
            id,
            service,
            verb,
            since: Instant::now(),
            place,
            state: Mutex::default(),
        }
    }

    /// Its span, now that all of its work is done.
    fn ended(&self) -> Option<Ended> {
        let state = lock(&self.state);
        let code = state.answered.clone();
        let told = code.clone().unwrap_or_else(|| "CANCELLED".into());
        Some(Ended {
            place: self.place?,
            id: self.id.0,
            name: format!("{}/{}", self.service, self.verb),
            served: true,
            took: self.since.elapsed(),
            attributes: vec![
                ("rpc.system", "grpc".into()),
                ("rpc.service", self.service.clone()),
                ("rpc.method", self.verb.clone()),
                ("rpc.response.status_code", told.clone()),
                ("wherry.subject", state.subject.clone()),
            ],
            failed: Some(told).filter(|code| code != "OK"),
        })
    }

    fn shown(&self, now: Instant) -> Shown {
        let state = lock(&self.state);
        let age = |since: Instant| now.saturating_duration_since(since);
        Shown {
            id: self.id,
            service: self.service.clone(),
            verb: self.verb.clone(),
            subject: state.subject.clone(),
            age: age(self.since),
            answered: state.answered.clone(),
            steps: state
                .steps
                .iter()
                .map(|step| (step.name, age(step.since)))
                .collect(),
        }
    }

    fn gets_stuck(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        let limit = STUCK.saturating_add(state.allowed);
        let stuck = now.saturating_duration_since(self.since) > limit;
        stuck && !std::mem::replace(&mut state.told, true)
    }

    fn set_subject(&self, mut subject: String) {
        subject.truncate(subject.floor_char_boundary(MAX_SUBJECT));
        lock(&self.state).subject = subject;
    }

    fn begin(&self, span: u64, name: &'static str, allowed: Option<u64>) {
        let mut state = lock(&self.state);
        state.allowed = state
            .allowed
            .saturating_add(Duration::from_millis(allowed.unwrap_or_default()));
        let since = Instant::now();
        state.steps.push(Step { span, name, since });
    }

    /// Takes a step away; answers with its name and how long it took.
    fn end(&self, span: u64) -> Option<(&'static str, Duration)> {
        let mut state = lock(&self.state);
        let at = state.steps.iter().position(|step| step.span == span)?;
        let step = state.steps.remove(at);
        Some((step.name, step.since.elapsed()))
    }
}

/// Tells in the log what may be stuck.
pub(crate) fn tell_stuck(operations: &Operations, now: Instant) {
    for stuck in operations.stuck(now) {
        let steps: Vec<&str> = stuck.steps.iter().map(|(name, _)| *name).collect();
        tracing::warn!(
            id = %stuck.id,
            verb = stuck.verb,
            subject = stuck.subject,
            seconds = stuck.age.as_secs(),
            steps = steps.join(" > "),
            "an operation takes long; `wherryd debug` shows what it waits for"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Arc<Operation> {
        let text = str::to_owned;
        let id = Id::new();
        Arc::new(Operation::new(id, text("s"), text("Verb"), None))
    }

    #[test]
    fn what_is_stuck_is_told_once() {
        let operations = Operations::default();
        let (quick, patient) = (operation(), operation());
        patient.begin(1, "stop", Some(600_000));
        quick.begin(2, "queue", None);
        operations.insert(&quick);
        operations.insert(&patient);
        let now = Instant::now();
        assert!(operations.stuck(now + STUCK / 2).is_empty());
        let later = now + STUCK + Duration::from_secs(5);
        let stuck = operations.stuck(later);
        assert_eq!(stuck.len(), 1);
        assert_eq!((stuck[0].id, stuck[0].steps[0].0), (quick.id, "queue"));
        assert!(operations.stuck(later).is_empty());
        let much_later = later + Duration::from_secs(600);
        assert_eq!(operations.stuck(much_later)[0].id, patient.id);
    }

    #[test]
    fn a_step_that_may_take_any_time_is_never_stuck() {
        let operations = Operations::default();
        let endless = operation();
        endless.begin(1, "download", Some(u64::MAX));
        operations.insert(&endless);
        let year = Duration::from_secs(365 * 24 * 3600);
        assert!(operations.stuck(Instant::now() + year).is_empty());
    }

    #[test]
    fn a_subject_is_cut_between_letters() {
        let operation = operation();
        operation.set_subject("\u{fc}".repeat(MAX_SUBJECT));
        let shown = operation.shown(Instant::now());
        assert_eq!(shown.subject.len(), MAX_SUBJECT);
    }
}
