//! Things of the container's under the names of things of the kernel's: procfs, `/dev/null`, the
//! terminal (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881, CVE-2025-31133,
//! CVE-2025-52565).

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Bundle, bundle, program};

/// Files that a writer of labels or parameters would open by path.
const FILES: [&str; 6] = [
    "self/attr/exec",
    "self/attr/apparmor/exec",
    "thread-self/attr/exec",
    "thread-self/attr/apparmor/exec",
    "sys/net/ipv4/ip_forward",
    "sys/kernel/domainname",
];

/// A folder with [`FILES`], all empty.
fn false_procfs(b: &Bundle) {
    for file in FILES {
        let path = b.path("false").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

#[track_caller]
fn assert_untouched(b: &Bundle) {
    for file in FILES {
        let text = fs::read_to_string(b.path("false").join(file)).unwrap();
        assert_eq!(text, "", "{file} was written to");
    }
}

/// The container's `/proc` is a folder of the attacker's, the real one is elsewhere.
fn shadowed() -> Option<Bundle> {
    let mut b = bundle()?;
    false_procfs(&b);
    b.spec["mounts"][0] = json!({ "destination": "/real", "type": "proc", "source": "proc" });
    let lie = json!({ "destination": "/proc", "type": "bind", "source": b.path("false"),
        "options": ["bind"] });
    b.mount(lie);
    Some(b)
}

#[test]
fn parameters_reach_the_kernel_and_not_a_false_procfs() {
    let Some(mut b) = shadowed() else { return };
    b.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    let said = b.script("cat /real/sys/net/ipv4/ip_forward").run();
    // Whether such a /proc is mounted at all is a choice; that nothing is written to it is not.
    assert!(said.out == "1\n" || said.err.contains("/proc"), "{said:?}");
    assert_untouched(&b);
}

#[test]
fn labels_reach_the_kernel_or_nobody() {
    for (field, value) in [
        ("apparmorProfile", "wrun-no-such-profile"),
        ("selinuxLabel", "system_u:system_r:wrun_no_such_t:s0"),
    ] {
        let Some(mut b) = shadowed() else { return };
        b.spec["process"][field] = json!(value);
        // No kernel has this profile or label: that the container starts would mean that the label
        // went somewhere else.
        assert_ne!(b.script("true").run().code, 0, "{field}");
        assert_untouched(&b);
        b.assert_nothing_left();
    }
}

/// The same by a process that is in the container already and may mount.
#[test]
fn labels_of_further_processes_too() {
    let Some(mut b) = bundle() else { return };
    b.with_all_capabilities();
    b.start_sleeping();
    let lie = "mkdir -p /tmp/a/self/attr/apparmor /tmp/a/thread-self/attr/apparmor && cd /tmp/a && \
        for f in self/attr thread-self/attr; do : >$f/exec; : >$f/apparmor/exec; done && \
        mount -o bind /tmp/a /proc";
    b.exec(lie).ok();
    for flag in [
        ["--apparmor", "wrun-no-such-profile"],
        ["--process-label", "system_u:system_r:wrun_no_such_t:s0"],
    ] {
        let said = b.wrun(&["exec", flag[0], flag[1], &b.id, "true"]);
        assert_ne!(said.code, 0, "{flag:?}: {said:?}");
    }
    let script = "cd /tmp/a && cat */attr/exec */attr/apparmor/exec";
    assert_eq!(b.exec(script).ok().out, "");
}

/// On the host, as one container's mount could show it to the making of the next.
#[test]
fn parameters_do_not_go_through_what_is_mounted_over_procfs() {
    let Some(mut b) = bundle() else { return };
    false_procfs(&b);
    b.spec["linux"]["sysctl"] = json!({ "kernel.domainname": "false.example" });
    b.script("true").write();
    let lie = b.path("false/sys/kernel/domainname");
    let said = b.run_after(&format!(
        "mount --bind {} /proc/sys/kernel/domainname",
        lie.display()
    ));
    assert!(
        said.code != 0 && said.err.contains("kernel/domainname"),
        "{said:?}"
    );
    assert_untouched(&b);
}

#[test]
fn masks_are_the_hosts_null_device_whatever_the_image_has() {
    let Some(mut b) = bundle() else { return };
    fs::create_dir(b.path("rootfs/dev")).unwrap();
    symlink("/etc/passwd", b.path("rootfs/dev/null")).unwrap();
    fs::write(b.path("rootfs/etc/passwd"), "secret\n").unwrap();
    fs::write(b.path("rootfs/etc/key"), "key\n").unwrap();
    b.spec["mounts"].as_array_mut().unwrap().truncate(1);
    b.spec["linux"]["maskedPaths"] = json!(["/etc/key", "/proc/version"]);
    let said = b
        .script("stat -c %t:%T /etc/key /proc/version; cat /etc/key")
        .run()
        .ok();
    assert_eq!(said.out, "1:3\n1:3\n");
}

#[test]
fn a_false_null_device_of_the_host_is_refused() {
    let Some(mut b) = bundle() else { return };
    fs::write(b.path("key"), "").unwrap();
    b.spec["linux"]["maskedPaths"] = json!(["/proc/version"]);
    b.script("true").write();
    let said = b.run_after(&format!(
        "mount --bind {} /dev/null",
        b.path("key").display()
    ));
    assert!(said.err.contains("is not the null device"), "{said:?}");
}

impl Bundle {
    /// `run` behind something that is done in a mount namespace of its own.
    fn run_after(&self, script: &str) -> crate::harness::Said {
        let script = format!(
            "mount --make-rprivate / && {script} && exec {} --root {} run -b {} {}",
            env!("CARGO_BIN_EXE_wrun"),
            self.path("state").display(),
            self.dir.path().display(),
            self.id,
        );
        let output = program("timeout")
            .args(["60", "unshare", "-m", "sh", "-c", &script])
            .output()
            .unwrap();
        crate::harness::Said::of(&output)
    }

    /// `create` with a console socket that takes the master and forgets it.
    fn create_with_terminal(&mut self) -> crate::harness::Said {
        let path = self.path("tty.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        self.spec["process"]["terminal"] = json!(true);
        self.write();
        self.detached(&[
            "create",
            "--console-socket",
            path.to_str().unwrap(),
            "-b",
            self.dir.path().to_str().unwrap(),
            &self.id,
        ])
    }
}

/// A device under the terminal multiplexer's name, and even one that works, with the real devpts
/// beside it: the terminal would have a number that means something else in `/dev/pts`.
#[test]
fn a_false_devpts_is_refused() {
    for (major, minor) in [(1, 3), (5, 2)] {
        let Some(mut b) = bundle() else { return };
        b.spec["mounts"][2] = json!({ "destination": "/dev/pts", "type": "tmpfs", "source": "t" });
        let real = json!({ "destination": "/dev/pts/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666"] });
        b.mount(real);
        b.spec["linux"]["devices"] =
            json!([{ "path": "/dev/pts/ptmx", "type": "c", "major": major, "minor": minor }]);
        b.create_with_terminal().fails("is not that of a devpts");
        b.assert_nothing_left();
    }
}

#[test]
fn the_console_is_the_terminal_wherever_its_name_leads() {
    let Some(mut b) = bundle() else { return };
    fs::create_dir_all(b.path("rootfs/dev")).unwrap();
    fs::write(b.path("precious"), "precious").unwrap();
    symlink(b.path("precious"), b.path("rootfs/dev/console")).unwrap();
    b.spec["mounts"].as_array_mut().unwrap().remove(1);
    b.script("stat -L -c %t:%T /dev/console /dev/pts/0 >/tmp/said; sleep 1000");
    b.create_with_terminal().ok();
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", b.pid())).unwrap();
    let console = mounts.lines().find(|line| line.contains("/precious "));
    // In the container, on what the link names there.
    let line = console.unwrap_or_else(|| panic!("no console in {mounts}"));
    assert!(line.contains(" /0") && line.contains(" devpts "), "{line}");
    assert_eq!(fs::read_to_string(b.path("precious")).unwrap(), "precious");
}
