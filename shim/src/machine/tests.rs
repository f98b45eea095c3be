//! Every order of events that matters.

use shim_api::state_reply;
use shim_api::{Attach, Exec, Kill, KillExec, ReopenLog, ResizeTerminal, Start, State, Update};

use super::*;

pub(super) const INIT: i32 = 100;
pub(super) const DAEMON: u32 = 1;

/// A machine with a clock and memory of what it wanted.
pub(super) struct Desk {
    pub(super) machine: Machine,
    seconds: u64,
    sequence: u64,
}

impl Desk {
    pub(super) fn new() -> Self {
        let mut desk = Self {
            machine: Machine::new(Duration::ZERO),
            seconds: 0,
            sequence: 0,
        };
        assert_eq!(desk.event(Event::Connected(DAEMON)), []);
        desk
    }

    fn created() -> Self {
        let mut desk = Self::new();
        desk.ask(Call::Create(Create::default()));
        desk.event(Event::CreateEnded(alive(INIT)));
        desk
    }

    fn running() -> Self {
        let mut desk = Self::created();
        desk.ask(Call::Start(Start {}));
        desk.event(Event::StartEnded(Ok(())));
        desk
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let now = Now {
            wall: i64::try_from(self.seconds).unwrap() * 1_000_000_000,
            monotonic: Duration::from_secs(self.seconds),
        };
        self.machine.handle(event, now)
    }

    pub(super) fn at(&mut self, seconds: u64, event: Event) -> Vec<Action> {
        self.seconds = seconds;
        self.event(event)
    }

    fn ask(&mut self, call: Call) -> Vec<Action> {
        self.sequence += 1;
        let asker = self.asker();
        self.event(Event::Request {
            asker,
            call: Some(call),
            descriptors: 0,
        })
    }

    fn asker(&self) -> Asker {
        Asker {
            connection: DAEMON,
            sequence: self.sequence,
        }
    }

    fn done(&self) -> Action {
        done(self.asker())
    }

    /// Lets the container end: sweep and drain are done.
    fn settle(&mut self) -> Vec<Action> {
        let mut out = self.event(Event::Swept(0));
        out.extend(self.event(Event::Drained));
        out
    }
}

fn alive(pid: i32) -> Result<Made, Failure> {
    Ok(Made { pid, exists: true })
}

fn gone(pid: i32) -> Result<Made, Failure> {
    Ok(Made { pid, exists: false })
}

pub(super) fn failure<T>() -> Result<T, Failure> {
    Err(Failure::new(Kind::Runtime, "no"))
}

fn exec(id: &str) -> Call {
    Call::Exec(Exec {
        id: id.to_owned(),
        ..Exec::default()
    })
}

pub(super) fn record(actions: &[Action]) -> Option<ExitRecord> {
    actions.iter().find_map(|action| match action {
        Action::WriteRecord(record) => Some(*record),
        _ => None,
    })
}

fn error(actions: &[Action]) -> Option<Kind> {
    actions.iter().find_map(|action| match action {
        Action::Reply(_, Answer::Error(error)) => Some(error.kind()),
        _ => None,
    })
}

fn exec_news(actions: &[Action]) -> Option<(String, i32, bool)> {
    actions.iter().find_map(|action| match action {
        Action::Tell(_, Content::ExecExited(news)) => {
            Some((news.id.clone(), news.exit_code, news.deadline_passed))
        }
        _ => None,
    })
}

#[test]
fn the_straight_road() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.ask(Call::Create(Create::default())),
        [Action::Create(Create::default())]
    );
    let created = Action::Reply(desk.asker(), Answer::Created(Created { pid: INIT }));
    assert_eq!(desk.event(Event::CreateEnded(alive(INIT))), [created]);
    desk.seconds = 5;
    assert_eq!(desk.ask(Call::Start(Start {})), [Action::Start]);
    assert_eq!(desk.event(Event::StartEnded(Ok(()))), [desk.done()]);
    let ending = desk.at(9, Event::Reaped { pid: INIT, code: 3 });
    assert_eq!(
        ending,
        [Action::ReadOomCounter, Action::Sweep, Action::Drain]
    );
    assert_eq!(desk.event(Event::OomRose(true)), []);
    let record = ExitRecord {
        exit_code: 3,
        finished_at: 9_000_000_000,
        oom_killed: true,
        started_at: 5_000_000_000,
    };
    assert_eq!(
        desk.settle(),
        [
            Action::CloseStreams,
            Action::WriteRecord(record),
            Action::TellAll(exited(&record)),
            Action::Delete,
        ]
    );
    assert_eq!(
        desk.event(Event::Connected(7)),
        [Action::Tell(7, exited(&record))]
    );
    assert!(!desk.machine.is_over());
    assert_eq!(desk.event(Event::DeleteEnded), []);
    assert!(desk.machine.is_over());
}

