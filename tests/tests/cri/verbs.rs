//! Every verb of crictl that needs no streaming session.

use cri_api::{ContainerState, ContainerStatusRequest, StopContainerRequest};
use serde_json::Value;
use tests::{Node, pod, wait};

/// Stops in a row: what is looked for is a race.
const STOPS: usize = 8;

/// Ends with 5 when told to stop.
const SERVER: &str = "trap 'echo bye; exit 5' TERM; echo hello; echo oops >&2; echo ready; \
    while :; do sleep 1 & wait $!; done";

#[test]
fn version_and_info() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let version = node.crictl.ok(&["version"]).unwrap();
    assert!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = node.crictl.json(&["info"]).unwrap();
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions
            .iter()
            .find(|condition| condition["type"] == wanted);
        assert_eq!(condition.unwrap()["status"], true, "{info}");
    }
    let handlers = info["runtimeHandlers"].as_array().unwrap();
    let names: Vec<&str> = handlers
        .iter()
        .map(|handler| handler["name"].as_str().unwrap_or_default())
        .collect();
    assert!(names.contains(&"") && names.contains(&"wrun"), "{names:?}");
}

#[test]
fn images_come_and_go() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pulled = node.crictl.ok(&["pull", &node.image]).unwrap();
    let images = node.crictl.json(&["images", "-o", "json"]).unwrap();
    let image = &images["images"][0];
    assert_eq!(image["repoTags"][0], node.image.as_str(), "{images}");
    let id = image["id"].as_str().unwrap();
    assert!(pulled.contains(id), "{pulled} is not about {id}");
    let status = node.crictl.json(&["inspecti", &node.image]).unwrap();
    assert_eq!(status["status"]["id"], id, "{status}");
    assert_ne!(status["status"]["size"], "0");
    node.crictl.ok(&["rmi", &node.image]).unwrap();
    let images = node.crictl.json(&["images", "-o", "json"]).unwrap();
    assert_eq!(
        images["images"].as_array().map_or(0, Vec::len),
        0,
        "{images}"
    );
}

#[test]
fn a_pod_from_its_start_to_its_end() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("life", SERVER).unwrap();
    pod.wait_for_log("ready").unwrap();
    look(&node, &pod);
    use_container(&node, &pod);

    node.crictl
        .ok(&["stop", "-t", "10", &pod.container])
        .unwrap();
    // No waiting: a stop answers when the end is known to all.
    assert_eq!(
        node.crictl.container(&pod.container, "state").unwrap(),
        "CONTAINER_EXITED"
    );
    assert_eq!(
        node.crictl.container(&pod.container, "exitCode").unwrap(),
        5
    );
    assert_eq!(
        node.crictl.container(&pod.container, "reason").unwrap(),
        "Error"
    );
    // Two pipes have no common order.
    let (errors, lines): (Vec<String>, Vec<String>) = pod
        .messages()
        .unwrap()
        .into_iter()
        .partition(|line| line == "oops");
    assert_eq!(
        (errors.len(), lines),
        (1, ["hello", "ready", "bye"].map(str::to_owned).to_vec())
    );
    node.crictl.ok(&["rm", &pod.container]).unwrap();
    assert_eq!(node.crictl.ok(&["ps", "-a", "-q"]).unwrap(), "");
    node.crictl.ok(&["stopp", &pod.id]).unwrap();
    let status = node.crictl.json(&["inspectp", &pod.id]).unwrap();
    assert_eq!(status["status"]["state"], "SANDBOX_NOTREADY");
    node.crictl.ok(&["rmp", &pod.id]).unwrap();
    assert_eq!(node.crictl.ok(&["pods", "-q"]).unwrap(), "");
}

