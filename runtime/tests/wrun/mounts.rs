//! Mounts, masks, read-only paths, propagation.

use serde_json::json;

use crate::harness::bundle;

#[test]
fn a_read_only_root() {
    let Some(mut b) = bundle() else { return };
    b.spec["root"]["readonly"] = json!(true);
    let said = b.script("touch /x; touch /dev/x && echo dev").run();
    assert!(
        said.err.contains("Read-only file system") && said.out == "dev\n",
        "{said:?}"
    );
}

#[test]
fn binds_keep_and_take_attributes() {
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir_all(b.path("vol")).unwrap();
    std::fs::write(b.path("vol/f"), "hello").unwrap();
    let bind = |to: &str, options: &[&str]| json!({ "destination": to, "type": "bind", "source": b.path("vol"), "options": options });
    let (ro, rw) = (
        bind("/deep/ro", &["rbind", "ro"]),
        bind("/rw", &["bind", "noexec"]),
    );
    let file = json!({ "destination": "/etc/file", "type": "bind", "source": b.path("vol/f"), "options": ["bind"] });
    b.mount(ro).mount(rw).mount(file);
    let said = b
        .script(
            "cat /etc/file /deep/ro/f; touch /deep/ro/x; touch /rw/y; grep ' /rw ' /proc/mounts",
        )
        .run();
    assert!(
        said.out.starts_with("hellohello") && said.out.contains("noexec"),
        "{said:?}"
    );
    assert!(said.err.contains("Read-only"), "{said:?}");
    assert!(b.path("vol/y").exists() && !b.path("vol/x").exists());
}

#[test]
fn rro_holds_below_too() {
    let Some(mut b) = bundle() else { return };
    // A mount below the source, made and undone in a mount namespace of its own.
    std::fs::create_dir_all(b.path("vol/inner")).unwrap();
    let bind = json!({ "destination": "/v", "type": "bind", "source": b.path("vol"),
        "options": ["rbind", "rro"] });
    b.mount(bind)
        .script("touch /v/inner/x; touch /v/x; echo done")
        .write();
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs none {}/inner && exec {} --root {} run -b {} {}",
        b.path("vol").display(),
        env!("CARGO_BIN_EXE_wrun"),
        b.path("state").display(),
        b.dir.path().display(),
        b.id,
    );
    let output = crate::harness::program("timeout")
        .args(["60", "unshare", "-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        err.matches("Read-only file system").count(),
        2,
        "{output:?}"
    );
    assert_eq!(output.stdout, b"done\n");
}

#[test]
fn targets_are_made_inside_whatever_the_image_says() {
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir_all(b.path("vol")).unwrap();
    std::os::unix::fs::symlink(b.path("outside"), b.path("rootfs/link")).unwrap();
    std::os::unix::fs::symlink("../../../../outside", b.path("rootfs/up")).unwrap();
    for to in ["/link/a", "/up/b", "/../../c"] {
        let bind = json!({ "destination": to, "type": "bind", "source": b.path("vol"), "options": ["bind"] });
        b.mount(bind);
    }
    b.script("true").run().ok();
    assert!(!b.path("outside").exists() && b.path("rootfs/outside/b").is_dir());
    assert!(b.path("rootfs/c").is_dir());
}

