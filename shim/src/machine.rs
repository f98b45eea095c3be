//! What a shim does next: the container and its exec sessions as a plain value.
//!
//! Events go in, actions come out. Time, results and numbers come in with the events; nothing here
//! touches a file, a process or a clock, so that every order of events can be tried in a test.
//!
//! ```text
//!   New -Restore-> Prepared -Start-> Restoring -------------.
//!    |                                                       v
//!    `--Create-> Creating -> Created -Start-> Starting -> Running
//!                     |           \                |          |
//!                     v            \            Condemned     |      init has ended
//!                  Abandoned        `---------------+--> Ending: sweep, drain, sessions
//!                     |                                   |
//!                     `------------- Over <- deleted - Recorded
//! ```

mod phase;
mod session;
#[cfg(test)]
mod storm;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use shim_api::error::Kind;
use shim_api::message::Content;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{Checkpoint, Create, Created, Done, Error, ExitRecord, Exited, Restore};

use self::phase::{Ending, Phase};
use self::session::Sessions;
pub(crate) use self::terms::{Action, Asker, Event, Made, Now};
use crate::failure::Failure;

/// How long a shim waits for its Create while nobody is connected.
const UNUSED_LIMIT: Duration = Duration::from_secs(60);

/// How long a created container waits for its Start while nobody is connected.
const UNSTARTED_LIMIT: Duration = Duration::from_secs(600);

/// How long after init's end its streams, clients and exec sessions may take to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Pause between two sweeps of what init left behind.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// Most signals under way at a time.
const MAX_KILLS: usize = 16;

/// Most changes of limits under way at a time.
const MAX_UPDATES: usize = 4;

/// Most ended processes remembered until the runtime that made them says which they were.
const MAX_UNCLAIMED: usize = 256;

/// Exit code of a container that could not be started.
const START_FAILED: i32 = 128;

/// Exit code of a process whose end nobody saw.
const UNKNOWN: i32 = 255;

/// The signal that cannot be refused (signal(7)).
const SIGKILL: i32 = 9;

/// The largest signal number (signal(7)).
const MAX_SIGNAL: i32 = 64;

/// The whole state.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    terminal: bool,
    connections: Vec<u32>,
    /// When the container came into a phase in which it waits, or was left by its last connection.
    lonely_since: Duration,
    sessions: Sessions,
    kills: Vec<(u32, Asker)>,
    updates: Vec<(u32, Asker)>,
    checkpoint: Option<Asker>,
    unclaimed: VecDeque<(i32, i32)>,
    next_number: u32,
}

/// Actions in the making.
type Actions = Vec<Action>;

