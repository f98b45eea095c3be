//! Kubelet and daemon restarted and killed under running pods: nothing restarts that should not,
//! nothing is lost.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tests::kubelet::{Kubelet, Setup, on_node};
use tests::{Node, thorough, wait};

use crate::{container, gated, plain, pod, ready, status};

/// Rounds of restarting everything.
const ROUNDS: (usize, usize) = (1, 5);

/// Pods of several kinds that run until they are told otherwise.
fn pods(node: &Node, folder: &Path) -> Vec<Value> {
    let counter = "i=0; while :; do i=$((i+1)); echo count $i; sleep 0.1; done";
    let mut probed = container(node, "probed", "exec sleep 100000");
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 10});
    probed["livenessProbe"] = probe.clone();
    probed["readinessProbe"] = probe;
    let mut helper = container(node, "helper", "exec sleep 100000");
    helper["restartPolicy"] = json!("Always");
    let mut helped = pod("helped", &[container(node, "main", "exec sleep 100000")]);
    helped["spec"]["initContainers"] = json!([container(node, "before", "true"), helper]);
    let mut on_host = pod("on-host", &[container(node, "main", "exec sleep 100000")]);
    on_host["spec"]["hostNetwork"] = json!(true);
    let mut shared = pod("shared", &[container(node, "main", "exec sleep 100000")]);
    shared["spec"]["shareProcessNamespace"] = json!(true);
    let mut ending = container(
        node,
        "ending",
        "while [ ! -e /evidence/end ]; do sleep 0.1; done; rm /evidence/end; exit 6",
    );
    ending["volumeMounts"] = json!([{"name": "evidence", "mountPath": "/evidence"}]);
    let mut ending = pod("ending", &[ending]);
    ending["spec"]["volumes"] = json!([{"name": "evidence", "hostPath": {"path": folder}}]);
    let steady = pod("steady", &[container(node, "counter", counter), probed]);
    vec![steady, helped, on_host, shared, ending]
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

/// What must not change: each pod's address, each container's id and number of restarts.
fn identity(kubelet: &Kubelet, names: &[String]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for name in names {
        let pod = kubelet.pod(name).unwrap();
        all.insert(name.clone(), pod["status"]["podIP"].clone());
        for list in ["containerStatuses", "initContainerStatuses"] {
            for status in pod["status"][list].as_array().into_iter().flatten() {
                let key = format!("{name}/{}", status["name"]);
                let told = json!([status["containerID"], status["restartCount"]]);
                all.insert(key, told);
            }
        }
    }
    all
}

/// The number of sandboxes that the engine has, and of containers but those that are to end: the
/// kubelet keeps one or two of these that have ended.
fn count(node: &Node) -> [usize; 2] {
    let lines = |args: &[&str]| node.crictl.ok(args).unwrap().lines().count();
    let ending = [
        "ps",
        "-a",
        "-q",
        "--label",
        "io.kubernetes.container.name=ending",
    ];
    let containers = lines(&["ps", "-a", "-q"]) - lines(&ending);
    [lines(&["pods", "-q"]), containers]
}

/// Whoever knows pods anew has looked at all of them once.
fn all_ready(kubelet: &Kubelet, names: &[String]) {
    for name in names {
        kubelet.wait(name, "to be ready", ready).unwrap();
    }
}

/// A new pod is asked for and the daemon killed at once: there is one of it in the end.
fn killed_while_a_pod_begins(kubelet: &Kubelet, node: &mut Node, round: usize) {
    let late = format!("late-{round}");
    let main = container(node, "main", "exec sleep 100000");
    kubelet.add(&pod(&late, &[main])).unwrap();
    let label = format!("io.kubernetes.pod.name={late}-{}", kubelet.node());
    wait::until("a trace of the pod", || {
        let made = node.crictl.ok(&["pods", "-q", "--label", &label]).ok();
        made.filter(|made| !made.is_empty())
    })
    .unwrap();
    node.daemon.kill();
    node.daemon.start().unwrap();
    let found = kubelet.wait(&late, "to be ready", ready).unwrap();
    assert_eq!(status(&found, "main")["restartCount"], 0, "{found:#}");
    let live = ["ps", "-q", "--label", &label];
    assert_eq!(node.crictl.ok(&live).unwrap().lines().count(), 1);
    let made = node.crictl.ok(&["pods", "-q", "--label", &label]).unwrap();
    assert_eq!(made.lines().count(), 1, "{made}");
    kubelet.take(&late).unwrap();
    kubelet.gone(&node.crictl, &late).unwrap();
}