#[test]
fn a_failed_create_is_told_deleted_and_the_end() {
    let mut desk = Desk::new();
    desk.ask(Call::Create(Create::default()));
    let actions = desk.event(Event::CreateEnded(failure()));
    assert_eq!(error(&actions), Some(Kind::Runtime));
    assert_eq!(actions.last(), Some(&Action::Delete));
    desk.event(Event::DeleteEnded);
    assert!(desk.machine.is_over());
}

#[test]
fn init_may_end_before_the_runtime_has_named_it() {
    let mut desk = Desk::new();
    desk.ask(Call::Create(Create::default()));
    assert_eq!(desk.event(Event::Reaped { pid: INIT, code: 9 }), []);
    let actions = desk.event(Event::CreateEnded(gone(INIT)));
    assert!(actions.contains(&Action::Sweep));
    assert_eq!(record(&desk.settle()).unwrap().exit_code, 9);
}

#[test]
fn init_that_nobody_saw_end_has_an_unknown_code() {
    let mut desk = Desk::new();
    desk.ask(Call::Create(Create::default()));
    desk.event(Event::CreateEnded(gone(INIT)));
    assert_eq!(record(&desk.settle()).unwrap().exit_code, UNKNOWN);
    let mut desk = Desk::running();
    desk.event(Event::InitVanished);
    assert_eq!(record(&desk.settle()).unwrap().exit_code, UNKNOWN);
}

#[test]
fn a_start_that_fails_ends_init_and_is_recorded_as_128() {
    let mut desk = Desk::created();
    desk.ask(Call::Start(Start {}));
    let actions = desk.event(Event::StartEnded(failure()));
    assert_eq!(error(&actions), Some(Kind::Runtime));
    assert_eq!(actions.last(), Some(&Action::EndInit));
    desk.event(Event::Reaped {
        pid: INIT,
        code: 137,
    });
    let record = record(&desk.settle()).unwrap();
    assert_eq!((record.exit_code, record.started_at), (START_FAILED, 0));
}

#[test]
fn init_may_end_before_start_is_known_to_have_failed() {
    let mut desk = Desk::created();
    desk.ask(Call::Start(Start {}));
    assert_eq!(desk.event(Event::Reaped { pid: INIT, code: 1 }), []);
    desk.event(Event::StartEnded(failure()));
    assert_eq!(record(&desk.settle()).unwrap().exit_code, START_FAILED);
}

#[test]
fn init_may_end_before_start_returns() {
    let mut desk = Desk::created();
    desk.seconds = 1;
    desk.ask(Call::Start(Start {}));
    desk.at(2, Event::Reaped { pid: INIT, code: 4 });
    let actions = desk.at(3, Event::StartEnded(Ok(())));
    assert_eq!(actions.first(), Some(&desk.done()));
    let record = record(&desk.settle()).unwrap();
    assert_eq!((record.exit_code, record.finished_at), (4, 2_000_000_000));
    assert_eq!(record.started_at, 1_000_000_000);
}

#[test]
fn memory_is_not_blamed_for_a_good_end() {
    let mut desk = Desk::running();
    desk.event(Event::Reaped { pid: INIT, code: 0 });
    desk.event(Event::OomRose(true));
    assert!(!record(&desk.settle()).unwrap().oom_killed);
}

#[test]
fn sweeps_repeat_until_nothing_is_found() {
    let mut desk = Desk::running();
    desk.event(Event::Reaped { pid: INIT, code: 0 });
    desk.event(Event::Drained);
    assert_eq!(desk.event(Event::Swept(2)), []);
    assert_eq!(desk.machine.next_deadline(), Some(SWEEP_INTERVAL));
    assert_eq!(desk.at(1, Event::Tick), [Action::Sweep]);
    assert!(record(&desk.event(Event::Swept(0))).is_some());
}

