//! What may happen to a sandbox or a container next.
//!
//! [`Lifecycle`] is a plain value: whoever owns a pod asks it before each request, carries out what
//! it says, and tells it what came of that and which processes have ended. It knows phases and the
//! operations under way, nothing of how they are carried out.
//!
//! ```text
//! sandbox     Reserved -run-> Ready -stop, lost-> NotReady -remove-> gone
//! container   -create-> Created -start-> Running -exit, stop-> Exited -remove-> gone
//! ```
//!
//! At most one operation runs on each container, and at most one on the sandbox. While one runs on
//! the sandbox, none begins on a container.

use std::collections::BTreeMap;
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

/// Names an operation that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(u64);

/// What a client wants to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Make the sandbox; a retry of the request that reserved it.
    Run,
    /// Make a container under a new id.
    Create {
        /// The id it would get.
        id: &'a str,
        /// Its name, which is its own together with `attempt`.
        name: &'a str,
        /// How often the client made it before.
        attempt: u32,
    },
    /// Release a container's process.
    Start {
        /// The container.
        id: &'a str,
    },
    /// Ask a container to end, and end it when the deadline has come.
    Stop {
        /// The container.
        id: &'a str,
        /// When asking turns into killing, on a clock that only goes forward.
        deadline: Duration,
    },
    /// Free all that a container has, ending it first.
    Remove {
        /// The container.
        id: &'a str,
    },
    /// End all containers and free the network.
    StopSandbox,
    /// Free all that the sandbox has, stopping it first.
    RemoveSandbox,
}

/// What a request means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out, then say what came of it ([`Lifecycle::finish`]).
    Begin(OperationId),
    /// It is under way already: answer with what comes of that operation.
    Join {
        /// The operation.
        operation: OperationId,
        /// Its deadline has come nearer ([`Lifecycle::deadline`]).
        hurry: bool,
    },
    /// Another operation must end first: ask again then.
    After {
        /// The operation.
        operation: OperationId,
        /// Its deadline has come nearer ([`Lifecycle::deadline`]).
        hurry: bool,
    },
    /// It has happened before: answer with success.
    Done,
    /// The container to be made is there, waiting to be started: answer with its id.
    Exists(String),
    /// It cannot be.
    Refuse(Refusal),
}

/// Why a request cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no container of this id.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The sandbox takes no containers and starts none.
    #[error("the sandbox is not ready")]
    SandboxNotReady,
    /// Another container has the name, and is past its creation.
    #[error("the name is taken by container {id}")]
    NameTaken {
        /// The container that has it.
        id: String,
    },
    /// The container is in the wrong phase.
    #[error("container {id} is {phase:?}, not {needed:?}")]
    WrongPhase {
        /// The container.
        id: String,
        /// Its phase.
        phase: ContainerPhase,
        /// The phase that the request needs.
        needed: ContainerPhase,
    },
    /// The container is being stopped or removed.
    #[error("container {id} is being ended")]
    Ending {
        /// The container.
        id: String,
    },
}

