//! What may happen to a sandbox or a container next.
//!
//! Whoever owns a pod asks here before each request, and carries out what the answer says. These
//! are plain values: phases come in, a decision comes out, nothing is carried out.
//!
//! ```text
//! sandbox     Reserved -made-> Ready -stop, lost-> NotReady -remove-> gone
//! container   -create-> Created -start-> Running -exit, stop-> Exited -remove-> gone
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Its process waits to be released.
    Created,
    /// Its process runs.
    Running,
    /// Its process is gone.
    Exited,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Its name is taken, nothing else is certain.
    Reserved,
    /// It has its namespaces and addresses.
    Ready,
    /// It is stopped, or was lost with the boot it lived in.
    NotReady,
}

/// Why a request cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The sandbox takes no containers and starts none.
    #[error("its sandbox is not ready")]
    SandboxNotReady,
    /// Another one has the name.
    #[error("its name is taken")]
    NameTaken,
    /// The container is in the wrong phase.
    #[error("it is {phase:?}, not {needed:?}")]
    WrongPhase {
        /// Its phase.
        phase: ContainerPhase,
        /// The phase that the request needs.
        needed: ContainerPhase,
    },
}

/// Who has the name that a request wants to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namesake<P> {
    /// Where it is in its life.
    pub phase: P,
    /// It was asked for in just the same words.
    pub same_request: bool,
}

/// What to do with a request to make something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// Make it.
    Begin,
    /// It is a retry: the answer is what the first request made, or is making.
    Join,
}

/// Decides a request to make a sandbox. A retry joins as long as the sandbox has not been stopped.
///
/// # Errors
///
/// [`Refusal::NameTaken`].
pub fn make_sandbox(namesake: Option<Namesake<SandboxPhase>>) -> Result<Making, Refusal> {
    match namesake {
        None => Ok(Making::Begin),
        Some(Namesake {
            phase: SandboxPhase::Reserved | SandboxPhase::Ready,
            same_request: true,
        }) => Ok(Making::Join),
        Some(_) => Err(Refusal::NameTaken),
    }
}

/// Decides a request to make a container. A retry joins as long as the container has not been
/// started.
///
/// # Errors
///
/// [`Refusal::SandboxNotReady`], [`Refusal::NameTaken`].
pub fn make_container(
    sandbox: SandboxPhase,
    namesake: Option<Namesake<ContainerPhase>>,
) -> Result<Making, Refusal> {
    ready(sandbox)?;
    match namesake {
        None => Ok(Making::Begin),
        Some(Namesake {
            phase: ContainerPhase::Created,
            same_request: true,
        }) => Ok(Making::Join),
        Some(_) => Err(Refusal::NameTaken),
    }
}

/// Decides a request to start a container.
///
/// # Errors
///
/// [`Refusal::SandboxNotReady`], [`Refusal::WrongPhase`].
pub fn start(sandbox: SandboxPhase, container: ContainerPhase) -> Result<(), Refusal> {
    in_phase(container, ContainerPhase::Created)?;
    ready(sandbox)
}

/// Decides a request that needs a running process: an exec, an attach, a new log file.
///
/// # Errors
///
/// [`Refusal::WrongPhase`].
pub fn in_use(container: ContainerPhase) -> Result<(), Refusal> {
    in_phase(container, ContainerPhase::Running)
}

/// Decides a request to change a container's limits: it must not have ended.
///
/// # Errors
///
/// [`Refusal::WrongPhase`].
pub fn update(container: ContainerPhase) -> Result<(), Refusal> {
    match container {
        ContainerPhase::Created | ContainerPhase::Running => Ok(()),
        ContainerPhase::Exited => in_phase(container, ContainerPhase::Running),
    }
}

/// What to do with a request to stop a container. Moments are told on a clock that only goes
/// forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It has ended.
    Done,
    /// Ask it to end, and end it at that moment.
    Ask {
        /// When asking turns into killing.
        kill_at: Duration,
    },
    /// End it at once.
    Kill,
    /// It was asked before; it is ended at that moment, the earlier of both wishes.
    Wait {
        /// When asking turns into killing.
        kill_at: Duration,
    },
}

/// Decides a request to stop a container: `kill_at` is when a stop under way ends it.
#[must_use]
pub fn stop(
    container: ContainerPhase,
    now: Duration,
    grace: Duration,
    kill_at: Option<Duration>,
) -> Stop {
    let wanted = now.saturating_add(grace);
    match (container, kill_at) {
        (ContainerPhase::Exited, _) => Stop::Done,
        // What was not started heeds no signal but SIGKILL: it sleeps until it is released.
        (ContainerPhase::Created, _) => Stop::Kill,
        (ContainerPhase::Running, _) if grace.is_zero() => Stop::Kill,
        (ContainerPhase::Running, None) => Stop::Ask { kill_at: wanted },
        (ContainerPhase::Running, Some(earlier)) => Stop::Wait {
            kill_at: earlier.min(wanted),
        },
    }
}

