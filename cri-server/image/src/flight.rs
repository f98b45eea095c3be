//! Work that several callers share: done once, and stopped when the last of them has gone.
//!
//! This is the one place of the crate that starts tasks of its own.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::Error;

type Outcome<T> = Option<Result<T, Error>>;

/// Set when nobody wants a result any more; work that cannot be stopped looks at it.
pub(crate) type Cancelled = Arc<AtomicBool>;

/// One piece of work under way.
struct Flight<T> {
    outcome: watch::Receiver<Outcome<T>>,
    task: AbortHandle,
    cancelled: Cancelled,
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
    /// the work is stopped.
    pub(crate) async fn join<W>(
        &self,
        key: &K,
        work: impl FnOnce(Cancelled) -> W,
    ) -> Result<T, Error>
    where
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let flight = self.board(key, work);
        let mut outcome = flight.outcome.clone();
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
            return flight;
        }
        flying.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(start(work));
        flying.insert(key.clone(), Arc::downgrade(&flight));
        flight
    }
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
    let task = tokio::spawn(async move {
        let result = work.await;
        // If nobody listens any more, nobody is to be told.
        drop(tell.send(Some(result)));
    });
    Flight {
        outcome,
        task: task.abort_handle(),
        cancelled,
    }
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => Err(Error::Other(format!("a worker thread was lost: {stopped}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_callers_share_one_piece_of_work() {
        let flights: Flights<&str, usize> = Flights::default();
        let (count, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let join = || {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            flights.join(&"a", move |_| async move {
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
        let call = flights.join(&"a", move |_| async move {
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
}