/// A pod's phases and the operations under way in it.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// `None` once it is removed.
    sandbox: Option<SandboxPhase>,
    work: Option<Work>,
    containers: BTreeMap<String, Container>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Container {
    name: String,
    attempt: u32,
    /// `None` while it is being made.
    phase: Option<ContainerPhase>,
    work: Option<Work>,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Work {
    id: OperationId,
    kind: Kind,
    /// Of a stop.
    deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Run,
    Create,
    Start,
    Stop,
    Remove,
    StopSandbox,
    RemoveSandbox,
}

impl Lifecycle {
    /// A pod that is being made, and the operation that makes it.
    #[must_use]
    pub fn reserved() -> (Self, OperationId) {
        let mut pod = Self::recovered(SandboxPhase::Reserved);
        let operation = pod.work_on_sandbox(Kind::Run);
        (pod, operation)
    }

    /// A pod found on disk, without operations; its containers follow by [`Self::recover`].
    #[must_use]
    pub fn recovered(sandbox: SandboxPhase) -> Self {
        Self {
            sandbox: Some(sandbox),
            work: None,
            containers: BTreeMap::new(),
            next: 0,
        }
    }

    /// Adds a container found on disk.
    pub fn recover(&mut self, id: &str, name: &str, attempt: u32, phase: ContainerPhase) {
        let container = Container {
            name: name.to_owned(),
            attempt,
            phase: Some(phase),
            work: None,
        };
        self.containers.insert(id.to_owned(), container);
    }

    /// The sandbox's phase; `None` once it is removed.
    #[must_use]
    pub fn sandbox(&self) -> Option<SandboxPhase> {
        self.sandbox
    }

    /// A container's phase; `None` if there is no such container, or none yet.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<ContainerPhase> {
        self.containers
            .get(id)
            .and_then(|container| container.phase)
    }

    /// When the stop `operation` turns from asking to killing; `None` once it has ended, and for
    /// operations that are no stop.
    #[must_use]
    pub fn deadline(&self, operation: OperationId) -> Option<Duration> {
        let mut works = self
            .containers
            .values()
            .filter_map(|container| container.work);
        works
            .find(|work| work.id == operation && work.kind == Kind::Stop)
            .map(|work| work.deadline)
    }

    /// Operations on containers that must end before one on the sandbox takes effect. No further
    /// ones come while that runs.
    #[must_use]
    pub fn in_the_way(&self) -> Vec<OperationId> {
        self.containers
            .values()
            .filter_map(|container| container.work)
            .map(|work| work.id)
            .collect()
    }

    /// Whether a running container can be used now: for an exec, an attach, a new log file.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why not.
    pub fn usable(&self, id: &str) -> Result<(), Refusal> {
        match self.container(id) {
            None => Err(Refusal::NotFound { id: id.to_owned() }),
            Some(ContainerPhase::Running) => Ok(()),
            Some(phase) => Err(wrong_phase(id, phase, ContainerPhase::Running)),
        }
    }

    /// Decides what a request means now, and takes note of what is begun.
    pub fn ask(&mut self, request: Request<'_>) -> Verdict {
        match request {
            Request::Run => self.run(),
            Request::Create { id, name, attempt } => self.create(id, name, attempt),
            Request::Start { id } => self.start(id),
            Request::Stop { id, deadline } => self.stop(id, deadline),
            Request::Remove { id } => self.remove(id),
            Request::StopSandbox => self.stop_sandbox(),
            Request::RemoveSandbox => self.remove_sandbox(),
        }
    }

    /// Takes note that an operation has ended, well or badly. One that is not under way is none of
    /// ours any more, and changes nothing.
    pub fn finish(&mut self, operation: OperationId, well: bool) {
        if let Some(work) = self.work.take_if(|work| work.id == operation) {
            return self.finish_sandbox(work.kind, well);
        }
        let working = |container: &Container| container.work.is_some_and(|w| w.id == operation);
        let found = self
            .containers
            .iter_mut()
            .find(|(_, container)| working(container));
        let Some((id, container)) = found else { return };
        if !container.finish(well) {
            let id = id.clone();
            self.containers.remove(&id);
        }
    }

    /// Takes note that a container's process has ended.
    pub fn exited(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            container.phase = Some(ContainerPhase::Exited);
        }
    }

    /// Takes note that the sandbox has lost what it stands on: its init, or its boot.
    pub fn lost(&mut self) {
        if self.sandbox == Some(SandboxPhase::Ready) {
            self.sandbox = Some(SandboxPhase::NotReady);
        }
    }

    fn run(&self) -> Verdict {
        match (self.work, self.sandbox) {
            (
                Some(Work {
                    id,
                    kind: Kind::Run,
                    ..
                }),
                _,
            ) => join(id),
            (None, Some(SandboxPhase::Ready)) => Verdict::Done,
            _ => Verdict::Refuse(Refusal::SandboxNotReady),
        }
    }

    fn create(&mut self, id: &str, name: &str, attempt: u32) -> Verdict {
        let same =
            |(_, known): &(&String, &Container)| known.name == name && known.attempt == attempt;
        if let Some((id, known)) = self.containers.iter().find(same) {
            return known.made_again(id);
        }
        if !self.open() {
            return Verdict::Refuse(Refusal::SandboxNotReady);
        }
        let container = Container {
            name: name.to_owned(),
            attempt,
            phase: None,
            work: None,
        };
        self.containers.insert(id.to_owned(), container);
        self.begin(id, Kind::Create, Duration::ZERO)
    }

    fn start(&mut self, id: &str) -> Verdict {
        let Some(container) = self.containers.get(id) else {
            return Verdict::Refuse(Refusal::NotFound { id: id.to_owned() });
        };
        match (container.work, container.phase) {
            (Some(work), _) if work.kind == Kind::Start => join(work.id),
            (Some(work), _) if work.kind == Kind::Create => after(work.id),
            (Some(_), _) => Verdict::Refuse(Refusal::Ending { id: id.to_owned() }),
            (None, Some(ContainerPhase::Created)) if self.open() => {
                self.begin(id, Kind::Start, Duration::ZERO)
            }
            (None, Some(ContainerPhase::Created)) => Verdict::Refuse(Refusal::SandboxNotReady),
            (None, phase) => {
                let phase = phase.unwrap_or(ContainerPhase::Exited);
                Verdict::Refuse(wrong_phase(id, phase, ContainerPhase::Created))
            }
        }
    }

    fn stop(&mut self, id: &str, deadline: Duration) -> Verdict {
        let Some(container) = self.containers.get_mut(id) else {
            return Verdict::Done;
        };
        if let Some(work) = &mut container.work {
            return match work.kind {
                Kind::Stop => Verdict::Join {
                    operation: work.id,
                    hurry: work.hurry(deadline),
                },
                Kind::Remove => join(work.id),
                _ => after(work.id),
            };
        }
        if container.phase == Some(ContainerPhase::Exited) {
            return Verdict::Done;
        }
        match self.work {
            Some(work) => after(work.id),
            None => self.begin(id, Kind::Stop, deadline),
        }
    }

    fn remove(&mut self, id: &str) -> Verdict {
        let Some(container) = self.containers.get_mut(id) else {
            return Verdict::Done;
        };
        if let Some(work) = &mut container.work {
            return match work.kind {
                Kind::Remove => join(work.id),
                Kind::Stop => Verdict::After {
                    operation: work.id,
                    hurry: work.hurry(Duration::ZERO),
                },
                _ => after(work.id),
            };
        }
        match self.work {
            Some(work) => after(work.id),
            None => self.begin(id, Kind::Remove, Duration::ZERO),
        }
    }

    fn stop_sandbox(&mut self) -> Verdict {
        match (self.work, self.sandbox) {
            (Some(work), _) if work.kind == Kind::Run => after(work.id),
            (Some(work), _) => join(work.id),
            (None, None) => Verdict::Done,
            // Containers may live on in a sandbox that was lost.
            (None, Some(SandboxPhase::NotReady)) if !self.anything_alive() => Verdict::Done,
            (None, Some(_)) => self.close(Kind::StopSandbox),
        }
    }

    fn remove_sandbox(&mut self) -> Verdict {
        match (self.work, self.sandbox) {
            (Some(work), _) if work.kind == Kind::RemoveSandbox => join(work.id),
            (Some(work), _) => after(work.id),
            (None, None) => Verdict::Done,
            (None, Some(_)) => self.close(Kind::RemoveSandbox),
        }
    }

    /// Whether containers may be made and started.
    fn open(&self) -> bool {
        self.sandbox == Some(SandboxPhase::Ready) && self.work.is_none()
    }

    fn anything_alive(&self) -> bool {
        let alive = |container: &Container| container.phase != Some(ContainerPhase::Exited);
        self.containers.values().any(alive)
    }

    /// Begins an operation on the sandbox; stops under way need wait for nothing any more.
    fn close(&mut self, kind: Kind) -> Verdict {
        for work in self
            .containers
            .values_mut()
            .filter_map(|container| container.work.as_mut())
        {
            work.deadline = Duration::ZERO;
        }
        Verdict::Begin(self.work_on_sandbox(kind))
    }

    fn work_on_sandbox(&mut self, kind: Kind) -> OperationId {
        let id = self.new_id();
        self.work = Some(Work {
            id,
            kind,
            deadline: Duration::ZERO,
        });
        id
    }

    fn begin(&mut self, container: &str, kind: Kind, deadline: Duration) -> Verdict {
        let id = self.new_id();
        if let Some(container) = self.containers.get_mut(container) {
            container.work = Some(Work { id, kind, deadline });
        }
        Verdict::Begin(id)
    }

    fn new_id(&mut self) -> OperationId {
        self.next += 1;
        OperationId(self.next)
    }

    fn finish_sandbox(&mut self, kind: Kind, well: bool) {
        match (kind, well) {
            (Kind::Run, true) => self.sandbox = Some(SandboxPhase::Ready),
            (Kind::Run, false) => self.sandbox = Some(SandboxPhase::NotReady),
            (Kind::StopSandbox, true) => {
                self.sandbox = Some(SandboxPhase::NotReady);
                for container in self.containers.values_mut() {
                    container.phase = Some(ContainerPhase::Exited);
                }
            }
            (Kind::RemoveSandbox, true) => {
                self.sandbox = None;
                self.containers.clear();
            }
            _ => {}
        }
    }
}

