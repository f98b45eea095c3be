//! Links of the host that move into a container; and resctrl, which gives it a share of caches.

use serde_json::json;

use crate::harness::{Bundle, bundle, program};

fn ip(args: &str) -> bool {
    let done = program("ip").args(args.split(' ')).output();
    done.is_ok_and(|output| output.status.success())
}

/// A pair of links on the host; those that are left at the end go.
struct Pair {
    near: String,
    far: String,
}

impl Pair {
    /// `None`, after saying so, where links cannot be made.
    fn make(b: &Bundle) -> Option<Pair> {
        let tail: String = b.id.chars().rev().take(6).collect();
        let (near, far) = (format!("wa{tail}"), format!("wb{tail}"));
        if !ip(&format!("link add {near} type veth peer name {far}")) {
            println!("skipped: needs ip(8) and veth links");
            return None;
        }
        Some(Pair { near, far })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // One end takes the other with it, wherever that is.
        ip(&format!("link del {}", self.near));
    }
}

#[test]
fn links_move_with_their_addresses_and_a_new_name() {
    let Some(mut b) = bundle() else { return };
    let Some(pair) = Pair::make(&b) else { return };
    assert!(ip(&format!("addr add 10.213.7.2/24 dev {}", pair.far)));
    assert!(ip(&format!("addr add fd57::2/64 dev {} nodad", pair.far)));
    assert!(ip(&format!("link set {} up", pair.far)));
    assert!(ip(&format!("link set {} up", pair.near)));
    b.spec["linux"]["netDevices"] = json!({ &pair.far: { "name": "ctr0" } });
    b.spec["linux"]["sysctl"] = json!({ "net.ipv4.conf.ctr0.forwarding": "1" });
    let script = "busybox ip addr show dev ctr0; cat /proc/sys/net/ipv4/conf/ctr0/forwarding";
    let said = b.script(script).run().ok();
    for text in ["10.213.7.2/24", "fd57::2/64", "UP"] {
        assert!(said.out.contains(text), "{said:?} lacks {text}");
    }
    assert!(said.out.ends_with("\n1\n"), "{said:?}");
    b.assert_nothing_left();
}

#[test]
fn a_link_moves_into_the_namespaces_of_another_user() {
    let Some(mut b) = bundle() else { return };
    let Some(pair) = Pair::make(&b) else { return };
    let spaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.push(json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    b.spec["linux"]["uidMappings"] = map.clone();
    b.spec["linux"]["gidMappings"] = map;
    b.own_rootfs(100_000);
    program("chmod")
        .arg("755")
        .arg(b.dir.path())
        .status()
        .unwrap();
    b.spec["linux"]["netDevices"] = json!({ &pair.far: {} });
    let said = b.script("cat /proc/net/dev").run().ok();
    assert!(said.out.contains(&pair.far), "{said:?}");
}

#[test]
fn a_link_that_is_not_there_or_has_nowhere_to_go() {
    let Some(mut b) = bundle() else { return };
    b.spec["linux"]["netDevices"] = json!({ "nosuchlink0": {} });
    b.run().fails("move the network device \"nosuchlink0\"");
    b.assert_nothing_left();
    b.spec["linux"]["netDevices"] = json!({ "lo": { "name": "a/b" } });
    b.run().fails("invalid network device name");
    b.spec["linux"]["netDevices"] = json!({ "lo": {} });
    b.spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "uts" }]);
    b.run().fails("private NET namespace");
}

#[test]
fn a_class_of_resctrl_is_entered_and_left() {
    let Some(mut b) = bundle() else { return };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts
        .lines()
        .find(|line| line.contains(" - resctrl "))
        .and_then(|line| line.split(' ').nth(4));
    b.spec["linux"]["intelRdt"] = json!({ "enableMonitoring": true });
    let Some(root) = root else {
        b.run().fails("Intel RDT is not enabled");
        b.assert_nothing_left();
        println!("skipped: needs resctrl");
        return;
    };
    b.start_sleeping();
    let class = std::path::Path::new(root).join(&b.id);
    let tasks = std::fs::read_to_string(class.join("tasks")).unwrap();
    assert!(tasks.lines().any(|pid| pid == b.pid().to_string()));
    assert!(class.join("mon_groups").join(&b.id).is_dir());
    b.wrun(&["delete", "-f", &b.id]).ok();
    assert!(!class.exists());
}