#[test]
fn procfs_needs_a_real_folder() {
    let Some(b) = bundle() else { return };
    std::fs::remove_dir(b.path("rootfs/proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", b.path("rootfs/proc")).unwrap();
    b.create().fails("must be mounted on ordinary directory");
    b.assert_nothing_left();
}

#[test]
fn masked_and_read_only_paths() {
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir_all(b.path("rootfs/secret/deep")).unwrap();
    std::fs::write(b.path("rootfs/secret/deep/f"), "x").unwrap();
    std::fs::write(b.path("rootfs/key"), "x").unwrap();
    b.spec["linux"]["maskedPaths"] = json!([
        "/secret",
        "/key",
        "/proc/kcore",
        "/proc/acpi",
        "/proc/keys",
        "/none"
    ]);
    b.spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/etc", "/none"]);
    let said = b
        .script(
            "ls /secret; cat /key /proc/keys; stat -c %t:%T /key; touch /secret/x; touch /etc/x; \
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo end",
        )
        .run();
    assert_eq!(said.out, "1:3\nend\n", "{said:?}");
    assert_eq!(
        said.err.matches("Read-only file system").count(),
        3,
        "{said:?}"
    );
    assert!(said.err.contains("ip_forward"), "{said:?}");
}

#[test]
fn many_masks_share_one_filesystem() {
    let Some(mut b) = bundle() else { return };
    for name in ["m1", "m2", "m3"] {
        std::fs::create_dir(b.path("rootfs").join(name)).unwrap();
    }
    b.spec["linux"]["maskedPaths"] = json!(["/m1", "/m2", "/m3"]);
    let said = b.script("stat -c %d /m1 /m2 /m3").run().ok();
    let numbers: Vec<_> = said.out.lines().collect();
    assert!(
        numbers.len() == 3 && numbers[0] == numbers[1] && numbers[1] == numbers[2],
        "{said:?}"
    );
}

#[test]
fn a_tmpfs_takes_the_mode_of_what_it_covers() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir(b.path("rootfs/m")).unwrap();
    std::fs::set_permissions(b.path("rootfs/m"), std::fs::Permissions::from_mode(0o1750)).unwrap();
    std::fs::write(b.path("rootfs/m/f"), "x").unwrap();
    std::fs::create_dir(b.path("rootfs/n")).unwrap();
    std::fs::write(b.path("rootfs/n/f"), "copied").unwrap();
    b.mount(json!({ "destination": "/m", "type": "tmpfs", "source": "t" }));
    b.mount(json!({ "destination": "/n", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "ro"] }));
    let said = b.script("stat -c %a /m; ls /m; cat /n/f; touch /n/x").run();
    assert_eq!(said.out, "1750\ncopied", "{said:?}");
    assert!(said.err.contains("Read-only"), "{said:?}");
}

#[test]
fn control_groups_are_the_containers_own() {
    let Some(mut b) = bundle() else { return };
    let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["ro", "nosuid", "noexec", "nodev"] });
    b.mount(cgroup);
    let said = b.script("cat /sys/fs/cgroup/pids/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x").run();
    assert!(said.out.lines().any(|line| line == "1"), "{said:?}");
    assert!(said.err.contains("Read-only"), "{said:?}");
}

#[test]
fn nothing_goes_out_unless_asked() {
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir_all(b.path("vol/p")).unwrap();
    b.spec["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    b.spec["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]);
    b.spec["process"]["capabilities"]["permitted"] = json!(["CAP_SYS_ADMIN"]);
    let bind = json!({ "destination": "/v", "type": "bind", "source": b.path("vol"), "options": ["rbind"] });
    b.mount(bind)
        .script("mount -t tmpfs none /v/p && echo mounted")
        .write();
    let script = format!(
        "mount --make-rprivate / && mount --bind {0} {0} && mount --make-shared {0} && {1} --root {2} run -b {3} {4}; grep -c /vol/p /proc/mounts",
        b.path("vol").display(),
        env!("CARGO_BIN_EXE_wrun"),
        b.path("state").display(),
        b.dir.path().display(),
        b.id,
    );
    let shell = |script: &str| {
        let output = crate::harness::program("timeout")
            .args(["60", "unshare", "-m", "sh", "-c", script])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(shell(&script), "mounted\n0\n");
    b.spec["linux"]["rootfsPropagation"] = json!("rshared");
    b.spec["mounts"][3]["options"] = json!(["rbind", "rshared"]);
    b.write();
    assert_eq!(shell(&script), "mounted\n1\n");
}

#[test]
fn the_hosts_sysfs_where_a_new_one_is_not_permitted() {
    let Some(mut b) = bundle() else { return };
    let spaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "network");
    spaces.push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.own_rootfs(100_000);
    crate::harness::program("chmod")
        .arg("755")
        .arg(b.dir.path())
        .status()
        .unwrap();
    b.mount(
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"] }),
    );
    let said = b.script("ls /sys; touch /sys/x").run();
    assert!(said.out.contains("kernel"), "{said:?}");
    assert!(said.err.contains("Read-only"), "{said:?}");
}

#[test]
fn more_mounts_than_descriptors() {
    let Some(mut b) = bundle() else { return };
    for number in 0..300 {
        b.mount(
            json!({ "destination": format!("/tmp/{number}"), "type": "bind",
            "source": "/etc/hostname", "options": ["bind"] }),
        );
    }
    b.script("ls /tmp | wc -l; ulimit -Sn").write();
    let script = format!(
        "ulimit -Sn 150; exec {} --root {} run -b {} {}",
        env!("CARGO_BIN_EXE_wrun"),
        b.path("state").display(),
        b.dir.path().display(),
        b.id
    );
    let output = crate::harness::program("bash")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "300\n150\n",
        "{output:?}"
    );
}
