//! Taking a pod's link away without waiting until the kernel has forgotten it.
//!
//! The kernel takes a link off the network at once, and tells everybody who listens. Then it waits
//! for all processors to let go of it, some tens of milliseconds, and only after that answers who
//! has asked. Here the news is enough: the name is free, the bridge has lost its port, no packet
//! comes or goes. What is left to the kernel needs nobody, nor is anything left to undo.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::netlink::route;
use crate::netlink::socket::Socket;

/// Threads that may wait for the kernel at once; whoever comes then waits itself.
const MOST_THREADS: usize = 64;
/// The kernel tells or answers within this time, or is left to itself with an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removals under way.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    threads: Arc<AtomicUsize>,
}

/// One of the threads.
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Removals {
    fn turn(&self) -> Option<Turn> {
        let turn = Turn(Arc::clone(&self.threads));
        (self.threads.fetch_add(1, Ordering::Relaxed) < MOST_THREADS).then_some(turn)
    }

    /// Removes a link by its name, until it is off the network; gone already is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let mut host = Socket::route()?;
        if route::link(&mut host, name)?.is_none() {
            return Ok(());
        }
        let Some(turn) = self.turn() else {
            return route::delete_link(&mut host, name);
        };
        // Listens before anything happens.
        let mut changes = Socket::link_changes()?;
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let asked = name.to_owned();
        let ask = move || {
            // Both are let go when the kernel has answered.
            let _held = (turn, end);
            route::delete_link(&mut host, &asked)
        };
        let asker = thread::Builder::new()
            .name("unlink".to_owned())
            .spawn(ask)?;
        while told(&changes, &ended)? {
            let mut gone = false;
            let heard = changes.hear(|change| gone |= route::tells_removal(change, name));
            match heard {
                Ok(()) if gone => return Ok(()),
                Ok(()) => {}
                // Too much happens at once to hear of it all.
                Err(_lost) => break,
            }
        }
        asker.join().expect("a request to the kernel never panics")
    }
}

/// Waits for a change, which is true, or for the answer.
fn told(changes: &Socket, ended: &OwnedFd) -> io::Result<bool> {
    let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut both = [
        PollFd::new(changes, PollFlags::IN),
        PollFd::new(ended, PollFlags::IN),
    ];
    let ready = rustix::io::retry_on_intr(|| poll(&mut both, Some(&patience)))?;
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(both[1].revents().is_empty())
}