impl Machine {
    /// A shim that waits for its Create.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            phase: Phase::New,
            terminal: false,
            connections: Vec::new(),
            lonely_since: now,
            sessions: Sessions::default(),
            kills: Vec::new(),
            updates: Vec::new(),
            checkpoint: None,
            unclaimed: VecDeque::new(),
            next_number: 0,
        }
    }

    /// Whether there is nothing left to do.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether init is alive as far as is known.
    pub(crate) fn has_init(&self) -> bool {
        self.phase.has_init()
    }

    /// Whether the end of output is waited for.
    pub(crate) fn awaits_drain(&self) -> bool {
        matches!(&self.phase, Phase::Ending(ending) if !ending.drained)
    }

    /// When a Tick is due.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let own = match &self.phase {
            Phase::Ending(ending) => ending.next_sweep.into_iter().chain([ending.deadline]).min(),
            _ => self.lonely_deadline(),
        };
        own.into_iter().chain(self.sessions.next_deadline()).min()
    }

    /// When a shim that nobody talks to gives up.
    fn lonely_deadline(&self) -> Option<Duration> {
        let limit = match self.phase {
            Phase::New => UNUSED_LIMIT,
            Phase::Created { .. } | Phase::Prepared(_) => UNSTARTED_LIMIT,
            _ => return None,
        };
        self.connections
            .is_empty()
            .then(|| self.lonely_since + limit)
    }

    /// Takes in what has happened; gives back what to do, in order.
    pub(crate) fn handle(&mut self, event: Event, now: Now) -> Actions {
        let mut out = Vec::new();
        match event {
            Event::Connected(connection) => self.connected(connection, &mut out),
            Event::Disconnected(connection) => self.disconnected(connection, now, &mut out),
            Event::Request {
                asker,
                call,
                descriptors,
            } => {
                if let Err(failure) = self.request(asker, call, descriptors, now, &mut out) {
                    refuse(asker, failure, &mut out);
                }
            }
            Event::CreateEnded(result) => self.create_ended(result, now, &mut out),
            Event::StartEnded(result) => self.start_ended(result, now, &mut out),
            Event::RestoreEnded(result) => self.restore_ended(result, now, &mut out),
            Event::CheckpointEnded(result) => self.checkpoint_ended(result, &mut out),
            Event::KillEnded(number, result) => self.kill_ended(number, result, &mut out),
            Event::UpdateEnded(number, result) => self.update_ended(number, result, &mut out),
            Event::ExecEnded(number, result) => {
                let code = result.as_ref().ok().and_then(|made| self.claim(*made));
                self.sessions.started(number, result, code, &mut out);
            }
            Event::DeleteEnded => self.phase = Phase::Over,
            Event::Reaped { pid, code } => self.reaped(pid, code, now, &mut out),
            Event::InitVanished => self.init_vanished(now, &mut out),
            Event::OomRose(rose) => self.oom(rose),
            Event::Swept(found) => self.swept(found, now),
            Event::Drained => self.drained(),
            Event::Tick => self.tick(now, &mut out),
        }
        self.forget_unclaimed();
        self.conclude(now, &mut out);
        out
    }

    fn connected(&mut self, connection: u32, out: &mut Actions) {
        self.connections.push(connection);
        // Who comes between the record and the end would otherwise wait for news that is old.
        if let Phase::Recorded(record) = &self.phase {
            out.push(Action::Tell(connection, exited(record)));
        }
    }

    fn disconnected(&mut self, connection: u32, now: Now, out: &mut Actions) {
        self.connections.retain(|other| *other != connection);
        self.lonely_since = now.monotonic;
        self.sessions.abandon(connection, out);
    }

    fn request(
        &mut self,
        asker: Asker,
        call: Option<Call>,
        descriptors: usize,
        now: Now,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        let call = call.ok_or_else(|| {
            Failure::new(Kind::UnknownRequest, "this shim does not know the request")
        })?;
        let expected = match &call {
            Call::Exec(exec) => count([exec.stdin, exec.stdout, exec.stderr]),
            Call::Attach(attach) => count([attach.stdin, attach.stdout, attach.stderr]),
            _ => 0,
        };
        if descriptors != expected {
            return Err(invalid(format!(
                "{descriptors} descriptors came, not {expected}"
            )));
        }
        match call {
            Call::Create(create) => self.create(asker, create, out),
            Call::Start(_) => self.start(asker, now, out),
            Call::Kill(kill) => self.kill(asker, kill.signal, kill.all, now, out),
            Call::Exec(exec) => {
                self.demand(matches!(self.phase, Phase::Running { .. }), "running")?;
                let number = self.number();
                self.sessions.begin(number, asker, exec, now.monotonic, out)
            }
            Call::KillExec(kill) => {
                self.sessions.end(&kill.id, out)?;
                out.push(done(asker));
                Ok(())
            }
            Call::Attach(attach) => {
                self.attach(asker, [attach.stdin, attach.stdout, attach.stderr], out)
            }
            Call::ResizeTerminal(size) => self.resize(asker, size.width, size.height, out),
            Call::ReopenLog(_) => {
                self.demand(self.has_streams(), "created")?;
                out.push(Action::ReopenLog(asker));
                Ok(())
            }
            Call::Update(update) => self.update(asker, update.resources, out),
            Call::Checkpoint(checkpoint) => self.checkpoint(asker, checkpoint, out),
            Call::Restore(restore) => self.restore(asker, restore, now, out),
            Call::State(_) => {
                let mut state = self.phase.state();
                state.writes_checkpoint = self.checkpoint.is_some();
                out.push(Action::Reply(asker, Answer::State(state)));
                Ok(())
            }
        }
    }

    fn create(&mut self, asker: Asker, create: Create, out: &mut Actions) -> Result<(), Failure> {
        self.demand(matches!(self.phase, Phase::New), "new")?;
        check_log(&create)?;
        self.terminal = create.terminal;
        self.phase = Phase::Creating(asker);
        out.push(Action::Create(create));
        Ok(())
    }

    fn create_ended(&mut self, result: Result<Made, Failure>, now: Now, out: &mut Actions) {
        let Phase::Creating(asker) = self.phase else {
            return;
        };
        match result {
            Ok(made) => {
                self.phase = Phase::Created { pid: made.pid };
                self.lonely_since = now.monotonic;
                out.push(Action::Reply(
                    asker,
                    Answer::Created(Created { pid: made.pid }),
                ));
                if let Some(code) = self.claim(made) {
                    self.init_ended(code, now, out);
                }
            }
            Err(failure) => {
                refuse(asker, failure, out);
                out.push(Action::Delete);
                self.phase = Phase::Abandoned;
            }
        }
    }

    /// Nothing is made before the start: images become processes that run.
    fn restore(
        &mut self,
        asker: Asker,
        restore: Restore,
        now: Now,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        self.demand(matches!(self.phase, Phase::New), "new")?;
        let create = restore.create.as_ref();
        let create = create.ok_or_else(|| invalid("a restore without a create"))?;
        check_log(create)?;
        check_folders(&restore.images, &restore.work)?;
        self.terminal = create.terminal;
        self.phase = Phase::Prepared(Box::new(restore));
        self.lonely_since = now.monotonic;
        out.push(Action::Reply(asker, Answer::Created(Created { pid: 0 })));
        Ok(())
    }

    fn restore_ended(&mut self, result: Result<Made, Failure>, now: Now, out: &mut Actions) {
        let Phase::Restoring { asker, released } = self.phase else {
            return;
        };
        match result {
            Ok(made) => {
                out.push(done(asker));
                let pid = made.pid;
                self.phase = Phase::Running { pid, released };
                if let Some(code) = self.claim(made) {
                    self.init_ended(code, now, out);
                }
            }
            Err(failure) => {
                refuse(asker, failure, out);
                self.begin_ending(START_FAILED, now.wall, 0, now, out);
            }
        }
    }

    fn checkpoint(
        &mut self,
        asker: Asker,
        checkpoint: Checkpoint,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        self.demand(matches!(self.phase, Phase::Running { .. }), "running")?;
        check_folders(&checkpoint.images, &checkpoint.work)?;
        if self.checkpoint.is_some() {
            return Err(Failure::new(Kind::Other, "a checkpoint is under way"));
        }
        self.checkpoint = Some(asker);
        out.push(Action::Checkpoint(checkpoint));
        Ok(())
    }

    fn checkpoint_ended(&mut self, result: Result<(), Failure>, out: &mut Actions) {
        match (self.checkpoint.take(), result) {
            (Some(asker), Ok(())) => out.push(done(asker)),
            (Some(asker), Err(failure)) => refuse(asker, failure, out),
            (None, _) => {}
        }
    }

    fn start(&mut self, asker: Asker, now: Now, out: &mut Actions) -> Result<(), Failure> {
        if let Phase::Prepared(restore) = &mut self.phase {
            out.push(Action::Restore(std::mem::take(restore)));
            let released = now.wall;
            self.phase = Phase::Restoring { asker, released };
            return Ok(());
        }
        let Phase::Created { pid } = self.phase else {
            return self.demand(false, "created");
        };
        self.phase = Phase::Starting {
            pid,
            asker,
            released: now.wall,
            ended: None,
        };
        out.push(Action::Start);
        Ok(())
    }

    fn start_ended(&mut self, result: Result<(), Failure>, now: Now, out: &mut Actions) {
        let Phase::Starting {
            pid,
            asker,
            released,
            ended,
        } = self.phase
        else {
            return;
        };
        match (result, ended) {
            (Ok(()), ended) => {
                out.push(done(asker));
                self.phase = Phase::Running { pid, released };
                if let Some((code, finished)) = ended {
                    self.begin_ending(code, finished, released, now, out);
                }
            }
            (Err(failure), None) => {
                refuse(asker, failure, out);
                out.push(Action::EndInit);
                self.phase = Phase::Condemned { pid };
            }
            (Err(failure), Some((_, finished))) => {
                refuse(asker, failure, out);
                self.begin_ending(START_FAILED, finished, 0, now, out);
            }
        }
    }

    fn kill(
        &mut self,
        asker: Asker,
        signal: i32,
        all: bool,
        now: Now,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        if !(1..=MAX_SIGNAL).contains(&signal) {
            return Err(invalid(format!("{signal} is not a signal")));
        }
        if signal == SIGKILL && self.end_now(now, out) {
            out.push(done(asker));
            return Ok(());
        }
        self.demand(self.has_init(), "created or running")?;
        if self.kills.len() >= MAX_KILLS {
            return Err(Failure::new(Kind::Other, "too many signals are under way"));
        }
        let number = self.number();
        self.kills.push((number, asker));
        out.push(Action::Kill {
            number,
            signal,
            all,
        });
        Ok(())
    }

    /// Ends whatever there is, however far it has come. The signal that matters most depends on
    /// nobody: it is sent from here, and what outlives init is swept up after it.
    fn end_now(&mut self, now: Now, out: &mut Actions) -> bool {
        match self.phase {
            Phase::New => self.phase = Phase::Over,
            Phase::Creating(_) | Phase::Restoring { .. } => out.push(Action::CancelCreate),
            Phase::Prepared(_) => self.begin_ending(128 + SIGKILL, now.wall, 0, now, out),
            _ if self.has_init() => out.push(Action::EndInit),
            _ => return false,
        }
        true
    }

    fn kill_ended(&mut self, number: u32, result: Result<(), Failure>, out: &mut Actions) {
        let Some(position) = self.kills.iter().position(|(other, _)| *other == number) else {
            return;
        };
        let (_, asker) = self.kills.swap_remove(position);
        match result {
            // Gone meanwhile is as good as signalled.
            Err(failure) if self.has_init() => refuse(asker, failure, out),
            _ => out.push(done(asker)),
        }
    }

    fn update(
        &mut self,
        asker: Asker,
        resources: Vec<u8>,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        self.demand(self.has_init(), "created or running")?;
        if self.updates.len() >= MAX_UPDATES {
            return Err(Failure::new(Kind::Other, "too many updates are under way"));
        }
        let number = self.number();
        self.updates.push((number, asker));
        out.push(Action::Update { number, resources });
        Ok(())
    }

    fn update_ended(&mut self, number: u32, result: Result<(), Failure>, out: &mut Actions) {
        let Some(position) = self.updates.iter().position(|(other, _)| *other == number) else {
            return;
        };
        let (_, asker) = self.updates.swap_remove(position);
        match result {
            Ok(()) => out.push(done(asker)),
            Err(failure) => refuse(asker, failure, out),
        }
    }

    fn attach(&self, asker: Asker, streams: [bool; 3], out: &mut Actions) -> Result<(), Failure> {
        self.demand(self.has_init(), "created or running")?;
        if count(streams) == 0 {
            return Err(invalid("attach to no stream"));
        }
        if self.terminal && streams[2] {
            return Err(invalid("a terminal has no standard error"));
        }
        out.push(Action::Attach(asker, streams));
        Ok(())
    }

    fn resize(
        &self,
        asker: Asker,
        width: u32,
        height: u32,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        self.demand(self.has_init(), "created or running")?;
        let (Ok(width), Ok(height)) = (u16::try_from(width), u16::try_from(height)) else {
            return Err(invalid(format!("terminal size {width} x {height}")));
        };
        if !self.terminal {
            return Err(invalid("the container has no terminal"));
        }
        out.push(Action::Resize(asker, width, height));
        Ok(())
    }

    fn reaped(&mut self, pid: i32, code: i32, now: Now, out: &mut Actions) {
        if self.phase.init() == Some(pid) {
            self.init_ended(code, now, out);
        } else if !self.sessions.ended(pid, code, out) && self.awaits_pid() {
            if self.unclaimed.len() == MAX_UNCLAIMED {
                self.unclaimed.pop_front();
            }
            self.unclaimed.push_back((pid, code));
        }
    }

    fn init_vanished(&mut self, now: Now, out: &mut Actions) {
        if self.has_init() {
            self.init_ended(UNKNOWN, now, out);
        }
    }

    fn init_ended(&mut self, code: i32, now: Now, out: &mut Actions) {
        match &mut self.phase {
            Phase::Created { .. } => self.begin_ending(code, now.wall, 0, now, out),
            // Whether start failed is not known yet.
            Phase::Starting { ended, .. } => *ended = Some((code, now.wall)),
            Phase::Running { released, .. } => {
                let released = *released;
                self.begin_ending(code, now.wall, released, now, out);
            }
            Phase::Condemned { .. } => self.begin_ending(START_FAILED, now.wall, 0, now, out),
            _ => {}
        }
    }

    fn begin_ending(
        &mut self,
        exit_code: i32,
        finished_at: i64,
        started_at: i64,
        now: Now,
        out: &mut Actions,
    ) {
        let record = ExitRecord {
            exit_code,
            finished_at,
            oom_killed: false,
            started_at,
        };
        let deadline = now.monotonic + DRAIN_LIMIT;
        self.phase = Phase::Ending(Ending {
            pid: self.phase.init().unwrap_or_default(),
            record,
            swept: false,
            next_sweep: None,
            drained: false,
            deadline,
        });
        out.extend([Action::ReadOomCounter, Action::Sweep, Action::Drain]);
    }

    fn oom(&mut self, rose: bool) {
        if let Phase::Ending(ending) = &mut self.phase {
            ending.record.oom_killed = rose && ending.record.exit_code != 0;
        }
    }

    fn swept(&mut self, found: usize, now: Now) {
        if let Phase::Ending(ending) = &mut self.phase {
            ending.swept = found == 0;
            ending.next_sweep = (found > 0).then(|| now.monotonic + SWEEP_INTERVAL);
        }
    }

    fn drained(&mut self) {
        if let Phase::Ending(ending) = &mut self.phase {
            ending.drained = true;
        }
    }

    fn tick(&mut self, now: Now, out: &mut Actions) {
        self.sessions.enforce(now.monotonic, out);
        if self
            .lonely_deadline()
            .is_some_and(|deadline| deadline <= now.monotonic)
        {
            match self.phase {
                Phase::Created { .. } => {
                    self.lonely_since = now.monotonic;
                    out.push(Action::EndInit);
                }
                Phase::Prepared(_) => self.begin_ending(128 + SIGKILL, now.wall, 0, now, out),
                _ => self.phase = Phase::Over,
            }
        }
        if let Phase::Ending(ending) = &mut self.phase
            && ending.next_sweep.is_some_and(|due| due <= now.monotonic)
        {
            ending.next_sweep = None;
            out.push(Action::Sweep);
        }
    }

    /// Ends the ending, once all is done or its time is over.
    fn conclude(&mut self, now: Now, out: &mut Actions) {
        let Phase::Ending(ending) = &self.phase else {
            return;
        };
        let done =
            ending.swept && ending.drained && self.sessions.is_empty() && !self.runtime_works();
        if !done && now.monotonic < ending.deadline {
            return;
        }
        let record = ending.record;
        self.sessions.give_up(out);
        out.extend([
            Action::CloseStreams,
            Action::WriteRecord(record),
            Action::TellAll(exited(&record)),
            Action::Delete,
        ]);
        self.phase = Phase::Recorded(record);
    }

    /// Whether a runtime is under way on behalf of a client.
    fn runtime_works(&self) -> bool {
        !self.kills.is_empty() || !self.updates.is_empty() || self.checkpoint.is_some()
    }

    /// The exit code of a process that ended before the runtime had named it.
    fn claim(&mut self, made: Made) -> Option<i32> {
        let position = self.unclaimed.iter().position(|(pid, _)| *pid == made.pid);
        let known = position.and_then(|position| self.unclaimed.remove(position));
        known
            .map(|(_, code)| code)
            .or((!made.exists).then_some(UNKNOWN))
    }

    fn awaits_pid(&self) -> bool {
        let making = matches!(self.phase, Phase::Creating(_) | Phase::Restoring { .. });
        making || self.sessions.awaits_pid()
    }

    fn forget_unclaimed(&mut self) {
        if !self.awaits_pid() {
            self.unclaimed.clear();
        }
    }

    fn has_streams(&self) -> bool {
        self.phase.init().is_some() || matches!(self.phase, Phase::Ending(_))
    }

    fn demand(&self, condition: bool, wanted: &str) -> Result<(), Failure> {
        if condition {
            return Ok(());
        }
        let name = self.phase.name();
        Err(Failure::new(
            Kind::WrongState,
            format!("the container is {name}, not {wanted}"),
        ))
    }

    fn number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }
}

fn check_log(create: &Create) -> Result<(), Failure> {
    let path = &create.log_path;
    if path.is_empty() || path.starts_with('/') {
        return Ok(());
    }
    Err(invalid(format!("log path {path} is not absolute")))
}

fn check_folders(images: &str, work: &str) -> Result<(), Failure> {
    match [images, work].iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(invalid(format!("folder {path:?} is not absolute"))),
        None => Ok(()),
    }
}

fn count(flags: [bool; 3]) -> usize {
    flags.into_iter().filter(|flag| *flag).count()
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Invalid, message)
}

fn exited(record: &ExitRecord) -> Content {
    Content::Exited(Exited {
        record: Some(*record),
    })
}

fn done(asker: Asker) -> Action {
    Action::Reply(asker, Answer::Done(Done {}))
}

fn refuse(asker: Asker, failure: Failure, out: &mut Actions) {
    let error = Error {
        kind: failure.kind.into(),
        message: failure.message,
    };
    out.push(Action::Reply(asker, Answer::Error(error)));
}
