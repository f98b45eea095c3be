//! How far a container has come, and what is alive in it then.

use std::time::Duration;

use shim_api::state_reply::Phase as Seen;
use shim_api::{ExitRecord, Restore, StateReply};

use super::Asker;

/// What is alive in the container, by how far it has come.
#[derive(Debug)]
pub(super) enum Phase {
    New,
    Creating(Asker),
    /// To be restored when it is started.
    Prepared(Box<Restore>),
    Restoring {
        asker: Asker,
        released: i64,
    },
    Created {
        pid: i32,
    },
    Starting {
        pid: i32,
        asker: Asker,
        released: i64,
        ended: Option<(i32, i64)>,
    },
    Running {
        pid: i32,
        released: i64,
    },
    /// Start failed; init is being ended.
    Condemned {
        pid: i32,
    },
    Ending(Ending),
    Recorded(ExitRecord),
    Abandoned,
    Over,
}

/// Init has ended; the rest follows.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) pid: i32,
    pub(super) record: ExitRecord,
    pub(super) swept: bool,
    pub(super) next_sweep: Option<Duration>,
    pub(super) drained: bool,
    pub(super) deadline: Duration,
}

impl Phase {
    /// Pid of init, until it has ended.
    pub(super) fn init(&self) -> Option<i32> {
        match *self {
            Self::Created { pid }
            | Self::Starting { pid, .. }
            | Self::Running { pid, .. }
            | Self::Condemned { pid } => Some(pid),
            _ => None,
        }
    }

    /// Whether init is alive as far as is known.
    pub(super) fn has_init(&self) -> bool {
        match self {
            Self::Starting { ended, .. } => ended.is_none(),
            _ => self.init().is_some(),
        }
    }

    /// What a daemon is told.
    pub(super) fn state(&self) -> StateReply {
        let (phase, pid) = match self {
            Self::New | Self::Creating(_) | Self::Abandoned => (Seen::New, 0),
            Self::Created { pid } => (Seen::Created, *pid),
            Self::Prepared(_) => (Seen::Created, 0),
            Self::Restoring { .. } => (Seen::Running, 0),
            // Whether it was released already is not known; that it was asked for is.
            Self::Starting { pid, .. } | Self::Running { pid, .. } | Self::Condemned { pid } => {
                (Seen::Running, *pid)
            }
            // Not before its record lies there.
            Self::Ending(ending) => (Seen::Running, ending.pid),
            Self::Recorded(_) | Self::Over => (Seen::Exited, 0),
        };
        StateReply {
            phase: phase.into(),
            pid,
            writes_checkpoint: false,
            protocol: shim_api::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// A word for it in an error.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Creating(_) => "being created",
            Self::Prepared(_) => "not restored yet",
            Self::Restoring { .. } => "being restored",
            Self::Created { .. } => "created",
            Self::Starting { .. } => "being started",
            Self::Running { .. } => "running",
            Self::Condemned { .. } | Self::Ending(_) => "ending",
            Self::Recorded(_) | Self::Abandoned | Self::Over => "gone",
        }
    }
}
