//! exec, attach, port-forward and logs through the kubelet's own port, by Kubernetes' own client.

use serde_json::json;
use tests::kubelet::{Kubelet, Wire, on_node};

use crate::{container, plain, pod, ready};

const WIRES: [Wire; 2] = [Wire::Spdy, Wire::WebSocket];

#[test]
fn by_spdy_and_by_websocket() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let echo = container(&node, "echo", "exec nc -ll -p 7000 -e cat");
    let mut loud = container(
        &node,
        "loud",
        "while read -r line; do echo \"heard $line\"; done",
    );
    loud["stdin"] = json!(true);
    kubelet.add(&pod("open", &[echo, loud])).unwrap();
    kubelet.wait("open", "to be ready", ready).unwrap();
    for wire in WIRES {
        exec(&kubelet, wire);
        attach(&kubelet, wire);
        forward(&kubelet, wire);
    }
    kubelet.finish(&node.crictl).unwrap();
}

fn exec(kubelet: &Kubelet, wire: Wire) {
    let path = kubelet.path("exec", "open", "echo");
    let query = [
        "input=1",
        "output=1",
        "error=1",
        "command=sh",
        "command=-c",
        "command=cat%3B%20echo%20oops%20%3E%262%3B%20exit%207",
    ];
    // More than a frame, a window or a pipe holds.
    let input = "0123456789abcde\n".repeat(40_000);
    let session = kubelet.stdio(wire, &path, &query, &input).unwrap();
    let lengths = (session.stdout.len(), input.len());
    assert_eq!(session.code, 7, "{wire:?}: {}", session.stderr);
    assert!(session.stdout == input, "{wire:?}: {lengths:?}");
    assert!(session.stderr.contains("oops"), "{wire:?}: {session:?}");

    let query = ["output=1", "tty=1", "command=tty"];
    let session = kubelet.stdio(wire, &path, &query, "").unwrap();
    assert_eq!(session.code, 0, "{wire:?}: {session:?}");
    assert!(session.stdout.starts_with("/dev/pts/"), "{session:?}");
}

fn attach(kubelet: &Kubelet, wire: Wire) {
    let path = kubelet.path("attach", "open", "loud");
    // The container lives on, and so would the session without a client that goes: whoever only
    // sends ends when all is sent.
    let word = format!("{wire:?}");
    let query = ["input=1"];
    let session = kubelet.stdio(wire, &path, &query, &format!("{word}\n"));
    let session = session.unwrap();
    assert_eq!(session.code, 0, "{wire:?}: {session:?}");
    let logs = kubelet.path("containerLogs", "open", "loud");
    tests::wait::until("what the container heard", || {
        let log = kubelet.secure_text(&logs).ok()?;
        log.contains(&format!("heard {word}\n")).then_some(())
    })
    .unwrap();
}

fn forward(kubelet: &Kubelet, wire: Wire) {
    let input = "ping pong\n".repeat(50_000);
    let session = kubelet.port(wire, "open", 7000, &input).unwrap();
    assert_eq!(session.code, 0, "{wire:?}: {}", session.stderr);
    assert!(
        session.stdout == input,
        "{wire:?}: {} bytes came back",
        session.stdout.len()
    );
}
