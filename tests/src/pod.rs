//! Configurations of pods and containers, as crictl reads them and as CRI messages.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::Scratch;

/// The name of the small image in every registry of these tests.
pub const BUSYBOX: &str = "e2e-test-images/busybox:1.29-2";

/// A pod of the test's own, with logs in the test's folder.
pub fn sandbox(scratch: &Scratch, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "namespace": "default", "attempt": 0},
        "hostname": name,
        "log_directory": scratch.join("logs").join(name),
        "labels": {"test": scratch.name()},
        "annotations": {"wherry.test/of": name},
        "linux": {"cgroup_parent": scratch.cgroup()},
    })
}

/// Puts a pod and its container on the host's network, and so under the host's name.
pub fn on_host_network(sandbox: &mut Value, container: &mut Value) {
    let host = json!({"namespace_options": {"network": NODE}});
    sandbox["linux"]["security_context"] = host.clone();
    sandbox["hostname"] = json!("");
    container["linux"]["security_context"] = host;
}

/// `NamespaceMode::Node` on the wire.
const NODE: i32 = 2;

/// A container that runs a shell script.
pub fn container(name: &str, image: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name, "attempt": 0},
        "image": {"image": image},
        "command": ["sh", "-c", script],
        "log_path": format!("{name}.log"),
        "labels": {"name": name},
        "linux": {},
    })
}

/// Writes a configuration where crictl can read it.
///
/// # Errors
///
/// If the file cannot be written.
pub fn file(scratch: &Scratch, name: &str, config: &Value) -> Result<PathBuf> {
    let path = scratch.join(format!("{name}.json"));
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("the tests' own paths are UTF-8")
}
