//! Work that several callers share: done once, and stopped a while after the last of them has gone.
//!
//! This is the one place of the crate that starts tasks of its own.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::Error;

type Outcome<T> = Option<Result<T, Error>>;

/// Set when nobody wants a result any more; work that cannot be stopped looks at it.
pub(crate) type Cancelled = Arc<AtomicBool>;

/// One piece of work under way.
struct Flight<T> {
    outcome: watch::Receiver<Outcome<T>>,
    task: AbortHandle,
    cancelled: Cancelled,
    /// How many wait for it.
    waiting: AtomicUsize,
    /// Until when it goes on though nobody waits; a task sees to that.
    lingers: Mutex<Option<Instant>>,
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.task.abort();
    }
}

/// All work of one kind that is under way.
pub(crate) struct Flights<K, T> {
    flying: Mutex<HashMap<K, Weak<Flight<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            flying: Mutex::default(),
        }
    }
}

impl<K, T> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<K: Clone + Eq + Hash, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Joins the work under that key, or starts it. If the future is dropped and nobody else waits,
    /// the work is stopped after the time of `grace`, unless somebody joins it in between.
    pub(crate) async fn join<W>(
        &self,
        key: &K,
        grace: Duration,
        work: impl FnOnce(Cancelled) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let waiter = Waiter {
            flight: self.board(key, work),
            grace,
        };
        let mut outcome = waiter.flight.outcome.clone();
        let ended = outcome
            .wait_for(Option::is_some)
            .await
            .map(|outcome| Outcome::clone(&outcome));
        match ended {
            Ok(Some(result)) => result,
            _ => Err(Error::Other("the work ended without a result".into())),
        }
    }

    fn board<W>(&self, key: &K, work: impl FnOnce(Cancelled) -> W) -> Arc<Flight<T>>
    where
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended is not joined: its result may be outdated.
        let joined = flying
            .get(key)
            .and_then(Weak::upgrade)
            .filter(|f| f.outcome.borrow().is_none());
        if let Some(flight) = joined {
            flight.waiting.fetch_add(1, Ordering::SeqCst);
            return flight;
        }
        flying.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(start(work));
        flying.insert(key.clone(), Arc::downgrade(&flight));
        flight
    }
}

/// One who waits.
struct Waiter<T: Send + Sync + 'static> {
    flight: Arc<Flight<T>>,
    grace: Duration,
}

impl<T: Send + Sync + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        let was_last = self.flight.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
        let has_ended = self.flight.outcome.borrow().is_some();
        if was_last && !has_ended && !self.grace.is_zero() {
            linger(&self.flight, self.grace);
        }
    }
}

/// Keeps work alive for a while, by one task however often this is asked for.
fn linger<T: Send + Sync + 'static>(flight: &Arc<Flight<T>>, grace: Duration) {
    let until = |flight: &Flight<T>| *lock(&flight.lingers);
    let lingers = lock(&flight.lingers)
        .replace(Instant::now() + grace)
        .is_some();
    if lingers {
        return;
    }
    let flight = Arc::clone(flight);
    let task = async move {
        let mut outcome = flight.outcome.clone();
        while let Some(deadline) = until(&flight) {
            let ended = async { outcome.wait_for(Option::is_some).await.map(drop) };
            if tokio::time::timeout_at(deadline, ended).await.is_ok() {
                break;
            }
            let mut lingers = lock(&flight.lingers);
            if *lingers == Some(deadline) {
                *lingers = None;
            }
        }
        if let Some(Err(error)) = &*flight.outcome.borrow() {
            tracing::info!(%error, "what nobody waits for any more has failed");
        }
    };
    // Outside of a runtime the program is ending.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start<T, W>(work: impl FnOnce(Cancelled) -> W) -> Flight<T>
where
    T: Send + Sync + 'static,
    W: Future<Output = Result<T, Error>> + Send + 'static,
{
    let cancelled = Cancelled::default();
    let (tell, outcome) = watch::channel(None);
    let work = work(Arc::clone(&cancelled));
    #[expect(
        clippy::disallowed_methods,
        reason = "owned by the flight, which stops it when dropped"
    )]
    // What it logs belongs to the operation of whoever came first.
    let task = tokio::spawn(
        async move {
            let result = work.await;
            // If nobody listens any more, nobody is to be told.
            drop(tell.send(Some(result)));
        }
        .in_current_span(),
    );
    Flight {
        outcome,
        task: task.abort_handle(),
        cancelled,
        waiting: AtomicUsize::new(1),
        lingers: Mutex::default(),
    }
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let operation = tracing::Span::current();
    match tokio::task::spawn_blocking(move || operation.in_scope(work)).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::Other(format!("a worker thread was lost: {stopped}"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_callers_share_one_piece_of_work() {
        let flights: Flights<&str, usize> = Flights::default();
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let join = || {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            flights.join(&"a", Duration::ZERO, move |_| async move {
                gate.notified().await;
                Ok(count.fetch_add(1, Ordering::SeqCst))
            })
        };
        let open = async { gate.notify_one() };
        let (one, two, ()) = tokio::join!(join(), join(), open);
        assert_eq!((one.unwrap(), two.unwrap()), (0, 0));
        gate.notify_one();
        assert_eq!(join().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_stopped() {
        struct Told(Arc<Notify>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let flights: Flights<&str, ()> = Flights::default();
        let (started, stopped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let told = Told(Arc::clone(&stopped));
        let begin = Arc::clone(&started);
        let call = flights.join(&"a", Duration::ZERO, move |_| async move {
            let _told = told;
            begin.notify_one();
            std::future::pending().await
        });
        tokio::select! {
            _ = call => panic!("it never ends"),
            () = started.notified() => {}
        }
        stopped.notified().await;
    }
    #[tokio::test]
    async fn one_who_comes_back_in_time_joins_the_work() {
        let flights: Flights<&str, usize> = Flights::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let (started, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let join = |grace| {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            let started = Arc::clone(&started);
            flights.join(&"a", grace, move |_| async move {
                started.notify_one();
                gate.notified().await;
                Ok(begun.fetch_add(1, Ordering::SeqCst))
            })
        };
        let long = Duration::from_secs(600);
        tokio::select! {
            _ = join(long) => panic!("the gate is shut"),
            () = started.notified() => {}
        }
        let again = join(long);
        let open = async { gate.notify_one() };
        assert_eq!(tokio::join!(again, open).0.unwrap(), 0);
        // Nobody comes back in time: the work that the third joins is another one.
        tokio::select! {
            _ = join(Duration::from_millis(1)) => panic!("the gate is shut"),
            () = started.notified() => {}
        }
        while flights.flying.lock().unwrap()[&"a"].strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        assert_eq!(join(long).await.unwrap(), 1);
    }
}
