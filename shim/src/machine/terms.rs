//! The machine's words: what may happen to it, and what it may want done.

use std::time::Duration;

use shim_api::message::Content;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{Checkpoint, Create, ExitRecord, Restore};

use crate::failure::Failure;

/// Who asked, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    /// Number of the connection.
    pub(crate) connection: u32,
    /// The request's sequence.
    pub(crate) sequence: u64,
}

/// The time, twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Nanoseconds since the epoch.
    pub(crate) wall: i64,
    /// Time since some moment, never going back.
    pub(crate) monotonic: Duration,
}

/// A process that the runtime has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Its pid.
    pub(crate) pid: i32,
    /// Whether it is alive, or ended and not reaped.
    pub(crate) exists: bool,
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A daemon has connected.
    Connected(u32),
    /// A daemon's connection has ended.
    Disconnected(u32),
    /// A daemon has asked; `None`: for something that this shim does not know.
    Request {
        /// Who.
        asker: Asker,
        /// What.
        call: Option<Call>,
        /// How many descriptors came with it.
        descriptors: usize,
    },
    /// The runtime's create has ended, or could not be begun.
    CreateEnded(Result<Made, Failure>),
    /// The runtime's start has ended, or could not be begun.
    StartEnded(Result<(), Failure>),
    /// The runtime's restore has ended, or could not be begun.
    RestoreEnded(Result<Made, Failure>),
    /// The runtime's checkpoint has ended, or could not be begun.
    CheckpointEnded(Result<(), Failure>),
    /// A runtime's kill has ended, or could not be begun.
    KillEnded(u32, Result<(), Failure>),
    /// A runtime's update has ended, or could not be begun.
    UpdateEnded(u32, Result<(), Failure>),
    /// A runtime's exec has ended, or could not be begun.
    ExecEnded(u32, Result<Made, Failure>),
    /// The runtime's delete has ended, well or not.
    DeleteEnded,
    /// A process other than a runtime was reaped.
    Reaped {
        /// Its pid.
        pid: i32,
        /// 0 to 255, or 128 + N.
        code: i32,
    },
    /// Init is gone and was not ours to reap.
    InitVanished,
    /// Whether the counter of out-of-memory kills rose.
    OomRose(bool),
    /// A sweep was made; so many processes were found.
    Swept(usize),
    /// All output is read, and clients have theirs.
    Drained,
    /// A deadline may have passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Answer a request.
    Reply(Asker, Answer),
    /// Answer an Exec with its pid and, if it has one, its terminal.
    ReplyExec(Asker, u32, i32),
    /// Tell one connection.
    Tell(u32, Content),
    /// Tell all connections.
    TellAll(Content),
    /// Open log and streams and begin the runtime's create.
    Create(Create),
    /// Open log and streams and begin the runtime's restore.
    Restore(Box<Restore>),
    /// Begin the runtime's checkpoint.
    Checkpoint(Checkpoint),
    /// Begin the runtime's start.
    Start,
    /// Begin a runtime's kill.
    Kill {
        /// Tells invocations apart.
        number: u32,
        /// The signal.
        signal: i32,
        /// To every process.
        all: bool,
    },
    /// End the runtime's create or restore, and what it has started.
    CancelCreate,
    /// End init.
    EndInit,
    /// Begin a runtime's update.
    Update {
        /// Tells invocations apart.
        number: u32,
        /// The OCI resources.
        resources: Vec<u8>,
    },
    /// Begin a runtime's exec, with the descriptors that came with the request.
    Exec {
        /// Tells invocations apart.
        number: u32,
        /// The OCI process.
        process: Vec<u8>,
        /// Whether it gets a terminal.
        terminal: bool,
        /// Which of stdin, stdout, stderr came.
        streams: [bool; 3],
    },
    /// End a runtime's exec that is under way, with what it has made.
    CancelExec(u32),
    /// End a process and all that it started.
    EndFamily(i32),
    /// Remove what an exec session left.
    ForgetExec(u32),
    /// Connect a client, with the descriptors that came with the request, and answer.
    Attach(Asker, [bool; 3]),
    /// Set the size of the terminal and answer.
    Resize(Asker, u16, u16),
    /// Open the log anew and answer.
    ReopenLog(Asker),
    /// Report whether the counter of out-of-memory kills rose.
    ReadOomCounter,
    /// End what init left behind, and report.
    Sweep,
    /// Close the container's input and our side of its terminal, so that output can end.
    Drain,
    /// Write what is left of output and close log and streams.
    CloseStreams,
    /// Write the exit record.
    WriteRecord(ExitRecord),
    /// Begin the runtime's delete.
    Delete,
}
