//! The configuration: what the operator's commands say of it, and what a reload takes over.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tests::{Daemon, process, wait};

/// What the daemon logs at the end of a reload that went well.
pub(crate) const READ_AGAIN: &str = "reload: the configuration was read again";

/// Has the daemon read its configuration again.
pub(crate) fn reload(daemon: &Daemon) {
    let pid = daemon.pid().unwrap().to_string();
    process::ok(process::bounded("kill").args(["-HUP", &pid])).unwrap();
}

/// Waits until the log has `text`, `times` over.
pub(crate) fn wait_for_log(daemon: &Daemon, text: &str, times: usize) {
    wait::until(text, || {
        (daemon.log().matches(text).count() >= times).then_some(())
    })
    .unwrap();
}

/// The next thing that is said on a manager's socket.
fn next(manager: &UnixDatagram) -> String {
    let mut text = [0_u8; 4096];
    let length = manager.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// Puts a file beside the configuration, to be read on top of it.
pub(crate) fn drop_in(daemon: &Daemon, text: &str) -> PathBuf {
    let folder = daemon.scratch().join("config.d");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("50-test.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_reload_takes_over_what_can_change_and_names_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("notify");
    let manager = UnixDatagram::bind(&heard).unwrap();
    manager.set_read_timeout(Some(wait::LIMIT)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", heard.display());
    let setup = Daemon::setup().launcher(&["env", &notify]);
    let daemon = setup.start().unwrap();
    assert!(next(&manager).starts_with("READY=1"));
    let path = drop_in(
        &daemon,
        "default_runtime = \"wrun\"\n[log]\nlevel = \"debug\"\n[network]\ncni_conf_dir = \"/x\"\n",
    );
    reload(&daemon);
    wait_for_log(&daemon, READ_AGAIN, 1);
    let begun = next(&manager);
    assert!(begun.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begun}");
    let ended = next(&manager);
    assert!(
        ended.contains("READY=1") && ended.contains("read again"),
        "{ended}"
    );
    let log = daemon.log();
    assert!(log.contains("keys=[\"log.level\"]"), "{log}");
    assert!(
        log.contains("these keys wait for the next start keys=[\"network.cni_conf_dir\"]"),
        "{log}"
    );

    fs::write(&path, "[log]\nlevle = \"off\"\n").unwrap();
    reload(&daemon);
    wait_for_log(
        &daemon,
        "the configuration is refused; all stays as it was",
        1,
    );
    let log = daemon.log();
    assert!(
        log.contains("line 2: unknown key log.levle; did you mean log.level?"),
        "{log}"
    );
    let _served = daemon.client().unwrap();

    assert!(next(&manager).starts_with("RELOADING=1"));
    let ended = next(&manager);
    assert!(
        ended.contains("READY=1") && ended.contains("was refused"),
        "{ended}"
    );

    // Nothing of the refused one was taken over: the level goes back from debug, not from off.
    fs::remove_file(&path).unwrap();
    reload(&daemon);
    wait_for_log(&daemon, READ_AGAIN, 2);
    daemon.finish().unwrap();
}

#[test]
fn the_commands_say_what_holds_and_why() {
    let daemon = Daemon::setup().start().unwrap();
    let path = drop_in(&daemon, "# more\n[limits]\nlog = \"1Mi\"\n");
    let shown = daemon.command(&["config"]).unwrap();
    let line = shown
        .stdout
        .lines()
        .find(|line| line.starts_with("limits.log "));
    let words: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[1..], ["\"1Mi\"", &format!("{}:3", path.display())]);

    let shown = daemon.command(&["config", "--json"]).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let root = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["key"] == "root");
    assert_eq!(root.unwrap()["origin"]["flag"], "--root");
    assert_eq!(root.unwrap()["default"], "/var/lib/wherry");

    let file = daemon.scratch().join("other");
    let file = file.to_str().unwrap();
    fs::write(file, "[images]\nlayer_form = \"erofs\"\n").unwrap();
    let good = daemon.command(&["config", "check", file]).unwrap();
    assert_eq!(good.stdout, format!("{file}: in order, 1 keys\n"));
    fs::write(file, "[images]\n\nlayer_form = \"tar\"\n").unwrap();
    let bad = daemon.command(&["config", "check", file]).unwrap();
    assert_eq!(bad.code, 1);
    assert!(
        bad.stderr
            .contains("line 3: images.layer_form: \"tar\" is none of"),
        "{}",
        bad.stderr
    );
    daemon.finish().unwrap();
}