fn ready(sandbox: SandboxPhase) -> Result<(), Refusal> {
    match sandbox {
        SandboxPhase::Ready => Ok(()),
        SandboxPhase::Reserved | SandboxPhase::NotReady => Err(Refusal::SandboxNotReady),
    }
}

fn in_phase(phase: ContainerPhase, needed: ContainerPhase) -> Result<(), Refusal> {
    if phase == needed {
        Ok(())
    } else {
        Err(Refusal::WrongPhase { phase, needed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn limits_change_until_the_end() {
        assert!(super::update(ContainerPhase::Created).is_ok());
        assert!(super::update(ContainerPhase::Running).is_ok());
        assert!(super::update(ContainerPhase::Exited).is_err());
    }

    use super::*;

    const CREATED: ContainerPhase = ContainerPhase::Created;
    const RUNNING: ContainerPhase = ContainerPhase::Running;
    const EXITED: ContainerPhase = ContainerPhase::Exited;

    fn same<P>(phase: P) -> Option<Namesake<P>> {
        Some(Namesake {
            phase,
            same_request: true,
        })
    }

    fn other<P>(phase: P) -> Option<Namesake<P>> {
        Some(Namesake {
            phase,
            same_request: false,
        })
    }

    #[test]
    fn a_retry_gets_the_sandbox_until_it_was_stopped() {
        assert_eq!(make_sandbox(None), Ok(Making::Begin));
        assert_eq!(make_sandbox(same(SandboxPhase::Reserved)), Ok(Making::Join));
        assert_eq!(make_sandbox(same(SandboxPhase::Ready)), Ok(Making::Join));
        let taken = Err(Refusal::NameTaken);
        assert_eq!(make_sandbox(same(SandboxPhase::NotReady)), taken);
        assert_eq!(make_sandbox(other(SandboxPhase::Ready)), taken);
    }

    #[test]
    fn a_retry_gets_the_container_until_it_was_started() {
        let make = |namesake| make_container(SandboxPhase::Ready, namesake);
        assert_eq!(make(None), Ok(Making::Begin));
        assert_eq!(make(same(CREATED)), Ok(Making::Join));
        assert_eq!(make(same(RUNNING)), Err(Refusal::NameTaken));
        assert_eq!(make(same(EXITED)), Err(Refusal::NameTaken));
        assert_eq!(make(other(CREATED)), Err(Refusal::NameTaken));
    }

    #[test]
    fn a_sandbox_that_is_not_ready_takes_and_starts_nothing() {
        for sandbox in [SandboxPhase::Reserved, SandboxPhase::NotReady] {
            let refused = Err(Refusal::SandboxNotReady);
            assert_eq!(make_container(sandbox, None), refused);
            assert_eq!(start(sandbox, CREATED), Err(Refusal::SandboxNotReady));
        }
    }

    #[test]
    fn a_container_starts_once() {
        assert_eq!(start(SandboxPhase::Ready, CREATED), Ok(()));
        for phase in [RUNNING, EXITED] {
            let refused = Err(Refusal::WrongPhase {
                phase,
                needed: CREATED,
            });
            assert_eq!(start(SandboxPhase::Ready, phase), refused);
        }
        assert_eq!(in_use(RUNNING), Ok(()));
        assert!(in_use(CREATED).is_err() && in_use(EXITED).is_err());
    }

    #[test]
    fn stopping() {
        let seconds = Duration::from_secs;
        let check = |phase, grace, kill_at, expect| {
            assert_eq!(stop(phase, seconds(100), seconds(grace), kill_at), expect);
        };
        check(EXITED, 5, None, Stop::Done);
        check(CREATED, 5, None, Stop::Kill);
        check(RUNNING, 0, Some(seconds(103)), Stop::Kill);
        let kill_at = seconds(105);
        check(RUNNING, 5, None, Stop::Ask { kill_at });
        check(RUNNING, 5, Some(seconds(200)), Stop::Wait { kill_at });
    }

    proptest! {
        /// Whatever is asked meanwhile, a container is ended no later than it was going to be.
        #[test]
        fn the_shortest_deadline_wins(
            kill_at in 0_u64..1_000_000,
            now in 0_u64..1_000_000,
            grace in 1_u64..u64::MAX / 1_000_000,
        ) {
            let at = Duration::from_millis;
            let decided = stop(RUNNING, at(now), at(grace), Some(at(kill_at)));
            match decided {
                Stop::Wait { kill_at: later } => {
                    prop_assert!(later <= at(kill_at) && later <= at(now.saturating_add(grace)));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
