//! The daemon under a service manager: it serves on the socket that it is given, says that it is
//! ready when it is, and leaves the socket where it was.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use tests::daemon::Daemon;
use tests::wait::LIMIT;

/// systemd's own stand-in for itself: listens, and becomes the program at the first connection.
const ACTIVATE: &str = "systemd-socket-activate";

/// The next thing that is said on a manager's socket.
fn next(manager: &UnixDatagram) -> String {
    let mut text = [0_u8; 4096];
    let length = manager.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .any(|folder| Path::new(folder).join(program).exists())
}

#[test]
fn a_socket_that_was_passed_is_served_and_outlives_the_daemon() {
    if !is_there(ACTIVATE) {
        tests::skipped(ACTIVATE);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("notify");
    let manager = UnixDatagram::bind(&heard).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", heard.display());
    let launcher = [ACTIVATE, "-E", &notify, "-l", "{socket}"];
    let mut daemon = Daemon::setup().launcher(&launcher).start().unwrap();
    let ready = next(&manager);
    assert!(ready.contains("READY=1"), "{ready}");
    let socket = daemon.socket();
    assert!(
        ready.contains(&format!("STATUS=serving CRI on {}", socket.display())),
        "{ready}"
    );

    daemon.terminate().unwrap();
    assert!(next(&manager).contains("STOPPING=1"));
    assert!(socket.exists(), "it is the manager's");
    assert!(
        UnixStream::connect(&socket).is_err(),
        "here the manager went with it"
    );

    // Another one, and what a reset does of it is to end.
    daemon.start().unwrap();
    assert!(next(&manager).contains("READY=1"));
    daemon.finish().unwrap();
}

#[test]
fn all_three_programs_tell_their_versions() {
    let daemon = Daemon::setup().start().unwrap();
    let said = daemon.command(&["--version"]).unwrap().ok().unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "nothing to remark: {said}");
    assert!(lines[0].starts_with("wherryd "), "{said}");
    assert!(
        lines[1].contains("wherry-shim ") && lines[1].contains(", protocol "),
        "{said}"
    );
    assert!(
        lines[2].contains("wrun ") && lines[2].contains(", OCI 1."),
        "{said}"
    );
    daemon.finish().unwrap();
}
