//! Streams: input, terminals, exec in both ways, attached and not.

use tests::engines::Engine;
use tests::wait;

use crate::{SERVICE, assert_says};

pub(crate) fn input_reaches_the_program(engine: &Engine) {
    let file = engine.scratch().join("input");
    let text = "line\n".repeat(50_000);
    std::fs::write(&file, &text).unwrap();
    let own = engine.own_flags();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let command = [&engine.image, "sh", "-c", "wc -c; echo done"];
    let mut run = engine.command(&[&["run", "--rm", "-i"], &own[..], &command].concat());
    run.stdin(std::fs::File::open(&file).unwrap());
    let run = tests::process::run(&mut run).unwrap();
    assert_eq!(
        run.stdout,
        format!("{}\ndone\n", text.len()),
        "{}",
        run.stderr
    );
}

pub(crate) fn a_terminal_of_run(engine: &Engine) {
    let script = "tty; stty size >/dev/null && test -t 2 && read x && echo got:$x; exit 5";
    let own = engine.own_flags();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let command = [&engine.image, "sh", "-c", script];
    let args = [&["run", "--rm", "-it"], &own[..], &command].concat();
    let typed = engine.typed(&args, "hello\n").unwrap();
    assert_eq!(typed.code, 5, "{}", typed.stdout);
    assert_says(&typed.stdout, &["/dev/pts/0", "/dev/console"]);
    assert_says(&typed.stdout, &["got:hello"]);
}

pub(crate) fn a_terminal_of_exec(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    let tty = container
        .exec(&["-t"], "tty; test -t 0 && test -t 1 && exit 4")
        .unwrap();
    assert_eq!(tty.code, 4, "{}", tty.stderr);
    assert_says(&tty.stdout, &["/dev/pts/0"]);
    let script = "read x && echo got:$x; exit 6";
    let args = ["exec", "-it", &container.name, "sh", "-c", script];
    let typed = engine.typed(&args, "hello\n").unwrap();
    assert_eq!(typed.code, 6, "{}", typed.stdout);
    assert_says(&typed.stdout, &["got:hello"]);
}

pub(crate) fn exec_with_input_and_exit_code(engine: &Engine) {
    let container = engine
        .detached(&["-e", "A=run", "-e", "B=run"], SERVICE)
        .unwrap();
    let file = engine.scratch().join("exec-input");
    std::fs::write(&file, "typed\n").unwrap();
    let script = "cat; echo $A $B $PWD $(id -u):$(id -g) >&2; exit 12";
    let flags = ["exec", "-i", "-e", "B=exec", "-w", "/tmp", "-u", "7:8"];
    let command = [container.name.as_str(), "sh", "-c", script];
    let mut exec = engine.command(&[&flags[..], &command].concat());
    exec.stdin(std::fs::File::open(&file).unwrap());
    let exec = tests::process::run(&mut exec).unwrap();
    let expect = (12, "typed\n", "run exec /tmp 7:8\n");
    assert_eq!(
        (exec.code, exec.stdout.as_str(), exec.stderr.as_str()),
        expect
    );
}

pub(crate) fn exec_of_what_is_missing(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    for (program, code, text) in [
        ("/nowhere", 127, "no such file or directory"),
        ("nowhere", 127, "executable file not found in $PATH"),
        ("/etc/passwd", 126, "permission denied"),
    ] {
        let run = engine.call(&["exec", &container.name, program]).unwrap();
        assert_eq!(run.code, code, "{program}: {}{}", run.stdout, run.stderr);
        // docker says it on standard output.
        let said = format!("{}{}", run.stdout, run.stderr);
        assert_says(&said, &[text, "no such file or directory"]);
    }
}

pub(crate) fn exec_in_the_background(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    let started = container
        .exec(&["-d"], "echo $$ >/tmp/background; sleep 1000")
        .unwrap();
    assert_eq!(started.code, 0, "{}", started.stderr);
    wait::until("the background", || {
        container.output("test -s /tmp/background").ok()
    })
    .unwrap();
    let top = container.ok(&["top"]).unwrap();
    assert!(top.contains("sleep 1000"), "{top}");
}

pub(crate) fn exec_beside_exec(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    let container = &container;
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let script = format!("echo {number}; exit {number}");
                let run = container.exec(&[], &script).unwrap();
                assert_eq!(
                    (run.code, run.stdout.trim()),
                    (number, number.to_string().as_str())
                );
            });
        }
    });
}
