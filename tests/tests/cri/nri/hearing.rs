//! What a plugin hears of, and when.

use cri_api as cri;
use serde_json::{Value, json};
use tests::pod;

use super::plugin::{Asked, Plugin, node, wait_in};

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    let found = value.pointer(path).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("{path} in {value}"))
}

#[test]
fn a_life_is_told_from_beginning_to_end() {
    let Some(node) = node("") else { return };
    let plugin = Plugin::start(&node, "10", "ear", json!({}));
    let configured = plugin.wait("Configure", "");
    assert_eq!(text(&configured, "/runtime"), "wherry");
    assert_eq!(text(&configured, "/registration"), "5s");
    assert_eq!(text(&configured, "/request"), "2s");
    assert!(text(&configured, "/nri").starts_with("v0.12"));

    let pod = node.run("life", "exec sleep 1000").unwrap();
    let client = node.daemon.client().unwrap();
    let limits = |shares| {
        Some(cri::LinuxContainerResources {
            cpu_shares: shares,
            ..Default::default()
        })
    };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: pod.container.clone(),
        linux: limits(200),
        ..Default::default()
    };
    client
        .call(async |mut cri| cri.update_container_resources(request).await)
        .unwrap();
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: limits(3),
        resources: limits(300),
    };
    client
        .call(async |mut cri| cri.update_pod_sandbox_resources(request).await)
        .unwrap();
    node.remove(&pod).unwrap();

    let all: Vec<String> = plugin
        .events()
        .iter()
        .map(|event| text(event, "/event").to_owned())
        .collect();
    let expect = [
        "Configure",
        "Synchronize",
        "RunPodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopContainer",
        "StopPodSandbox",
        "RemoveContainer",
        "RemovePodSandbox",
    ];
    assert_eq!(all, expect);

    let ran = plugin.wait("RunPodSandbox", "life");
    assert_eq!(text(&ran, "/pod/id"), pod.id);
    assert_eq!(text(&ran, "/pod/uid"), "uid-life");
    assert_eq!(text(&ran, "/pod/namespace"), "default");
    assert_eq!(ran["pod"]["annotations"]["wherry.test/of"], "life");
    assert!(!ran["pod"]["ips"].as_array().unwrap().is_empty());
    let kinds = ran["pod"]["linux"]["namespaces"].as_array().unwrap();
    assert!(kinds.iter().any(|one| one["type"] == "network"));

    let created = &plugin.wait("CreateContainer", "life")["container"];
    assert_eq!(text(created, "/id"), pod.container);
    assert_eq!(text(created, "/pod_sandbox_id"), pod.id);
    assert_eq!(created["args"], json!(["sh", "-c", "exec sleep 1000"]));
    assert_eq!(created["labels"]["name"], "life");
    assert!(!created["mounts"].as_array().unwrap().is_empty());
    assert!(text(created, "/linux/cgroups_path").contains(&pod.container));
    assert!(text(created, "/image/name").contains("busybox"));
    assert!(text(created, "/image/config_digest").starts_with("sha256:"));

    let started = &plugin.wait("PostStartContainer", "life")["container"];
    assert_eq!(text(started, "/state"), "CONTAINER_RUNNING");
    assert_ne!(started["pid"], 0);
    let updated = plugin.wait("UpdateContainer", "life");
    assert_eq!(text(&updated, "/resources/cpu/shares/value"), "200");
    let after = plugin.wait("PostUpdateContainer", "life");
    assert_eq!(
        text(&after, "/container/linux/resources/cpu/shares/value"),
        "200"
    );
    let budget = plugin.wait("UpdatePodSandbox", "life");
    assert_eq!(text(&budget, "/overhead/cpu/shares/value"), "3");
    assert_eq!(text(&budget, "/resources/cpu/shares/value"), "300");
    let stopped = &plugin.wait("StopContainer", "life")["container"];
    assert_eq!(text(stopped, "/state"), "CONTAINER_STOPPED");
    assert_eq!(stopped["exit_code"], 137);
}

#[test]
fn an_end_of_its_own_is_told_once() {
    let Some(node) = node("") else { return };
    let plugin = Plugin::start(&node, "10", "ear", json!({}));
    let pod = node.run("short", "exit 3").unwrap();
    let stopped = &plugin.wait("StopContainer", "short")["container"];
    assert_eq!(stopped["exit_code"], 3);
    assert_eq!(text(stopped, "/status_reason"), "Error");
    node.remove(&pod).unwrap();
    let heard = plugin.heard_of("short");
    let times = |event: &str| heard.iter().filter(|one| *one == event).count();
    assert_eq!((times("StopContainer"), times("RemoveContainer")), (1, 1));
    assert_eq!((times("StopPodSandbox"), times("RemovePodSandbox")), (1, 1));
}

