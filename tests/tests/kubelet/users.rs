//! Pods with user ids of their own (`hostUsers: false`, KEP-127).

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tests::kubelet::on_node;
use tests::skipped;

use crate::{container, plain, pod, ready, status};

#[test]
fn a_pod_with_user_ids_of_its_own() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let info = node.crictl.json(&["info"]).unwrap();
    let handlers = info["runtimeHandlers"].as_array().unwrap();
    let able = |one: &serde_json::Value| one["features"]["user_namespaces"] == true;
    if !handlers.iter().any(able) {
        skipped("user namespaces with idmapped mounts");
        return kubelet.finish(&node.crictl).unwrap();
    }
    // The pod's root, which is nobody on the host, has to find its way to the pod's files.
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(node.daemon.scratch().join(""), open).unwrap();

    let script = "cat /proc/self/uid_map; touch /volume/new; \
                  stat -c %u: /etc/hosts /volume/new /bin/busybox; cat /config/key; \
                  echo last >/dev/termination-log; echo done; exec sleep 1000";
    let mut main = container(&node, "main", script);
    main["volumeMounts"] = json!([
        {"name": "empty", "mountPath": "/volume"},
        {"name": "pod", "mountPath": "/config", "readOnly": true},
    ]);
    main["readinessProbe"] = json!({
        "exec": {"command": ["sh", "-c", "test -e /volume/new && test $(id -u) = 0"]},
        "periodSeconds": 1,
    });
    let mut alone = pod("alone", &[main]);
    alone["spec"]["hostUsers"] = json!(false);
    alone["spec"]["volumes"] = json!([
        {"name": "empty", "emptyDir": {}},
        {"name": "pod", "downwardAPI": {"items": [
            {"path": "key", "fieldRef": {"fieldPath": "metadata.namespace"}},
        ]}},
    ]);
    kubelet.add(&alone).unwrap();
    let found = kubelet.wait("alone", "to be ready", ready).unwrap();
    assert_eq!(status(&found, "main")["restartCount"], 0);
    let log = kubelet
        .secure_text(&kubelet.path("containerLogs", "alone", "main"))
        .unwrap();
    let words: Vec<&str> = log.split_whitespace().collect();
    let [inside, host, length, rest @ ..] = &words[..] else {
        panic!("{log}");
    };
    assert_eq!((*inside, *length), ("0", "65536"), "{log}");
    let host: u32 = host.parse().unwrap();
    assert!(host >= 65_536, "{log}");
    // All of it is root's: the image's, kubelet's, and what is new.
    assert_eq!(rest, ["0:", "0:", "0:", "defaultdone"], "{log}");
    kubelet.finish(&node.crictl).unwrap();
}
