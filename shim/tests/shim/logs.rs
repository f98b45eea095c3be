//! What a container writes, and how it lies in its log.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::{Attach, ReopenLog};

use crate::harness::{Container, Wish, read_until};

/// Stream, tag and text of each record that a script leaves.
fn check(script: &str, expect: &[(&str, &str, &str)]) {
    let Some((container, _)) = Container::run(Wish::script(script)) else {
        return;
    };
    let log = container.log();
    let log: Vec<_> = log
        .iter()
        .map(|(stream, tag, text)| (&**stream, &**tag, &**text))
        .collect();
    assert_eq!(log, expect);
}

#[test]
fn lines_keep_their_stream() {
    check("echo out", &[("stdout", "F", "out")]);
    check("echo err >&2", &[("stderr", "F", "err")]);
    check(
        "printf 'a\\n\\nb\\n'",
        &[
            ("stdout", "F", "a"),
            ("stdout", "F", ""),
            ("stdout", "F", "b"),
        ],
    );
}

#[test]
fn a_line_without_an_end_is_ended() {
    check("printf open", &[("stdout", "F", "open")]);
    check("printf op; printf en", &[("stdout", "F", "open")]);
}

#[test]
fn a_huge_line_is_cut() {
    let Some((container, _)) =
        Container::run(Wish::script("head -c 100000 /dev/zero | tr '\\0' x; echo"))
    else {
        return;
    };
    let log = container.log();
    let tags: String = log.iter().map(|(_, tag, _)| &**tag).collect();
    assert_eq!(tags, "PPPPPPF");
    assert!(log[..6].iter().all(|(_, _, text)| text.len() == 16384));
    assert_eq!(
        log.iter().map(|(_, _, text)| text.len()).sum::<usize>(),
        100_000
    );
}

#[test]
fn a_hundred_thousand_lines_are_all_there() {
    let Some((container, _)) = Container::run(Wish::script("seq 100000")) else {
        return;
    };
    let expect: Vec<_> = (1..=100_000).map(|number| number.to_string()).collect();
    assert!(container.log_texts() == expect);
}

#[test]
fn streams_are_never_mixed() {
    let script = "seq 20000 & seq 20000 >&2; wait";
    let Some((container, _)) = Container::run(Wish::script(script)) else {
        return;
    };
    let expect: Vec<_> = (1..=20_000).map(|number| number.to_string()).collect();
    for wanted in ["stdout", "stderr"] {
        let texts = container
            .log()
            .into_iter()
            .filter(|(stream, _, _)| stream == wanted);
        let texts: Vec<_> = texts.map(|(_, _, text)| text).collect();
        assert!(texts == expect, "{wanted}");
    }
}

#[test]
fn without_a_log_output_is_read_all_the_same() {
    let wish = Wish {
        log: false,
        ..Wish::script("seq 100000; exit 4")
    };
    let Some((container, record)) = Container::run(wish) else {
        return;
    };
    assert_eq!(record.exit_code, 4);
    assert!(!container.log_path().exists());
}

#[test]
fn a_reopened_log_is_a_new_file() {
    let wish = Wish {
        stdin: true,
        stdin_once: true,
        ..Wish::script("exec cat")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    let (mut typed, stdin) = UnixStream::pair().unwrap();
    let (read, stdout) = UnixStream::pair().unwrap();
    let mut read = fs::File::from(std::os::fd::OwnedFd::from(read));
    let attach = Attach {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let (answer, _) = connection.call_with(Call::Attach(attach), &[stdin.as_fd(), stdout.as_fd()]);
    assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    drop((stdin, stdout));
    typed.write_all(b"one\n").unwrap();
    read_until(&mut read, "one");
    let old = container.dir.path().join("log.old");
    fs::rename(container.log_path(), &old).unwrap();
    connection.done(Call::ReopenLog(ReopenLog {}));
    assert_eq!(fs::metadata(container.log_path()).unwrap().len(), 0);
    typed.write_all(b"two\n").unwrap();
    drop(typed);
    assert_eq!(connection.exited().exit_code, 0);
    container.wait_for_shim();
    assert!(
        fs::read_to_string(old)
            .unwrap()
            .ends_with(" stdout F one\n")
    );
    assert_eq!(container.log_texts(), ["two"]);
}
