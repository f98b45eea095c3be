//! Exec sessions: from the request to the process's end.

use std::time::Duration;

use shim_api::error::Kind;
use shim_api::message::Content;
use shim_api::{Exec, ExecExited};

use super::{Action, Actions, Asker, Made, SIGKILL, invalid, refuse};
use crate::failure::Failure;

/// Most sessions at a time.
const MAX_SESSIONS: usize = 128;

/// Longest id of a session, bytes.
const MAX_ID: usize = 128;

/// One process beside init.
#[derive(Debug)]
struct Session {
    number: u32,
    id: String,
    asker: Asker,
    /// `None`: the runtime is still making it.
    pid: Option<i32>,
    deadline: Option<Duration>,
    /// It is to end as soon as it can be ended.
    doomed: bool,
    deadline_passed: bool,
}

impl Session {
    fn doom(&mut self, out: &mut Actions) {
        if !std::mem::replace(&mut self.doomed, true) {
            out.push(match self.pid {
                Some(pid) => Action::EndFamily(pid),
                None => Action::CancelExec(self.number),
            });
        }
    }

    fn tell(self, exit_code: i32, out: &mut Actions) {
        let news = ExecExited {
            id: self.id,
            exit_code,
            deadline_passed: self.deadline_passed,
        };
        out.extend([
            Action::Tell(self.asker.connection, Content::ExecExited(news)),
            Action::ForgetExec(self.number),
        ]);
    }
}

/// The sessions alive.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    alive: Vec<Session>,
}

impl Sessions {
    /// Begins a session.
    pub(super) fn begin(
        &mut self,
        number: u32,
        asker: Asker,
        exec: Exec,
        now: Duration,
        out: &mut Actions,
    ) -> Result<(), Failure> {
        let streams = [exec.stdin, exec.stdout, exec.stderr];
        self.check(&exec, streams)?;
        let deadline =
            (exec.deadline_ms > 0).then(|| now + Duration::from_millis(exec.deadline_ms));
        self.alive.push(Session {
            number,
            id: exec.id,
            asker,
            pid: None,
            deadline,
            doomed: false,
            deadline_passed: false,
        });
        out.push(Action::Exec {
            number,
            process: exec.process,
            terminal: exec.terminal,
            streams,
        });
        Ok(())
    }

    fn check(&self, exec: &Exec, streams: [bool; 3]) -> Result<(), Failure> {
        if exec.id.is_empty() || exec.id.len() > MAX_ID {
            return Err(invalid(format!("an exec's id has 1 to {MAX_ID} bytes")));
        }
        if self.alive.iter().any(|session| session.id == exec.id) {
            return Err(invalid(format!("exec {} exists", exec.id)));
        }
        if exec.terminal && streams.contains(&true) {
            return Err(invalid("an exec with a terminal takes no descriptors"));
        }
        if self.alive.len() >= MAX_SESSIONS {
            let message = format!("{MAX_SESSIONS} execs are running, which is the limit");
            return Err(Failure::new(Kind::Other, message));
        }
        Ok(())
    }

    /// The runtime has made the process, or not. `code`: it has ended already.
    pub(super) fn started(
        &mut self,
        number: u32,
        result: Result<Made, Failure>,
        code: Option<i32>,
        out: &mut Actions,
    ) {
        let is_it = |session: &Session| session.number == number;
        let Some(position) = self.alive.iter().position(is_it) else {
            return;
        };
        match result {
            Ok(made) => {
                let session = &mut self.alive[position];
                session.pid = Some(made.pid);
                out.push(Action::ReplyExec(session.asker, number, made.pid));
                match code {
                    Some(code) => self.alive.swap_remove(position).tell(code, out),
                    // Cancelled, but the runtime was faster.
                    None if session.doomed => out.push(Action::EndFamily(made.pid)),
                    None => {}
                }
            }
            Err(failure) => {
                let session = self.alive.swap_remove(position);
                if session.deadline_passed {
                    out.push(Action::ReplyExec(session.asker, number, 0));
                    session.tell(128 + SIGKILL, out);
                } else {
                    refuse(session.asker, failure, out);
                    out.push(Action::ForgetExec(number));
                }
            }
        }
    }

    /// A process was reaped: whether it was a session's.
    pub(super) fn ended(&mut self, pid: i32, code: i32, out: &mut Actions) -> bool {
        let Some(position) = self
            .alive
            .iter()
            .position(|session| session.pid == Some(pid))
        else {
            return false;
        };
        self.alive.swap_remove(position).tell(code, out);
        true
    }

    /// Somebody wants a session to end.
    pub(super) fn end(&mut self, id: &str, out: &mut Actions) -> Result<(), Failure> {
        let session = self.alive.iter_mut().find(|session| session.id == id);
        let missing = || Failure::new(Kind::NotFound, format!("there is no exec {id}"));
        session.ok_or_else(missing)?.doom(out);
        Ok(())
    }

    /// The connection that began them is gone.
    pub(super) fn abandon(&mut self, connection: u32, out: &mut Actions) {
        let its_own = |session: &&mut Session| session.asker.connection == connection;
        self.alive
            .iter_mut()
            .filter(its_own)
            .for_each(|session| session.doom(out));
    }

    /// Ends those whose time is over.
    pub(super) fn enforce(&mut self, now: Duration, out: &mut Actions) {
        for session in &mut self.alive {
            if session.deadline.is_some_and(|deadline| deadline <= now) {
                session.deadline = None;
                session.deadline_passed = true;
                session.doom(out);
            }
        }
    }

    /// Reports those that did not end with the container as if they had.
    pub(super) fn give_up(&mut self, out: &mut Actions) {
        for session in self.alive.drain(..) {
            if session.pid.is_none() {
                out.push(Action::CancelExec(session.number));
                let gone = Failure::new(Kind::WrongState, "the container has ended");
                refuse(session.asker, gone, out);
                out.push(Action::ForgetExec(session.number));
            } else {
                session.tell(128 + SIGKILL, out);
            }
        }
    }

    /// Whether none is alive.
    pub(super) fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// Whether a runtime is yet to name the process that it makes.
    pub(super) fn awaits_pid(&self) -> bool {
        self.alive.iter().any(|session| session.pid.is_none())
    }

    /// When the next of them has had its time.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.alive
            .iter()
            .filter_map(|session| session.deadline)
            .min()
    }
}
