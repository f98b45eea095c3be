//! `wrun` in a container of `wrun`, where not everything is permitted.

use serde_json::{Value, json};

use crate::harness::{Bundle, Said, bundle};

/// A container that holds the program under test and the bundle of a container to be made in it.
struct Nest {
    outer: Bundle,
    inner: Bundle,
}

fn nest() -> Option<Nest> {
    let (mut outer, inner) = (bundle()?, bundle()?);
    outer.with_libraries().with_all_capabilities();
    let wrun = env!("CARGO_BIN_EXE_wrun");
    for path in [inner.dir.path().to_str().unwrap(), wrun] {
        let bind = json!({ "destination": path, "type": "bind", "source": path,
            "options": ["bind"] });
        outer.mount(bind);
    }
    Some(Nest { outer, inner })
}

impl Nest {
    /// The outer container runs the inner one.
    fn run(&mut self) -> Said {
        self.inner.write();
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        self.outer.spec["process"]["args"] = json!([
            env!("CARGO_BIN_EXE_wrun"),
            "--root",
            text(self.inner.path("state")),
            "--cgroup-manager",
            "disabled",
            "run",
            "-b",
            text(self.inner.dir.path().to_owned()),
            self.inner.id,
        ]);
        self.outer.run()
    }
}

/// The inner container wants everything that resolves a path, through links that lead out of it.
fn demanding(nest: &mut Nest) {
    let b = &mut nest.inner;
    std::fs::create_dir(b.path("volume")).unwrap();
    std::fs::create_dir_all(b.path("rootfs/secret/deep")).unwrap();
    std::fs::write(b.path("volume/f"), "bound\n").unwrap();
    std::os::unix::fs::symlink(b.path("beyond"), b.path("rootfs/link")).unwrap();
    std::os::unix::fs::symlink("../../../beyond", b.path("rootfs/up")).unwrap();
    for to in ["/link/a", "/up/b"] {
        let bind = json!({ "destination": to, "type": "bind", "source": b.path("volume"),
            "options": ["bind"] });
        b.mount(bind);
    }
    b.spec["linux"]["maskedPaths"] = json!(["/secret", "/proc/version"]);
    b.spec["linux"]["readonlyPaths"] = json!(["/etc"]);
    b.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    b.spec["process"]["cwd"] = json!("/link/cwd");
    b.script(
        "cat /link/a/f /up/b/f /proc/sys/net/ipv4/ip_forward; ls /secret; touch /etc/x || echo ro; \
         stat -c %t:%T /proc/version",
    );
}

fn check_without_openat2(errno: u32) {
    let Some(mut nest) = nest() else { return };
    demanding(&mut nest);
    nest.outer.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno }],
    });
    let said = nest.run().ok();
    assert_eq!(said.out, "bound\nbound\n1\nro\n1:3\n", "{said:?}");
    assert!(!nest.inner.path("beyond").exists(), "a link led out");
    // Links to descriptors are refused there too (CVE-2024-21626).
    for number in 3..10 {
        nest.inner.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let said = nest.run();
        assert_ne!(said.code, 0, "{number}: {said:?}");
    }
}

#[test]
fn under_a_filter_that_forbids_openat2() {
    check_without_openat2(1);
}

#[test]
fn under_a_filter_that_denies_that_there_is_openat2() {
    check_without_openat2(38);
}

#[test]
fn the_demands_are_met_without_a_filter_too() {
    let Some(mut nest) = nest() else { return };
    demanding(&mut nest);
    assert_eq!(nest.run().ok().out, "bound\nbound\n1\nro\n1:3\n");
}

/// In a user namespace that sees a procfs covered in parts the kernel permits no new one, which would
/// show what is covered; the container can still have what there is.
#[test]
fn where_a_new_procfs_is_not_permitted() {
    let Some(mut nest) = nest() else { return };
    nest.outer.spec["linux"]["maskedPaths"] = json!(["/proc/version", "/proc/keys"]);
    nest.outer.spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    nest.outer.own_user_namespace(100_000);
    nest.outer.own_rootfs(100_000);
    nest.inner.own_user_namespace(0);
    nest.inner.own_bundle(100_000);
    let own = std::mem::replace(
        &mut nest.inner.spec["mounts"][0],
        json!({ "destination": "/proc", "type": "bind", "source": "/proc",
            "options": ["rbind"] }),
    );
    nest.inner
        .script("stat -c %t:%T /proc/version; cat /proc/self/comm");
    let said = nest.run().ok();
    assert_eq!(said.out, "1:3\ncat\n", "{said:?}");
    // A parameter that cannot be set is an error, and no silence.
    nest.inner.spec["linux"]["sysctl"] = json!({ "kernel.domainname": "box.example" });
    nest.run().fails("kernel/domainname");
    nest.inner.spec["linux"]["sysctl"] = Value::Null;
    nest.inner.spec["mounts"][0] = own;
    nest.run().fails("mount proc on \"/proc\"");
    nest.inner.assert_nothing_left();
}
