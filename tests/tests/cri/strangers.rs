//! Whoever has no business with the daemon reaches neither its sockets nor a session nor what
//! containers keep: another user of the machine, a pod.

use std::path::{Path, PathBuf};

use cri_api as cri;
use serde_json::json;
use tests::node::Pod;
use tests::{Node, peers, pod, process};

/// A user who owns nothing (`nobody` by habit).
const STRANGER: &str = "65534";

/// A command of that user's.
fn as_stranger(program: &Path) -> std::process::Command {
    let mut command = process::bounded("setpriv");
    command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"]);
    command.arg(program);
    command
}

#[test]
fn another_user_reaches_no_socket() {
    let Some(crictl) = peers::peer("bin/crictl") else {
        return;
    };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    process::ok(process::bounded("chmod").arg("755").arg(folder.path())).unwrap();
    // The user must be able to run it, wherever it lies.
    let program = folder.path().join("crictl");
    std::fs::copy(crictl, &program).unwrap();
    let daemon = tests::Daemon::setup().containerd().start().unwrap();
    process::ok(
        process::bounded("chmod")
            .arg("755")
            .arg(daemon.scratch().path()),
    )
    .unwrap();
    let sockets = [
        daemon.socket(),
        daemon.containerd_socket(),
        daemon.state().join("control.sock"),
    ];
    for socket in sockets {
        assert!(socket.exists(), "{}", socket.display());
        let endpoint = format!("unix://{}", socket.display());
        let mut command = as_stranger(&program);
        command.args(["--config=/dev/null", "-t", "5s", "-r", &endpoint, "version"]);
        let refused = process::run(&mut command).unwrap();
        assert_ne!(refused.code, 0, "{}: {refused:?}", socket.display());
        assert!(
            refused.stderr.contains("permission denied"),
            "{}: {refused:?}",
            socket.display()
        );
    }
}

/// Files of a pod that its processes read as whatever user they are: nothing in them is secret.
const OPEN: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

#[test]
fn another_user_reads_nothing_of_a_container() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let scratch = node.daemon.scratch();
    process::ok(process::bounded("chmod").arg("755").arg(scratch.path())).unwrap();
    let mut container = pod::container("secret", &node.image, "echo ready; exec sleep 1000");
    container["envs"] = json!([{"key": "PASSWORD", "value": "c2VjcmV0"}]);
    let sandbox = pod::sandbox(scratch, "secret");
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    pod.wait_for_log("ready").unwrap();
    let mut files = Vec::new();
    for folder in [node.daemon.state(), node.daemon.root()] {
        walk(&folder, &mut files);
    }
    assert!(files.len() > 10, "{files:?}");
    let script = "for f; do if [ -r \"$f\" ]; then echo \"$f\"; fi; done";
    let mut command = as_stranger(Path::new("/bin/sh"));
    let readable = process::ok(command.args(["-c", script, "sh"]).args(&files)).unwrap();
    let closed = |file: &&str| !OPEN.iter().any(|name| file.ends_with(name));
    let readable: Vec<&str> = readable.lines().filter(closed).collect();
    assert!(readable.is_empty(), "{readable:#?}");
}

/// All files below a folder, but what a container's root holds.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() && files.len() < 2000 {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A script that sends a request for a session that does not exist, as a page in a browser would,
/// and shows the answer.
fn ask(host: &str, port: &str) -> String {
    let request = "GET /exec/0123456789abcdef HTTP/1.1\\r\\nHost: evil.example\\r\\n\
        Origin: http://evil.example\\r\\nConnection: close\\r\\n\\r\\n";
    format!("{{ printf '{request}'; sleep 3; }} | nc -w 5 {host} {port} 2>&1; echo answered")
}

#[test]
fn a_pod_reaches_no_session() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let own = node.run("own", "echo ready; exec sleep 1000").unwrap();
    let (mut sandbox, mut container) = (
        pod::sandbox(node.daemon.scratch(), "host"),
        pod::container("host", &node.image, "echo ready; exec sleep 1000"),
    );
    pod::on_host_network(&mut sandbox, &mut container);
    let host = node.run_as(&[], &sandbox, &container).unwrap();
    let url = ticket(&node, &own);
    let address = url.strip_prefix("http://").expect("a session without TLS");
    let (address, path) = address.split_once('/').expect("a path");
    let (ip, port) = address.split_once(':').expect("a port");
    assert_eq!(ip, "127.0.0.1");
    let gateway = node
        .exec(&own.container, "ip route | awk '/^default/ { print $3 }'")
        .unwrap();
    assert!(!gateway.is_empty());
    for target in [ip, &gateway] {
        let answer = node.exec(&own.container, &ask(target, port)).unwrap();
        assert!(!answer.contains("HTTP"), "{target}: {answer}");
    }
    // Who is on the host's network reaches the door, and has no ticket.
    let answer = node.exec(&host.container, &ask(ip, port)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(
        !answer.to_lowercase().contains("access-control"),
        "{answer}"
    );
    let token = path.split('/').next_back().unwrap_or_default();
    assert!(token.len() >= 22, "{path}");
    let log = node.daemon.log();
    assert!(!log.contains(token), "a ticket is in the log");
}

/// A URL for an exec.
fn ticket(node: &Node, pod: &Pod) -> String {
    let request = cri::ExecRequest {
        container_id: pod.container.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let client = node.daemon.client().unwrap();
    let answer = client.call(async |mut cri| cri.exec(request).await);
    answer.unwrap().url
}
