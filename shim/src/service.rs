//! The loop: waits for events, asks the machine, does what it says.

mod deeds;

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::ClockId;
use rustix::process::{WaitOptions, set_child_subreaper, setsid, wait};
use shim_api::{LISTENER_FD, MAX_PACKET};

use crate::cli::Options;
use crate::connection::{Connections, Received};
use crate::exit::Sweeper;
use crate::failure::Failure;
use crate::machine::{Action, Asker, Event, Machine, Made, Now};
use crate::oom::OomCounter;
use crate::poller::{Interest, Poller, Token};
use crate::runtime::{Invocations, Runtime, Verb};
use crate::stdio::{SCRATCH, Stdio};
use crate::terminal::ConsoleSocket;

/// What the kernel is to spare this process when memory runs out: the daemon comes first (-999).
const OOM_SCORE: &str = "-998";
/// Longest name of an operation, bytes.
const MAX_OPERATION: usize = 64;

/// Serves one container to its end.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let listener = take_listener()?;
    let signals = prepare_process()?;
    let children_oom_score = lower_oom_score();
    let runtime = Runtime::new(options, children_oom_score);
    let mut service = Service::new(options, listener, signals, runtime)
        .map_err(|error| Failure::other("watch for events", error))?;
    while !service.machine.is_over() {
        service
            .turn()
            .map_err(|error| Failure::other("wait for events", error))?;
    }
    Ok(())
}

/// The socket that the daemon has left open for us.
fn take_listener() -> Result<OwnedFd, Failure> {
    let attempt = "take the listening socket";
    let listener = sys::fd::inherited(LISTENER_FD);
    let listener = listener.map_err(|error| Failure::other(attempt, error))?;
    let listens = rustix::net::sockopt::socket_acceptconn(&listener);
    match listens.map_err(|error| Failure::other(attempt, error))? {
        true => Ok(listener),
        false => Err(Failure::other(attempt, "it does not listen")),
    }
}

/// Leaves the daemon's session, becomes the parent of what the runtime leaves behind, and blocks
/// the signals that are read as events or that would end the container's keeper before it.
fn prepare_process() -> Result<SignalFd, Failure> {
    // The leader of a session, as which a shell may have started us, need not become one.
    let _ = setsid();
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Failure::other("become a subreaper", error))?;
    let fail = |error| Failure::other("take signals", error);
    let blocked = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ];
    blocked
        .into_iter()
        .collect::<SigSet>()
        .thread_block()
        .map_err(fail)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags).map_err(fail)
}

/// Lowers this process's oom score; gives back what children are to have instead. Without the
/// right to do so it stays as it is.
fn lower_oom_score() -> Option<String> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(FILE).ok()?;
    let lower = before.trim().parse::<i32>().ok()? > OOM_SCORE.parse().ok()?;
    (lower && fs::write(FILE, OOM_SCORE).is_ok()).then_some(before)
}

/// Everything that lives in a shim.
struct Service {
    poller: Poller,
    listener: OwnedFd,
    signals: SignalFd,
    connections: Connections,
    machine: Machine,
    runtime: Runtime,
    invocations: Invocations,
    stdio: Option<Stdio>,
    stdin: bool,
    oom_counter_path: String,
    oom_counter: Option<OomCounter>,
    sweeper: Sweeper,
    init: Option<OwnedFd>,
    /// Console sockets of invocations under way, and terminals on their way to a daemon.
    consoles: Vec<(Option<u32>, ConsoleSocket)>,
    masters: Vec<(u32, OwnedFd)>,
    bundle: std::path::PathBuf,
    pending: VecDeque<Event>,
    /// The daemon's operation that is being carried out, as its log names it; empty: none.
    operation: String,
    /// Lent to whoever reads; touched only as far as somebody has written.
    scratch: Vec<u8>,
}

