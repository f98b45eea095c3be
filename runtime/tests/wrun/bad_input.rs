//! What makes no sense is refused by name, and leaves nothing.

use serde_json::{Value, json};

use crate::harness::{Bundle, bundle};

fn check(change: impl FnOnce(&mut Value), expect: &str) {
    let Some(mut b) = bundle() else { return };
    change(&mut b.spec);
    b.create().fails(expect);
    b.assert_nothing_left();
}

#[test]
fn a_configuration_that_is_not_json() {
    let Some(b) = bundle() else { return };
    let create = |b: &Bundle| b.detached(&["create", "-b", b.dir.path().to_str().unwrap(), &b.id]);
    create(&b).fails("config.json: no such file or directory");
    std::fs::write(b.path("config.json"), "{ moon").unwrap();
    create(&b).fails("parse ").fails("line 1");
    std::fs::write(b.path("config.json"), "7").unwrap();
    create(&b).fails("parse ");
    std::fs::write(b.path("config.json"), "{}").unwrap();
    create(&b).fails("is missing");
    b.assert_nothing_left();
}

#[test]
fn a_bundle_that_is_not_there() {
    let Some(b) = bundle() else { return };
    b.wrun(&["create", "-b", "/no/such/bundle", "x"])
        .fails("no such file or directory");
}

#[test]
fn programs_that_cannot_be_executed_fail_create() {
    check(
        |spec| spec["process"]["args"] = json!(["moon"]),
        "exec: \"moon\": executable file not found in $PATH",
    );
    check(
        |spec| spec["process"]["args"] = json!(["/bin/moon"]),
        "exec: \"/bin/moon\": stat /bin/moon: no such file or directory",
    );
    check(
        |spec| spec["process"]["args"] = json!(["/bin"]),
        "exec: \"/bin\": is a directory",
    );
    check(
        |spec| spec["process"]["args"] = json!(["/etc/f"]),
        "no such file",
    );
    check(
        |spec| spec["process"]["args"] = json!([]),
        "process.args is empty",
    );
}

#[test]
fn a_program_without_permission() {
    let Some(mut b) = bundle() else { return };
    std::fs::write(b.path("rootfs/etc/f"), "x").unwrap();
    b.spec["process"]["args"] = json!(["/etc/f"]);
    b.create().fails("exec: \"/etc/f\": permission denied");
    b.assert_nothing_left();
}

#[test]
fn things_that_do_not_exist_are_named() {
    check(|spec| spec["root"]["path"] = json!("moon"), "moon");
    let bind =
        json!({ "destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"] });
    check(
        |spec| spec["mounts"].as_array_mut().unwrap().push(bind),
        "/no/such",
    );
    let odd = json!({ "destination": "/x", "type": "moonfs", "source": "x" });
    check(
        |spec| spec["mounts"].as_array_mut().unwrap().push(odd),
        "moonfs",
    );
    let option =
        json!({ "destination": "/x", "type": "tmpfs", "source": "x", "options": ["moon=1"] });
    check(
        |spec| spec["mounts"].as_array_mut().unwrap().push(option),
        "moon",
    );
    let namespace = json!({ "type": "network", "path": "/no/such/netns" });
    check(
        |spec| spec["linux"]["namespaces"][4] = namespace,
        "/no/such/netns",
    );
}

#[test]
fn a_namespace_of_another_kind() {
    check(
        |spec| {
            spec["linux"]["namespaces"][4] =
                json!({ "type": "network", "path": "/proc/self/ns/uts" })
        },
        "join the network namespace",
    );
}

#[test]
fn values_of_the_wrong_kind() {
    check(|spec| spec["process"]["cwd"] = json!("tmp"), "absolute");
    check(
        |spec| spec["process"]["user"]["uid"] = json!("root"),
        "parse ",
    );
    check(
        |spec| spec["process"]["rlimits"] = json!([{ "type": "MOON", "soft": 1, "hard": 1 }]),
        "MOON",
    );
    check(
        |spec| spec["linux"]["sysctl"] = json!({ "vm.swappiness": "1" }),
        "vm.swappiness",
    );
    check(
        |spec| spec["linux"]["seccomp"] = json!({ "defaultAction": "MOON" }),
        "seccomp",
    );
    check(
        |spec| spec["linux"]["resources"] = json!({ "pids": { "limit": "x" } }),
        "resources",
    );
    check(
        |spec| spec["linux"]["cgroupsPath"] = json!("/a/../b"),
        "cgroup",
    );
}

#[test]
fn ids_are_file_names() {
    let Some(b) = bundle() else { return };
    b.write();
    for id in ["../x", "a/b", ".", "..", "a b"] {
        let args = ["create", "-b", b.dir.path().to_str().unwrap(), id];
        b.detached(&args).fails("invalid container id format");
        b.wrun(&["delete", "--force", id])
            .fails("invalid container id format");
    }
    b.wrun(&["state", ""]).fails("cannot be empty");
    b.assert_nothing_left();
}

#[test]
fn an_id_is_used_once() {
    let Some(b) = bundle() else { return };
    b.create().ok();
    b.create().fails("container with given ID already exists");
    assert_eq!(b.status(), "created");
}

#[test]
fn command_lines_that_make_no_sense() {
    let Some(b) = bundle() else { return };
    assert_eq!(b.wrun(&["moon"]).fails("No help topic for 'moon'").code, 3);
    let said = b
        .wrun(&["create", "--moon", "x"])
        .fails("flag provided but not defined: -moon");
    assert!(
        said.code == 1 && said.out.starts_with("Incorrect Usage."),
        "{said:?}"
    );
    b.wrun(&["--log-format", "xml", "list"])
        .fails("invalid log-format: xml");
    b.wrun(&["--systemd-cgroup", "create", "-b", "/", "x"])
        .fails("");
    assert_eq!(
        b.wrun(&["exec", "none", "true"])
            .fails("container does not exist")
            .code,
        255
    );
    b.wrun(&["list"]).fails("no such file or directory");
}

#[test]
fn errors_are_also_in_the_json_log() {
    let Some(b) = bundle() else { return };
    let log = b.path("log.json");
    let args = [
        "--log",
        log.to_str().unwrap(),
        "--log-format=json",
        "state",
        "none",
    ];
    b.wrun(&args).fails("container does not exist");
    let text = std::fs::read_to_string(log).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container does not exist");
    assert!(line["time"].is_string());
}
