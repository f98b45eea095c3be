//! Doing what the machine says, action by action.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use shim_api::message::Content;
use shim_api::reply::Result as Answer;
use shim_api::{Checkpoint, Create, Done, Error, ExecStarted, ExitRecord, Message, Reply, Restore};

use super::{Action, Asker, Event, Made, Service, now};
use crate::descendants;
use crate::exit::write_record;
use crate::failure::Failure;
use crate::oom::OomCounter;
use crate::poller::{Interest, Token};
use crate::runtime::{Folders, Verb, read_pid};
use crate::stdio::{ContainerEnds, Stdio};
use crate::terminal::ConsoleSocket;

impl Service {
    /// Does one thing. `fds`: what came with the request that is being answered.
    pub(super) fn perform(&mut self, action: Action, fds: &mut Vec<OwnedFd>) {
        match action {
            Action::Reply(asker, answer) => self.reply(asker, answer, None),
            Action::ReplyExec(asker, number, pid) => self.reply_exec(asker, number, pid),
            Action::Tell(connection, content) => self.tell(connection, content, None),
            Action::TellAll(content) => self.tell_all(&content),
            Action::Create(create) => self.create(&create),
            Action::Restore(restore) => self.restore(&restore),
            Action::Checkpoint(checkpoint) => {
                if let Err(failure) = self.checkpoint(&checkpoint) {
                    self.pending.push_back(Event::CheckpointEnded(Err(failure)));
                }
            }
            Action::Start => {
                if let Err(failure) = self.invoke(Verb::Start, None) {
                    self.pending.push_back(Event::StartEnded(Err(failure)));
                }
            }
            Action::Kill {
                number,
                signal,
                all,
            } => {
                if let Err(failure) = self.invoke(
                    Verb::Kill {
                        number,
                        signal,
                        all,
                    },
                    None,
                ) {
                    self.pending
                        .push_back(Event::KillEnded(number, Err(failure)));
                }
            }
            Action::Update { number, resources } => {
                if let Err(failure) = self.update(number, &resources) {
                    self.pending
                        .push_back(Event::UpdateEnded(number, Err(failure)));
                }
            }
            Action::CancelCreate => {
                if let Some(invocation) = self.invocations.create() {
                    invocation.cancel();
                }
            }
            Action::EndInit => self.end_init(),
            Action::Exec {
                number,
                process,
                terminal,
                streams,
            } => {
                let fds = std::mem::take(fds);
                if let Err(failure) = self.exec(number, &process, terminal, streams, &fds) {
                    self.pending
                        .push_back(Event::ExecEnded(number, Err(failure)));
                }
            }
            Action::CancelExec(number) => {
                if let Some(invocation) = self.invocations.exec(number) {
                    invocation.cancel();
                }
            }
            Action::EndFamily(pid) => self.end_family(pid),
            Action::ForgetExec(number) => self.forget_exec(number),
            Action::Attach(asker, streams) => {
                let fds = std::mem::take(fds);
                let poller = &self.poller;
                let result = self
                    .stdio
                    .as_mut()
                    .map(|stdio| stdio.attach(streams, fds, poller));
                self.answer(asker, result.unwrap_or(Ok(())));
            }
            Action::Resize(asker, width, height) => {
                let result = self.stdio.as_ref().map(|stdio| stdio.resize(width, height));
                self.answer(asker, result.unwrap_or(Ok(())));
            }
            Action::ReopenLog(asker) => {
                let result = self.stdio.as_mut().map(Stdio::reopen_log);
                self.answer(asker, result.unwrap_or(Ok(())));
            }
            Action::ReadOomCounter => {
                let rose = self.oom_counter.as_ref().is_some_and(OomCounter::rose);
                self.pending.push_back(Event::OomRose(rose));
            }
            Action::Sweep => self.pending.push_back(Event::Swept(self.sweeper.sweep())),
            Action::Drain => {
                if let Some(stdio) = &mut self.stdio {
                    stdio.drain(&self.poller);
                }
            }
            Action::CloseStreams => {
                if let Some(mut stdio) = self.stdio.take() {
                    stdio.close(now().wall);
                }
            }
            Action::WriteRecord(record) => self.write_record(&record),
            Action::Delete => {
                if self.invoke(Verb::Delete, None).is_err() {
                    self.pending.push_back(Event::DeleteEnded);
                }
            }
        }
    }