#[test]
fn a_stream_that_does_not_end_is_given_up() {
    let mut desk = Desk::running();
    desk.event(Event::Reaped { pid: INIT, code: 0 });
    assert_eq!(desk.event(Event::Swept(0)), []);
    assert_eq!(desk.machine.next_deadline(), Some(DRAIN_LIMIT));
    assert_eq!(desk.at(1, Event::Tick), []);
    assert!(record(&desk.at(2, Event::Tick)).is_some());
}

#[test]
fn a_shim_without_a_daemon_gives_up_in_time() {
    let mut desk = Desk::new();
    assert_eq!(desk.machine.next_deadline(), None);
    desk.at(10, Event::Disconnected(DAEMON));
    assert_eq!(desk.machine.next_deadline(), Some(Duration::from_secs(70)));
    desk.at(69, Event::Tick);
    assert!(!desk.machine.is_over());
    desk.at(70, Event::Tick);
    assert!(desk.machine.is_over());
}

#[test]
fn a_created_container_without_a_daemon_is_ended() {
    let mut desk = Desk::created();
    desk.at(1, Event::Disconnected(DAEMON));
    assert_eq!(desk.at(600, Event::Tick), []);
    assert_eq!(desk.at(601, Event::Tick), [Action::EndInit]);
    desk.event(Event::Reaped {
        pid: INIT,
        code: 137,
    });
    let record = record(&desk.settle()).unwrap();
    assert_eq!((record.exit_code, record.started_at), (137, 0));
}

#[test]
fn a_running_container_needs_no_daemon() {
    let mut desk = Desk::running();
    desk.event(Event::Disconnected(DAEMON));
    assert_eq!(desk.machine.next_deadline(), None);
}

#[test]
fn signals() {
    let kill = |signal, all| Call::Kill(Kill { signal, all });
    let mut desk = Desk::running();
    assert_eq!(desk.ask(kill(9, false)), [Action::EndInit, desk.done()]);
    assert_eq!(error(&desk.ask(kill(0, false))), Some(Kind::Invalid));
    assert_eq!(error(&desk.ask(kill(65, false))), Some(Kind::Invalid));
    let actions = desk.ask(kill(15, true));
    let [
        Action::Kill {
            number,
            signal: 15,
            all: true,
        },
    ] = actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(desk.event(Event::KillEnded(number, Ok(()))), [desk.done()]);
    for _ in 0..MAX_KILLS {
        assert_eq!(error(&desk.ask(kill(15, false))), None);
    }
    assert_eq!(error(&desk.ask(kill(15, false))), Some(Kind::Other));
}

#[test]
fn sigkill_ends_whatever_there_is() {
    let kill = || {
        Call::Kill(Kill {
            signal: 9,
            all: true,
        })
    };
    let mut desk = Desk::new();
    assert_eq!(desk.ask(kill()), [desk.done()]);
    assert!(desk.machine.is_over());
    let mut desk = Desk::new();
    desk.ask(Call::Create(Create::default()));
    let actions = desk.ask(kill());
    assert_eq!(actions, [Action::CancelCreate, desk.done()]);
    desk.event(Event::CreateEnded(failure()));
    assert!(!desk.machine.is_over());
    desk.event(Event::DeleteEnded);
    assert!(desk.machine.is_over());
    let mut desk = Desk::running();
    assert_eq!(desk.ask(kill()), [Action::EndInit, desk.done()]);
}

