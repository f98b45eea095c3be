//! Networks of pods: their own, the host's, and ports of the host.

use serde_json::json;
use tests::kubelet::on_node;
use tests::{process, registry, wait};

use crate::{container, plain, pod, ready};

/// What a server on the machine answers.
fn get(address: &str) -> anyhow::Result<String> {
    let mut curl = process::bounded("curl");
    process::ok(curl.args(["-s", "-f", "--noproxy", "*", "--max-time", "5", address]))
}

#[test]
fn the_hosts_network_and_the_hosts_ports() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    let (own, mapped) = (
        registry::free_port().unwrap(),
        registry::free_port().unwrap(),
    );
    let serve = |port: u16, word: &str| {
        format!("mkdir /www; echo {word} >/www/index.html; exec httpd -f -p {port} -h /www")
    };
    let mut on_host = pod(
        "on-host",
        &[container(&node, "web", &serve(own, "from the host"))],
    );
    on_host["spec"]["hostNetwork"] = json!(true);
    let mut web = container(&node, "web", &serve(8080, "from a pod"));
    web["ports"] = json!([{"containerPort": 8080, "hostPort": mapped}]);
    kubelet.add(&on_host).unwrap();
    kubelet.add(&pod("published", &[web])).unwrap();

    let published = kubelet.wait("published", "to be ready", ready).unwrap();
    kubelet.wait("on-host", "to be ready", ready).unwrap();
    let ip = published["status"]["podIP"].as_str().unwrap();
    for (address, expect) in [
        (format!("http://127.0.0.1:{own}/"), "from the host\n"),
        (format!("http://127.0.0.1:{mapped}/"), "from a pod\n"),
        (format!("http://{ip}:8080/"), "from a pod\n"),
    ] {
        let answer = wait::until(&address, || get(&address).ok()).unwrap();
        assert_eq!(answer, expect, "{address}");
    }
    kubelet.take("published").unwrap();
    kubelet.gone(&node.crictl, "published").unwrap();
    get(&format!("http://127.0.0.1:{mapped}/")).unwrap_err();
    kubelet.finish(&node.crictl).unwrap();
}
