//! Plugins that hang, die or answer nonsense: they delay nobody beyond their time limit.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::node::Node;
use tests::process::{self, Running};
use tests::{pod, wait};

use super::plugin::{Asked, Plugin, node};

/// Runs a pod; answers with how long that took.
fn timed(node: &Node, name: &str) -> Duration {
    let start = Instant::now();
    let pod = node.run(name, "exec sleep 1000").unwrap();
    let took = start.elapsed();
    node.remove(&pod).unwrap();
    took
}

fn failing(what: &str, event: &str) -> Value {
    json!({what: [event]})
}

#[test]
fn a_plugin_that_hangs_is_waited_for_once() {
    let Some(node) = node("request_timeout = \"1s\"\n") else {
        return;
    };
    let usual = timed(&node, "usual");
    let good = Plugin::start(&node, "90", "good", json!({}));
    for event in [
        "RunPodSandbox",
        "CreateContainer",
        "PostStartContainer",
        "StopContainer",
    ] {
        let mut hung = Plugin::start(&node, "10", &event.to_lowercase(), failing("hang", event));
        let took = timed(&node, event);
        // Its limit, once; and what a loaded machine takes for the rest.
        assert!(took < usual + Duration::from_secs(20), "{event}: {took:?}");
        node.wait_until_gone(&format!("10-{}", event.to_lowercase()));
        hung.wait_for_end();
        let heard = good.heard_of(event);
        assert!(heard.contains(&"RemovePodSandbox".to_owned()), "{heard:?}");
        let times = hung
            .events()
            .iter()
            .filter(|one| one["event"] == event)
            .count();
        assert_eq!(times, 1, "it is asked once");
    }
    assert!(node.daemon.log().contains("it did not answer within 1s"));
    let metrics = node.daemon.command(&["metrics"]).unwrap().ok().unwrap();
    for line in [
        "wherryd_nri_requests_total{event=\"CreateContainer\",outcome=\"timeout\"} 1",
        "wherryd_nri_disconnects_total{reason=\"timeout\"} 4",
        "wherryd_nri_plugins 1",
        "wherryd_nri_request_duration_seconds_bucket{event=\"RunPodSandbox\",le=\"60\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn what_is_waited_for_is_shown() {
    let Some(node) = node("request_timeout = \"300s\"\n") else {
        return;
    };
    let mut plugin = Plugin::start(&node, "10", "slow", failing("hang", "StopContainer"));
    let pod = node.run("waits", "exec sleep 1000").unwrap();
    let program = tests::peers::peer_or_installed("crictl").unwrap();
    let mut stop = process::lasting(program);
    let socket = format!("unix://{}", node.daemon.socket().display());
    stop.args(["-r", &socket, "-t", "600s", "stop", &pod.container]);
    let said = node.daemon.scratch().join("stop.said");
    let _stopping = Running::spawn(&mut stop, &said).unwrap();
    let now = || -> Value {
        let said = node.daemon.command(&["debug", "--json"]).unwrap();
        serde_json::from_str(&said.ok().unwrap()).unwrap()
    };
    let shown = wait::until("the question to be shown", || {
        let now = now();
        (now["questions"][0]["method"] == "StopContainer").then_some(now)
    });
    let shown = shown.unwrap();
    assert_eq!(shown["questions"][0]["plugin"], "10-slow", "{shown}");
    assert_eq!(shown["plugins"][0]["name"], "10-slow", "{shown}");
    plugin.kill();
    wait::until("nothing to be waited for", || {
        let now = now();
        let none = |list: &str| now[list].as_array().is_some_and(Vec::is_empty);
        (none("questions") && none("plugins")).then_some(())
    })
    .unwrap();
    node.remove(&pod).unwrap();
}

#[test]
fn a_plugin_that_dies_or_speaks_nonsense_is_forgotten() {
    let Some(node) = node("") else { return };
    for (what, event) in [("die", "CreateContainer"), ("nonsense", "StartContainer")] {
        let mut plugin = Plugin::start(&node, "10", what, failing(what, event));
        timed(&node, what);
        plugin.wait_for_end();
        node.wait_until_gone(&format!("10-{what}"));
    }
    // Where it wants so, what it did not answer fails.
    let script = json!({"die": ["CreateContainer"], "policy": {"fail_request": true}});
    let _strict = Plugin::start(&node, "10", "strict", script);
    let error = node.run("strict", "exec sleep 1000").unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("10-strict") && error.contains("CreateContainer"),
        "{error}"
    );
    node.crictl.ok(&["rmp", "-fa"]).unwrap();
}

#[test]
fn a_slow_plugin_that_wants_to_be_kept_is_kept() {
    let Some(node) = node("request_timeout = \"1s\"\n") else {
        return;
    };
    let script = json!({"hang": ["PostCreateContainer"], "policy": {"keep_connected": true}});
    let plugin = Plugin::start(&node, "10", "slow", script);
    timed(&node, "kept");
    let heard = plugin.heard_of("kept");
    assert_eq!(heard.last().map(String::as_str), Some("RemovePodSandbox"));
}

#[test]
fn strangers_on_the_socket_are_in_nobodys_way() {
    use std::io::Write as _;
    let Some(node) = node("registration_timeout = \"1s\"\n") else {
        return;
    };
    let silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(node.daemon.plugin_socket()).unwrap())
        .collect();
    let mut rude = UnixStream::connect(node.daemon.plugin_socket()).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let plugin = Plugin::start(&node, "10", "guest", json!({}));
    timed(&node, "calm");
    assert!(
        plugin
            .heard_of("calm")
            .contains(&"RemovePodSandbox".to_owned())
    );
    // Who does not register is shown out.
    for mut stream in silent.into_iter().chain([rude]) {
        let limit = Some(tests::wait::LIMIT);
        stream.set_read_timeout(limit).unwrap();
        let read = std::io::Read::read(&mut stream, &mut [0; 64]);
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

#[test]
fn a_wrong_name_is_no_plugin() {
    let Some(node) = node("") else { return };
    let mut plugin = Plugin::connect(&node, "1x", "name", json!({}));
    plugin.wait_for_end();
    // Its library may see the end of the connection before the answer; the daemon says why.
    let log = node.daemon.log();
    assert!(log.contains("is not two digits"), "{log}");
    timed(&node, "fine");
}

#[test]
fn a_start_may_be_refused() {
    let Some(node) = node("") else { return };
    let script = json!({"fail": {"StartContainer": "not now", "StopContainer": "never mind"}});
    let plugin = Plugin::start(&node, "10", "no", script);
    let sandbox = pod::sandbox(node.daemon.scratch(), "held");
    let container = pod::container("held", &node.image, "exec sleep 1000");
    let error = node.run_as(&[], &sandbox, &container).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("10-no") && error.contains("not now"),
        "{error}"
    );
    let stopped = &plugin.wait("StopContainer", "held")["container"];
    assert_eq!(stopped["exit_code"], 128);
    assert_eq!(stopped["status_reason"], "StartError");
    node.crictl.ok(&["rmp", "-fa"]).unwrap();
}
