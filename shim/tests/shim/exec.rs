//! Processes beside init.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use shim_api::error::Kind;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{Exec, Kill, KillExec, Start};

use crate::harness::{
    Connection, Container, Wish, exec, open_process, read_all, read_until, wait_readable,
};

fn pipe() -> (File, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

/// Begins an exec that must start.
fn start(connection: &mut Connection, exec: Exec, fds: &[BorrowedFd<'_>]) -> Vec<OwnedFd> {
    match connection.call_with(Call::Exec(exec), fds) {
        (Answer::ExecStarted(_), fds) => fds,
        (other, _) => panic!("no exec but {other:?}"),
    }
}

fn idle() -> Option<(Container, Connection)> {
    Container::started(Wish::script("exec sleep 1000"))
}

#[test]
fn output_comes_back_and_the_exit_code() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    let (mut output, stdout) = pipe();
    let (mut errors, stderr) = pipe();
    let request = Exec {
        stdout: true,
        stderr: true,
        ..exec("e1", "echo out; echo err >&2; exit 9")
    };
    start(&mut connection, request, &[stdout.as_fd(), stderr.as_fd()]);
    drop((stdout, stderr));
    assert_eq!(read_all(&mut output), b"out\n");
    assert_eq!(read_all(&mut errors), b"err\n");
    let news = connection.exec_exited();
    assert_eq!(
        (&*news.id, news.exit_code, news.deadline_passed),
        ("e1", 9, false)
    );
}

#[test]
fn input_goes_in() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    let (stdin, feed) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (mut output, stdout) = pipe();
    let request = Exec {
        stdin: true,
        stdout: true,
        ..exec("e", "cat")
    };
    start(&mut connection, request, &[stdin.as_fd(), stdout.as_fd()]);
    drop((stdin, stdout));
    rustix::io::write(&feed, b"through").unwrap();
    drop(feed);
    assert_eq!(read_all(&mut output), b"through");
    assert_eq!(connection.exec_exited().exit_code, 0);
}

#[test]
fn many_short_execs_all_end() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    for number in 0..20 {
        start(
            &mut connection,
            exec(&number.to_string(), &format!("exit {number}")),
            &[],
        );
        let news = connection.exec_exited();
        assert_eq!((news.id, news.exit_code), (number.to_string(), number));
    }
}

#[test]
fn a_deadline_ends_the_children_too() {
    let Some((container, mut connection)) = idle() else {
        return;
    };
    let before = container.pids();
    let (mut output, stdout) = pipe();
    let script = "sleep 1000 & (sleep 1000 & sleep 1000) & echo ready; sleep 1000";
    let request = Exec {
        stdout: true,
        deadline_ms: 1000,
        ..exec("e", script)
    };
    start(&mut connection, request, &[stdout.as_fd()]);
    drop(stdout);
    read_until(&mut output, "ready");
    let mut pids = container.pids();
    pids.retain(|pid| !before.contains(pid));
    assert!(pids.len() > 1, "{pids:?}");
    let family: Vec<_> = pids.into_iter().filter_map(open_process).collect();
    let news = connection.exec_exited();
    assert_eq!((news.exit_code, news.deadline_passed), (137, true));
    read_all(&mut output);
    family
        .iter()
        .for_each(|process| wait_readable(process.as_fd()));
}

#[test]
fn a_connection_that_ends_takes_its_execs_along() {
    let Some((container, mut connection)) = idle() else {
        return;
    };
    let mut other = container.connect();
    let (mut output, stdout) = pipe();
    let request = Exec {
        stdout: true,
        ..exec("e", "echo ready; sleep 1000")
    };
    start(&mut other, request, &[stdout.as_fd()]);
    drop(stdout);
    read_until(&mut output, "ready");
    drop(other);
    assert_eq!(read_all(&mut output), b"");
    // The container itself stays.
    start(&mut connection, exec("f", "exit 5"), &[]);
    assert_eq!(connection.exec_exited().exit_code, 5);
}

#[test]
fn an_exec_can_be_killed() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    start(&mut connection, exec("e", "sleep 1000"), &[]);
    connection.done(Call::KillExec(KillExec { id: "e".to_owned() }));
    let news = connection.exec_exited();
    assert_eq!((news.exit_code, news.deadline_passed), (137, false));
    let missing = KillExec { id: "e".to_owned() };
    assert_eq!(
        connection.error(Call::KillExec(missing)).kind(),
        Kind::NotFound
    );
}

#[test]
fn a_terminal_comes_back() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    let request = exec("e", "tty; read line; echo got $line; exit 2");
    let process = String::from_utf8(request.process.clone()).unwrap();
    let process = process
        .replacen('{', r#"{"terminal":true,"#, 1)
        .into_bytes();
    let request = Exec {
        terminal: true,
        process,
        ..request
    };
    let master = start(&mut connection, request, &[])
        .pop()
        .expect("a terminal");
    let mut master = File::from(master);
    read_until(&mut master, "/dev/pts/");
    rustix::io::write(&master, b"hello\n").unwrap();
    read_until(&mut master, "got hello");
    assert_eq!(connection.exec_exited().exit_code, 2);
}

#[test]
fn what_cannot_be_started_says_why() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    let process = br#"{"args":["/absent"],"cwd":"/","user":{"uid":0,"gid":0}}"#.to_vec();
    let request = Exec {
        id: "e".to_owned(),
        process,
        ..Exec::default()
    };
    let error = connection.error(Call::Exec(request));
    assert_eq!(error.kind(), Kind::Runtime);
    assert!(error.message.contains("/absent"), "{}", error.message);
    let request = Exec {
        id: "e".to_owned(),
        process: b"{".to_vec(),
        ..Exec::default()
    };
    assert_eq!(connection.error(Call::Exec(request)).kind(), Kind::Runtime);
}

#[test]
fn contradictions_are_refused() {
    let Some((_container, mut connection)) = idle() else {
        return;
    };
    let terminal_with_stream = Exec {
        terminal: true,
        stdout: true,
        ..exec("e", "true")
    };
    let (_output, stdout) = pipe();
    let (answer, _) = connection.call_with(Call::Exec(terminal_with_stream), &[stdout.as_fd()]);
    assert!(matches!(answer, Answer::Error(error) if error.kind() == Kind::Invalid));
    let missing_descriptor = Exec {
        stdout: true,
        ..exec("e", "true")
    };
    assert_eq!(
        connection.error(Call::Exec(missing_descriptor)).kind(),
        Kind::Invalid
    );
    assert_eq!(
        connection.error(Call::Exec(exec("", "true"))).kind(),
        Kind::Invalid
    );
    start(&mut connection, exec("twice", "sleep 1000"), &[]);
    assert_eq!(
        connection.error(Call::Exec(exec("twice", "true"))).kind(),
        Kind::Invalid
    );
}

#[test]
fn the_containers_end_ends_its_execs_first() {
    let Some((mut container, mut connection)) = idle() else {
        return;
    };
    start(&mut connection, exec("e", "sleep 1000"), &[]);
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert_eq!(connection.exec_exited().exit_code, 137);
    assert_eq!(connection.exited().exit_code, 137);
    container.wait_for_shim();
}

#[test]
fn an_exec_needs_a_running_container() {
    let Some((_container, mut connection)) = Container::created(Wish::script("exec sleep 1000"))
    else {
        return;
    };
    assert_eq!(
        connection.error(Call::Exec(exec("e", "true"))).kind(),
        Kind::WrongState
    );
    connection.done(Call::Start(Start {}));
    start(&mut connection, exec("e", "true"), &[]);
    assert_eq!(connection.exec_exited().exit_code, 0);
}
