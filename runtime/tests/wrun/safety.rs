//! What a container must not be able to reach.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::harness::bundle;

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

/// CVE-2019-5736: the program's file as a container's process sees it.
#[test]
fn the_runtime_cannot_be_overwritten_from_inside() {
    let Some(mut b) = bundle() else { return };
    b.script("true").create().ok();
    let exe = format!("/proc/{}/exe", b.pid());
    let opened = std::fs::OpenOptions::new().write(true).open(exe);
    assert!(
        opened.is_err(),
        "the waiting process shows a file that can be written"
    );
    b.wrun(&["delete", "-f", &b.id]).ok();
    // As the entrypoint: it would execute the runtime inside of the container.
    std::os::unix::fs::symlink("/proc/self/exe", b.path("rootfs/bin/self")).unwrap();
    b.spec["process"]["args"] = json!(["/bin/self", "--version"]);
    let before = std::fs::metadata(env!("CARGO_BIN_EXE_wrun")).unwrap();
    b.run();
    let after = std::fs::metadata(env!("CARGO_BIN_EXE_wrun")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

/// CVE-2024-21626: a working directory through a leaked descriptor.
#[test]
fn the_working_directory_cannot_be_a_descriptor_of_the_host() {
    let Some(mut b) = bundle() else { return };
    for number in 3..20 {
        b.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let said = b.script("pwd; ls").create();
        assert!(said.code != 0, "{number}: {said:?}");
        b.assert_nothing_left();
    }
}

/// CVE-2016-9962: a process on its way in cannot be traced from inside.
#[test]
fn a_process_on_its_way_in_is_not_dumpable() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    b.script("true").create().ok();
    // proc(5): the files of a process that may not be traced belong to root whoever it runs as.
    let files = std::fs::metadata(format!("/proc/{}/environ", b.pid())).unwrap();
    assert_eq!(files.uid(), 0);
    b.wrun(&["start", &b.id]).ok();
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

/// CVE-2025-52565: something else under the name of the terminal.
#[test]
fn a_false_devpts_is_refused() {
    let Some(mut b) = bundle() else { return };
    let path = b.path("tty.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    b.spec["process"]["terminal"] = json!(true);
    b.spec["mounts"][2] = json!({ "destination": "/dev/pts", "type": "tmpfs", "source": "t" });
    b.spec["linux"]["devices"] =
        json!([{ "path": "/dev/pts/ptmx", "type": "c", "major": 1, "minor": 3 }]);
    b.write();
    let args = [
        "create",
        "--console-socket",
        path.to_str().unwrap(),
        "-b",
        b.dir.path().to_str().unwrap(),
        &b.id,
    ];
    b.detached(&args).fails("is not that of a devpts");
    b.assert_nothing_left();
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
        crate::harness::program("sh")
            .args(["-c", &script])
            .output()
            .unwrap()
    };
    let output = run(&format!("3<{}", b.path("given").display()));
    assert_eq!(output.stdout, b"given", "{output:?}");
    let output = run("3<&-");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("preserved-fd 3"),
        "{output:?}"
    );
}
