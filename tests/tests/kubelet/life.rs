//! A pod from its first init container to its last signal, and containers that end otherwise.

use serde_json::{Value, json};
use tests::kubelet::{Setup, on_node};
use tests::{Node, wait};

use crate::{container, gated, plain, pod, ready, status};

/// Adds a folder of the host to a container: what it writes there is the test's evidence.
fn evidence(container: &mut Value) {
    container["volumeMounts"] = json!([{"name": "evidence", "mountPath": "/evidence"}]);
}

/// A pod with everything that has an order, each part writing a line when its turn comes.
fn orderly(node: &Node) -> Value {
    let say = |word: &str| format!("echo {word} >>/evidence/order");
    let until_term = |first: &str, last: &str| {
        format!(
            "trap '{}; exit 0' TERM; {first}; while :; do sleep 1 & wait $!; done",
            say(last)
        )
    };
    let mut first = container(node, "first", &say("first"));
    let helper = until_term(&say("helper"), "helper-ends");
    let mut helper = container(node, "helper", &helper);
    helper["restartPolicy"] = json!("Always");
    helper["startupProbe"] = json!({"exec": {"command": ["grep", "-q", "helper", "/evidence/order"]}, "periodSeconds": 1});
    let mut second = container(node, "second", &say("second"));
    let mut main = container(node, "main", &until_term(":", "main-ends"));
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", say("after-start")]}},
        "preStop": {"exec": {"command": ["sh", "-c", say("before-stop")]}},
    });
    for one in [&mut first, &mut helper, &mut second, &mut main] {
        evidence(one);
    }
    let mut pod = pod("orderly", &[main]);
    pod["spec"]["initContainers"] = json!([first, helper, second]);
    pod
}

fn everything_has_its_turn(setup: &Setup) {
    let Some((kubelet, node)) = on_node(setup).unwrap() else {
        return;
    };
    let folder = node.daemon.scratch().join("evidence");
    std::fs::create_dir(&folder).unwrap();
    let mut pod = orderly(&node);
    pod["spec"]["volumes"] = json!([{"name": "evidence", "hostPath": {"path": folder}}]);
    kubelet.add(&pod).unwrap();
    kubelet.wait("orderly", "to be ready", ready).unwrap();
    kubelet.take("orderly").unwrap();
    kubelet.gone(&node.crictl, "orderly").unwrap();
    let order = std::fs::read_to_string(folder.join("order")).unwrap();
    let order: Vec<&str> = order.lines().collect();
    let expect = [
        "first",
        "helper",
        "second",
        "after-start",
        "before-stop",
        "main-ends",
        "helper-ends",
    ];
    assert_eq!(order, expect);
    kubelet.finish(&node.crictl).unwrap();
}

#[test]
fn init_containers_sidecars_and_hooks_have_their_turns() {
    everything_has_its_turn(&plain());
}

#[test]
fn the_same_with_events() {
    everything_has_its_turn(&gated());
}

#[test]
fn ends_are_told_as_they_were() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let mut greedy = container(&node, "greedy", "exec dd if=/dev/zero of=/dev/null bs=40M");
    greedy["resources"] = json!({"limits": {"memory": "15Mi"}});
    let failing = container(&node, "failing", "echo trouble >&2; exit 3");
    let mut missing = container(&node, "missing", "");
    missing["command"] = json!(["/no/such/program"]);
    let mut talker = container(
        &node,
        "talker",
        "echo it is done >/dev/termination-log; exit 4",
    );
    talker["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    kubelet
        .add(&pod("ends", &[greedy, failing, missing, talker]))
        .unwrap();

    let ended = |pod: &Value, name: &str| {
        let status = status(pod, name);
        let restarts = status["restartCount"].as_i64().unwrap_or(0);
        restarts >= 2 && status["lastState"]["terminated"].is_object()
    };
    let names = ["greedy", "failing", "talker"];
    let found = kubelet
        .wait("ends", "each container to have ended twice", |pod| {
            names.iter().all(|name| ended(pod, name))
        })
        .unwrap();
    let last = |name: &str| &status(&found, name)["lastState"]["terminated"];
    let told = |name: &str| json!([last(name)["exitCode"], last(name)["reason"]]);
    assert_eq!(told("greedy"), json!([137, "OOMKilled"]));
    assert_eq!(told("failing"), json!([3, "Error"]));
    assert_eq!(told("talker"), json!([4, "Error"]));
    assert_eq!(last("talker")["message"], "it is done\n");
    // It is refused when it is made, so there is nothing that could have ended.
    let waiting = &status(&found, "missing")["state"]["waiting"];
    assert_eq!(waiting["reason"], "CreateContainerError");
    let message = waiting["message"].to_string();
    assert!(message.contains("no/such/program"), "{message}");

    // Between two tries each waits, and says so.
    kubelet
        .wait("ends", "a container that backs off", |pod| {
            status(pod, "failing")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .unwrap();
    kubelet.finish(&node.crictl).unwrap();
}

#[test]
fn who_does_not_listen_is_killed_when_the_time_is_over() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let deaf = container(
        &node,
        "deaf",
        "trap '' TERM; echo up; while :; do sleep 1; done",
    );
    let mut deaf = pod("deaf", &[deaf]);
    deaf["spec"]["terminationGracePeriodSeconds"] = json!(2);
    kubelet.add(&deaf).unwrap();
    kubelet.wait("deaf", "to be ready", ready).unwrap();
    let began = std::time::Instant::now();
    kubelet.take("deaf").unwrap();
    let ended = wait::until("the container to end", || {
        node.crictl.ok(&["ps", "-q"]).ok().filter(String::is_empty)
    });
    ended.unwrap();
    let took = began.elapsed().as_secs();
    assert!((2..30).contains(&took), "it took {took} s");
    kubelet.finish(&node.crictl).unwrap();
}
