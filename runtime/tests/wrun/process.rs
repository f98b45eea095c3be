//! What a process is: user, capabilities, limits, environment, namespaces.

use serde_json::json;

use crate::harness::bundle;

#[test]
fn a_user_with_groups_and_umask() {
    let Some(mut b) = bundle() else { return };
    std::fs::write(
        b.path("rootfs/etc/passwd"),
        "u:x:1000:1000::/home/u:/bin/sh\n",
    )
    .unwrap();
    b.spec["process"]["user"] =
        json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077 });
    b.spec["process"]["cwd"] = json!("/made/here");
    let said = b
        .script("id -u; id -g; id -G; umask; pwd; echo $HOME; grep CapEff /proc/self/status")
        .run();
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[..2], ["1000", "1001"], "{said:?}");
    assert_eq!(lines[2], "1001 5 6");
    assert_eq!(lines[3..6], ["0077", "/made/here", "/home/u"], "{said:?}");
    assert!(
        lines[6].ends_with("0000000000000000"),
        "exec as a user drops them: {said:?}"
    );
}

#[test]
fn capabilities_are_those_of_the_configuration() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_MOON"],
        "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    b.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let said = b.script("grep Cap /proc/self/status").run().ok();
    assert!(said.err.contains("CAP_MOON"), "{said:?}");
    let value = |name: &str| {
        let line = said
            .out
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap();
        u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
    };
    let got = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(value);
    assert_eq!(got, [0x20, 0x20, 0x20, 0x21, 0x20]);
}

#[test]
fn limits_and_badness() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]);
    b.spec["process"]["oomScoreAdj"] = json!(500);
    let said = b
        .script("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj")
        .run()
        .ok();
    assert_eq!(said.out, "77\n88\n500\n");
}

#[test]
fn what_may_not_be_raised_is_clamped_with_a_warning() {
    let Some(mut b) = bundle() else { return };
    let unlimited = u64::MAX;
    b.spec["process"]["rlimits"] =
        json!([{ "type": "RLIMIT_NOFILE", "soft": unlimited, "hard": unlimited }]);
    b.spec["process"]["rlimits"][0]["soft"] = json!(10);
    b.spec["process"]["rlimits"][0]["hard"] = json!(1u64 << 29);
    b.spec["process"]["oomScoreAdj"] = json!(-900);
    let said = b.script("ulimit -n").run();
    let resource = rustix::thread::CapabilitySet::SYS_RESOURCE;
    let own = rustix::thread::capabilities(None).unwrap().effective;
    if own.contains(resource) {
        println!("skipped: needs a host without CAP_SYS_RESOURCE");
        return;
    }
    let said = said.ok();
    assert_eq!(said.out, "10\n");
    assert!(
        said.err.contains("oomScoreAdj") && said.err.contains("warning"),
        "{said:?}"
    );
}

#[test]
fn the_environment_is_as_configured() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2"]);
    let said = b.script("env").run().ok();
    let mut lines: Vec<_> = said
        .out
        .lines()
        .filter(|line| !line.starts_with("SHLVL") && !line.starts_with("PWD"))
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=2", "HOME=/", "PATH=/bin"], "{said:?}");
}

#[test]
fn namespaces_are_new_or_joined() {
    let Some(mut b) = bundle() else { return };
    b.start_sleeping();
    let pid = b.pid();
    let of = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let inner = pid.to_string();
    for kind in ["mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_ne!(of("self", kind), of(&inner, kind), "{kind}");
    }
    for kind in ["user", "time"] {
        assert_eq!(of("self", kind), of(&inner, kind), "{kind}");
    }
    let Some(mut second) = bundle() else { return };
    let join =
        |name: &str, file: &str| json!({ "type": name, "path": format!("/proc/{pid}/ns/{file}") });
    second.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, join("pid", "pid"), join("ipc", "ipc"), join("uts", "uts"),
        join("network", "net"),
    ]);
    second.spec["hostname"] = json!("");
    let said = second
        .script("readlink /proc/self/ns/pid; readlink /proc/self/ns/net; hostname; ps")
        .run()
        .ok();
    let expect =
        [of(&inner, "pid"), of(&inner, "net")].map(|link| link.to_str().unwrap().to_owned());
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[..2], expect, "{said:?}");
    assert_eq!(lines[2], "box");
    assert!(said.out.contains("sleep 1000"), "{said:?}");
}

