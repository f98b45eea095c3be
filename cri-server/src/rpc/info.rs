//! What `crictl inspect` and `inspectp` show beyond the status: JSON with the keys that containerd
//! uses, because scripts read them (`nsenter -t $(crictl inspect ... .info.pid)`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use engine::{Container, Sandbox};
use pod::container::{Mount, Resources};
use pod::sandbox::{NamespaceMode, PidMode, PortMapping, Protocol, SandboxNamespaces};
use pod::{ContainerSpec, SandboxSpec};
use serde_json::{Value, json};

/// The one key under which everything is shown.
const KEY: &str = "info";
/// What stands between the daemon and an OCI runtime.
const RUNTIME_TYPE: &str = "wherry-shim";

/// A sandbox. Without a process of its own, the pid is that of one of its containers, else 0.
pub(super) fn sandbox(sandbox: &Sandbox, containers: &[Arc<Container>]) -> HashMap<String, String> {
    let of_container = || containers.iter().find_map(|container| container.pid);
    let spec = &sandbox.spec;
    shown(&json!({
        "pid": sandbox.init_pid.or_else(of_container).unwrap_or(0),
        "processStatus": "",
        "netNamespaceClosed": sandbox.phase != pod::lifecycle::SandboxPhase::Ready,
        "image": "",
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": spec.handler,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": null,
        "config": sandbox_config(spec),
        "overhead": sandbox.budget.overhead.as_ref().map(limits),
        "resources": sandbox.budget.resources.as_ref().map(limits),
        "runtimeSpec": {
            "hostname": spec.hostname,
            "linux": {
                "cgroupsPath": spec.cgroup_parent,
                "namespaces": pinned(spec.namespaces, &sandbox.namespaces),
                "sysctl": spec.sysctls,
            },
        },
        "cniResult": serde_json::from_str::<Value>(&sandbox.cni_result).unwrap_or_default(),
        "metadata": {
            "ID": sandbox.id,
            "Name": spec.key(),
            "NetNSPath": sandbox.namespaces.join("net"),
            "IP": sandbox.ips.first(),
            "AdditionalIPs": sandbox.ips.get(1..).unwrap_or_default(),
            "RuntimeHandler": spec.handler,
        },
    }))
}

/// A container, with the OCI specification of its bundle.
pub(super) fn container(
    container: &Container,
    runtime_spec: &Value,
    privileged: bool,
    log_bytes: Option<u64>,
) -> HashMap<String, String> {
    shown(&json!({
        "sandboxID": container.sandbox_id,
        "pid": container.pid.unwrap_or(0),
        "removing": false,
        "snapshotKey": container.id,
        "snapshotter": "overlayfs",
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": null,
        "config": container_config(&container.spec),
        "runtimeSpec": runtime_spec,
        "privileged": privileged,
        "storage": {
            "writableLayerLimit": container.limits.writable_layer,
            "logLimit": container.limits.log,
            "logBytes": log_bytes,
        },
    }))
}

/// Limits, spelt as CRI spells them.
fn limits(limits: &Resources) -> Value {
    json!({
        "cpu_period": limits.cpu_period,
        "cpu_quota": limits.cpu_quota,
        "cpu_shares": limits.cpu_shares,
        "memory_limit_in_bytes": limits.memory_limit,
        "memory_swap_limit_in_bytes": limits.memory_swap_limit,
        "cpuset_cpus": limits.cpuset_cpus,
        "cpuset_mems": limits.cpuset_mems,
        "oom_score_adj": limits.oom_score_adj,
        "hugepage_limits": limits.hugepages.iter().map(|(size, limit)| {
            json!({ "page_size": size, "limit": limit })
        }).collect::<Vec<_>>(),
        "unified": limits.unified,
    })
}

fn shown(value: &Value) -> HashMap<String, String> {
    HashMap::from([(KEY.to_owned(), value.to_string())])
}

/// The namespaces that the pod has for itself, as an OCI specification would name them.
fn pinned(namespaces: SandboxNamespaces, folder: &Path) -> Vec<Value> {
    let own = [
        (namespaces.user.is_some(), "user", "user"),
        (namespaces.network == NamespaceMode::Pod, "network", "net"),
        (namespaces.ipc == NamespaceMode::Pod, "ipc", "ipc"),
        (namespaces.network == NamespaceMode::Pod, "uts", "uts"),
        (namespaces.pid == PidMode::Pod, "pid", "pid"),
    ];
    own.iter()
        .filter(|(own, _, _)| *own)
        .map(|(_, kind, file)| json!({ "type": kind, "path": folder.join(file) }))
        .collect()
}