impl Container {
    /// What a second request to make the same container means.
    fn made_again(&self, id: &str) -> Verdict {
        match (self.work, self.phase) {
            (
                Some(Work {
                    id,
                    kind: Kind::Create,
                    ..
                }),
                _,
            ) => join(id),
            (None, Some(ContainerPhase::Created)) => Verdict::Exists(id.to_owned()),
            _ => Verdict::Refuse(Refusal::NameTaken { id: id.to_owned() }),
        }
    }

    /// Ends its operation; false if the container is no more.
    fn finish(&mut self, well: bool) -> bool {
        let kind = self.work.take().map(|work| work.kind);
        match (kind, well) {
            (Some(Kind::Create), false) | (Some(Kind::Remove), true) => return false,
            // Its process may have ended before the news of its making came.
            (Some(Kind::Create), true) => {
                self.phase.get_or_insert(ContainerPhase::Created);
            }
            (Some(Kind::Start), true) if self.phase == Some(ContainerPhase::Created) => {
                self.phase = Some(ContainerPhase::Running);
            }
            (Some(Kind::Start), false) | (Some(Kind::Stop), true) => {
                self.phase = Some(ContainerPhase::Exited);
            }
            _ => {}
        }
        true
    }
}

impl Work {
    /// Brings the deadline nearer; false if it was no later.
    fn hurry(&mut self, deadline: Duration) -> bool {
        let nearer = deadline < self.deadline;
        self.deadline = self.deadline.min(deadline);
        nearer
    }
}

fn join(operation: OperationId) -> Verdict {
    Verdict::Join {
        operation,
        hurry: false,
    }
}

fn after(operation: OperationId) -> Verdict {
    Verdict::After {
        operation,
        hurry: false,
    }
}

fn wrong_phase(id: &str, phase: ContainerPhase, needed: ContainerPhase) -> Refusal {
    Refusal::WrongPhase {
        id: id.to_owned(),
        phase,
        needed,
    }
}

#[cfg(test)]
mod tests;
