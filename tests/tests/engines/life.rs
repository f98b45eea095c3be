//! From run to rm: exit codes, errors of the start, signals, pause, restart, what is left.

use tests::engines::Engine;
use tests::wait;

use crate::{SERVICE, assert_says};

pub(crate) fn output_and_exit_code(engine: &Engine) {
    let run = engine.run(&[], "echo out; echo err >&2; exit 7").unwrap();
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    let container = engine
        .detached(&[], "echo out; echo err >&2; exit 9")
        .unwrap();
    assert_eq!(container.wait().unwrap(), 9);
    assert_says(&container.logs().unwrap(), &["out\nerr\n"]);
    assert_eq!(container.inspect().unwrap()["State"]["ExitCode"], 9);
}

pub(crate) fn a_signal_is_an_exit_code(engine: &Engine) {
    assert_eq!(engine.run(&["--init"], "kill -9 $$").unwrap().code, 137);
}

pub(crate) fn a_missing_program_is_127(engine: &Engine) {
    for program in ["/nowhere/to/be/found", "nowhere-to-be-found"] {
        let run = engine.run_command(&[], &[program]).unwrap();
        assert_eq!(run.code, 127, "{}", run.stderr);
        let texts = [
            "no such file or directory",
            "executable file not found in $PATH",
        ];
        assert_says(&run.stderr, &texts);
        assert_says(&run.stderr, &[program]);
    }
}

pub(crate) fn a_program_that_cannot_run_is_126(engine: &Engine) {
    for program in ["/etc/passwd", "/etc"] {
        let run = engine.run_command(&[], &[program]).unwrap();
        assert_eq!(run.code, 126, "{}", run.stderr);
        assert_says(&run.stderr, &["permission denied", "is a directory"]);
    }
}

pub(crate) fn a_missing_working_folder_or_user_is_said(engine: &Engine) {
    let run = engine.run(&["-w", "/etc/passwd"], "true").unwrap();
    assert!(run.code >= 125, "{}", run.stderr);
    assert_says(
        &run.stderr.to_lowercase(),
        &["not a directory", "working dir"],
    );
    let run = engine.run(&["--user", "nobody-knows"], "true").unwrap();
    assert!(run.code >= 125, "{}", run.stderr);
}

pub(crate) fn signals(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    container.wait_for("ready").unwrap();
    container.ok(&["kill", "-s", "USR1"]).unwrap();
    container.wait_for("usr1").unwrap();
    container.ok(&["kill", "--signal", "SIGTERM"]).unwrap();
    assert_eq!(container.wait().unwrap(), 8);

    let container = engine.detached(&[], SERVICE).unwrap();
    container.ok(&["kill"]).unwrap();
    assert_eq!(container.wait().unwrap(), 137);
    let again = engine.call(&["kill", &container.name]).unwrap();
    assert_ne!(again.code, 0);
    assert_says(
        &again.stderr,
        &["is not running", "can only kill running containers"],
    );
}

pub(crate) fn stop_and_restart(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    container.wait_for("ready").unwrap();
    container.ok(&["stop", "-t", "20"]).unwrap();
    assert_eq!(container.inspect().unwrap()["State"]["ExitCode"], 8);
    container.ok(&["start"]).unwrap();
    container.wait_for("ready\nready").unwrap();
    container.ok(&["restart", "-t", "20"]).unwrap();
    container.wait_for("ready\nready\nready").unwrap();
}

pub(crate) fn a_container_that_fails_is_started_again(engine: &Engine) {
    let container = engine
        .detached(&["--restart", "on-failure:2"], "echo again; exit 3")
        .unwrap();
    container.wait_for("again\nagain\nagain\n").unwrap();
    let ended = wait::until("the last start to end", || {
        let said = container.inspect().ok()?;
        (said["State"]["Status"] == "exited").then_some(said)
    });
    assert_eq!(ended.unwrap()["RestartCount"], 2);
}

pub(crate) fn pause_and_unpause(engine: &Engine) {
    let script = "while :; do echo $((n=n+1)) >/tmp/n; done";
    let container = engine.detached(&[], script).unwrap();
    let pid = container.inspect().unwrap()["State"]["Pid"]
        .as_u64()
        .unwrap();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after = stat.rsplit_once(')').unwrap().1.to_owned();
        after
            .split_whitespace()
            .nth(11)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    container.ok(&["pause"]).unwrap();
    assert_eq!(container.inspect().unwrap()["State"]["Status"], "paused");
    let frozen = ticks();
    let refused = container.exec(&[], "true").unwrap();
    assert_ne!(refused.code, 0);
    assert_says(
        &refused.stderr,
        &["is paused", "running containers", "state improper"],
    );
    assert_eq!(ticks(), frozen);
    container.ok(&["unpause"]).unwrap();
    assert_eq!(container.inspect().unwrap()["State"]["Status"], "running");
    wait::until("it to go on", || (ticks() > frozen).then_some(())).unwrap();
    assert_eq!(container.output("echo inside").unwrap(), "inside");
}

pub(crate) fn removed_while_it_runs(engine: &Engine) {
    let container = engine.detached(&[], "sleep 1000 & sleep 1000").unwrap();
    let pid = container.inspect().unwrap()["State"]["Pid"]
        .as_u64()
        .unwrap();
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    assert!(process.exists());
    container.ok(&["rm", "-f"]).unwrap();
    assert!(!process.exists());
    assert_ne!(engine.call(&["inspect", &container.name]).unwrap().code, 0);
}

pub(crate) fn many_at_once(engine: &Engine) {
    let count = if tests::thorough() { 16 } else { 4 };
    std::thread::scope(|scope| {
        for number in 0..count {
            scope.spawn(move || {
                let run = engine
                    .run(&[], &format!("echo {number}; exit {number}"))
                    .unwrap();
                assert_eq!(
                    (run.code, run.stdout.trim()),
                    (number, number.to_string().as_str())
                );
            });
        }
    });
}