/// The sandbox as asked for, spelt as CRI spells it.
fn sandbox_config(spec: &SandboxSpec) -> Value {
    json!({
        "metadata": {
            "name": spec.name,
            "uid": spec.uid,
            "namespace": spec.namespace,
            "attempt": spec.attempt,
        },
        "hostname": spec.hostname,
        "log_directory": spec.log_directory,
        "labels": spec.labels,
        "annotations": spec.annotations,
        "dns_config": spec.dns.as_ref().map(|dns| json!({
            "servers": dns.servers,
            "searches": dns.searches,
            "options": dns.options,
        })),
        "port_mappings": spec.port_mappings.iter().map(port_mapping).collect::<Vec<_>>(),
        "linux": {
            "cgroup_parent": spec.cgroup_parent,
            "sysctls": spec.sysctls,
            "overhead": spec.overhead.as_ref().map(limits),
            "resources": spec.resources.as_ref().map(limits),
            "security_context": { "privileged": spec.privileged },
        },
    })
}

fn port_mapping(mapping: &PortMapping) -> Value {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    json!({
        "protocol": protocol,
        "container_port": mapping.container_port,
        "host_port": mapping.host_port,
        "host_ip": mapping.host_ip,
    })
}

/// The container as asked for, spelt as CRI spells it. What its process may do is in the
/// specification.
fn container_config(spec: &ContainerSpec) -> Value {
    json!({
        "metadata": { "name": spec.name, "attempt": spec.attempt },
        "image": {
            "image": spec.image,
            "annotations": spec.image_notes.annotations,
            "user_specified_image": spec.user_specified_image,
            "runtime_handler": spec.image_notes.handler,
        },
        "command": spec.command,
        "args": spec.args,
        "working_dir": spec.working_dir,
        "envs": spec.env.iter().map(|(key, value)| {
            json!({ "key": key, "value": value })
        }).collect::<Vec<_>>(),
        "mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "devices": spec.devices.iter().map(|device| json!({
            "container_path": device.container_path,
            "host_path": device.host_path,
            "permissions": device.permissions,
        })).collect::<Vec<_>>(),
        "CDI_devices": spec.cdi_devices.iter().map(|name| {
            json!({ "name": name })
        }).collect::<Vec<_>>(),
        "labels": spec.labels,
        "annotations": spec.annotations,
        "log_path": spec.log_path,
        "stdin": spec.stdin,
        "stdin_once": spec.stdin_once,
        "tty": spec.tty,
        "linux": {
            "resources": limits(&spec.resources),
            "security_context": { "privileged": spec.security.privileged },
        },
        "stop_signal": spec.stop_signal,
    })
}

fn mount(mount: &Mount) -> Value {
    json!({
        "container_path": mount.container_path,
        "host_path": mount.host_path,
        "readonly": mount.readonly,
        "image": mount.image.as_ref().map(|volume| json!({ "image": volume.image })),
        "image_sub_path": mount.image.as_ref().map(|volume| &volume.sub_path),
    })
}

#[cfg(test)]
mod tests {
    use super::super::reply::samples;
    use super::*;

    fn parsed(info: &HashMap<String, String>) -> Value {
        serde_json::from_str(&info["info"]).unwrap()
    }

    #[test]
    fn a_sandbox_without_process_shows_a_container_of_its_own() {
        let none = parsed(&sandbox(&samples::sandbox(), &[]));
        assert_eq!(none["pid"], 0);
        let running = Arc::new(Container {
            pid: Some(77),
            ..samples::container()
        });
        let some = parsed(&sandbox(&samples::sandbox(), &[running]));
        assert_eq!(some["pid"], 77);
        let namespaces = &some["runtimeSpec"]["linux"]["namespaces"];
        assert_eq!(
            namespaces[0],
            json!({ "type": "network", "path": "/run/x/ns/net" })
        );
        assert_eq!(some["config"]["metadata"]["name"], "web");
        assert_eq!(some["netNamespaceClosed"], false);
    }

    #[test]
    fn a_container_shows_its_specification() {
        let spec = json!({ "ociVersion": "1.2.0" });
        let info = parsed(&container(&samples::container(), &spec, true, Some(5)));
        assert_eq!(info["runtimeSpec"]["ociVersion"], "1.2.0");
        assert_eq!(info["sandboxID"], "a1".repeat(32));
        assert_eq!(info["pid"], 0);
        assert_eq!(info["privileged"], true);
        assert_eq!(info["storage"]["logBytes"], 5);
    }
}
