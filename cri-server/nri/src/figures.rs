//! What is counted of plugins, and what they are asked right now, for whoever watches the daemon.
//!
//! Nobody waits to read it: it has locks of its own, which are held for a moment only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::LOCK;
use crate::connection::{CallError, code};

/// Upper bounds of the durations that are told apart, in seconds: from a plugin that only listens to
/// the longest time limit.
pub const BOUNDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 60.0];

/// How a request to a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With an answer.
    Answered,
    /// With the plugin's own error.
    Refused,
    /// It knows no such request: its library is older.
    Unknown,
    /// Not in time.
    TimedOut,
    /// Not at all, or in words that mean nothing.
    Failed,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Answered,
        Self::Refused,
        Self::Unknown,
        Self::TimedOut,
        Self::Failed,
    ];

    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::TimedOut => "timeout",
            Self::Failed => "failed",
        }
    }

    fn of<T>(result: &Result<T, CallError>) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(CallError::Refused(status)) if status.code == code::UNIMPLEMENTED => Self::Unknown,
            Err(CallError::Refused(_)) => Self::Refused,
            Err(CallError::TimedOut(_)) => Self::TimedOut,
            Err(CallError::Closed | CallError::Nonsense(_) | CallError::TooLong(_)) => Self::Failed,
        }
    }
}

/// Why a connection to a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The plugin went.
    Left,
    /// It did not answer in time.
    TimedOut,
    /// What it said means nothing, or cannot be said to it.
    Nonsense,
    /// It does not read what is said to it.
    Deaf,
    /// It did not register, or could not be configured.
    Registration,
    /// It could not be told what there is.
    Synchronization,
    /// The engine goes.
    Shutdown,
}

impl End {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Left,
        Self::TimedOut,
        Self::Nonsense,
        Self::Deaf,
        Self::Registration,
        Self::Synchronization,
        Self::Shutdown,
    ];

    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::TimedOut => "timeout",
            Self::Nonsense => "nonsense",
            Self::Deaf => "deaf",
            Self::Registration => "registration",
            Self::Synchronization => "synchronization",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Requests of one kind, by how they ended and how long they took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// How many ended how, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// How many took at most as long as the bound in [`BOUNDS`] at the same place, and longer than
    /// the one before it; the last: longer than all.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// How long they took together, seconds.
    pub seconds: f64,
}

/// What a plugin is asked now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The plugin's name.
    pub plugin: String,
    /// The request's name.
    pub method: &'static str,
    /// How long ago it was asked.
    pub age: Duration,
}

/// A plugin that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its name.
    pub name: String,
    /// For how long.
    pub age: Duration,
}

/// What is known of plugins at a moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The plugins that take part, in their order.
    pub plugins: Vec<Present>,
    /// What is waited for, the oldest first.
    pub questions: Vec<Question>,
    /// Requests by their names.
    pub requests: BTreeMap<&'static str, Requests>,
    /// How many connections ended why, in the order of [`End::ALL`].
    pub ends: [u64; End::ALL.len()],
}

/// Where it is counted.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    plugins: Vec<(String, Instant)>,
    questions: BTreeMap<u64, (String, &'static str, Instant)>,
    asked: u64,
    requests: BTreeMap<&'static str, Requests>,
    ends: [u64; End::ALL.len()],
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect(LOCK)
    }

    /// Notes which plugins take part.
    pub(crate) fn present(&self, plugins: Vec<(String, Instant)>) {
        self.lock().plugins = plugins;
    }

    /// Counts the end of a connection.
    pub(crate) fn ended(&self, why: End) {
        count(&mut self.lock().ends, &End::ALL, &why);
    }

    /// Carries a request out that is counted, and seen as long as it is waited for.
    pub(crate) async fn asked<T>(
        &self,
        plugin: String,
        method: &'static str,
        request: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let began = Instant::now();
        let place = {
            let mut counts = self.lock();
            counts.asked += 1;
            let place = counts.asked;
            counts.questions.insert(place, (plugin, method, began));
            place
        };
        // Who gives up waiting leaves no question behind.
        let _asking = Asking { tally: self, place };
        let result = request.await;
        let took = began.elapsed().as_secs_f64();
        let mut counts = self.lock();
        let requests = counts.requests.entry(method).or_default();
        count(&mut requests.outcomes, &Outcome::ALL, &Outcome::of(&result));
        let bucket = BOUNDS.iter().position(|bound| took <= *bound);
        requests.buckets[bucket.unwrap_or(BOUNDS.len())] += 1;
        requests.seconds += took;
        result
    }

    /// What is known now.
    pub(crate) fn figures(&self) -> Figures {
        let counts = self.lock();
        let plugins = counts.plugins.iter();
        let questions = counts.questions.values();
        Figures {
            plugins: plugins
                .map(|(name, since)| Present {
                    name: name.clone(),
                    age: since.elapsed(),
                })
                .collect(),
            questions: questions
                .map(|(plugin, method, since)| Question {
                    plugin: plugin.clone(),
                    method,
                    age: since.elapsed(),
                })
                .collect(),
            requests: counts.requests.clone(),
            ends: counts.ends,
        }
    }
}

fn count<T: PartialEq>(counts: &mut [u64], all: &[T], one: &T) {
    let place = all.iter().position(|other| other == one);
    counts[place.expect("the list has all")] += 1;
}

struct Asking<'a> {
    tally: &'a Tally,
    place: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.tally.lock().questions.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_seen_until_they_are_answered_or_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(async {
            let tally = Tally::default();
            let (answer, answered) = tokio::sync::oneshot::channel();
            let asked = tally.asked("10-a".into(), "StopContainer", async {
                answered.await.map_err(|_gone| CallError::Closed)
            });
            let seen = async {
                let now = tally.figures();
                assert_eq!(now.questions[0].plugin, "10-a");
                assert_eq!(now.questions[0].method, "StopContainer");
                answer.send(7).unwrap();
            };
            let (result, ()) = tokio::join!(asked, seen);
            assert!(matches!(result, Ok(7)));
            let hangs = tally.asked("10-a".into(), "StopContainer", async {
                std::future::pending::<Result<(), CallError>>().await
            });
            let given_up = tokio::time::timeout(Duration::from_millis(1), hangs).await;
            assert!(given_up.is_err());
            let late = async { Err::<(), _>(CallError::TimedOut(Duration::ZERO)) };
            let late = tally.asked("10-a".into(), "StopContainer", late).await;
            assert!(late.is_err());
            tally.ended(End::TimedOut);
            let now = tally.figures();
            assert!(now.questions.is_empty());
            let requests = &now.requests["StopContainer"];
            assert_eq!(requests.outcomes, [1, 0, 0, 1, 0]);
            assert_eq!(requests.buckets.iter().sum::<u64>(), 2);
            assert_eq!(now.ends, [0, 1, 0, 0, 0, 0, 0]);
        });
    }
}
