//! How containers end, whoever watches.

use std::os::fd::AsFd;

use rustix::process::{PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use shim_api::reply::Result as Answer;
use shim_api::request::Call;
use shim_api::state_reply::Phase;
use shim_api::{EXIT_RECORD, Kill, Start, State};

use crate::harness::{
    Container, Wish, attach_output, read_until, spawn, unified, wait_readable, wait_unpopulated,
};

#[test]
fn the_end_is_recorded_when_no_daemon_is_there() {
    let Some((mut container, connection)) =
        Container::started(Wish::script("sleep 0.3; echo late; exit 11"))
    else {
        return;
    };
    drop(connection);
    container.wait_for_shim();
    assert_eq!(container.record().exit_code, 11);
    assert_eq!(container.log_texts(), ["late"]);
    assert!(container.try_connect().is_err());
}

#[test]
fn a_new_connection_finds_the_container_as_it_is() {
    let Some((mut container, connection)) = Container::started(Wish::script("exec sleep 1000"))
    else {
        return;
    };
    drop(connection);
    let mut connection = container.connect();
    let Answer::State(state) = connection.call(Call::State(State {})).0 else {
        panic!("no state")
    };
    assert_eq!(state.phase(), Phase::Running);
    assert!(state.pid > 0);
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert_eq!(connection.exited().exit_code, 137);
    container.wait_for_shim();
}

#[test]
fn every_connection_hears_of_the_end() {
    let Some((mut container, mut first)) = Container::created(Wish::script("exit 1")) else {
        return;
    };
    let mut second = container.connect();
    first.done(Call::Start(Start {}));
    assert_eq!(
        (first.exited().exit_code, second.exited().exit_code),
        (1, 1)
    );
    container.wait_for_shim();
    assert!(first.news().is_none());
}

#[test]
fn a_process_ended_for_want_of_memory_is_told() {
    let wish = Wish {
        memory: Some(16 << 20),
        ..Wish::script("exec dd if=/dev/zero of=/dev/null bs=64M count=1")
    };
    let Some((_container, record)) = Container::run(wish) else {
        return;
    };
    assert_eq!((record.exit_code, record.oom_killed), (137, true));
}

/// systemd removes a group of its making once it is empty, and may be faster than the shim.
#[test]
fn so_it_is_when_the_group_is_gone_before_the_shim_looks() {
    if !unified() {
        println!("skipped: needs cgroup v2");
        return;
    }
    let go = "while [ ! -e /tmp/go ]; do sleep 0.1; done";
    for (end, expect) in [
        ("exec dd if=/dev/zero of=/dev/null bs=64M", (137, true)),
        ("exit 3", (3, false)),
    ] {
        let wish = Wish {
            memory: Some(16 << 20),
            ..Wish::script(&format!("{go}; {end}"))
        };
        let Some((mut container, mut connection)) = Container::started(wish) else {
            return;
        };
        kill_process(container.shim, Signal::STOP).unwrap();
        std::fs::write(container.dir.path().join("rootfs/tmp/go"), "").unwrap();
        wait_unpopulated(&container.cgroup("cgroup.events"));
        std::fs::remove_dir(container.cgroup("")).unwrap();
        kill_process(container.shim, Signal::CONT).unwrap();
        let record = connection.exited();
        assert_eq!((record.exit_code, record.oom_killed), expect, "{end}");
        container.wait_for_shim();
    }
}

#[test]
fn a_kill_is_not_taken_for_want_of_memory() {
    let wish = Wish {
        memory: Some(64 << 20),
        ..Wish::script("exec sleep 1000")
    };
    let Some((mut container, mut connection)) = Container::started(wish) else {
        return;
    };
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert!(!connection.exited().oom_killed);
    container.wait_for_shim();
}

#[test]
fn what_outlives_init_is_ended() {
    let script = "sleep 1000 & (sleep 1000 &) ; echo ready; read line; exit 2";
    let wish = Wish {
        host_pids: true,
        stdin: true,
        ..Wish::script(script)
    };
    let Some((mut container, mut connection)) = Container::created(wish) else {
        return;
    };
    let mut output = attach_output(&mut connection);
    connection.done(Call::Start(Start {}));
    read_until(&mut output, "ready");
    let processes = container.processes();
    assert_eq!(processes.len(), 3);
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert_eq!(connection.exited().exit_code, 137);
    processes
        .iter()
        .for_each(|process| wait_readable(process.as_fd()));
    container.wait_for_shim();
}

#[test]
fn output_of_the_last_moment_is_in_the_log_before_the_record() {
    let Some((container, mut connection)) =
        Container::started(Wish::script("seq 50000; printf end"))
    else {
        return;
    };
    connection.exited();
    assert!(container.dir.path().join(EXIT_RECORD).exists());
    assert_eq!(container.log().len(), 50_001);
}

#[test]
fn a_lost_shim_is_cleaned_up() {
    let Some((mut container, _)) = Container::started(Wish::script("exec sleep 1000")) else {
        return;
    };
    let processes = container.processes();
    container.lose_shim();
    assert_eq!(container.delete(), Some(0));
    processes
        .iter()
        .for_each(|process| wait_readable(process.as_fd()));
    assert!(!container.cgroup("").exists());
    // Again: nothing is left to undo.
    assert_eq!(container.delete(), Some(0));
}

#[test]
fn the_shim_outlives_signals_meant_for_daemons() {
    let Some((mut container, mut connection)) = Container::started(Wish::script("exec sleep 1000"))
    else {
        return;
    };
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(container.shim, signal).unwrap();
    }
    connection.done(Call::Kill(Kill {
        signal: 9,
        all: false,
    }));
    assert_eq!(connection.exited().exit_code, 137);
    container.wait_for_shim();
}

#[test]
fn the_init_of_a_namespace_ends_when_told() {
    let program = env!("CARGO_BIN_EXE_wherry-shim").to_owned();
    let pid = spawn(&[program, "init".to_owned()], None);
    let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    wait_readable(handle.as_fd());
    assert!(waitpid(Some(pid), WaitOptions::empty()).unwrap().is_some());
}