#[test]
fn a_plugin_that_comes_late_sees_what_there_is_and_again_after_a_restart() {
    let Some(mut node) = node("") else { return };
    let pod = node.run("early", "exec sleep 1000").unwrap();
    let gone = node.run("gone", "exit 0").unwrap();
    let mut plugin = Plugin::start(&node, "10", "late", json!({}));
    let check = |plugin: &Plugin| {
        let seen = plugin.wait("Synchronize", "");
        let names = |list: &str| {
            let all = seen[list].as_array().unwrap().iter();
            let mut names: Vec<_> = all.map(|one| text(one, "/name").to_owned()).collect();
            names.sort();
            names
        };
        assert!(names("pods").contains(&"early".to_owned()));
        assert!(names("containers").contains(&"early".to_owned()));
        let all = seen["containers"].as_array().unwrap();
        let early = all.iter().find(|one| one["name"] == "early").unwrap();
        assert_eq!(text(early, "/state"), "CONTAINER_RUNNING");
        assert_eq!(early["args"], json!(["sh", "-c", "exec sleep 1000"]));
    };
    check(&plugin);
    // The connection goes with the daemon; whoever comes back is told anew.
    node.daemon.kill();
    plugin.wait_for_end();
    node.daemon.start().unwrap();
    let again = Plugin::start(&node, "10", "late", json!({}));
    check(&again);
    node.remove(&pod).unwrap();
    node.remove(&gone).unwrap();
    let heard = again.heard_of("early");
    assert_eq!(
        heard,
        [
            "StopContainer",
            "StopPodSandbox",
            "RemoveContainer",
            "RemovePodSandbox"
        ]
    );
    // A stop that is wanted is told.
    node.daemon.terminate().unwrap();
    again.wait("Shutdown", "");
    node.daemon.start().unwrap();
}

#[test]
fn plugins_of_a_folder_are_started_with_the_daemon() {
    let Some(mut node) = node("connections = \"no\"\n") else {
        return;
    };
    let (plugins, configs) = node.daemon.plugin_folders();
    for folder in [&plugins, &configs] {
        std::fs::create_dir(folder).unwrap();
    }
    let log = node.daemon.scratch().join("folder.log");
    let program = super::plugin::program().unwrap();
    std::fs::copy(program, plugins.join("15-resident")).unwrap();
    // One that is none must not be in the way.
    std::fs::write(plugins.join("16-broken"), "#!/bin/sh\nexit 0\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(plugins.join("16-broken"), mode).unwrap();
    let variable = json!({"env": [{"key": "RESIDENT", "value": "yes"}]});
    let script = json!({"log": log, "adjust": {"home": variable}});
    std::fs::write(configs.join("resident.conf"), script.to_string()).unwrap();
    assert!(!node.daemon.plugin_socket().exists());

    node.daemon.terminate().unwrap();
    node.daemon.start().unwrap();
    node.wait_for_log("15-resident");
    let pod = node.run("home", "exec sleep 1000").unwrap();
    let said = node.exec(&pod.container, "echo $RESIDENT").unwrap();
    assert_eq!(said, "yes");
    node.remove(&pod).unwrap();
    node.daemon.terminate().unwrap();
    wait_in(&log, "Shutdown", "");
    node.daemon.start().unwrap();
}

#[test]
fn a_sandbox_may_be_refused_and_tried_again() {
    let Some(node) = node("") else { return };
    let script = json!({"fail": {"RunPodSandbox": "not today"}});
    let mut plugin = Plugin::start(&node, "10", "no", script);
    let sandbox = pod::sandbox(node.daemon.scratch(), "asked");
    let file = node.file("asked-pod", &sandbox).unwrap();
    let error = node.crictl.ok(&["runp", &file]).unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("10-no") && said.contains("not today"),
        "{said}"
    );
    let heard = plugin.heard_of("asked");
    assert_eq!(
        heard,
        ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"]
    );
    assert!(node.crictl.ok(&["pods", "-q"]).unwrap().is_empty());
    plugin.kill();
    node.wait_until_alone();
    let pod = node.run("asked", "exec sleep 1000").unwrap();
    node.remove(&pod).unwrap();
}