impl Service {
    fn new(
        options: &Options,
        listener: OwnedFd,
        signals: SignalFd,
        runtime: Runtime,
    ) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&listener, Token::Listener, Interest::IN)?;
        poller.add(&signals, Token::Signals, Interest::IN)?;
        crate::attach::set_nonblocking(&listener)?;
        Ok(Self {
            poller,
            listener,
            signals,
            connections: Connections::default(),
            machine: Machine::new(now().monotonic),
            runtime,
            invocations: Invocations::default(),
            stdio: None,
            stdin: false,
            oom_counter_path: String::new(),
            oom_counter: None,
            sweeper: Sweeper::default(),
            init: None,
            consoles: Vec::new(),
            masters: Vec::new(),
            bundle: options.bundle.clone(),
            pending: VecDeque::new(),
            operation: String::new(),
            scratch: vec![0; SCRATCH.max(MAX_PACKET)],
        })
    }

    /// Waits once and deals with what came.
    fn turn(&mut self) -> std::io::Result<()> {
        for (token, flags) in self.poller.wait(self.timeout())? {
            self.dispatch(token, flags);
        }
        let now = now().monotonic;
        self.invocations.enforce(now);
        if let Some(counter) = &mut self.oom_counter {
            counter.enforce(now, &self.poller);
        }
        if self.machine.awaits_drain() && self.stdio.as_ref().is_none_or(Stdio::is_drained) {
            self.happened(Event::Drained);
        }
        if self
            .machine
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.happened(Event::Tick);
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let own = self.machine.next_deadline().into_iter();
        let counter = self
            .oom_counter
            .as_ref()
            .and_then(OomCounter::next_deadline);
        let deadline = own
            .chain(self.invocations.next_deadline())
            .chain(counter)
            .min()?;
        Some(deadline.saturating_sub(now().monotonic))
    }

    fn dispatch(&mut self, token: Token, flags: Interest) {
        match token {
            Token::Listener => {
                let number = self.connections.accept(self.listener.as_fd(), &self.poller);
                number
                    .into_iter()
                    .for_each(|number| self.happened(Event::Connected(number)));
            }
            Token::Signals => self.child_signal(),
            Token::Init => self.init_ended(),
            Token::Memory => {
                if let Some(counter) = &mut self.oom_counter {
                    counter.changed(now().monotonic);
                }
            }
            Token::Connection(number) => self.connection_ready(number, flags),
            stream => self.stream_ready(stream, flags),
        }
    }

    fn stream_ready(&mut self, token: Token, flags: Interest) {
        let Some(stdio) = &mut self.stdio else { return };
        let (scratch, poller) = (&mut self.scratch, &self.poller);
        match token {
            Token::Output(number) => stdio.output_ready(number, now().wall, scratch, poller),
            Token::Client { number, stream } => {
                stdio.client_ready(number, stream, flags, scratch, poller);
            }
            _ => stdio.input_ready(poller),
        }
    }

    fn connection_ready(&mut self, number: u32, flags: Interest) {
        if flags.contains(Interest::OUT) && !self.connections.flush(number, &self.poller) {
            return self.disconnect(number);
        }
        match self.connections.receive(number, &mut self.scratch) {
            Received::Request(request, fds) => {
                let asker = Asker {
                    connection: number,
                    sequence: request.sequence,
                };
                let event = Event::Request {
                    asker,
                    call: request.call,
                    descriptors: fds.len(),
                };
                // What is done later, when nobody asks, is part of none.
                self.operation = bounded(request.operation);
                self.happened_with(event, fds);
                self.operation.clear();
            }
            Received::Nothing => {}
            Received::End => self.disconnect(number),
        }
    }

    fn disconnect(&mut self, number: u32) {
        if self.connections.close(number) {
            self.pending.push_back(Event::Disconnected(number));
            self.settle(&mut Vec::new());
        }
    }

    fn child_signal(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
    }

    /// Init's handle says that it has ended. That it is still alive for the machine after all
    /// children were reaped means that it was never a child of ours.
    fn init_ended(&mut self) {
        self.reap();
        self.init = None;
        if self.machine.has_init() {
            self.happened(Event::InitVanished);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let code = status
                .exit_status()
                .or(status.terminating_signal().map(|signal| 128 + signal))
                .unwrap_or(255);
            let pid = pid.as_raw_nonzero().get();
            match self.invocations.ended(pid, code) {
                Some((verb, result)) => self.runtime_ended(verb, result),
                None => self.happened(Event::Reaped { pid, code }),
            }
        }
    }

    fn runtime_ended(&mut self, verb: Verb, result: Result<(), Failure>) {
        let event = match verb {
            Verb::Create { terminal } => Event::CreateEnded(self.created(terminal, result)),
            Verb::Restore { terminal } => Event::RestoreEnded(self.created(terminal, result)),
            Verb::Checkpoint => Event::CheckpointEnded(result),
            Verb::Start => Event::StartEnded(result),
            Verb::Kill { number, .. } => Event::KillEnded(number, result),
            Verb::Update { number } => {
                self.runtime.files().remove_update(number);
                Event::UpdateEnded(number, result)
            }
            Verb::Exec { number, terminal } => {
                Event::ExecEnded(number, self.exec_made(number, terminal, result))
            }
            Verb::Delete => Event::DeleteEnded,
        };
        self.happened(event);
    }

    fn happened(&mut self, event: Event) {
        self.happened_with(event, Vec::new());
    }

    fn happened_with(&mut self, event: Event, mut fds: Vec<OwnedFd>) {
        self.pending.push_back(event);
        self.settle(&mut fds);
    }

    /// Takes events to the machine and its actions to the world until both are quiet.
    fn settle(&mut self, fds: &mut Vec<OwnedFd>) {
        while let Some(event) = self.pending.pop_front() {
            for action in self.machine.handle(event, now()) {
                self.perform(action, fds);
            }
        }
    }
}

/// The name of an operation, if it can be one.
fn bounded(operation: String) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match operation.len() <= MAX_OPERATION && operation.bytes().all(fits) {
        true => operation,
        false => String::new(),
    }
}

/// The time of both clocks. By libc: rustix does without it and wants a vDSO with `getcpu` for
/// that, which User-mode Linux has not.
fn now() -> Now {
    let read = |clock: ClockId| clock.now().map(Duration::from).unwrap_or_default();
    Now {
        wall: i64::try_from(read(ClockId::CLOCK_REALTIME).as_nanos()).unwrap_or(i64::MAX),
        monotonic: read(ClockId::CLOCK_MONOTONIC),
    }
}