    fn invoke(&mut self, verb: Verb, stdio: Option<[BorrowedFd<'_>; 3]>) -> Result<(), Failure> {
        self.invoke_with(verb, stdio, None)
    }

    fn invoke_with(
        &mut self,
        verb: Verb,
        stdio: Option<[BorrowedFd<'_>; 3]>,
        folders: Option<&Folders<'_>>,
    ) -> Result<(), Failure> {
        let console = match verb {
            Verb::Create { terminal: true } | Verb::Restore { terminal: true } => {
                Some(self.console(None)?)
            }
            Verb::Exec {
                number,
                terminal: true,
            } => Some(self.console(Some(number))?),
            _ => None,
        };
        let monotonic = now().monotonic;
        let (console, operation) = (console.as_deref(), self.operation.as_str());
        let runtime = &self.runtime;
        let invocation = runtime.invoke(verb, console, stdio, folders, operation, monotonic)?;
        self.invocations.add(invocation);
        Ok(())
    }

    fn console(&mut self, exec: Option<u32>) -> Result<PathBuf, Failure> {
        let socket = ConsoleSocket::bind(&self.runtime.files().console(exec))?;
        let name = socket.name().to_owned();
        self.consoles.push((exec, socket));
        Ok(name)
    }

    /// Takes the terminal that the runtime has sent, and the socket away.
    fn take_master(&mut self, exec: Option<u32>) -> Result<OwnedFd, Failure> {
        let position = self.consoles.iter().position(|(owner, _)| *owner == exec);
        let position = position.expect("an invocation with a terminal has a console socket");
        self.consoles.swap_remove(position).1.receive()
    }

    fn create(&mut self, create: &Create) {
        self.note(create);
        let terminal = create.terminal;
        if let Err(failure) = self.try_create(create, Verb::Create { terminal }, None) {
            self.abandon_streams();
            self.pending.push_back(Event::CreateEnded(Err(failure)));
        }
    }

    fn restore(&mut self, restore: &Restore) {
        let create = restore.create.clone().unwrap_or_default();
        self.note(&create);
        let verb = Verb::Restore {
            terminal: create.terminal,
        };
        let folders = Folders {
            images: Path::new(&restore.images),
            work: Path::new(&restore.work),
            connections: restore.connections(),
        };
        if let Err(failure) = self.try_create(&create, verb, Some(&folders)) {
            self.abandon_streams();
            self.pending.push_back(Event::RestoreEnded(Err(failure)));
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let folders = Folders {
            images: Path::new(&checkpoint.images),
            work: Path::new(&checkpoint.work),
            connections: checkpoint.connections(),
        };
        self.invoke_with(Verb::Checkpoint, None, Some(&folders))
    }

    /// Takes over what a container says of itself before it is there.
    fn note(&mut self, create: &Create) {
        let path = |path: &String| (!path.is_empty()).then(|| PathBuf::from(path));
        self.sweeper.kill_file = path(&create.kill_file);
        self.sweeper.procs_file = path(&create.procs_file);
        self.oom_counter_path.clone_from(&create.oom_counter);
        self.stdin = create.stdin;
    }

    fn try_create(
        &mut self,
        create: &Create,
        verb: Verb,
        folders: Option<&Folders<'_>>,
    ) -> Result<(), Failure> {
        let (stdio, ends) = Stdio::open(create)?;
        self.stdio = Some(stdio);
        let fds = ends.as_ref().map(ContainerEnds::as_fds);
        self.invoke_with(verb, fds, folders)
    }

    /// The runtime's create or restore has ended.
    pub(super) fn created(
        &mut self,
        terminal: bool,
        result: Result<(), Failure>,
    ) -> Result<Made, Failure> {
        let made = result.and_then(|()| self.take_container(terminal));
        self.consoles.retain(|(owner, _)| owner.is_some());
        made.map_err(|failure| {
            let said = self
                .stdio
                .as_mut()
                .and_then(|stdio| stdio.said(&mut self.scratch));
            self.abandon_streams();
            // A runtime without a log of its own has spoken where the container would.
            match said {
                Some(said) if failure.message.ends_with("exit code 1") => Failure {
                    message: said,
                    ..failure
                },
                _ => failure,
            }
        })
    }

    fn take_container(&mut self, terminal: bool) -> Result<Made, Failure> {
        let pid = read_pid(&self.runtime.files().pid(None))?;
        if terminal {
            let master = self.take_master(None)?;
            if let Some(stdio) = &mut self.stdio {
                stdio.set_terminal(master, self.stdin)?;
            }
        }
        let made = made(pid);
        if made.exists {
            let handle = pidfd_open(pid, PidfdFlags::empty());
            self.init = Some(handle.map_err(|error| Failure::other("hold the container", error))?);
        }
        let fail = |error| Failure::other("watch the container", error);
        if let Some(init) = &self.init {
            self.poller
                .add(init, Token::Init, Interest::IN)
                .map_err(fail)?;
        }
        if let Some(stdio) = &self.stdio {
            stdio.watch(&self.poller).map_err(fail)?;
        }
        self.oom_counter = OomCounter::open(Path::new(&self.oom_counter_path));
        if let Some(counter) = &self.oom_counter {
            counter.watch(&self.poller).map_err(fail)?;
        }
        Ok(made)
    }

    fn abandon_streams(&mut self) {
        if let Some(stdio) = self.stdio.take() {
            stdio.discard();
        }
    }

    fn exec(
        &mut self,
        number: u32,
        process: &[u8],
        terminal: bool,
        streams: [bool; 3],
        fds: &[OwnedFd],
    ) -> Result<(), Failure> {
        let file = self.runtime.files().process(number);
        write_private(&file, process)
            .map_err(|error| Failure::other(format!("write {}", file.display()), error))?;
        if terminal {
            return self.invoke(Verb::Exec { number, terminal }, None);
        }
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Failure::other("open /dev/null", error))?;
        let mut given = fds.iter();
        let stdio = streams.map(|asked| {
            asked
                .then(|| given.next())
                .flatten()
                .map_or(null.as_fd(), |fd| fd.as_fd())
        });
        self.invoke(Verb::Exec { number, terminal }, Some(stdio))
    }

    fn update(&mut self, number: u32, resources: &[u8]) -> Result<(), Failure> {
        let file = self.runtime.files().resources(number);
        write_private(&file, resources)
            .map_err(|error| Failure::other(format!("write {}", file.display()), error))?;
        self.invoke(Verb::Update { number }, None)
    }

    /// A runtime's exec has ended.
    pub(super) fn exec_made(
        &mut self,
        number: u32,
        terminal: bool,
        result: Result<(), Failure>,
    ) -> Result<Made, Failure> {
        result?;
        let pid = read_pid(&self.runtime.files().pid(Some(number)))?;
        if terminal {
            let master = self.take_master(Some(number))?;
            self.masters.push((number, master));
        }
        Ok(made(pid))
    }

    fn forget_exec(&mut self, number: u32) {
        self.consoles.retain(|(owner, _)| *owner != Some(number));
        self.masters.retain(|(owner, _)| *owner != number);
        self.runtime.files().remove_exec(number);
    }

    fn end_init(&self) {
        if let Some(init) = &self.init {
            // It may just have ended by itself.
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
    }

    fn end_family(&self, pid: i32) {
        if let Some(pid) = Pid::from_raw(pid) {
            descendants::end(pid, || self.sweeper.members());
        }
    }

    fn write_record(&self, record: &ExitRecord) {
        if let Err(error) = write_record(&self.bundle, record) {
            let place = self.bundle.display();
            // The connections are still told; nothing else is left to try.
            drop(writeln!(
                io::stderr(),
                "wherry-shim: write exit record in {place}: {error}"
            ));
        }
    }

    fn answer(&mut self, asker: Asker, result: Result<(), Failure>) {
        let answer = match result {
            Ok(()) => Answer::Done(Done {}),
            Err(Failure { kind, message }) => Answer::Error(Error {
                kind: kind.into(),
                message,
            }),
        };
        self.reply(asker, answer, None);
    }

    fn reply_exec(&mut self, asker: Asker, number: u32, pid: i32) {
        let position = self.masters.iter().position(|(owner, _)| *owner == number);
        let master = position.map(|position| self.masters.swap_remove(position).1);
        self.reply(asker, Answer::ExecStarted(ExecStarted { pid }), master);
    }

    fn reply(&mut self, asker: Asker, answer: Answer, fd: Option<OwnedFd>) {
        let reply = Reply {
            sequence: asker.sequence,
            result: Some(answer),
        };
        self.tell(asker.connection, Content::Reply(reply), fd);
    }

    fn tell_all(&mut self, content: &Content) {
        for number in self.connections.numbers() {
            self.tell(number, content.clone(), None);
        }
    }

    fn tell(&mut self, connection: u32, content: Content, fd: Option<OwnedFd>) {
        let message = Message {
            content: Some(content),
        };
        if !self
            .connections
            .send(connection, &message, fd, &self.poller)
            && self.connections.close(connection)
        {
            self.pending.push_back(Event::Disconnected(connection));
        }
    }
}

fn made(pid: Pid) -> Made {
    Made {
        pid: pid.as_raw_nonzero().get(),
        exists: test_kill_process(pid).is_ok(),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)
}
