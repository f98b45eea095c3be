//! Hooks at their six moments.

use serde_json::{Value, json};

use crate::harness::{Bundle, bundle};

fn hook(b: &Bundle, name: &str) -> Value {
    let script = format!("cat > {}/{name}.json", b.dir.path().display());
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }])
}

#[test]
fn hooks_run_with_the_state() {
    let Some(mut b) = bundle() else { return };
    let inner = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/started.json"], "env": ["PATH=/bin"] }]);
    b.spec["hooks"] = json!({
        "prestart": hook(&b, "prestart"), "createRuntime": hook(&b, "createRuntime"),
        "createContainer": hook(&b, "createContainer"), "startContainer": inner,
        "poststart": hook(&b, "poststart"), "poststop": hook(&b, "poststop"),
    });
    b.start_sleeping();
    let pid = b.pid();
    b.wrun(&["delete", "-f", &b.id]).ok();
    let read = |path: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(b.path(path)).unwrap()).unwrap()
    };
    for (name, status, pid) in [
        ("prestart", "creating", pid),
        ("createRuntime", "creating", pid),
        ("createContainer", "creating", 1),
        ("poststart", "running", pid),
        ("poststop", "stopped", 0),
    ] {
        let state = read(&format!("{name}.json"));
        assert_eq!(state["id"], json!(b.id), "{name}");
        assert_eq!(
            (&state["status"], &state["pid"]),
            (&json!(status), &json!(pid)),
            "{name}"
        );
    }
    assert_eq!(read("rootfs/tmp/started.json")["status"], "created");
}

#[test]
fn a_hook_that_fails_ends_the_creation() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let Some(mut b) = bundle() else { return };
        b.spec["hooks"] = json!({ kind: [{ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] }] });
        b.create()
            .fails(&format!("error running {kind} hook #0: exit status 3"));
        b.assert_nothing_left();
    }
}

#[test]
fn a_hook_has_a_time_limit() {
    let Some(mut b) = bundle() else { return };
    b.spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }] });
    b.create().fails("timeout of 1 s");
    b.assert_nothing_left();
}

#[test]
fn a_failing_poststart_hook_stops_the_container() {
    let Some(mut b) = bundle() else { return };
    b.spec["hooks"] = json!({ "poststart": [{ "path": "/bin/false" }] });
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.create().ok();
    b.wrun(&["start", &b.id])
        .fails("error running poststart hook #0");
    b.assert_nothing_left();
    b.run().fails("error running poststart hook #0");
    b.assert_nothing_left();
}

#[test]
fn failing_poststop_hooks_are_told_and_nothing_more() {
    let Some(mut b) = bundle() else { return };
    let touch = format!("touch {}/second", b.dir.path().display());
    b.spec["hooks"] = json!({ "poststop": [
        { "path": "/bin/false" },
        { "path": "/bin/sh", "args": ["sh", "-c", touch] },
    ]});
    let said = b.script("true").run().ok();
    assert!(
        said.err.contains("error running poststop hook #0"),
        "{said:?}"
    );
    assert!(b.path("second").exists());
    b.assert_nothing_left();
}

#[test]
fn create_container_hooks_see_the_mounts_of_the_container() {
    let Some(mut b) = bundle() else { return };
    let script = format!(
        "test -e {}/rootfs/proc/self && test -n \"$PATH\"",
        b.dir.path().display()
    );
    b.spec["hooks"] =
        json!({ "createContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    b.script("test ! -e /etc/debian_version").run().ok();
    b.assert_nothing_left();
}