/// The verbs that only look.
fn look(node: &Node, pod: &tests::node::Pod) {
    assert_eq!(
        node.crictl.ok(&["ps", "-q", "--no-trunc"]).unwrap(),
        pod.container
    );
    assert_eq!(
        node.crictl.ok(&["pods", "-q", "--no-trunc"]).unwrap(),
        pod.id
    );
    let by_name = node
        .crictl
        .ok(&["ps", "-q", "--name", "life", "--state", "running"])
        .unwrap();
    assert!(!by_name.is_empty());
    let label = format!("test={}", node.daemon.scratch().name());
    assert!(
        !node
            .crictl
            .ok(&["pods", "-q", "--label", &label])
            .unwrap()
            .is_empty()
    );
    assert!(
        node.crictl
            .ok(&["pods", "-q", "--label", "test=other"])
            .unwrap()
            .is_empty()
    );

    let status = node.crictl.json(&["inspect", &pod.container]).unwrap()["status"].take();
    assert_eq!(status["state"], "CONTAINER_RUNNING", "{status}");
    assert_eq!(status["labels"]["name"], "life");
    assert_eq!(status["logPath"], pod::arg(&pod.log));
    // A short id is as good as the whole.
    assert_eq!(
        node.crictl.container(&pod.container[..12], "id").unwrap(),
        pod.container.as_str()
    );
    let status = node.crictl.json(&["inspectp", &pod.id]).unwrap()["status"].take();
    assert_eq!(status["state"], "SANDBOX_READY", "{status}");
    assert_eq!(status["annotations"]["wherry.test/of"], "life");
    let address: std::net::IpAddr = status["network"]["ip"].as_str().unwrap().parse().unwrap();
    assert!(!address.is_loopback());
}

/// The verbs that reach into the container.
fn use_container(node: &Node, pod: &tests::node::Pod) {
    assert_eq!(node.exec(&pod.container, "hostname").unwrap(), "life");
    let failed = node
        .crictl
        .run(&["exec", "-s", &pod.container, "sh", "-c", "exit 3"])
        .unwrap();
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains('3'), "{failed:?}");
    let logs = node.crictl.ok(&["logs", &pod.container]).unwrap();
    assert!(logs.contains("hello"), "{logs}");
    let stats = node
        .crictl
        .json(&["stats", "-o", "json", &pod.container])
        .unwrap();
    let stats = &stats["stats"][0];
    assert_eq!(stats["attributes"]["id"], pod.container.as_str(), "{stats}");
    assert_ne!(stats["cpu"]["timestamp"], "0");
    let memory: u64 = stats["memory"]["workingSetBytes"]["value"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(memory > 0, "{stats}");
}

#[test]
fn exit_codes_and_reasons() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let check = |name: &str, script: &str, code: i64, reason: &str| {
        let pod = node.run(name, script).unwrap();
        assert_eq!(
            node.crictl.exit_code(&pod.container).unwrap(),
            code,
            "{script}"
        );
        let said = node.crictl.container(&pod.container, "reason").unwrap();
        assert_eq!(said, reason, "{script}");
        node.remove(&pod).unwrap();
    };
    check("zero", "exit 0", 0, "Completed");
    check("three", "exit 3", 3, "Error");
    check("last", "printf 'no newline'", 0, "Completed");
}

#[test]
fn a_container_that_gets_no_grace_is_killed() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("killed", SERVER).unwrap();
    pod.wait_for_log("ready").unwrap();
    node.crictl
        .ok(&["stop", "-t", "0", &pod.container])
        .unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 137);
}

#[test]
fn a_container_over_its_memory_is_known_as_such() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "greedy");
    // Keeps a growing line in memory.
    let mut config = pod::container("greedy", &node.image, "exec tail /dev/zero");
    config["linux"]["resources"] = serde_json::json!({"memory_limit_in_bytes": 16 << 20, "memory_swap_limit_in_bytes": 16 << 20});
    let pod = node.run_as(&[], &sandbox, &config).unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 137);
    assert_eq!(
        node.crictl.container(&pod.container, "reason").unwrap(),
        "OOMKilled"
    );
}

#[test]
fn logs_are_followed_to_the_end() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node
        .run(
            "talk",
            "echo one; while [ ! -e /go ]; do sleep 0.1; done; echo two",
        )
        .unwrap();
    let output = node.daemon.scratch().join("followed");
    let mut follow = node
        .crictl
        .start(&["logs", "-f", &pod.container], &output)
        .unwrap();
    let seen = |text: &str| {
        wait::until(text, || {
            std::fs::read_to_string(&output)
                .ok()
                .filter(|log| log.contains(text))
        })
    };
    seen("one").unwrap();
    node.exec(&pod.container, "touch /go").unwrap();
    seen("two").unwrap();
    wait::until("crictl logs -f to end with the container", || {
        follow.ended()
    })
    .unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 0);
}