/// A container ends while nobody looks: it is told, and restarted once.
fn ended_meanwhile(kubelet: &Kubelet, node: &mut Node, folder: &Path) {
    let before = kubelet.pod("ending").unwrap();
    let restarts = status(&before, "ending")["restartCount"].as_i64().unwrap();
    node.daemon.kill();
    let end = folder.join("end");
    std::fs::write(&end, "").unwrap();
    wait::until("the container to end", || (!end.exists()).then_some(())).unwrap();
    node.daemon.start().unwrap();
    let again = kubelet.wait("ending", "to have been restarted", |pod| {
        status(pod, "ending")["restartCount"] == restarts + 1 && ready(pod)
    });
    let again = again.unwrap();
    let last = &status(&again, "ending")["lastState"]["terminated"];
    assert_eq!(
        json!([last["exitCode"], last["reason"]]),
        json!([6, "Error"])
    );
}

fn all_of_it(setup: &Setup) {
    let Some((mut kubelet, mut node)) = on_node(setup).unwrap() else {
        return;
    };
    let folder = node.daemon.scratch().join("evidence");
    std::fs::create_dir(&folder).unwrap();
    let pods = pods(&node, &folder);
    let names: Vec<String> = pods.iter().map(|pod| name(pod).to_owned()).collect();
    for pod in &pods {
        kubelet.add(pod).unwrap();
    }
    all_ready(&kubelet, &names);
    let steady: Vec<String> = names
        .iter()
        .filter(|name| *name != "ending")
        .cloned()
        .collect();
    let (before, number) = (identity(&kubelet, &steady), count(&node));

    for round in 0..if thorough() { ROUNDS.1 } else { ROUNDS.0 } {
        kubelet.kill();
        kubelet.start_again().unwrap();
        all_ready(&kubelet, &names);
        node.daemon.terminate().unwrap();
        node.daemon.start().unwrap();
        all_ready(&kubelet, &names);
        kubelet.kill();
        node.daemon.kill();
        node.daemon.start().unwrap();
        kubelet.start_again().unwrap();
        all_ready(&kubelet, &names);
        assert_eq!(count(&node), number, "round {round}");
        killed_while_a_pod_begins(&kubelet, &mut node, round);
        ended_meanwhile(&kubelet, &mut node, &folder);
        assert_eq!(identity(&kubelet, &steady), before, "round {round}");
    }

    counted_without_gap(&kubelet);
    kubelet.finish(&node.crictl).unwrap();
}

/// The log of the container that counts, as the kubelet keeps it.
fn counted_without_gap(kubelet: &Kubelet) {
    let path = kubelet.path("containerLogs", "steady", "counter");
    let log = kubelet.secure_text(&path).unwrap();
    let numbers: Vec<usize> = log
        .lines()
        .map(|line| line.strip_prefix("count ").unwrap().parse().unwrap())
        .collect();
    assert!(!numbers.is_empty());
    // The log may have been turned over meanwhile.
    let expect: Vec<usize> = (numbers[0]..numbers[0] + numbers.len()).collect();
    assert_eq!(numbers, expect);
}

#[test]
fn pods_outlive_kubelet_and_daemon() {
    all_of_it(&plain());
}

#[test]
fn pods_outlive_both_with_events_and_figures_from_cri() {
    all_of_it(&gated());
}
