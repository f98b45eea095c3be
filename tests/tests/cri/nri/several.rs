//! Several plugins: their order, what is in each other's way, what they do to other containers.

use serde_json::{Value, json};
use tests::node::Node;
use tests::{pod, wait};

use super::plugin::{Asked, Plugin, node};

fn variable(name: &str, value: &str) -> Value {
    json!({"env": [{"key": name, "value": value}]})
}

/// Makes a container in a pod of its own; answers with what went wrong.
fn refused(node: &Node, name: &str) -> String {
    let error = node.run(name, "exec sleep 1000").unwrap_err();
    node.crictl.ok(&["rmp", "-fa"]).unwrap();
    format!("{error:#}")
}

#[test]
fn plugins_are_asked_in_the_order_of_their_indices() {
    let Some(node) = node("") else { return };
    // Connected in another order.
    let late = json!({"adjust": {"both": variable("LATE", "1"), "same": variable("X", "1"),
        "again": {"env": [{"key": "-X"}, {"key": "X", "value": "late"}]}}});
    let early = json!({"adjust": {"both": variable("EARLY", "1"), "same": variable("X", "2"),
        "again": variable("X", "early")}});
    let late = Plugin::start(&node, "90", "late", late);
    let early = Plugin::start(&node, "10", "early", early);
    let pod = node.run("both", "exec sleep 1000").unwrap();
    let sees = |plugin: &Plugin| {
        let env = plugin.wait("CreateContainer", "both")["container"]["env"].clone();
        env.as_array().unwrap().contains(&json!("EARLY=1"))
    };
    assert_eq!((sees(&early), sees(&late)), (false, true));
    let said = node.exec(&pod.container, "echo $EARLY $LATE").unwrap();
    assert_eq!(said, "1 1");
    node.remove(&pod).unwrap();

    let error = refused(&node, "same");
    for part in ["90-late", "10-early", "Env X"] {
        assert!(error.contains(part), "{error}");
    }
    let pod = node.run("again", "exec sleep 1000").unwrap();
    assert_eq!(node.exec(&pod.container, "echo $X").unwrap(), "late");
    node.remove(&pod).unwrap();
}

#[test]
fn validators_see_all_and_may_refuse() {
    let Some(node) = node("") else { return };
    let adjust = json!({"adjust": {"judged": variable("X", "1")}});
    let _plugin = Plugin::start(&node, "10", "adjuster", adjust);
    let mut judge = Plugin::start(&node, "20", "judge", json!({"reject": "too much"}));
    let error = refused(&node, "judged");
    assert!(
        error.contains("20-judge") && error.contains("too much"),
        "{error}"
    );
    let asked = &judge.wait("ValidateContainerAdjustment", "judged")["request"];
    assert_eq!(asked["adjust"]["env"][0]["key"], "X");
    let before = asked["container"]["env"].as_array().unwrap();
    assert!(!before.contains(&json!("X=1")), "{before:?}");
    let plugins = asked["plugins"].as_array().unwrap();
    let names: Vec<_> = plugins
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["adjuster", "judge"]);
    let owners = asked["owners"]["owners"].as_object().unwrap();
    let of = owners.values().next().unwrap();
    assert_eq!(of["compound"]["6"]["owners"]["X"], "10-adjuster");
    judge.kill();
    let _lenient = Plugin::start(&node, "30", "lenient", json!({"reject": ""}));
    node.wait_until_gone("20-judge");
    let pod = node.run("judged", "exec sleep 1000").unwrap();
    node.remove(&pod).unwrap();
}

#[test]
fn the_built_in_validator() {
    let keys = "validator = \"yes\"\nreject = [\"sysctls\"]\nrequired_plugins = [\"wanted\"]\n\
                tolerate_missing_annotation = \"free.example\"\n";
    let Some(node) = node(keys) else { return };
    let error = refused(&node, "early");
    assert!(
        error.contains("required plugins are missing: wanted"),
        "{error}"
    );
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "free");
    sandbox["annotations"]["free.example"] = json!("true");
    let container = pod::container("free", &node.image, "exec sleep 1000");
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    node.remove(&pod).unwrap();
    let adjust = json!({"adjust": {"set": {"linux": {"sysctl": {"net.core.somaxconn": "7"}}}}});
    let _plugin = Plugin::start(&node, "10", "wanted", adjust);
    let pod = node.run("plain", "exec sleep 1000").unwrap();
    node.remove(&pod).unwrap();
    let error = refused(&node, "set");
    assert!(
        error.contains("kernel parameters") && error.contains("10-wanted"),
        "{error}"
    );
}

/// The CPU shares of a container, as the daemon says.
fn shares(node: &Node, container: &str) -> u64 {
    let said = node.crictl.ok(&["inspect", container]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let shares = &said["status"]["resources"]["linux"]["cpuShares"];
    let text = shares.as_str().map(str::to_owned);
    text.unwrap_or_else(|| shares.to_string()).parse().unwrap()
}

fn update(container: &str, shares: u64) -> Value {
    json!({"container_id": container, "linux": {"resources": {"cpu": {"shares": {"value": shares}}}}})
}

#[test]
fn other_containers_are_changed_and_evicted() {
    let Some(node) = node("") else { return };
    let script = json!({
        "answer": {
            "UpdateContainer": {"update": [update("@changed", 700), update("@first", 111)]},
            "StopContainer": {"update": [update("@first", 222)]},
        },
        "want": {
            "PostStartContainer": {"update": [update("@first", 333), update("nobody", 5)]},
            "PostUpdatePodSandbox": {"evict": [{"container_id": "@first", "reason": "room"}]},
        },
    });
    let plugin = Plugin::start(&node, "10", "mover", script);
    let first = node.run("first", "exec sleep 1000").unwrap();
    let reach = |expect: u64| {
        wait::until(&format!("{expect} shares"), || {
            (shares(&node, &first.container) == expect).then_some(())
        })
        .unwrap();
    };
    // By itself, whatever happens; one that does not exist is named.
    let wanted = plugin.wait("Wanted", "");
    assert_eq!(wanted["failed"], json!(["nobody"]));
    reach(333);
    // In the same pod, while the pod's own task waits for the plugin.
    let sandbox = node
        .file("first-pod", &pod::sandbox(node.daemon.scratch(), "first"))
        .unwrap();
    let config = pod::container("changed", &node.image, "exec sleep 1000");
    let file = node.file("changed", &config).unwrap();
    let create = ["create", "--no-pull", &first.id, &file, &sandbox];
    let changed = node.crictl.ok(&create).unwrap();
    node.crictl.ok(&["start", &changed]).unwrap();
    plugin.wait("PostStartContainer", "changed");
    node.crictl
        .ok(&["update", "--cpu-share", "600", &changed])
        .unwrap();
    assert_eq!(shares(&node, &changed), 700);
    reach(111);
    node.crictl.ok(&["stop", "-t", "0", &changed]).unwrap();
    reach(222);
    // Evicted: it has ended, and stays for its client to see.
    let client = node.daemon.client().unwrap();
    let request = cri_api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: first.id.clone(),
        ..Default::default()
    };
    client
        .call(async |mut cri| cri.update_pod_sandbox_resources(request).await)
        .unwrap();
    let stopped = plugin.wait("StopContainer", "first");
    assert_eq!(stopped["container"]["id"], first.container.as_str());
    node.remove(&first).unwrap();
}