#[test]
fn run_does_all_in_one() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "all");
    let sandbox = node.file("all-pod", &sandbox).unwrap();
    let container = pod::container("all", &node.image, "echo done; exit 4");
    let container = node.file("all", &container).unwrap();
    let id = node
        .crictl
        .ok(&["run", "--with-pull", &container, &sandbox])
        .unwrap();
    let id = id.lines().last().unwrap().trim().to_owned();
    assert_eq!(node.crictl.exit_code(&id).unwrap(), 4);
}

#[test]
fn a_pod_of_several_shares_one_network() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node.run("first", "httpd -f -p 8080 -h /etc").unwrap();
    let sandbox = node.daemon.scratch().join("first-pod.json");
    let script =
        "until wget -q -O /dev/null http://127.0.0.1:8080/passwd; do sleep 0.1; done; echo got it";
    let second = node
        .file("second", &pod::container("second", &node.image, script))
        .unwrap();
    let create = ["create", "--no-pull", &pod.id, &second, pod::arg(&sandbox)];
    let second = node.crictl.ok(&create).unwrap();
    node.crictl.ok(&["start", &second]).unwrap();
    assert_eq!(node.crictl.exit_code(&second).unwrap(), 0);
}

#[test]
fn a_removal_by_force_takes_all_along() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pod = node
        .run(
            "stubborn",
            "trap '' TERM; echo ready; while :; do sleep 1; done",
        )
        .unwrap();
    pod.wait_for_log("ready").unwrap();
    node.crictl.ok(&["rmp", "-f", &pod.id]).unwrap();
    assert_eq!(node.crictl.ok(&["ps", "-a", "-q"]).unwrap(), "");
    let pods: Value = node.crictl.json(&["pods", "-o", "json"]).unwrap();
    assert_eq!(pods["items"].as_array().map_or(0, Vec::len), 0, "{pods}");
    assert!(pod.log.exists(), "the log is the client's to remove");
}

#[test]
fn containers_may_share_their_process_ids() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "shared");
    pod::sharing_pids(&mut sandbox);
    let mut config = pod::container("shared", &node.image, "exec sleep 1234");
    pod::sharing_pids(&mut config);
    let pod = node.run_as(&[], &sandbox, &config).unwrap();
    let mut config = pod::container("second", &node.image, "exec sleep 5678");
    pod::sharing_pids(&mut config);
    let second = node.file("second", &config).unwrap();
    let sandbox = node.file("shared-pod", &sandbox).unwrap();
    let second = node
        .crictl
        .ok(&["create", "--no-pull", &pod.id, &second, &sandbox])
        .unwrap();
    node.crictl.ok(&["start", &second]).unwrap();
    let processes = node
        .exec(&second, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        .unwrap();
    assert!(
        processes.contains("sleep 1234") && processes.contains("sleep 5678"),
        "{processes}"
    );
    node.crictl.ok(&["stop", "-t", "0", &second]).unwrap();
    assert_eq!(
        node.exec(&pod.container, "echo still here").unwrap(),
        "still here"
    );
    node.remove(&pod).unwrap();
}

#[test]
fn a_stop_answers_when_the_end_is_known_to_all() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let client = node.daemon.client().unwrap();
    for round in 0..STOPS {
        let pod = node.run(&format!("stop-{round}"), SERVER).unwrap();
        pod.wait_for_log("ready").unwrap();
        let container_id = pod.container.clone();
        let stop = StopContainerRequest {
            container_id: container_id.clone(),
            timeout: 10,
        };
        let look = ContainerStatusRequest {
            container_id,
            verbose: false,
        };
        client
            .call(async |mut cri| cri.stop_container(stop).await)
            .unwrap();
        let status = client
            .call(async |mut cri| cri.container_status(look).await)
            .unwrap();
        let status = status.status.unwrap();
        let expect = (ContainerState::ContainerExited, 5);
        assert_eq!((status.state(), status.exit_code), expect, "round {round}");
        node.remove(&pod).unwrap();
    }
}
