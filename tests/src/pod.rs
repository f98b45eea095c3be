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
        "linux": {"cgroup_parent": scratch.cgroup(), "security_context": own_pids()},
    })
}

/// Puts a pod and its container on the host's network, and so under the host's name.
pub fn on_host_network(sandbox: &mut Value, container: &mut Value) {
    let host = json!({"namespace_options": {"network": NODE, "pid": CONTAINER}});
    sandbox["linux"]["security_context"] = host.clone();
    sandbox["hostname"] = json!("");
    container["linux"]["security_context"] = host;
}

/// What kubelet sends for a pod that asks for nothing: process ids of each container's own. A
/// message that says nothing asks for shared ones.
fn own_pids() -> Value {
    json!({"namespace_options": {"pid": CONTAINER}})
}

/// Makes the containers of a pod see each other's processes.
pub fn sharing_pids(config: &mut Value) {
    config["linux"]["security_context"] = json!({"namespace_options": {"pid": POD}});
}

/// `NamespaceMode` on the wire.
const POD: i32 = 0;
const CONTAINER: i32 = 1;
const NODE: i32 = 2;

/// A container that runs a shell script.
pub fn container(name: &str, image: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name, "attempt": 0},
        "image": {"image": image},
        "command": ["sh", "-c", script],
        "log_path": format!("{name}.log"),
        "labels": {"name": name},
        "linux": {"security_context": own_pids()},
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
