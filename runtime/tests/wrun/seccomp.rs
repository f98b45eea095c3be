//! System call filters, on the first process and on further ones.

use serde_json::json;

use crate::harness::bundle;

fn profile() -> serde_json::Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
    })
}

#[test]
fn filters_hold_for_all_processes() {
    for no_new_privileges in [false, true] {
        let Some(mut b) = bundle() else { return };
        b.spec["linux"]["seccomp"] = profile();
        b.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        b.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        let probe = "mkdir /tmp/x; grep -e ^Seccomp: -e NoNewPrivs /proc/self/status";
        let said = b.script(probe).run().ok();
        let expect = format!(
            "NoNewPrivs:\t{}\nSeccomp:\t2\n",
            u8::from(no_new_privileges)
        );
        assert!(
            said.out == expect && said.err.contains("not supported"),
            "{said:?}"
        );
        b.start_sleeping();
        let said = b.exec(probe).ok();
        assert!(
            said.out == expect && said.err.contains("not supported"),
            "{said:?}"
        );
    }
}

#[test]
fn a_filter_that_ends_the_process_fails_create() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [],
    });
    b.create().fails("was killed");
    b.assert_nothing_left();
}

#[test]
fn write_cannot_be_handed_to_an_agent() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/none",
        "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_NOTIFY" }],
    });
    b.create()
        .fails("SCMP_ACT_NOTIFY cannot be used for the write syscall");
    b.assert_nothing_left();
}

#[test]
fn an_agent_gets_the_listener() {
    use std::io::Read as _;
    let Some(mut b) = bundle() else { return };
    let path = b.path("agent.sock");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
    });
    b.create().ok();
    let (mut connection, _) = agent.accept().unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&state["metadata"], &state["fds"][0]),
        (&json!("m"), &json!("seccompFd"))
    );
    assert_eq!(state["state"]["id"], json!(b.id));
    assert_eq!(state["pid"], json!(b.pid()));
}

#[test]
fn a_missing_agent_is_an_error() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/agent",
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
    });
    b.create().fails("failed to connect with seccomp agent");
    b.assert_nothing_left();
}
