//! Terminals: over a console socket, and in the foreground.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::harness::bundle;

pub(crate) fn receive(listener: &UnixListener) -> (String, std::fs::File) {
    let (connection, _) = listener.accept().unwrap();
    let mut text = [0_u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        &connection,
        &mut [IoSliceMut::new(&mut text)],
        &mut beside,
        RecvFlags::empty(),
    );
    let length = got.unwrap().bytes;
    let fds: Vec<OwnedFd> = beside
        .drain()
        .filter_map(|m| {
            if let RecvAncillaryMessage::ScmRights(fds) = m {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    let master = fds.into_iter().next().unwrap();
    (
        String::from_utf8_lossy(&text[..length]).into_owned(),
        master.into(),
    )
}

/// Reads until the text has come.
pub(crate) fn read_until(master: &mut std::fs::File, text: &str) -> String {
    let mut all = String::new();
    let mut chunk = [0_u8; 256];
    while !all.contains(text) {
        let got = master.read(&mut chunk).unwrap_or(0);
        assert!(got > 0, "{all:?} lacks {text:?}");
        all.push_str(&String::from_utf8_lossy(&chunk[..got]));
    }
    all
}

#[test]
fn the_console_socket_gets_the_master() {
    let Some(mut b) = bundle() else { return };
    let path = b.path("tty.sock");
    let listener = UnixListener::bind(&path).unwrap();
    b.spec["process"]["terminal"] = json!(true);
    b.spec["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    b.script("tty; test -t 0 && echo terminal; echo hi > /dev/console; head -n 1 > /tmp/in; ls -l /proc/self/fd >/tmp/fds; sleep 1000").write();
    let socket = path.to_str().unwrap();
    let args = [
        "create",
        "--console-socket",
        socket,
        "-b",
        b.dir.path().to_str().unwrap(),
        &b.id,
    ];
    b.detached(&args).ok();
    let (name, mut master) = receive(&listener);
    assert!(name.starts_with("/dev/pts/"), "{name}");
    b.wrun(&["start", &b.id]).ok();
    let text = read_until(&mut master, "hi\r\n");
    assert!(
        text.contains("/dev/console") || text.contains("/dev/pts/0"),
        "{text}"
    );
    assert!(text.contains("terminal"), "{text}");
    let size = rustix::termios::tcgetwinsize(&master).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 77));
    master.write_all(b"typed\n").unwrap();
    read_until(&mut master, "typed");
    let said = b.wrun(&["exec", "-d", "-t", &b.id, "true"]);
    said.fails("without setting console socket");
    let args = [
        "exec",
        "-d",
        "-t",
        "--console-socket",
        socket,
        &b.id,
        "sh",
        "-c",
        "tty; echo second",
    ];
    b.detached(&args).ok();
    let (_, mut second) = receive(&listener);
    read_until(&mut second, "second");
}

#[test]
fn a_terminal_and_a_socket_belong_together() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["terminal"] = json!(true);
    b.create()
        .fails("cannot allocate tty if runc will detach without setting console socket");
    b.spec["process"]["terminal"] = json!(false);
    b.write();
    let path = b.path("tty.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let args = [
        "create",
        "--console-socket",
        path.to_str().unwrap(),
        "-b",
        b.dir.path().to_str().unwrap(),
        &b.id,
    ];
    b.detached(&args).fails("cannot use console socket");
    b.assert_nothing_left();
}

#[test]
fn in_the_foreground_output_passes_through() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["terminal"] = json!(true);
    let said = b.script("test -t 1 && echo on a terminal; exit 5").run();
    assert_eq!(
        (said.code, said.out.as_str()),
        (5, "on a terminal\r\n"),
        "{said:?}"
    );
    b.assert_nothing_left();
}