#[test]
fn a_new_network_has_its_loopback_up() {
    let Some(mut b) = bundle() else { return };
    let said = b.script("cat /proc/net/if_inet6 /proc/net/fib_trie").run();
    assert!(said.out.contains("127.0.0.1"), "{said:?}");
}

#[test]
fn parameters_of_the_containers_namespaces() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["sysctl"] =
        json!({ "net.ipv4.ip_forward": "1", "kernel.shmmax": "65537", "kernel/msgmax": "9999" });
    let said = b
        .script("cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmax kernel/msgmax")
        .run()
        .ok();
    assert_eq!(said.out, "1\n65537\n9999\n");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/kernel/shmmax")
            .unwrap()
            .trim(),
        "65537"
    );
}

#[test]
fn a_user_namespace_maps_ids() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "user" }));
    let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = maps.clone();
    b.spec["linux"]["gidMappings"] = maps;
    // As an image store would: the root file system belongs to the mapped root. The folders above
    // it do not, and need not be reachable by it.
    b.own_rootfs(100_000);
    b.spec["process"]["user"] = json!({ "uid": 5, "gid": 6 });
    b.start_sleeping();
    let status = std::fs::read_to_string(format!("/proc/{}/status", b.pid())).unwrap();
    assert!(
        status.contains("Uid:\t100005") && status.contains("Gid:\t100006"),
        "{status}"
    );
    let said = b
        .exec("id -u; cat /proc/self/uid_map; echo x > /dev/null && echo null")
        .ok();
    assert!(
        said.out.starts_with("5\n") && said.out.contains("100000") && said.out.contains("null"),
        "{said:?}"
    );
    let pid = b.pid();
    let Some(mut second) = bundle() else { return };
    let join =
        |name: &str, file: &str| json!({ "type": name, "path": format!("/proc/{pid}/ns/{file}") });
    second.spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }, join("user", "user"), join("network", "net"), join("ipc", "ipc")]);
    second.spec["hostname"] = json!("");
    second.own_rootfs(100_000);
    let said = second
        .script("cat /proc/self/uid_map; id -u; echo $$")
        .run()
        .ok();
    assert!(
        said.out.contains("100000") && said.out.ends_with("0\n1\n"),
        "{said:?}"
    );
}

#[test]
fn a_time_namespace_has_its_offsets() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "time" }));
    b.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 100_000_000 } });
    let said = b.script("cat /proc/uptime").run().ok();
    let up: f64 = said.out.split(' ').next().unwrap().parse().unwrap();
    assert!(up > 100_000_000.0, "{said:?}");
}

#[test]
fn ids_of_a_bind_are_mapped() {
    let Some(mut b) = bundle() else { return };
    std::fs::create_dir(b.path("vol")).unwrap();
    let maps = json!([{ "containerID": 0, "hostID": 70_000, "size": 1000 }]);
    let bind = json!({ "destination": "/v", "type": "bind", "source": b.path("vol"),
        "options": ["bind"], "uidMappings": maps, "gidMappings": maps });
    let said = b.mount(bind).script("stat -c %u /v").run();
    if said.err.contains("map the ids") {
        println!(
            "skipped: needs a filesystem with idmapped mounts ({})",
            said.err.trim()
        );
        return;
    }
    assert_eq!(said.out, "70000\n", "{said:?}");
}

#[test]
fn devices_of_a_user_namespace_are_as_configured() {
    let Some(mut b) = bundle() else { return };
    let spaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.spec["linux"]["devices"] = json!([
        { "path": "/dev/elsewhere", "type": "c", "major": 1, "minor": 5,
          "uid": 7, "gid": 8, "fileMode": 0o644 },
    ]);
    b.own_rootfs(100_000);
    crate::harness::program("chmod")
        .arg("755")
        .arg(b.dir.path())
        .status()
        .unwrap();
    let script = "stat -c '%u %g %a %t %T' /dev/elsewhere
        head -c 3 /dev/elsewhere | wc -c
        grep -E ' /dev/(elsewhere|zero) ' /proc/self/mountinfo";
    let said = b.script(script).run().ok();
    assert!(said.out.starts_with("7 8 644 1 5\n3\n"), "{said:?}");
    for line in said.out.lines().skip(2) {
        assert!(line.contains("nosuid") && line.contains("noexec"), "{line}");
        assert!(!line.contains("nodev"), "{line}");
    }
    b.assert_nothing_left();
    b.spec["linux"]["devices"][0]["uid"] = json!(70_000);
    b.run().fails("its uid is not in the user namespace");
}
