//! What changed, for those who listen: each has a bounded queue of its own, and one that does not
//! keep up is cut off, so that it knows to look anew instead of missing something.

use std::sync::{Arc, Mutex};

use pod::lifecycle::{ContainerPhase, SandboxPhase};
use tokio::sync::mpsc;

use crate::view::{Container, Sandbox};
use crate::{LOCK, now};

/// Events that may wait for a listener. A kubelet that starts 100 pods at once gets some 800.
const QUEUE: usize = 4096;
/// Most listeners at a time; a further one gets no event at all.
const MAX_LISTENERS: usize = 64;

/// What happened to a sandbox or a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It exists.
    Created,
    /// It runs.
    Started,
    /// It runs no more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Of the container, or of the sandbox.
    pub id: String,
    /// What.
    pub change: Change,
    /// When, nanoseconds since the epoch.
    pub at: i64,
    /// The sandbox, as it is then; `None` only for a container that outlived it.
    pub sandbox: Option<Arc<Sandbox>>,
    /// All its containers, as they are then.
    pub containers: Vec<Arc<Container>>,
}

/// Who listens.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    queues: Mutex<Vec<mpsc::Sender<Event>>>,
}

impl Listeners {
    /// Events from now on. Their end means that some were lost, or that the daemon stops.
    pub(crate) fn join(&self) -> mpsc::Receiver<Event> {
        let (queue, events) = mpsc::channel(QUEUE);
        let mut queues = self.queues.lock().expect(LOCK);
        queues.retain(|queue| !queue.is_closed());
        if queues.len() < MAX_LISTENERS {
            queues.push(queue);
        }
        events
    }

    /// Lets all listeners go.
    pub(crate) fn close(&self) {
        self.queues.lock().expect(LOCK).clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.lock().expect(LOCK).is_empty()
    }

    /// Tells everybody; who has gone, or has too many waiting, hears nothing more.
    pub(crate) fn tell(
        &self,
        id: &str,
        changes: &[Change],
        sandbox: Option<&Arc<Sandbox>>,
        containers: &[Arc<Container>],
    ) {
        let at = now();
        let mut queues = self.queues.lock().expect(LOCK);
        for change in changes {
            let event = Event {
                id: id.to_owned(),
                change: *change,
                at,
                sandbox: sandbox.cloned(),
                containers: containers.to_vec(),
            };
            queues.retain(|queue| queue.try_send(event.clone()).is_ok());
        }
    }
}

/// What it means for a sandbox to be published anew.
pub(crate) fn of_sandbox(before: Option<SandboxPhase>, after: SandboxPhase) -> Vec<Change> {
    let ready = |phase: SandboxPhase| phase == SandboxPhase::Ready;
    let mut changes = Vec::new();
    if before.is_none() {
        changes.push(Change::Created);
    }
    match (before.is_some_and(ready), ready(after)) {
        (false, true) => changes.push(Change::Started),
        (true, false) => changes.push(Change::Stopped),
        _ => {}
    }
    changes
}

/// What it means for a container to be published anew.
pub(crate) fn of_container(before: Option<ContainerPhase>, after: ContainerPhase) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.is_none() {
        changes.push(Change::Created);
    }
    let before = before.unwrap_or(ContainerPhase::Created);
    match after {
        ContainerPhase::Running if before == ContainerPhase::Created => {
            changes.push(Change::Started);
        }
        ContainerPhase::Exited if before != ContainerPhase::Exited => {
            changes.push(Change::Stopped);
        }
        _ => {}
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_sandbox() {
        use SandboxPhase::{NotReady, Ready};
        let check = |before, after, expect: &[Change]| {
            assert_eq!(of_sandbox(before, after), expect, "{before:?} {after:?}");
        };
        check(None, Ready, &[Change::Created, Change::Started]);
        check(None, NotReady, &[Change::Created]);
        check(Some(Ready), Ready, &[]);
        check(Some(Ready), NotReady, &[Change::Stopped]);
        check(Some(NotReady), NotReady, &[]);
    }

    #[test]
    fn changes_of_a_container() {
        use ContainerPhase::{Created, Exited, Running};
        let check = |before, after, expect: &[Change]| {
            assert_eq!(of_container(before, after), expect, "{before:?} {after:?}");
        };
        check(None, Created, &[Change::Created]);
        check(Some(Created), Created, &[]);
        check(Some(Created), Running, &[Change::Started]);
        check(Some(Created), Exited, &[Change::Stopped]);
        check(Some(Running), Exited, &[Change::Stopped]);
        check(Some(Exited), Exited, &[]);
        check(None, Exited, &[Change::Created, Change::Stopped]);
    }

    #[test]
    fn who_does_not_keep_up_is_cut_off_alone() {
        let listeners = Listeners::default();
        let (mut slow, mut fast) = (listeners.join(), listeners.join());
        for round in 0..=QUEUE {
            listeners.tell(&round.to_string(), &[Change::Created], None, &[]);
            assert_eq!(fast.try_recv().unwrap().id, round.to_string());
        }
        for _ in 0..QUEUE {
            slow.try_recv().unwrap();
        }
        assert_eq!(
            slow.try_recv().unwrap_err(),
            mpsc::error::TryRecvError::Disconnected
        );
        assert_eq!(
            fast.try_recv().unwrap_err(),
            mpsc::error::TryRecvError::Empty
        );
        listeners.close();
        assert_eq!(
            fast.try_recv().unwrap_err(),
            mpsc::error::TryRecvError::Disconnected
        );
    }

    #[test]
    fn there_is_an_end_to_listeners() {
        let listeners = Listeners::default();
        let all: Vec<_> = (0..MAX_LISTENERS).map(|_| listeners.join()).collect();
        assert!(listeners.join().is_closed());
        drop(all);
        assert!(!listeners.join().is_closed());
    }
}
