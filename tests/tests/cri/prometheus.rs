//! The daemon's own metrics, as Debian's Prometheus reads them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::process::{self, Running};
use tests::{Node, debian, wait};

/// What is there only while something goes on, once it went on, or where the system tells it.
const NOW_AND_THEN: [&str; 9] = [
    "wherryd_trace_spans_total",
    "wherryd_host_limit",
    "wherryd_host_memory_stall_ratio",
    "wherryd_host_used",
    "wherryd_image_pull_bytes",
    "wherryd_image_pull_received_bytes",
    "wherryd_image_scrub_timestamp_seconds",
    "wherryd_nri_request_duration_seconds",
    "wherryd_nri_requests_total",
];

/// The body of an answer, if that is a good one.
fn body(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    body(TcpStream::connect(address).ok()?, path)
}

/// Where the daemon serves its metrics, from its log.
fn address(log: &str) -> SocketAddr {
    let line = log.lines().find(|line| line.contains("metrics are served"));
    let word = line.unwrap().split("address=").nth(1).unwrap();
    word.trim().parse().unwrap()
}

/// A Debian program that is not installed.
fn program(name: &str) -> PathBuf {
    debian::unpacked(&["prometheus"])
        .unwrap()
        .join("usr/bin")
        .join(name)
}

/// Fails unless promtool has nothing to complain of.
fn lint(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let script = format!(
        "exec {} check metrics <{}",
        program("promtool").display(),
        file.path().display()
    );
    let mut shell = process::bounded("sh");
    let said = process::run(shell.args(["-c", &script])).unwrap();
    assert_eq!(
        (said.code, said.stdout.as_str(), said.stderr.as_str()),
        (0, "", "")
    );
}

/// A Prometheus that asks one target every second.
fn prometheus(folder: &Path, target: SocketAddr) -> (Running, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap();
    drop(free);
    let config = folder.join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n- job_name: wherry\n  scrape_interval: 1s\n  static_configs:\n  \
         - targets: ['{target}']\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = process::lasting(program("prometheus"));
    command.current_dir(folder).args([
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.join("data").display()),
        format!("--web.listen-address={own}"),
    ]);
    let running = Running::spawn(&mut command, &folder.join("prometheus.log")).unwrap();
    (running, own)
}

/// The one value of a query, if there is one.
fn query(prometheus: SocketAddr, query: &str) -> Option<String> {
    let answer = get(prometheus, &format!("/api/v1/query?query={query}"))?;
    // It may come in chunks, whose lengths stand around it.
    let json = answer.get(answer.find('{')?..=answer.rfind('}')?)?;
    let value: Value = serde_json::from_str(json).ok()?;
    let value = &value["data"]["result"][0]["value"][1];
    value.as_str().map(str::to_owned)
}

#[test]
fn prometheus_reads_what_the_page_describes() {
    let lines = "[metrics]\naddress = \"127.0.0.1:0\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(lines)).unwrap() else {
        return;
    };
    let pod = node.run("measured", "echo up; exec sleep 1000").unwrap();
    assert_eq!(node.exec(&pod.container, "echo x").unwrap(), "x");
    let address = address(&node.daemon.log());
    let text = get(address, "/metrics").unwrap();
    lint(&text);
    let has = |line: &str| assert!(text.lines().any(|one| one == line), "{line}:\n{text}");
    has("wherryd_pods{state=\"ready\"} 1");
    has("wherryd_containers{state=\"running\"} 1");
    has("wherryd_shims 1");
    has("wherryd_image_pulls_total{result=\"ok\"} 1");
    has("wherryd_leaks_total{kind=\"bundle\"} 0");
    let service = "service=\"runtime.v1.RuntimeService\"";
    let verb = "verb=\"RunPodSandbox\"";
    has(&format!(
        "wherryd_operations_total{{code=\"OK\",{service},{verb}}} 1"
    ));
    has(&format!(
        "wherryd_operation_duration_seconds_count{{{service},{verb}}} 1"
    ));
    for (verb, step) in [
        ("RunPodSandbox", "network_setup"),
        ("RunPodSandbox", "namespaces"),
        ("CreateContainer", "queue"),
        ("CreateContainer", "mount"),
        ("CreateContainer", "shim_start"),
        ("CreateContainer", "runtime_create"),
        ("StartContainer", "runtime_start"),
        ("PullImage", "download"),
        ("ExecSync", "exec"),
    ] {
        has(&format!(
            "wherryd_step_duration_seconds_count{{step=\"{step}\",verb=\"{verb}\"}} 1"
        ));
    }
    let received = "wherryd_image_pull_received_bytes_total ";
    let bytes = text.lines().find_map(|line| line.strip_prefix(received));
    assert!(
        bytes.unwrap().parse::<u64>().unwrap() > 100_000,
        "{bytes:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let (_running, own) = prometheus(folder.path(), address);
    let up = |expect: &str| {
        wait::until("Prometheus to have asked", || {
            (query(own, "up")? == expect).then_some(())
        })
    };
    if let Err(error) = up("1") {
        let log = std::fs::read_to_string(folder.path().join("prometheus.log"));
        panic!("{error:?}: {}", log.unwrap_or_default());
    }
    let pods = query(own, "wherryd_pods%7Bstate=%22ready%22%7D");
    assert_eq!(pods.as_deref(), Some("1"));

    // The page of the docs is the daemon's table, and the table is what there is.
    let page = node.daemon.command(&["metrics", "--markdown"]).unwrap();
    let page = page.ok().unwrap();
    let described: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let there: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert_eq!(there.difference(&described).count(), 0, "{there:?}");
    for missing in described.difference(&there) {
        assert!(NOW_AND_THEN.contains(missing), "{missing} is not there");
    }
    let told = node.daemon.command(&["metrics"]).unwrap().ok().unwrap();
    assert!(told.contains("wherryd_pods{state=\"ready\"} 1"), "{told}");
}

#[test]
fn a_socket_has_metrics_too_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let lines = format!("[metrics]\naddress = \"unix://{}\"\n", path.display());
    let daemon = tests::Daemon::setup().config(&lines).start().unwrap();
    let text = body(UnixStream::connect(&path).unwrap(), "/metrics").unwrap();
    lint(&text);
    assert!(body(UnixStream::connect(&path).unwrap(), "/").is_none());
    let mut stream = UnixStream::connect(&path).unwrap();
    let request = b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    daemon.finish().unwrap();
    assert!(!path.exists());
}
