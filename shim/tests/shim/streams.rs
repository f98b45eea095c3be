//! Terminals, attached clients and standard input.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use shim_api::error::Kind;
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{Attach, Kill, ResizeTerminal, Start};

use crate::harness::{Connection, Container, Wish, attach_output, read_all, read_until};

/// Attaches with input and output.
fn attach_both(connection: &mut Connection) -> (UnixStream, File) {
    let (typed, stdin) = UnixStream::pair().unwrap();
    let (read, stdout) = UnixStream::pair().unwrap();
    let attach = Attach {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let (answer, _) = connection.call_with(Call::Attach(attach), &[stdin.as_fd(), stdout.as_fd()]);
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    (typed, File::from(OwnedFd::from(read)))
}

fn terminal(script: &str) -> Wish {
    Wish {
        terminal: true,
        stdin: true,
        ..Wish::script(script)
    }
}

#[test]
fn a_terminal_is_one_stream_in_the_log() {
    let script = "tty; echo err >&2; printf open";
    let Some((container, record)) = Container::run(terminal(script)) else {
        return;
    };
    assert_eq!(record.exit_code, 0);
    let log = container.log();
    assert!(
        log.iter()
            .all(|(stream, tag, _)| stream == "stdout" && tag == "F"),
        "{log:?}"
    );
    assert!(
        log[0].2.starts_with("/dev/pts/") && log[0].2.ends_with('\r'),
        "{log:?}"
    );
    assert_eq!((&*log[1].2, &*log[2].2), ("err\r", "open"));
}

#[test]
fn a_terminal_has_a_size_and_takes_input() {
    let script = "stty size; while read line; do echo got $line; stty size; done";
    let Some((mut container, mut connection)) = Container::created(terminal(script)) else {
        return;
    };
    let (mut typed, mut read) = attach_both(&mut connection);
    connection.done(Call::ResizeTerminal(ResizeTerminal {
        width: 91,
        height: 17,
    }));
    connection.done(Call::Start(Start {}));
    read_until(&mut read, "17 91");
    connection.done(Call::ResizeTerminal(ResizeTerminal {
        width: 92,
        height: 18,
    }));
    let too_large = ResizeTerminal {
        width: 70_000,
        height: 1,
    };
    assert_eq!(
        connection.error(Call::ResizeTerminal(too_large)).kind(),
        Kind::Invalid
    );
    typed.write_all(b"word\n").unwrap();
    assert!(read_until(&mut read, "18 92").contains("got word"));
    // End of input by the terminal's own means.
    typed.write_all(b"\x04").unwrap();
    assert_eq!(connection.exited().exit_code, 0);
    container.wait_for_shim();
}

#[test]
fn a_terminal_that_all_have_closed_can_be_opened_again() {
    let script = "exec 3</dev/null; T=$(tty); exec <&- >&- 2>&-; exec >$T; echo again";
    let Some((container, _)) = Container::run(terminal(script)) else {
        return;
    };
    assert_eq!(container.log_texts(), ["again\r"]);
}

#[test]
fn input_ends_with_the_first_client_if_so_asked() {
    let wish = Wish {
        stdin: true,
        stdin_once: true,
        ..Wish::script("cat; exit 6")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    let (mut typed, mut read) = attach_both(&mut connection);
    typed.write_all(b"all of it").unwrap();
    drop(typed);
    assert_eq!(read_all(&mut read), b"all of it");
    assert_eq!(connection.exited().exit_code, 6);
    container.wait_for_shim();
}

#[test]
fn input_stays_open_for_the_next_client() {
    let wish = Wish {
        stdin: true,
        ..Wish::script("read one; read two; echo $one $two")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    for word in ["first\n", "second\n"] {
        let (mut typed, _) = attach_both(&mut connection);
        typed.write_all(word.as_bytes()).unwrap();
    }
    assert_eq!(connection.exited().exit_code, 0);
    container.wait_for_shim();
    assert_eq!(container.log_texts(), ["first second"]);
}

#[test]
fn much_input_arrives_whole() {
    let wish = Wish {
        stdin: true,
        stdin_once: true,
        ..Wish::script("exec md5sum")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    let (mut typed, _read) = attach_both(&mut connection);
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    typed.write_all(&data).unwrap();
    drop(typed);
    connection.exited();
    container.wait_for_shim();
    assert_eq!(
        container.log_texts(),
        ["3bdc855431bbf93ae4979ed9277ae03c  -"]
    );
}

#[test]
fn a_slow_client_loses_its_connection_and_the_container_nothing() {
    let wish = Wish {
        stdin: true,
        ..Wish::script("read go; seq 200000; echo done >&2; read end")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    let mut slow = attach_output(&mut connection);
    let (mut typed, stdin) = UnixStream::pair().unwrap();
    let (watch, stderr) = UnixStream::pair().unwrap();
    let attach = Attach {
        stdin: true,
        stdout: false,
        stderr: true,
    };
    let (answer, _) = connection.call_with(Call::Attach(attach), &[stdin.as_fd(), stderr.as_fd()]);
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    typed.write_all(b"go\n").unwrap();
    read_until(&mut File::from(OwnedFd::from(watch)), "done");
    let got = read_all(&mut slow).len();
    assert!((1..1_288_895).contains(&got), "{got}");
    typed.write_all(b"end\n").unwrap();
    connection.exited();
    container.wait_for_shim();
    assert_eq!(container.log().len(), 200_001);
}

#[test]
fn attaching_to_nothing_is_refused() {
    let Some((_container, mut connection)) = Container::started(terminal("exec sleep 1000")) else {
        return;
    };
    assert_eq!(
        connection.error(Call::Attach(Attach::default())).kind(),
        Kind::Invalid
    );
    let (_own, theirs) = UnixStream::pair().unwrap();
    let stderr = Attach {
        stderr: true,
        ..Attach::default()
    };
    let (answer, _) = connection.call_with(Call::Attach(stderr), &[theirs.as_fd()]);
    assert!(matches!(answer, Answer::Error(error) if error.kind() == Kind::Invalid));
}

#[test]
fn clients_see_the_end() {
    let Some((_container, mut connection)) = Container::started(Wish::script("exec sleep 1000"))
    else {
        return;
    };
    let mut output = attach_output(&mut connection);
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert_eq!(output.read(&mut [0]).unwrap(), 0);
}
