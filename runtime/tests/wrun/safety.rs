//! What a container must not be able to reach.

use std::os::fd::AsRawFd as _;

use serde_json::json;

use crate::harness::{bundle, program};

#[test]
fn no_descriptor_leaks_into_a_waiting_container() {
    let Some(mut b) = bundle() else { return };
    let stray = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    assert!(stray.as_raw_fd() > 2);
    b.script("ls /proc/self/fd").create().ok();
    let folder = format!("/proc/{}/fd", b.pid());
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        assert!(
            number <= 2 || target.ends_with("exec.fifo"),
            "{number} -> {target:?}"
        );
    }
    let said = b.run_again();
    assert_eq!(said.out, "0\n1\n2\n3\n", "3 is that of ls: {said:?}");
}

impl crate::harness::Bundle {
    fn run_again(&mut self) -> crate::harness::Said {
        self.wrun(&["delete", "-f", &self.id]).ok();
        self.run()
    }
}

/// CVE-2024-21626: a working directory through a leaked descriptor.
#[test]
fn the_working_directory_cannot_be_a_descriptor_of_the_host() {
    let Some(mut b) = bundle() else { return };
    std::os::unix::fs::symlink("/proc/self/fd/7", b.path("rootfs/cwd")).unwrap();
    for cwd in [
        "/proc/self/fd/7",
        "/proc/thread-self/fd/7",
        "/proc/1/fd/7/..",
        "/cwd",
    ] {
        b.spec["process"]["cwd"] = json!(cwd);
        b.script("pwd; ls").write();
        for preserved in ["0", "5"] {
            let script = format!(
                "exec 3</ 4</ 5</ 6</ 7</ && exec {} --root {} run --preserve-fds {preserved} -b {} {}",
                env!("CARGO_BIN_EXE_wrun"),
                b.path("state").display(),
                b.dir.path().display(),
                b.id
            );
            let output = program("timeout")
                .args(["60", "sh", "-c", &script])
                .output()
                .unwrap();
            assert!(!output.status.success(), "{cwd}: {output:?}");
        }
        b.assert_nothing_left();
    }
    b.spec["process"]["cwd"] = json!("/");
    b.start_sleeping();
    for number in 3..20 {
        let cwd = format!("/proc/self/fd/{number}");
        let said = b.wrun(&["exec", "--cwd", &cwd, &b.id, "pwd"]);
        assert!(said.code != 0 && said.out.is_empty(), "{cwd}: {said:?}");
    }
}

/// CVE-2022-29162: further processes get no inheritable capabilities.
#[test]
fn exec_gives_no_inheritable_capabilities() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let said = b
        .wrun(&[
            "exec",
            "-c",
            "CAP_NET_RAW",
            &b.id,
            "grep",
            "CapInh",
            "/proc/self/status",
        ])
        .ok();
    assert!(said.out.trim().ends_with("0000000000000000"), "{said:?}");
}

/// CVE-2022-27650: nor does the first process.
#[test]
fn run_gives_no_inheritable_capabilities() {
    let Some(mut b) = bundle() else { return };
    let said = b
        .script("grep -e CapInh -e CapAmb /proc/self/status")
        .run()
        .ok();
    let empty = said
        .out
        .lines()
        .filter(|line| line.ends_with("\t0000000000000000"));
    assert_eq!(empty.count(), 2, "{said:?}");
}

/// CVE-2026-30892: a user that cannot be read is not root.
#[test]
fn a_user_that_is_no_number_is_refused() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    for user in [
        "",
        ":",
        "1000x",
        "x",
        "0x0",
        " 0",
        "0 ",
        "+0",
        "-1",
        "root",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1000:",
        "1000:x",
        ":0",
        "1:2:3",
        "1000:-1",
        "1e3",
        "\u{0661}",
    ] {
        let said = b.wrun(&["exec", "--user", user, &b.id, "id", "-u"]);
        assert!(said.code != 0 && said.out.is_empty(), "{user:?}: {said:?}");
    }
    let said = b.wrun(&["exec", "--user", "1000:7", &b.id, "id"]).ok();
    assert!(said.out.starts_with("uid=1000 gid=7"), "{said:?}");
}

/// A container's `/etc/passwd` is read to find a home: it must not keep the one who reads.
#[test]
fn a_passwd_without_an_end_keeps_nobody() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    for passwd in [
        "rm -f /etc/passwd; mkfifo /etc/passwd",
        "rm /etc/passwd; ln -s /dev/zero /etc/passwd",
    ] {
        b.exec(passwd).ok();
        let said = b.exec("echo $HOME").ok();
        assert_eq!(said.out, "/\n", "{passwd}");
    }
}

#[test]
fn preserved_descriptors_arrive_and_missing_ones_are_an_error() {
    let Some(mut b) = bundle() else { return };
    b.script("cat /proc/self/fd/3").write();
    std::fs::write(b.path("given"), "given").unwrap();
    let run = |extra: &str| {
        let script = format!(
            "exec {extra} timeout 60 {} --root {} run --preserve-fds 1 -b {} {}",
            env!("CARGO_BIN_EXE_wrun"),
            b.path("state").display(),
            b.dir.path().display(),
            b.id
        );
        program("sh").args(["-c", &script]).output().unwrap()
    };
    let output = run(&format!("3<{}", b.path("given").display()));
    assert_eq!(output.stdout, b"given", "{output:?}");
    let output = run("3<&-");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("preserved-fd 3"),
        "{output:?}"
    );
}
