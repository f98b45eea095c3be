//! An ordinary user: no privileges, no way around them, and the same verbs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::program;
use crate::user::{AS_USER, FIRST_OF_MORE, GROUP, USER, Users, WITH_MORE_IDS};

#[test]
fn what_spec_makes_runs() {
    let Some(u) = Users::new(
        "id -u; id -g; hostname; cat /proc/self/uid_map /proc/self/setgroups; ls /dev; \
         echo $$; echo x >/dev/null; echo x >/tmp/made; ls /sys | grep -c kernel",
    ) else {
        return;
    };
    let said = u.run().ok();
    let words: Vec<_> = said.out.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(words[..7], ["0", "0", "wrun", "0", &user, "1", "deny"]);
    for name in ["null", "zero", "tty", "urandom", "fd", "ptmx", "pts", "shm"] {
        assert!(words.contains(&name), "{name}: {said:?}");
    }
    assert_eq!(words[words.len() - 2..], ["1", "1"], "{said:?}");
    let made = fs::metadata(u.bundle.path("rootfs/tmp/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), USER);
    let root = fs::metadata(u.bundle.path("run/wrun")).unwrap();
    assert_eq!(root.permissions().mode() & 0o7777, 0o1700);
    u.assert_nothing_left();
}

#[test]
fn every_verb_is_the_users_too() {
    let Some(mut u) = Users::new("") else { return };
    u.spec()["process"]["args"] = json!(["sleep", "1000"]);
    u.write();
    let id = u.id().to_owned();
    u.wrun(&["create", "-b", u.dir(), &id]).ok();
    assert_eq!(u.state()["status"], "created");
    u.wrun(&["exec", &id, "true"])
        .fails("cannot exec in a container that has not been started");
    u.wrun(&["start", &id]).ok();
    assert_eq!(u.state()["status"], "running");
    let list: Value = serde_json::from_str(&u.wrun(&["list", "-f", "json"]).ok().out).unwrap();
    assert_eq!(list[0]["owner"], format!("#{USER}"));
    let said = u.wrun(&[
        "exec",
        &id,
        "sh",
        "-c",
        "id -u; readlink /proc/1/exe; cat /proc/1/comm",
    ]);
    assert_eq!(said.ok().out, "0\n/bin/busybox\nsleep\n");
    let said = u.wrun(&["ps", "-f", "json", &id]).ok();
    assert_eq!(said.out, format!("[{}]", u.state()["pid"]));
    u.wrun(&["delete", &id])
        .fails("that is not stopped: running");
    let pid = i32::try_from(u.state()["pid"].as_i64().unwrap()).unwrap();
    u.wrun(&["kill", &id, "KILL"]).ok();
    u.bundle.wait_for_end(pid);
    assert_eq!(u.state()["status"], "stopped");
    u.wrun(&["delete", &id]).ok();
    u.wrun(&["state", &id]).fails("does not exist");
    u.assert_nothing_left();
}

#[test]
fn what_takes_a_group_says_so() {
    let Some(mut u) = Users::new("") else { return };
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        println!("skipped: needs cgroup v1");
        return;
    }
    u.start_sleeping();
    let id = u.id().to_owned();
    u.wrun(&["pause", &id])
        .fails("the container has no control groups");
    u.wrun(&["update", "--pids-limit", "7", &id])
        .fails("the container has no control groups");
    u.wrun(&["events", "--stats", &id])
        .fails("the container has no control groups");
}

#[test]
fn limits_need_a_group_and_a_group_needs_permission() {
    let Some(mut u) = Users::new("echo ran") else {
        return;
    };
    u.spec()["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    assert_eq!(u.run().ok().out, "ran\n");
    let refused = "rootless needs no limits + no cgrouppath when no permission is granted";
    u.spec()["linux"]["resources"] = json!({ "pids": { "limit": 7 } });
    u.run()
        .fails(refused)
        .fails("cannot set pids limit: container could not join or create");
    u.spec()["linux"]["resources"] = json!({});
    u.spec()["linux"]["cgroupsPath"] = json!("/wrun-of-a-user");
    u.run()
        .fails("unable to apply cgroup configuration")
        .fails("permission denied");
    u.spec()["linux"]["cgroupsPath"] = Value::Null;
    u.wrun(&["--rootless", "false", "run", "-b", u.dir(), u.id()]);
    u.write();
    u.wrun(&["--rootless=false", "run", "-b", u.dir(), u.id()])
        .fails("unable to apply cgroup configuration");
    u.wrun(&["--rootless=auto", "run", "-b", u.dir(), u.id()])
        .ok();
    u.wrun(&["--rootless", "perhaps", "list"])
        .fails("invalid value \"perhaps\" for --rootless");
    u.assert_nothing_left();
}

#[test]
fn privileges_are_not_to_be_had_without_a_user_namespace() {
    let Some(mut u) = Users::new("true") else {
        return;
    };
    let spaces = u.spec()["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "user");
    for map in ["uidMappings", "gidMappings"] {
        u.spec()["linux"][map] = json!([]);
    }
    u.run().fails("rootless container requires user namespaces");
    u.assert_nothing_left();
}

#[test]
fn more_ids_come_from_newuidmap() {
    if program("newuidmap").output().is_err() {
        println!("skipped: needs newuidmap (package uidmap)");
        return;
    }
    let Some(mut u) = Users::new(
        "id -u; id -g; id -G; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/made",
    ) else {
        return;
    };
    fs::set_permissions(
        u.bundle.path("rootfs/tmp"),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    u.give_more_ids(65_536);
    u.map_more_ids(65_535);
    u.spec()["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 6] });
    let said = u.run_after(WITH_MORE_IDS).ok();
    let words: Vec<_> = said.out.split_whitespace().collect();
    assert_eq!(words[..5], ["1000", "1001", "1001", "5", "6"], "{said:?}");
    let (user, group, more) = (
        USER.to_string(),
        GROUP.to_string(),
        FIRST_OF_MORE.to_string(),
    );
    let maps = [
        "0", &user, "1", "1", &more, "65535", "0", &group, "1", "1", &more, "65535",
    ];
    assert_eq!(words[5..], maps, "{said:?}");
    let made = fs::metadata(u.bundle.path("rootfs/tmp/made")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&made),
        FIRST_OF_MORE + 999
    );
    u.assert_nothing_left();
}

#[test]
fn what_newuidmap_says_is_told() {
    if program("newuidmap").output().is_err() {
        println!("skipped: needs newuidmap (package uidmap)");
        return;
    }
    let Some(mut u) = Users::new("true") else {
        return;
    };
    u.give_more_ids(1000);
    u.map_more_ids(1001);
    u.run_after(WITH_MORE_IDS)
        .fails("newuidmap refused")
        .fails("not allowed");
    u.assert_nothing_left();
}

#[test]
fn others_join_a_container_with_more_ids() {
    if program("newuidmap").output().is_err() {
        println!("skipped: needs newuidmap (package uidmap)");
        return;
    }
    let Some(mut u) = Users::new("") else { return };
    u.give_more_ids(1000);
    u.map_more_ids(1000);
    u.spec()["process"]["args"] = json!(["sleep", "1000"]);
    u.spec()["process"]["user"] = json!({ "uid": 7, "gid": 7 });
    u.write();
    let id = u.id().to_owned();
    u.said(u.shell(WITH_MORE_IDS, &["run", "-d", "-b", u.dir(), &id]))
        .ok();
    let said = u.wrun(&["exec", "-u", "9:8", "-g", "5", &id, "id"]).ok();
    assert!(said.out.starts_with("uid=9 gid=8 groups=5"), "{said:?}");
    u.wrun(&["delete", "--force", &id]).ok();
    u.assert_nothing_left();
}

#[test]
fn the_rest_of_a_configuration_holds() {
    let Some(mut u) = Users::new(
        "cat /vol/f; touch /vol/x 2>&1; touch /etc/x 2>&1; ls /secret; cat /proc/self/oom_score_adj; \
         ulimit -n; grep -c lo: /proc/net/dev; cat /proc/self/timens_offsets; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo $HOOK; mkdir /tmp/no 2>&1",
    ) else {
        return;
    };
    for folder in ["vol", "rootfs/secret"] {
        fs::create_dir(u.bundle.path(folder)).unwrap();
    }
    fs::write(u.bundle.path("vol/f"), "volume\n").unwrap();
    fs::write(u.bundle.path("rootfs/secret/f"), "x").unwrap();
    let bind = json!({ "destination": "/vol", "type": "bind", "source": u.bundle.path("vol"),
        "options": ["rbind", "ro", "nosuid"] });
    u.bundle.mount(bind);
    let spec = u.spec();
    spec["linux"]["maskedPaths"] = json!(["/secret", "/proc/kcore"]);
    spec["linux"]["readonlyPaths"] = json!(["/etc"]);
    spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1000 } });
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "99" });
    spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42 }] });
    spec["process"]["oomScoreAdj"] = json!(500);
    spec["process"]["noNewPrivileges"] = json!(false);
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
    let spaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.push(json!({ "type": "network" }));
    spaces.push(json!({ "type": "time" }));
    let said = u.run();
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[0], "volume", "{said:?}");
    assert!(
        lines[1].contains("Read-only") && lines[2].contains("Read-only"),
        "{said:?}"
    );
    let rest = [
        "500",
        "77",
        "1",
        "monotonic 0 0",
        "boottime 1000 0",
        "99",
        "",
    ];
    let squeezed: Vec<String> = lines[3..10]
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(squeezed, rest, "{said:?}");
    assert!(lines[10].contains("No message of desired type"), "{said:?}");
    u.assert_nothing_left();
}

