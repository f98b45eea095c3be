//! Flags that bring something in or send something out.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::harness::{Bundle, bundle, program};

fn receive(stream: &UnixStream) -> (String, OwnedFd) {
    let mut text = [0_u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut text)];
    let got = recvmsg(stream, &mut slices, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = beside
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .next();
    (
        String::from_utf8_lossy(&text[..got.bytes]).into_owned(),
        fd.unwrap(),
    )
}

/// The process that a pidfd stands for (pidfd_open(2), fdinfo).
fn pid_of(fd: &OwnedFd) -> i32 {
    let number = std::os::fd::AsRawFd::as_raw_fd(fd);
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn pidfds_of_first_and_further_processes_are_handed_over() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.write();
    let socket = b.path("pidfd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (dir, socket) = (b.dir.path().to_str().unwrap(), socket.to_str().unwrap());
    b.detached(&["run", "-d", "--pidfd-socket", socket, "-b", dir, &b.id])
        .ok();
    let (text, fd) = receive(&listener.accept().unwrap().0);
    assert_eq!((text.as_str(), pid_of(&fd)), ("standard", b.pid()));
    let pid_file = b.path("pid");
    let pid_file = pid_file.to_str().unwrap();
    let args = [
        "exec",
        "-d",
        "--pid-file",
        pid_file,
        "--pidfd-socket",
        socket,
        &b.id,
        "sleep",
        "1000",
    ];
    b.detached(&args).ok();
    let (text, fd) = receive(&listener.accept().unwrap().0);
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!((text.as_str(), pid_of(&fd)), ("setns", pid));
}

#[test]
fn exec_goes_into_a_group_below_the_containers() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let Some(folder) = b.group_of("pids") else {
        println!("skipped: needs the pids controller");
        return;
    };
    let v1 = folder.join("tasks").exists();
    std::fs::create_dir(folder.join("below")).unwrap();
    let request = if v1 { "pids:below" } else { "below" };
    let pid_file = b.path("pid");
    let args = [
        "exec",
        "-d",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--cgroup",
        request,
        &b.id,
        "sleep",
        "1000",
    ];
    b.detached(&args).ok();
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let there = std::fs::read_to_string(folder.join("below/cgroup.procs")).unwrap();
    assert_eq!(there.trim(), pid);
    let exec = |request: &str| b.wrun(&["exec", "--cgroup", request, &b.id, "true"]);
    exec("../other").fails("bad sub cgroup path");
    exec("missing").fails(" adding pid ");
    exec("moon:below").fails("unknown controller");
}

#[test]
fn without_a_manager_of_groups_there_are_none() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.write();
    let dir = b.dir.path().to_str().unwrap();
    b.detached(&[
        "--cgroup-manager",
        "disabled",
        "run",
        "-d",
        "-b",
        dir,
        &b.id,
    ])
    .ok();
    assert_eq!(b.group_of("pids"), None);
    assert_eq!(b.exec("exit 4").code, 4);
    b.wrun(&["pause", &b.id]).fails("no control groups");
    b.wrun(&["delete", "-f", &b.id]).ok();
    b.assert_nothing_left();
    b.wrun(&["--cgroup-manager", "moon", "list"])
        .fails("unknown cgroup manager");
}

#[test]
fn the_configuration_may_have_another_name() {
    let Some(mut b) = bundle() else { return };
    b.script("exit 6");
    std::fs::write(b.path("other.json"), b.spec.to_string()).unwrap();
    let dir = b.dir.path().to_str().unwrap();
    let said = b.wrun(&["run", "--config", "other.json", "-b", dir, &b.id]);
    assert_eq!(said.code, 6, "{said:?}");
}

/// A manager's socket, and what is told on it until the process to look after is named.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn of(b: &Bundle) -> Manager {
        let path = b.path("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(30)))
            .unwrap();
        Manager { socket, path }
    }

    fn next(&self) -> String {
        let mut text = [0_u8; 256];
        let length = self.socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }
}

#[test]
fn readiness_reaches_the_service_manager() {
    let Some(mut b) = bundle() else { return };
    let manager = Manager::of(&b);
    // No applet writes to a datagram socket: the test does, from outside.
    b.spec["process"]["args"] = json!(["sh", "-c", "echo $NOTIFY_SOCKET > /tmp/told; sleep 1000"]);
    b.write();
    let dir = b.dir.path().to_str().unwrap();
    let mut child = b
        .direct(&["run", "-d", "-b", dir, &b.id])
        .env("NOTIFY_SOCKET", &manager.path)
        .spawn()
        .unwrap();
    let inside = b.path("state").join(&b.id).join("notify/notify.sock");
    let sender = UnixDatagram::unbound().unwrap();
    crate::harness::until(|| sender.connect(&inside).is_ok());
    sender.send(b"STATUS=warming up").unwrap();
    sender.send(b"STATUS=fine\nREADY=1\n").unwrap();
    assert_eq!(manager.next(), "READY=1");
    assert_eq!(manager.next(), format!("MAINPID={}", b.pid()));
    assert_eq!(manager.next(), "BARRIER=1");
    assert!(child.wait().unwrap().success());
    let told = std::fs::read_to_string(b.path("rootfs/tmp/told")).unwrap();
    assert_eq!(told.trim(), "/run/notify/notify.sock");
}

#[test]
fn listening_sockets_are_passed_on_to_whom_they_are_meant_for() {
    let Some(mut b) = bundle() else { return };
    b.script("echo $LISTEN_FDS $LISTEN_PID; cat <&3").write();
    std::fs::write(b.path("given"), "given").unwrap();
    let run = |pid: &str| {
        let script = format!(
            "LISTEN_FDS=1 LISTEN_PID={pid} exec {} --root {} run -b {} {} 3<{}",
            env!("CARGO_BIN_EXE_wrun"),
            b.path("state").display(),
            b.dir.path().display(),
            b.id,
            b.path("given").display()
        );
        program("sh").args(["-c", &script]).output().unwrap()
    };
    let output = run("$$");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1 1\ngiven",
        "{output:?}"
    );
    let output = run("1");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\n", "{output:?}");
}

#[test]
fn the_log_has_levels() {
    let Some(mut b) = bundle() else { return };
    b.script("true").write();
    let dir = b.dir.path().to_str().unwrap();
    let said = b
        .wrun(&["--log-level", "debug", "run", "-b", dir, &b.id])
        .ok();
    assert!(said.err.contains("level=debug"), "{said:?}");
    let said = b
        .wrun(&["--log-level", "error", "run", "-b", dir, &b.id])
        .ok();
    assert_eq!(said.err, "");
    b.wrun(&["--log-level", "moon", "list"])
        .fails("invalid log-level");
    let log = b.path("log");
    let target = format!("file:{}", log.display());
    b.wrun(&["--log", &target, "state", "nothing"])
        .fails("does not exist");
    assert!(
        std::fs::read_to_string(log)
            .unwrap()
            .contains("level=error")
    );
}
