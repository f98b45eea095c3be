//! What a container may not: capabilities, seccomp, no_new_privs, privileged.

use tests::engines::Engine;

use crate::SERVICE;

/// The value of a field in /proc/self/status.
fn field(name: &str) -> String {
    format!("sed -n 's/^{name}:[[:space:]]*//p' /proc/self/status")
}

pub(crate) fn capabilities(engine: &Engine) {
    let all = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(field)
        .join("; ");
    let flags = ["--cap-drop", "ALL", "--cap-add", "NET_RAW"];
    let raw = "0000000000002000";
    let none = "0000000000000000";
    let expect = [none, raw, raw, raw, none].join("\n");
    assert_eq!(engine.output(&flags, &all).unwrap(), expect);
    let container = engine.detached(&flags, SERVICE).unwrap();
    assert_eq!(container.output(&all).unwrap(), expect, "of exec");
    // Of an ordinary user only the bounding set is left.
    let said = engine
        .output(&["--user", "1000"], &field("CapEff"))
        .unwrap();
    assert_eq!(said, none);
    let refused = engine
        .run(&["--cap-drop", "CHOWN"], "chown 1 /tmp")
        .unwrap();
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{}",
        refused.stderr
    );
}

pub(crate) fn no_new_privileges(engine: &Engine) {
    let flags = ["--security-opt", "no-new-privileges"];
    let container = engine.detached(&flags, SERVICE).unwrap();
    assert_eq!(engine.output(&flags, &field("NoNewPrivs")).unwrap(), "1");
    assert_eq!(container.output(&field("NoNewPrivs")).unwrap(), "1");
    assert_eq!(engine.output(&[], &field("NoNewPrivs")).unwrap(), "0");
}

pub(crate) fn seccomp_as_the_engine_has_it(engine: &Engine) {
    let container = engine.detached(&[], SERVICE).unwrap();
    let refused = "unshare -m true 2>&1; true";
    for said in [
        engine
            .output(&[], &format!("{}; {refused}", field("Seccomp")))
            .unwrap(),
        container
            .output(&format!("{}; {refused}", field("Seccomp")))
            .unwrap(),
    ] {
        assert!(
            said.starts_with("2\n") && said.contains("Operation not permitted"),
            "{said}"
        );
    }
    let open = ["--security-opt", "seccomp=unconfined"];
    assert_eq!(engine.output(&open, &field("Seccomp")).unwrap(), "0");
}

/// mkdir is refused with EXDEV, everything else is allowed.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]}"#;

pub(crate) fn seccomp_profile_of_the_operator(engine: &Engine) {
    let file = engine.scratch().join("profile.json");
    std::fs::write(&file, PROFILE).unwrap();
    let option = format!("seccomp={}", file.display());
    let flags = ["--security-opt", option.as_str()];
    let script = "mkdir /tmp/a 2>&1; true";
    assert!(
        engine
            .output(&flags, script)
            .unwrap()
            .contains("Invalid cross-device link")
    );
    let container = engine.detached(&flags, SERVICE).unwrap();
    assert!(
        container
            .output(script)
            .unwrap()
            .contains("Invalid cross-device link")
    );
}

pub(crate) fn privileged(engine: &Engine) {
    let script = format!(
        "{}; {}; test -c /dev/kmsg && mount -t tmpfs x /mnt 2>&1 || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted",
        field("CapEff"),
        field("Seccomp")
    );
    let said = engine.output(&["--privileged"], &script).unwrap();
    let bounding = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = bounding
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t"))
        .unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        (lines[0], lines[1], lines.last()),
        (bounding, "0", Some(&"mounted")),
        "{said}"
    );
    let container = engine.detached(&["--privileged"], SERVICE).unwrap();
    assert_eq!(container.output(&field("CapEff")).unwrap(), bounding);
    let exec = engine.detached(&[], SERVICE).unwrap();
    let said = exec.exec(&["--privileged"], &field("CapEff")).unwrap();
    assert_eq!(said.stdout.trim(), bounding);
}
