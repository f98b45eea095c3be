//! Addresses and host ports of pods on the built-in network.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tests::{Node, pod, registry, wait};

/// A GET over HTTP/1.0; `None` while nobody answers.
fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(wait::LIMIT)).ok()?;
    stream.write_all(b"GET /greeting HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("ahoy").then_some(answer)
}

#[test]
fn a_host_port_leads_into_the_pod() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let port = registry::free_port().unwrap();
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "server");
    sandbox["port_mappings"] = json!([{"protocol": 0, "container_port": 8080, "host_port": port}]);
    let script = "mkdir /www; echo ahoy >/www/greeting; exec httpd -f -p 8080 -h /www";
    let server = pod::container("server", &node.image, script);
    let server = node.run_as(&[], &sandbox, &server).unwrap();

    wait::until("an answer on the host's loopback", || {
        get(&format!("127.0.0.1:{port}"))
    })
    .unwrap();
    let status = node.crictl.json(&["inspectp", &server.id]).unwrap();
    let address = status["status"]["network"]["ip"]
        .as_str()
        .unwrap()
        .to_owned();
    wait::until("an answer from the pod's address", || {
        get(&format!("{address}:8080"))
    })
    .unwrap();

    let other = node.run("client", "sleep 1000").unwrap();
    let route = node.exec(&other.container, "ip route").unwrap();
    let gateway = route
        .split("default via ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    for from in [format!("{gateway}:{port}"), format!("{address}:8080")] {
        let got = node.exec(
            &other.container,
            &format!("wget -q -O - http://{from}/greeting"),
        );
        assert_eq!(got.unwrap(), "ahoy", "{from}");
    }
    // The pod reaches itself by the host's port too.
    let itself = format!("wget -q -O - http://{gateway}:{port}/greeting");
    assert_eq!(node.exec(&server.container, &itself).unwrap(), "ahoy");

    node.remove(&server).unwrap();
    assert!(
        TcpStream::connect(format!("127.0.0.1:{port}")).is_err(),
        "the port is free again"
    );
}

#[test]
fn every_pod_has_an_address_of_its_own() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let names = ["one", "two", "three"];
    let addresses: std::collections::BTreeSet<String> = names
        .iter()
        .map(|name| {
            let pod = node.run(name, "sleep 1000").unwrap();
            let status = node.crictl.json(&["inspectp", &pod.id]).unwrap();
            status["status"]["network"]["ip"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(addresses.len(), names.len(), "{addresses:?}");
}

#[test]
fn a_pod_on_the_hosts_network_sees_the_hosts_links() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "host");
    let mut container = pod::container("host", &node.image, "sleep 1000");
    pod::on_host_network(&mut sandbox, &mut container);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    let inside = node.exec(&pod.container, "cat /proc/1/net/dev").unwrap();
    let outside = std::fs::read_to_string("/proc/net/dev").unwrap();
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        text.lines()
            .skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect()
    };
    assert!(names(&inside).is_superset(&names("\n\nlo:")), "{inside}");
    let fixed = |name: &&String| !name.starts_with("wt") && !name.starts_with("veth");
    let outside = names(&outside);
    let missing: Vec<&String> = outside
        .iter()
        .filter(fixed)
        .filter(|name| !names(&inside).contains(*name))
        .collect();
    assert!(missing.len() < outside.len(), "{missing:?}");
    let status = node.crictl.json(&["inspectp", &pod.id]).unwrap();
    assert_eq!(
        status["status"]["network"]["ip"]
            .as_str()
            .unwrap_or_default(),
        ""
    );
}