#[test]
fn what_cannot_be_had_is_named() {
    let Some(mut u) = Users::new("true") else {
        return;
    };
    u.spec()["process"]["user"]["additionalGids"] = json!([7]);
    u.run()
        .fails("cannot set any additional groups in a rootless container");
    u.spec()["process"]["user"]["additionalGids"] = json!([]);
    u.spec()["process"]["user"]["uid"] = json!(1000);
    u.run().fails("set the user id 1000");
    u.spec()["process"]["user"]["uid"] = json!(0);
    u.spec()["process"]["oomScoreAdj"] = json!(-500);
    let said = u.run().ok();
    assert!(
        said.err.contains("oomScoreAdj: not permitted to lower it"),
        "{said:?}"
    );
    u.assert_nothing_left();
}

#[test]
fn attributes_of_the_host_stay_locked() {
    let Some(mut u) = Users::new("grep ' /vol ' /proc/mounts") else {
        return;
    };
    fs::create_dir(u.bundle.path("vol")).unwrap();
    let before = "mount --make-rprivate / && mount -t tmpfs -o nosuid,nodev,noatime t $DIR/vol && ";
    let bind = |options: &[&str]| {
        json!({ "destination": "/vol", "type": "bind", "source": u.bundle.path("vol"),
            "options": options })
    };
    let (plain, more, less) = (
        bind(&["rbind"]),
        bind(&["bind", "ro", "noexec"]),
        bind(&["bind", "suid"]),
    );
    u.bundle.mount(plain);
    let said = u.run_after(before).ok();
    assert!(said.out.contains("nosuid,nodev,noatime"), "{said:?}");
    let last = u.spec()["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    *last = more;
    let said = u.run_after(before).ok();
    assert!(
        said.out.contains("ro,nosuid,nodev,noexec,noatime"),
        "{said:?}"
    );
    let last = u.spec()["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    *last = less;
    u.run_after(before)
        .fails("set the attributes of \"/vol\"")
        .fails("not permitted");
}

#[test]
fn a_terminal_and_hooks() {
    let Some(mut u) = Users::new("tty; test -t 0 && echo yes") else {
        return;
    };
    u.spec()["process"]["terminal"] = json!(true);
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "id -u >$DIR/etc/hook"] }]);
    u.spec()["hooks"] = json!({ "createRuntime": hook });
    let said = u.run().ok();
    assert!(
        said.out.contains("/dev/") && said.out.contains("yes"),
        "{said:?}"
    );
    let ran = fs::read_to_string(u.bundle.path("etc/hook")).unwrap();
    assert_eq!(ran, format!("{USER}\n"));
}

