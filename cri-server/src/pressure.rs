//! What runs short on the host, watched as long as the daemon serves: told in the log when it begins
//! and when it is over, and kept for whoever asks. What is too much is decided in `check`.
//!
//! It is looked at every [`LOOK_EVERY`]: some calls of statvfs(3) and a handful of small files. A
//! trigger of the kernel for stalls (psi) would tell of memory alone, and sooner than anybody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use check::Finding;
use check::pressure::{self, Shortage, Thresholds, Trends, Usage, Watch};
use engine::Engine;
use tokio::time::MissedTickBehavior;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many looks pass from one at all processes' watches of files to the next: 5 minutes.
const INOTIFY_EVERY: u32 = 30;
/// Most containers whose logs are looked at.
const MAX_LOGS: usize = 4096;

/// How it was at the last look, and when it is warned.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    seen: Mutex<Seen>,
    thresholds: Mutex<Thresholds>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) usage: Usage,
    /// What runs short.
    pub(crate) short: Vec<Shortage>,
}

impl Pressure {
    /// How it was at the last look.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Changes when it is warned, from the next look on.
    pub(crate) fn warn_at(&self, thresholds: Thresholds) {
        *self.thresholds() = thresholds;
    }

    fn thresholds(&self) -> MutexGuard<'_, Thresholds> {
        let thresholds = self.thresholds.lock();
        thresholds.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was seen; tells what is new and what is over.
    fn keep(&self, seen: Seen) {
        let short = seen.short.clone();
        let before = std::mem::replace(&mut *self.lock(), seen);
        let (before, now) = (by_key(&before.short), by_key(&short));
        for (key, finding) in &now {
            if !before.contains_key(key) {
                let cure = finding.cure.as_deref().unwrap_or_default();
                tracing::warn!(
                    subject = finding.subject,
                    found = finding.found,
                    cure,
                    "runs short"
                );
            }
        }
        for (key, finding) in &before {
            if !now.contains_key(key) {
                tracing::info!(
                    subject = finding.subject,
                    was = finding.found,
                    "not short any more"
                );
            }
        }
    }
}

/// Shortages by what they are about: their numbers change from look to look.
fn by_key(short: &[Shortage]) -> BTreeMap<(&str, &str), &Finding> {
    let keyed = short.iter();
    keyed
        .map(|one| ((one.finding.subject, one.place.as_str()), &one.finding))
        .collect()
}

/// Watches for ever.
pub(crate) async fn watch(engine: &Arc<Engine>, pressure: &Pressure) -> Infallible {
    let began = Instant::now();
    let mut trends = Trends::default();
    let mut inotify = Vec::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in (0..INOTIFY_EVERY).cycle() {
        ticks.tick().await;
        let watch = wanted(engine, round == 0);
        // A disk that hangs holds up this task, and one thread.
        let looked = tokio::task::spawn_blocking(move || pressure::look(&watch)).await;
        let Ok(mut usage) = looked else { continue };
        let is_inotify = |used: &pressure::Used| used.resource.starts_with("inotify");
        match round {
            0 => {
                inotify = usage
                    .used
                    .iter()
                    .filter(|one| is_inotify(one))
                    .cloned()
                    .collect()
            }
            _ => usage.used.extend(inotify.iter().cloned()),
        }
        trends.note(began.elapsed(), &usage);
        let thresholds = *pressure.thresholds();
        let short = pressure::judge(&usage, &trends, &thresholds);
        pressure.keep(Seen { usage, short });
    }
    std::future::pending().await
}

/// The daemon's folders, those of pods' logs, and the logs themselves.
fn wanted(engine: &Engine, inotify: bool) -> Watch {
    let config = engine.config();
    let mut folders = vec![
        ("root".to_owned(), config.root.clone()),
        ("state".to_owned(), config.state.clone()),
    ];
    let containers = engine.containers();
    let paths = containers.iter().filter_map(|container| {
        let path = container.log_path.clone()?;
        Some((container.spec.name.clone(), path))
    });
    let logs: Vec<(String, PathBuf)> = paths.take(MAX_LOGS).collect();
    if let Some(folder) = above_all(logs.iter().map(|(_, path)| path.as_path())) {
        folders.push(("logs".to_owned(), folder));
    }
    Watch {
        folders,
        logs,
        inotify,
    }
}

/// The folder that most of the logs lie below, so that one file system stands for all of them: what
/// the first two folders of a path are, such as `/var/log`.
fn above_all<'a>(logs: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    const DEPTH: usize = 3;
    let tops: BTreeSet<PathBuf> = logs
        .filter_map(Path::parent)
        .map(|folder| folder.components().take(DEPTH).collect())
        .collect();
    tops.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_logs_lie() {
        let logs = ["/var/log/pods/a/0.log", "/var/log/pods/b/0.log"].map(Path::new);
        assert_eq!(above_all(logs.into_iter()), Some("/var/log".into()));
        assert_eq!(above_all(std::iter::empty()), None);
    }
}
