//! What only docker has: what it knows of its runtime, and containers in user namespaces.

use serde_json::Value;
use tests::engines::{Engine, Kind};
use tests::process;

use crate::{SERVICE, with};

/// The first line of a runtime's `--version`, as its last word.
fn version() -> String {
    let said = process::ok(process::bounded(tests::engines::runtime()).arg("--version")).unwrap();
    said.lines()
        .next()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn docker_knows_its_runtime() {
    with(Kind::Docker, |engine| {
        let json =
            |args: &[&str]| -> Value { serde_json::from_str(&engine.ok(args).unwrap()).unwrap() };
        let info = json(&["info", "--format", "{{json .}}"]);
        assert_eq!(info["DefaultRuntime"], "wrun");
        let features =
            &info["Runtimes"]["wrun"]["status"]["org.opencontainers.runtime-spec.features"];
        let features: Value = serde_json::from_str(features.as_str().unwrap()).unwrap();
        assert!(
            features["linux"]["namespaces"].as_array().unwrap().len() >= 7,
            "{features}"
        );
        let said = json(&["version", "--format", "{{json .}}"]);
        let parts = said["Server"]["Components"].as_array().unwrap();
        let own = parts.iter().find(|part| part["Name"] == "wrun");
        assert_eq!(own.unwrap_or(&said)["Version"], version(), "{said}");
        let log = std::fs::read_to_string(engine.scratch().join("log")).unwrap();
        assert!(!log.contains("failed to call features"), "{log}");
    });
}

#[test]
fn docker_with_a_user_namespace_for_each() {
    with(Kind::DockerRemapped, |engine| {
        let map = engine.output(&[], "cat /proc/self/uid_map").unwrap();
        let words: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(words, ["0", "200000", "65536"]);
        let container = engine
            .detached(&["-m", "64m", "--pids-limit", "30"], SERVICE)
            .unwrap();
        let pid = container.inspect().unwrap()["State"]["Pid"]
            .as_u64()
            .unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(format!("/proc/{pid}")).unwrap(),
        );
        assert_eq!(owner, 200_000);
        assert_eq!(
            container
                .output("id -u; touch /root/a; stat -c %u /root/a")
                .unwrap(),
            "0\n0"
        );
        let tty = container.exec(&["-t", "-u", "33"], "id -u; tty").unwrap();
        assert_eq!(
            tty.stdout.replace('\r', ""),
            "33\n/dev/pts/0\n",
            "{}",
            tty.stderr
        );
        container.ok(&["pause"]).unwrap();
        container.ok(&["unpause"]).unwrap();
        container.ok(&["update", "--pids-limit", "60"]).unwrap();
        container.ok(&["stop", "-t", "20"]).unwrap();
        assert_eq!(container.inspect().unwrap()["State"]["ExitCode"], 8);
        oom(engine);
    });
}

/// The kill is seen in a user namespace too.
fn oom(engine: &Engine) {
    let greedy = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let container = engine
        .detached(&["-m", "16m", "--memory-swap", "16m"], greedy)
        .unwrap();
    assert_eq!(container.wait().unwrap(), 137);
    assert_eq!(container.inspect().unwrap()["State"]["OOMKilled"], true);
}
