//! Features of the specification that have no larger place: each a row of the table in
//! docs/testing.md.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::bundle;

#[test]
fn a_tmpfs_may_begin_with_what_it_covers() {
    let Some(mut b) = bundle() else { return };
    let etc = b.path("rootfs/etc");
    fs::create_dir(etc.join("sub")).unwrap();
    fs::write(etc.join("sub/file"), "below\n").unwrap();
    std::os::unix::fs::symlink("sub/file", etc.join("link")).unwrap();
    b.mount(
        json!({ "destination": "/etc", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "mode=711"] }),
    );
    let script = "cat /etc/link; stat -c %a /etc; touch /etc/new";
    let said = b.script(script).run().ok();
    assert_eq!(said.out, "below\n711\n");
    assert!(!etc.join("new").exists(), "it was written through");
}

#[test]
fn recursive_attributes_reach_what_is_mounted_below() {
    let Some(mut b) = bundle() else { return };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some("/dev/shm"))
    {
        println!("skipped: needs a mount on /dev/shm");
        return;
    }
    b.mount(
        json!({ "destination": "/all", "type": "none", "source": "/dev",
        "options": ["rbind", "rro", "rnosuid", "rnoexec", "rnodev", "rnoatime", "rnosymfollow"] }),
    );
    b.mount(
        json!({ "destination": "/back", "type": "none", "source": "/dev",
        "options": ["rbind", "rrw", "rsuid", "rexec", "rdev", "ratime", "rsymfollow",
            "rnorelatime", "rnostrictatime", "rdiratime"] }),
    );
    let said = b
        .script("grep -E ' /(all|back)/shm ' /proc/self/mountinfo")
        .run()
        .ok();
    let line = |at: &str| said.out.lines().find(|line| line.contains(at)).unwrap();
    for word in ["ro,", "nosuid", "noexec", "nodev", "noatime", "nosymfollow"] {
        assert!(line(" /all/shm ").contains(word), "{said:?} lacks {word}");
        assert!(!line(" /back/shm ").contains(word), "{said:?} has {word}");
    }
}

#[test]
fn the_root_has_the_propagation_of_the_configuration() {
    let Some(mut b) = bundle() else { return };
    for (name, mark) in [
        ("shared", "shared:"),
        ("private", " - "),
        ("unbindable", "unbindable"),
    ] {
        b.spec["linux"]["rootfsPropagation"] = json!(name);
        let said = b.script("grep -m 1 ' / rw' /proc/self/mountinfo").run();
        let said = said.ok();
        let own = said.out.contains("shared:") == (name == "shared");
        assert!(own && said.out.contains(mark), "{name}: {said:?}");
    }
    b.spec["linux"]["rootfsPropagation"] = json!("moon");
    b.run().fails("rootfsPropagation");
}

#[test]
fn names_and_the_session_keyring_are_the_containers() {
    let Some(mut b) = bundle() else { return };
    b.spec["domainname"] = json!("example.org");
    let of_container = format!("_ses.{}", b.id);
    // Without one first: the kernel forgets a keyring some time after its last process has ended.
    b.script("cat /proc/keys").write();
    let bundle = b.dir.path().to_str().unwrap().to_owned();
    let said = b.wrun(&["run", "--no-new-keyring", "-b", &bundle, &b.id]);
    assert!(!said.out.contains(&of_container), "{said:?}");
    let script = "hostname; cat /proc/sys/kernel/domainname; cat /proc/keys";
    let said = b.script(script).run();
    assert!(said.out.starts_with("box\nexample.org\n"), "{said:?}");
    if !Path::new("/proc/keys").exists() {
        println!("skipped: needs /proc/keys");
        return;
    }
    assert!(said.ok().out.contains(&of_container));
}

#[test]
fn dev_has_its_links() {
    let Some(mut b) = bundle() else { return };
    b.mount(
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"] }),
    );
    let script = "for name in fd stdin stdout stderr ptmx; do readlink /dev/$name; done
        grep -c ' /dev/mqueue ' /proc/self/mountinfo
        for name in null zero full random urandom tty; do test -c /dev/$name || echo $name; done";
    let said = b.script(script).run().ok();
    let expect = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n1\n";
    assert_eq!(said.out, expect);
}

#[test]
fn an_apparmor_profile_is_entered() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["apparmorProfile"] = json!("unconfined");
    if !Path::new("/sys/kernel/security/apparmor").exists() {
        b.run().fails("apparmor profile");
        b.assert_nothing_left();
        println!("skipped: needs AppArmor");
        return;
    }
    let said = b.script("cat /proc/self/attr/current").run().ok();
    assert!(said.out.starts_with("unconfined"), "{said:?}");
}

#[test]
fn an_selinux_label_is_entered() {
    let Some(mut b) = bundle() else { return };
    let label = "system_u:system_r:container_t:s0:c1,c2";
    b.spec["process"]["selinuxLabel"] = json!(label);
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        b.run().fails("selinux label");
        b.assert_nothing_left();
        println!("skipped: needs SELinux");
        return;
    }
    let said = b.script("cat /proc/self/attr/current").run().ok();
    assert!(said.out.starts_with(label), "{said:?}");
}

#[test]
fn a_mount_of_v1_groups_is_there_under_a_scope_too() {
    let Some(mut b) = bundle() else { return };
    if !Path::new("/run/systemd/system").exists() || !Path::new("/sys/fs/cgroup/pids").exists() {
        println!("skipped: needs systemd on cgroup v1");
        return;
    }
    b.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }));
    b.spec["linux"]["cgroupsPath"] = json!(format!("system.slice:wrun:{}", b.id));
    b.script("cat /sys/fs/cgroup/pids/cgroup.procs").write();
    let bundle = b.dir.path().to_str().unwrap().to_owned();
    let said = b
        .wrun(&["--systemd-cgroup", "run", "-b", &bundle, &b.id])
        .ok();
    assert!(said.out.starts_with("1\n"), "{said:?}");
}