#[test]
fn a_signal_to_what_is_gone_has_done_its_work() {
    let mut desk = Desk::running();
    let actions = desk.ask(Call::Kill(Kill {
        signal: 15,
        all: false,
    }));
    let [Action::Kill { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    desk.event(Event::Reaped {
        pid: INIT,
        code: 143,
    });
    assert_eq!(desk.settle(), []);
    let actions = desk.event(Event::KillEnded(number, failure()));
    assert_eq!(actions.first(), Some(&desk.done()));
    assert!(record(&actions).is_some());
}

#[test]
fn an_exec_from_begin_to_end() {
    let mut desk = Desk::running();
    let actions = desk.ask(exec("e"));
    let [Action::Exec { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    let started = Action::ReplyExec(desk.asker(), number, 7);
    assert_eq!(desk.event(Event::ExecEnded(number, alive(7))), [started]);
    let actions = desk.event(Event::Reaped { pid: 7, code: 2 });
    assert_eq!(exec_news(&actions), Some(("e".to_owned(), 2, false)));
    assert_eq!(actions.last(), Some(&Action::ForgetExec(number)));
}

#[test]
fn an_exec_may_end_before_the_runtime_has_named_it() {
    let mut desk = Desk::running();
    let number = begin(&mut desk, "e");
    desk.event(Event::Reaped { pid: 7, code: 2 });
    let actions = desk.event(Event::ExecEnded(number, gone(7)));
    assert!(matches!(actions[0], Action::ReplyExec(_, _, 7)));
    assert_eq!(exec_news(&actions), Some(("e".to_owned(), 2, false)));
    let number = begin(&mut desk, "f");
    let actions = desk.event(Event::ExecEnded(number, gone(7)));
    assert_eq!(exec_news(&actions), Some(("f".to_owned(), UNKNOWN, false)));
}

fn begin(desk: &mut Desk, id: &str) -> u32 {
    let actions = desk.ask(exec(id));
    match actions[..] {
        [Action::Exec { number, .. }] => number,
        _ => panic!("{actions:?}"),
    }
}

#[test]
fn strangers_are_reaped_and_forgotten() {
    let mut desk = Desk::running();
    let number = begin(&mut desk, "e");
    for pid in 1000..1000 + 2 * i32::try_from(MAX_UNCLAIMED).unwrap() {
        assert_eq!(desk.event(Event::Reaped { pid, code: 0 }), []);
    }
    assert_eq!(desk.machine.unclaimed.len(), MAX_UNCLAIMED);
    desk.event(Event::ExecEnded(number, alive(7)));
    assert!(desk.machine.unclaimed.is_empty());
}

#[test]
fn a_deadline_ends_the_family() {
    let mut desk = Desk::running();
    let deadline = Exec {
        id: "e".to_owned(),
        deadline_ms: 1000,
        ..Exec::default()
    };
    let actions = desk.ask(Call::Exec(deadline));
    let [Action::Exec { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    desk.event(Event::ExecEnded(number, alive(7)));
    assert_eq!(desk.machine.next_deadline(), Some(Duration::from_secs(1)));
    assert_eq!(desk.at(1, Event::Tick), [Action::EndFamily(7)]);
    assert_eq!(desk.at(2, Event::Tick), []);
    let actions = desk.event(Event::Reaped { pid: 7, code: 137 });
    assert_eq!(exec_news(&actions), Some(("e".to_owned(), 137, true)));
}

#[test]
fn a_deadline_ends_an_exec_that_is_being_made() {
    let deadline = || {
        Call::Exec(Exec {
            id: "e".to_owned(),
            deadline_ms: 1000,
            ..Exec::default()
        })
    };
    let mut desk = Desk::running();
    let actions = desk.ask(deadline());
    let [Action::Exec { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(desk.at(1, Event::Tick), [Action::CancelExec(number)]);
    let actions = desk.event(Event::ExecEnded(number, failure()));
    assert!(matches!(actions[0], Action::ReplyExec(_, _, 0)));
    assert_eq!(exec_news(&actions), Some(("e".to_owned(), 137, true)));
    // The runtime may be faster than its end.
    let actions = desk.ask(deadline());
    let [Action::Exec { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    desk.at(2, Event::Tick);
    let actions = desk.event(Event::ExecEnded(number, alive(8)));
    assert_eq!(actions.last(), Some(&Action::EndFamily(8)));
}

#[test]
fn a_lost_connection_ends_its_execs_only() {
    let mut desk = Desk::running();
    let mine = begin(&mut desk, "mine");
    desk.event(Event::ExecEnded(mine, alive(7)));
    desk.event(Event::Connected(2));
    let asker = Asker {
        connection: 2,
        sequence: 1,
    };
    let other = Event::Request {
        asker,
        call: Some(exec("other")),
        descriptors: 0,
    };
    let actions = desk.event(other);
    let [Action::Exec { number, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        desk.event(Event::Disconnected(2)),
        [Action::CancelExec(number)]
    );
    assert_eq!(
        desk.event(Event::Disconnected(DAEMON)),
        [Action::EndFamily(7)]
    );
}

#[test]
fn execs_can_be_killed_by_name() {
    let kill = || Call::KillExec(KillExec { id: "e".to_owned() });
    let mut desk = Desk::running();
    assert_eq!(error(&desk.ask(kill())), Some(Kind::NotFound));
    let number = begin(&mut desk, "e");
    desk.event(Event::ExecEnded(number, alive(7)));
    assert_eq!(desk.ask(kill()), [Action::EndFamily(7), desk.done()]);
    assert_eq!(desk.ask(kill()), [desk.done()]);
}

#[test]
fn execs_are_bounded_and_their_names_unique() {
    let mut desk = Desk::running();
    begin(&mut desk, "e");
    assert_eq!(error(&desk.ask(exec("e"))), Some(Kind::Invalid));
    assert_eq!(error(&desk.ask(exec(""))), Some(Kind::Invalid));
    assert_eq!(
        error(&desk.ask(exec(&"x".repeat(129)))),
        Some(Kind::Invalid)
    );
    for number in 1..128 {
        begin(&mut desk, &number.to_string());
    }
    assert_eq!(error(&desk.ask(exec("more"))), Some(Kind::Other));
}

#[test]
fn the_end_waits_for_execs_but_not_for_ever() {
    let mut desk = Desk::running();
    let named = begin(&mut desk, "named");
    desk.event(Event::ExecEnded(named, alive(7)));
    let unnamed = begin(&mut desk, "unnamed");
    desk.event(Event::Reaped { pid: INIT, code: 0 });
    assert_eq!(desk.settle(), []);
    let actions = desk.at(2, Event::Tick);
    assert_eq!(exec_news(&actions), Some(("named".to_owned(), 137, false)));
    assert!(actions.contains(&Action::CancelExec(unnamed)));
    assert_eq!(error(&actions), Some(Kind::WrongState));
    assert!(record(&actions).is_some());
    assert_eq!(desk.event(Event::ExecEnded(unnamed, failure())), []);
}

#[test]
fn requests_have_their_phases() {
    let calls = || {
        [
            Call::Create(Create::default()),
            Call::Start(Start {}),
            Call::Kill(Kill {
                signal: 15,
                all: false,
            }),
            exec("e"),
            Call::Attach(Attach::default()),
            Call::ResizeTerminal(ResizeTerminal {
                width: 1,
                height: 1,
            }),
            Call::ReopenLog(ReopenLog {}),
            Call::State(State {}),
        ]
    };
    // Which of the calls are not refused for the phase.
    let check = |make: fn() -> Desk, expect: [bool; 8]| {
        let got = calls().map(|call| error(&make().ask(call)) != Some(Kind::WrongState));
        assert_eq!(got, expect);
    };
    let ended = || {
        let mut desk = Desk::running();
        desk.event(Event::Reaped { pid: INIT, code: 0 });
        desk
    };
    let recorded = || {
        let mut desk = Desk::running();
        desk.event(Event::Reaped { pid: INIT, code: 0 });
        desk.settle();
        desk
    };
    check(
        Desk::new,
        [true, false, false, false, false, false, false, true],
    );
    check(
        Desk::created,
        [false, true, true, false, true, true, true, true],
    );
    check(
        Desk::running,
        [false, false, true, true, true, true, true, true],
    );
    check(
        ended,
        [false, false, false, false, false, false, true, true],
    );
    check(
        recorded,
        [false, false, false, false, false, false, false, true],
    );
}

#[test]
fn contradictions_are_refused() {
    let mut desk = Desk::new();
    let relative = Create {
        log_path: "log".to_owned(),
        ..Create::default()
    };
    assert_eq!(
        error(&desk.ask(Call::Create(relative))),
        Some(Kind::Invalid)
    );
    let asker = desk.asker();
    let extra = Event::Request {
        asker,
        call: Some(Call::State(State {})),
        descriptors: 1,
    };
    assert_eq!(error(&desk.event(extra)), Some(Kind::Invalid));
    let unknown = Event::Request {
        asker,
        call: None,
        descriptors: 0,
    };
    assert_eq!(error(&desk.event(unknown)), Some(Kind::UnknownRequest));
    let size = ResizeTerminal {
        width: 1,
        height: 1,
    };
    assert_eq!(
        error(&Desk::running().ask(Call::ResizeTerminal(size))),
        Some(Kind::Invalid)
    );
}

#[test]
fn limits_change_while_init_is_there() {
    let update = || {
        Call::Update(Update {
            resources: b"{}".to_vec(),
        })
    };
    let mut desk = Desk::new();
    assert_eq!(error(&desk.ask(update())), Some(Kind::WrongState));
    for mut desk in [Desk::created(), Desk::running()] {
        let begun = desk.ask(update());
        let [Action::Update { number, resources }] = &begun[..] else {
            panic!("{begun:?}");
        };
        assert_eq!(resources, b"{}");
        assert_eq!(
            desk.event(Event::UpdateEnded(*number, Ok(()))),
            [desk.done()]
        );
    }
}

#[test]
fn a_refused_update_tells_why_and_many_wait_for_none() {
    let mut desk = Desk::running();
    for _ in 0..MAX_UPDATES {
        assert_eq!(error(&desk.ask(Call::Update(Update::default()))), None);
    }
    let further = desk.ask(Call::Update(Update::default()));
    assert_eq!(error(&further), Some(Kind::Other));
    let number = desk.machine.updates[0].0;
    let ended = desk.event(Event::UpdateEnded(number, failure()));
    assert_eq!(error(&ended), Some(Kind::Runtime));
}

fn restore() -> Restore {
    Restore {
        create: Some(Create::default()),
        images: "/i".into(),
        work: "/w".into(),
        connections: 0,
    }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        images: "/i".into(),
        work: "/w".into(),
        connections: 0,
    }
}

#[test]
fn a_restored_container_has_no_process_before_its_start() {
    let mut desk = Desk::new();
    let out = desk.ask(Call::Restore(restore()));
    let created = Action::Reply(desk.asker(), Answer::Created(Created { pid: 0 }));
    assert_eq!(out, [created]);
    let out = desk.ask(Call::State(State {}));
    assert!(matches!(
        &out[..],
        [Action::Reply(_, Answer::State(state))]
            if state.phase() == state_reply::Phase::Created && state.pid == 0
    ));
    let out = desk.ask(Call::Start(Start {}));
    assert_eq!(out, [Action::Restore(Box::new(restore()))]);
    assert_eq!(desk.event(Event::RestoreEnded(alive(INIT))), [desk.done()]);
    desk.event(Event::Reaped { pid: INIT, code: 7 });
    let record = record(&desk.settle()).unwrap();
    assert_eq!(record.exit_code, 7);
}

#[test]
fn a_restore_that_fails_is_an_end() {
    let mut desk = Desk::new();
    desk.ask(Call::Restore(restore()));
    desk.ask(Call::Start(Start {}));
    let out = desk.event(Event::RestoreEnded(failure()));
    assert_eq!(error(&out), Some(Kind::Runtime));
    let record = record(&desk.settle()).unwrap();
    assert_eq!((record.exit_code, record.started_at), (START_FAILED, 0));
}

#[test]
fn what_waits_for_its_restore_can_be_ended() {
    let mut desk = Desk::new();
    desk.ask(Call::Restore(restore()));
    let kill = Kill {
        signal: 9,
        all: true,
    };
    assert!(desk.ask(Call::Kill(kill)).contains(&desk.done()));
    assert_eq!(record(&desk.settle()).unwrap().exit_code, 137);

    let mut desk = Desk::new();
    desk.ask(Call::Restore(restore()));
    desk.event(Event::Disconnected(DAEMON));
    assert_eq!(desk.at(599, Event::Tick), []);
    desk.at(601, Event::Tick);
    assert!(record(&desk.settle()).is_some());
}

#[test]
fn one_checkpoint_of_what_runs() {
    let mut desk = Desk::created();
    let out = desk.ask(Call::Checkpoint(checkpoint()));
    assert_eq!(error(&out), Some(Kind::WrongState));

    let mut desk = Desk::running();
    let relative = Checkpoint {
        images: "i".into(),
        ..checkpoint()
    };
    let out = desk.ask(Call::Checkpoint(relative));
    assert_eq!(error(&out), Some(Kind::Invalid));
    let out = desk.ask(Call::Checkpoint(checkpoint()));
    assert_eq!(out, [Action::Checkpoint(checkpoint())]);
    let first = desk.done();
    let out = desk.ask(Call::Checkpoint(checkpoint()));
    assert_eq!(error(&out), Some(Kind::Other));
    assert_eq!(desk.event(Event::CheckpointEnded(Ok(()))), [first]);
    let out = desk.ask(Call::Checkpoint(checkpoint()));
    assert_eq!(out, [Action::Checkpoint(checkpoint())]);
}
