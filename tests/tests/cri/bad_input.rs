//! What is wrong is refused by name, and leaves nothing half-made.

mod asked;
mod containers;
mod messages;
mod pods;
mod verbs;

use std::ffi::OsStr;

use cri_api::{ImageSpec, PullImageRequest, RunPodSandboxRequest};
use tests::{Daemon, Node, Scratch, pod, process};
use tonic::Code;

#[test]
fn a_malformed_reference() {
    let daemon = Daemon::setup().start().unwrap();
    let client = daemon.client().unwrap();
    for reference in [
        "",
        "UPPER/Case",
        "a/b:c:d",
        "a@sha256:12",
        "http://a/b",
        "a/../b",
    ] {
        let image = Some(ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        });
        let request = PullImageRequest {
            image,
            ..Default::default()
        };
        let refused = client.image_call(async |mut cri| cri.pull_image(request).await);
        let status = refused.expect_err(reference);
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{reference}: {status:?}"
        );
        assert!(
            status.message().contains(reference),
            "{reference}: {status:?}"
        );
    }
}

#[test]
fn an_image_that_the_registry_does_not_have() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let missing = format!("{}/no/such:image", node.registry.host);
    let refused = node.crictl.run(&["pull", &missing]).unwrap();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("no/such"), "{refused:?}");
    let images = node.crictl.json(&["images", "-o", "json"]).unwrap();
    assert_eq!(
        images["images"].as_array().map_or(0, Vec::len),
        0,
        "{images}"
    );
}

#[test]
fn an_unknown_handler() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = node
        .file("pod", &pod::sandbox(node.daemon.scratch(), "pod"))
        .unwrap();
    let refused = node
        .crictl
        .run(&["runp", "-r", "gvisor", &sandbox])
        .unwrap();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("gvisor"), "{refused:?}");
    assert_eq!(node.crictl.ok(&["pods", "-q"]).unwrap(), "");
}

#[test]
fn a_pod_without_a_name() {
    let daemon = Daemon::setup().start().unwrap();
    let client = daemon.client().unwrap();
    let request = RunPodSandboxRequest::default();
    let refused = client.call(async |mut cri| cri.run_pod_sandbox(request).await);
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_container_without_its_image() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox = node
        .file("pod", &pod::sandbox(node.daemon.scratch(), "pod"))
        .unwrap();
    let id = node.crictl.ok(&["runp", &sandbox]).unwrap();
    let container = pod::container("none", "localhost/never:pulled", "true");
    let container = node.file("none", &container).unwrap();
    let refused = node
        .crictl
        .run(&["create", "--no-pull", &id, &container, &sandbox])
        .unwrap();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("never:pulled"), "{refused:?}");
    assert_eq!(node.crictl.ok(&["ps", "-a", "-q"]).unwrap(), "");
}

#[test]
fn a_program_that_is_not_there() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let sandbox_config = pod::sandbox(node.daemon.scratch(), "pod");
    let sandbox = node.file("pod", &sandbox_config).unwrap();
    let mut config = pod::container("wrong", &node.image, "");
    config["command"] = serde_json::json!(["/no/such/program"]);
    let container = node.file("wrong", &config).unwrap();
    node.crictl.ok(&["pull", &node.image]).unwrap();
    let id = node.crictl.ok(&["runp", &sandbox]).unwrap();
    let created = node
        .crictl
        .run(&["create", "--no-pull", &id, &container, &sandbox])
        .unwrap();
    // Refused at create or at start: either way it is named.
    let refused = if created.code == 0 {
        node.crictl.run(&["start", created.stdout.trim()]).unwrap()
    } else {
        created
    };
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("/no/such/program"), "{refused:?}");
    // A kubelet counts the logs to know how often it has tried.
    let logs = node.daemon.scratch().join("logs/pod");
    let left: Vec<_> = std::fs::read_dir(logs).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ids_of_nobody() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    for verb in [
        &["inspect", "0123abcd"][..],
        &["inspectp", "0123abcd"],
        &["start", "0123abcd"],
    ] {
        let refused = node.crictl.run(verb).unwrap();
        assert_ne!(refused.code, 0, "{verb:?}");
        assert!(refused.stderr.contains("NotFound"), "{refused:?}");
    }
}

/// How a daemon with this configuration ends, if it does.
fn refused_daemon(config: &str) -> process::Output {
    let scratch = Scratch::new().unwrap();
    let file = scratch.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let path = |name: &str| scratch.join(name);
    let mut command = process::limited(tests::daemon::programs().join("wherryd"), 10);
    let mut flag = |name: &str, value: &OsStr| {
        command.arg(name).arg(value);
    };
    flag("--config", file.as_os_str());
    flag("--root", path("root").as_os_str());
    flag("--state", path("state").as_os_str());
    flag(
        "--listen",
        format!("unix://{}", path("sock").display()).as_ref(),
    );
    let output = process::run(&mut command).unwrap();
    assert!(
        !path("root").exists() && !path("state").exists(),
        "folders were made: {output:?}"
    );
    output
}

#[test]
fn a_configuration_with_an_unknown_key() {
    for (config, named) in [
        ("no_such_key = 1\n", "no_such_key"),
        ("[network]\nbrigde = \"x\"\n", "brigde"),
        (
            "[runtimes.kata]\npath = \"/no/such/kata\"\n",
            "/no/such/kata",
        ),
        ("this is not TOML", "config.toml"),
    ] {
        let output = refused_daemon(config);
        assert!(
            output.code != 0 && output.code != 124,
            "{config}: {output:?}"
        );
        assert!(output.stderr.contains(named), "{config}: {output:?}");
    }
}

#[test]
fn a_socket_in_use() {
    let daemon = Daemon::setup().start().unwrap();
    let second = daemon.command(&[]).unwrap();
    assert!(second.code != 0 && second.code != 124, "{second:?}");
    assert!(second.stderr.contains("sock"), "{second:?}");
    daemon.client().expect("the first one still serves");
}
