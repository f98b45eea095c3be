//! From the first request to the last, and what is refused on the way.

use std::os::fd::AsFd;

use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, waitpid};
use shim_api::error::Kind;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::state_reply::Phase;
use shim_api::{Kill, ReopenLog, ResizeTerminal, Start, State};

use crate::harness::{Container, Wish, attach_output, exec, read_until, spawn, wait_readable};

fn phase(answer: Answer) -> Phase {
    match answer {
        Answer::State(state) => state.phase(),
        other => panic!("no state but {other:?}"),
    }
}

#[test]
fn a_container_runs_and_its_exit_code_is_recorded() {
    let Some((container, record)) = Container::run(Wish::script("echo hello; exit 7")) else {
        return;
    };
    assert_eq!((record.exit_code, record.oom_killed), (7, false));
    assert!(record.started_at > 0 && record.finished_at >= record.started_at);
    assert_eq!(container.record(), record);
    assert_eq!(container.log_texts(), ["hello"]);
}

#[test]
fn phases_follow_each_other() {
    let Some(container) = Container::new(Wish::script("exec sleep 1000")) else {
        return;
    };
    let mut connection = container.connect();
    assert_eq!(phase(connection.call(Call::State(State {})).0), Phase::New);
    let kill = Kill {
        signal: 15,
        all: false,
    };
    for early in [
        Call::Start(Start {}),
        Call::Kill(kill),
        Call::Exec(exec("e", "true")),
        Call::ReopenLog(ReopenLog {}),
    ] {
        assert_eq!(connection.error(early).kind(), Kind::WrongState);
    }
    assert!(matches!(
        connection.call(Call::Create(container.create())).0,
        Answer::Created(_)
    ));
    assert_eq!(
        phase(connection.call(Call::State(State {})).0),
        Phase::Created
    );
    assert_eq!(
        connection.error(Call::Create(container.create())).kind(),
        Kind::WrongState
    );
    connection.done(Call::Start(Start {}));
    assert_eq!(
        phase(connection.call(Call::State(State {})).0),
        Phase::Running
    );
    let size = ResizeTerminal {
        width: 80,
        height: 24,
    };
    assert_eq!(
        connection.error(Call::ResizeTerminal(size)).kind(),
        Kind::Invalid
    );
    connection.ask(None, &[]);
    assert!(
        matches!(connection.answer().0, Answer::Error(error) if error.kind() == Kind::UnknownRequest)
    );
}

#[test]
fn a_signal_reaches_init() {
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while read line; do :; done";
    let wish = Wish {
        stdin: true,
        ..Wish::script(script)
    };
    let Some((mut container, mut connection)) = Container::created(wish) else {
        return;
    };
    let mut output = attach_output(&mut connection);
    connection.done(Call::Start(Start {}));
    read_until(&mut output, "ready");
    connection.done(Call::Kill(Kill {
        signal: 15,
        all: false,
    }));
    assert_eq!(connection.exited().exit_code, 3);
    container.wait_for_shim();
    assert_eq!(container.log_texts(), ["ready", "caught"]);
}

#[test]
fn a_kill_ends_a_created_container() {
    let Some((mut container, mut connection)) = Container::created(Wish::script("true")) else {
        return;
    };
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    let record = connection.exited();
    assert_eq!((record.exit_code, record.started_at), (137, 0));
    container.wait_for_shim();
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut wish = Wish::script("");
    wish.args = vec!["/absent/program".to_owned()];
    let Some(mut container) = Container::new(wish) else {
        return;
    };
    let mut connection = container.connect();
    let error = connection.error(Call::Create(container.create()));
    assert_eq!(error.kind(), Kind::Runtime);
    assert!(
        error.message.contains("/absent/program"),
        "{}",
        error.message
    );
    container.wait_for_shim();
    assert!(!container.log_path().exists());
}

#[test]
fn a_create_that_cannot_open_its_log_says_so() {
    let Some(mut container) = Container::new(Wish::script("true")) else {
        return;
    };
    let mut connection = container.connect();
    let mut create = container.create();
    create.log_path = "/absent/folder/log".to_owned();
    let error = connection.error(Call::Create(create));
    assert!(
        error.message.contains("/absent/folder/log"),
        "{}",
        error.message
    );
    container.wait_for_shim();
}

#[test]
fn a_bundle_that_is_not_json_is_refused() {
    let Some(mut container) = Container::new(Wish::script("true")) else {
        return;
    };
    std::fs::write(container.dir.path().join("config.json"), "{").unwrap();
    let mut connection = container.connect();
    let error = connection.error(Call::Create(container.create()));
    assert_eq!(error.kind(), Kind::Runtime);
    assert!(!error.message.is_empty());
    container.wait_for_shim();
}

#[test]
fn a_shim_without_a_socket_ends_at_once() {
    let program = env!("CARGO_BIN_EXE_wherry-shim");
    let flags = ["--id", "x", "--bundle", "/", "--runtime", "/bin/true"];
    let argv: Vec<_> = [program]
        .into_iter()
        .chain(flags)
        .map(str::to_owned)
        .collect();
    let null = std::fs::File::open("/dev/null").unwrap();
    let pid = spawn(&argv, Some(null.as_fd()));
    wait_readable(pidfd_open(pid, PidfdFlags::empty()).unwrap().as_fd());
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(1));
}