/// As rootless engines do: they are root of a user namespace of their own.
fn within(namespaces: &str) -> String {
    // The program keeps its descriptor.
    AS_USER.replace(
        "/proc/self/fd/9",
        &format!("unshare {namespaces} /proc/self/fd/9"),
    )
}

#[test]
fn the_root_of_a_user_namespace() {
    let Some(mut u) = Users::new(
        "id -u; hostname; cat /proc/self/oom_score_adj; ls /sys | grep -c kernel; ls /dev/null",
    ) else {
        return;
    };
    let spec = u.spec();
    let spaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "user");
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([]);
    }
    spec["process"]["oomScoreAdj"] = json!(300);
    for mount in spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"] });
        }
    }
    u.write();
    // With and without a mount namespace of its own.
    for namespaces in ["-Ur", "-Urm"] {
        let mut command = u.shell("", &["run", "-b", u.dir(), u.id()]);
        let script = within(namespaces);
        command = replaced(&command, &script);
        let said = u.said(command).ok();
        assert_eq!(
            said.out, "0\nwrun\n300\n1\n/dev/null\n",
            "{namespaces}: {said:?}"
        );
        u.assert_nothing_left();
    }
}

#[test]
fn the_root_of_a_user_namespace_drives_its_containers() {
    let Some(mut u) = Users::new("") else { return };
    let spec = u.spec();
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([]);
    }
    let spaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "user");
    spaces.push(json!({ "type": "time" }));
    spec["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 77 } });
    spec["process"]["args"] = json!(["sleep", "1000"]);
    u.write();
    let other = u.bundle.path("other");
    fs::create_dir(&other).unwrap();
    // A second container in the process ids and clocks of the first.
    let mut second = u.bundle.spec.clone();
    second["root"]["path"] = json!(u.bundle.path("rootfs"));
    second["process"]["args"] = json!(["sh", "-c", "readlink /proc/1/exe; echo $$"]);
    second["linux"]["timeOffsets"] = json!({});
    for space in second["linux"]["namespaces"].as_array_mut().unwrap() {
        match space["type"].as_str().unwrap() {
            "pid" => space["path"] = json!("/proc/PID/ns/pid"),
            "time" => space["path"] = json!("/proc/PID/ns/time"),
            _ => {}
        }
    }
    fs::write(other.join("template"), second.to_string()).unwrap();
    std::os::unix::fs::chown(&other, Some(USER), Some(GROUP)).unwrap();
    let script = r#"set -e
        w=/proc/self/fd/9
        $w run -d -b $DIR first
        $w exec first sh -c 'id -u; echo $$; cat /proc/self/timens_offsets'
        pid=$($w ps -f json first | tr -d '[]')
        sed "s/PID/$pid/g" $DIR/other/template >$DIR/other/config.json
        $w run -b $DIR/other second
        $w kill first KILL
        $w delete -f first
        $w list -q"#;
    fs::write(other.join("script"), script).unwrap();
    let script = AS_USER.replace(
        "/proc/self/fd/9 \"$@\"",
        "unshare -Urm sh $DIR/other/script",
    );
    let said = u.said(replaced(&u.shell("", &[]), &script)).ok();
    let words: Vec<_> = said.out.split_whitespace().collect();
    assert_eq!(words[..5], ["0", "2", "monotonic", "77", "0"], "{said:?}");
    assert_eq!(words[8..], ["/bin/busybox", "4"], "{said:?}");
    u.assert_nothing_left();
}

/// The same command with another script of the shell.
fn replaced(command: &Command, script: &str) -> Command {
    let mut other = program("unshare");
    for (at, arg) in command.get_args().enumerate() {
        match at {
            3 => other.arg(script),
            _ => other.arg(arg),
        };
    }
    other.env_clear().current_dir("/");
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap());
    }
    other
}

#[test]
fn a_user_namespace_is_joined() {
    let Some(mut first) = Users::new("") else {
        return;
    };
    first.start_sleeping();
    let Some(mut u) = Users::new("id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user")
    else {
        return;
    };
    let path = format!("/proc/{}/ns/user", first.state()["pid"]);
    let expect = fs::read_link(&path).unwrap();
    let spec = u.spec();
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([]);
    }
    for space in spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if space["type"] == "user" {
            space["path"] = json!(path);
        }
    }
    let said = u.run().ok();
    assert!(said.out.starts_with("0\n"), "{said:?}");
    assert!(said.out.contains(expect.to_str().unwrap()), "{said:?}");
}
