//! `wherryd check`: what it says of the host that the tests run on, which can run pods.

use serde_json::Value;
use tests::daemon::Daemon;

/// The findings of one subject, as weight and words.
fn of(findings: &Value, subject: &str) -> Vec<(String, String)> {
    let all = findings["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["subject"] == subject)
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            (text("weight"), text("found"))
        })
        .collect()
}

#[test]
fn the_host_is_told_with_cures_and_stays_as_it_is() {
    let mut daemon = Daemon::setup().start().unwrap();
    let look = |daemon: &Daemon, code: i32| -> Value {
        let said = daemon.command(&["check", "--json"]).unwrap();
        assert_eq!(said.code, code, "{said:?}");
        serde_json::from_str(&said.stdout).unwrap()
    };
    let found = look(&daemon, 0);
    assert_ne!(found["verdict"], "failure", "{found}");
    assert_eq!(of(&found, "overlay")[0].0, "good");
    let socket = daemon.socket().display().to_string();
    let own = |found: &Value| {
        let mut engines = of(found, "engines").into_iter();
        engines.find(|(_, text)| text.contains(&socket)).unwrap().0
    };
    assert_eq!(own(&found), "good", "it answers");
    let root = daemon.root().display().to_string();
    assert!(of(&found, "disk")[0].1.contains(&root), "{found}");

    daemon.kill();
    assert_eq!(own(&look(&daemon, 0)), "note", "it was killed");

    let said = daemon.command(&["check"]).unwrap();
    let last = said.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("this host can run pods: 0 failures"),
        "{last}"
    );
    daemon.start().unwrap();
    daemon.finish().unwrap();
}

#[test]
fn an_address_that_is_taken_is_a_failure() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let lines = format!("[streaming]\naddress = \"{taken}\"\n");
    // A daemon cannot start so: its setup must be tried by hand.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let program = tests::daemon::programs().join("wherryd");
    let mut command = tests::process::bounded(program);
    command.arg("--config").arg(file.path()).arg("check");
    let said = tests::process::run(&mut command).unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains(&taken.to_string()), "{said:?}");
    assert!(
        said.stdout.contains("-> another streaming.address"),
        "{said:?}"
    );
    let last = said.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("this host cannot run pods: 1 failures"),
        "{last}"
    );
}
