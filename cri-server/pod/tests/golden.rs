//! Whole specifications, compared with files that a person has read.
//!
//! A plan that changes shows here as a difference in a file of `tests/golden`. If it is meant, run
//! the test with `BLESS=1` in the environment, and read the difference before it is committed.

use std::path::{Path, PathBuf};

use pod::container::{
    Accounts, Capabilities, ContainerPidMode, Device, IdMap, IdMaps, ImageFacts, Mount,
    ProfileRequest, Propagation, Resources, Restriction, Security, UserRequest,
};
use pod::facts::HostDevice;
use pod::plan::{ContainerInputs, SandboxPaths};
use pod::sandbox::{Dns, IdRange, NamespaceMode, PidMode, SandboxNamespaces, UserNamespace};
use pod::{ContainerSpec, NodeFacts, SandboxSpec, plan_container, plan_sandbox};
use serde_json::Value;

const ID: &str = "c0ffee";
const SANDBOX_ID: &str = "5a4d";

fn facts() -> NodeFacts {
    NodeFacts {
        hostname: "node-1".into(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        last_capability: 40,
        seccomp: true,
        architecture: "amd64".into(),
        swap_limits: true,
        hugepage_sizes: vec!["2MB".into()],
        ..Default::default()
    }
}

fn paths() -> SandboxPaths {
    let file = |name: &str| PathBuf::from("/var/lib/wherry/sandboxes/5a4d").join(name);
    SandboxPaths {
        namespaces: "/run/wherry/sandboxes/5a4d/ns".into(),
        shm: "/run/wherry/sandboxes/5a4d/shm".into(),
        hostname: file("hostname"),
        hosts: file("hosts"),
        resolv_conf: file("resolv.conf"),
        init_program: "/usr/libexec/wherry-shim".into(),
    }
}

fn sandbox() -> SandboxSpec {
    SandboxSpec {
        name: "web".into(),
        uid: "6d1f".into(),
        namespace: "shop".into(),
        hostname: "web-0".into(),
        cgroup_parent: "/kubepods/burstable/pod6d1f".into(),
        ..Default::default()
    }
}

fn image() -> ImageFacts {
    let own = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    ImageFacts {
        id: "sha256:1234".into(),
        env: own(&["PATH=/usr/bin:/bin", "LANG=C.UTF-8"]),
        entrypoint: own(&["/entry"]),
        cmd: own(&["serve"]),
        user: "web:www".into(),
        working_dir: "/srv".into(),
        stop_signal: "SIGQUIT".into(),
    }
}

fn accounts() -> Accounts {
    Accounts {
        passwd: "root:x:0:0::/root:/bin/sh\nweb:x:101:101::/:\n".into(),
        group: "root:x:0:\nwww:x:33:\nlogs:x:44:web\n".into(),
    }
}

fn container() -> ContainerSpec {
    ContainerSpec {
        name: "nginx".into(),
        image: "sha256:1234".into(),
        ..Default::default()
    }
}

fn device() -> (HostDevice, Device) {
    let path = "/dev/fuse".to_owned();
    let host = HostDevice {
        path: path.clone(),
        block: false,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let permissions = "rw".to_owned();
    (
        host,
        Device {
            container_path: path.clone(),
            host_path: path,
            permissions,
        },
    )
}

#[track_caller]
fn check(name: &str, spec: &ContainerSpec, sandbox: &SandboxSpec, facts: &NodeFacts) {
    let devices: Vec<_> = spec.devices.iter().map(|_| device()).collect();
    let inputs = ContainerInputs {
        id: ID,
        sandbox_id: SANDBOX_ID,
        sandbox,
        paths: &paths(),
        image: &image(),
        accounts: &accounts(),
        target_pid: None,
        devices: &devices,
        shares: &pod::plan::Shares::default(),
        edits: &Default::default(),
        seccomp_profile: None,
        mount_sources: &[],
    };
    let plan = plan_container(spec, &inputs, facts).expect("the request is right");
    compare(
        name,
        serde_json::to_value(&plan.spec).expect("a plan is JSON"),
    );
}

#[track_caller]
fn compare(name: &str, spec: Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let text = format!("{:#}\n", ordered(spec));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &text).expect("the folder of golden files can be written");
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == golden, "{file:?} differs; the plan is now:\n{text}");
}

/// The same value with its sets in order: capabilities, and the keys of every object. The system
/// calls that are always allowed have tests of their own, and only their number is kept.
fn ordered(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.into_iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            fields
                .into_iter()
                .map(|(key, value)| (key, ordered(value)))
                .collect()
        }
        Value::Array(list) => {
            let is = |prefix| move |v: &Value| v.as_str().is_some_and(|s| s.starts_with(prefix));
            let mut list: Vec<_> = list.into_iter().map(ordered).collect();
            if list.iter().all(is("CAP_")) {
                list.sort_by_key(ToString::to_string);
            }
            if list.len() > 100 && list.iter().all(Value::is_string) {
                return format!("{} names", list.len()).into();
            }
            list.into()
        }
        other => other,
    }
}

#[test]
fn a_container_that_asks_for_nothing() {
    check("plain", &container(), &sandbox(), &facts());
}

/// What a kubelet sends for an ordinary container.
#[test]
fn a_container_of_a_kubelet() {
    let mount = |path: &str, readonly, propagation| Mount {
        container_path: path.into(),
        host_path: format!("/var/lib/kubelet/pods/6d1f{path}"),
        readonly,
        propagation,
        ..Default::default()
    };
    let spec = ContainerSpec {
        command: vec!["nginx".into()],
        args: vec!["-g".into(), "daemon off;".into()],
        env: vec![("KUBERNETES_PORT".into(), "tcp://10.0.0.1:443".into())],
        mounts: vec![
            mount("/var/run/secrets/token", true, Propagation::Private),
            mount("/data", false, Propagation::HostToContainer),
            mount("/etc/hosts", false, Propagation::Private),
        ],
        resources: Resources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit: 256 << 20,
            oom_score_adj: 985,
            hugepages: vec![("2MB".into(), 0), ("1GB".into(), 0)],
            ..Default::default()
        },
        security: Security {
            user: UserRequest::Uid(1000),
            group: Some(3000),
            supplemental_groups: vec![2000],
            capabilities: Capabilities {
                add: vec!["NET_BIND_SERVICE".into()],
                drop: vec!["ALL".into()],
                ..Default::default()
            },
            readonly_rootfs: true,
            no_new_privs: true,
            masked_paths: vec!["/proc/kcore".into(), "/sys/firmware".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: ProfileRequest::RuntimeDefault,
            ..Default::default()
        },
        ..container()
    };
    check("kubelet", &spec, &sandbox(), &facts());
}

#[test]
fn a_privileged_container_on_the_host() {
    let namespaces = SandboxNamespaces {
        network: NamespaceMode::Node,
        pid: PidMode::Node,
        ipc: NamespaceMode::Node,
        user: None,
    };
    let sandbox = SandboxSpec {
        privileged: true,
        namespaces,
        ..sandbox()
    };
    let spec = ContainerSpec {
        tty: true,
        devices: vec![Device::default()],
        security: Security {
            privileged: true,
            network: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            pid: ContainerPidMode::Node,
            user: UserRequest::Uid(0),
            seccomp: ProfileRequest::RuntimeDefault,
            ..Default::default()
        },
        ..container()
    };
    let held_capabilities = Some(!(1 << 24));
    check(
        "privileged",
        &spec,
        &sandbox,
        &NodeFacts {
            held_capabilities,
            ..facts()
        },
    );
}

#[test]
fn a_pod_with_a_user_namespace_on_the_hosts_network() {
    let range = IdRange {
        host: 131_072,
        length: 65_536,
    };
    let namespaces = SandboxNamespaces {
        network: NamespaceMode::Node,
        user: Some(UserNamespace {
            uids: range,
            gids: range,
        }),
        ..Default::default()
    };
    let sandbox = SandboxSpec {
        namespaces,
        ..sandbox()
    };
    let maps = vec![IdMap {
        from: 0,
        to: range.host,
        length: range.length,
    }];
    let volume = Mount {
        container_path: "/data".into(),
        host_path: "/var/lib/data".into(),
        restrictions: vec![Restriction::NoExec, Restriction::NoSuid],
        id_maps: Some(IdMaps {
            uids: maps.clone(),
            gids: maps,
        }),
        ..Default::default()
    };
    let spec = ContainerSpec {
        mounts: vec![volume],
        security: Security {
            network: NamespaceMode::Node,
            ..Default::default()
        },
        ..container()
    };
    let facts = NodeFacts {
        user_namespaces: true,
        recursive_read_only: true,
        ..facts()
    };
    check("userns", &spec, &sandbox, &facts);
}

#[test]
fn a_node_with_systemd_and_unified_control_groups() {
    let sandbox = SandboxSpec {
        cgroup_parent: "/kubepods.slice/kubepods-pod6d1f.slice".into(),
        namespaces: SandboxNamespaces {
            pid: PidMode::Pod,
            ..Default::default()
        },
        ..sandbox()
    };
    let unified = [("memory.high".to_owned(), "100000000".to_owned())].into();
    let spec = ContainerSpec {
        resources: Resources {
            unified,
            oom_score_adj: -997,
            ..Default::default()
        },
        security: Security {
            pid: ContainerPidMode::Pod,
            ..Default::default()
        },
        ..container()
    };
    let facts = NodeFacts {
        cgroup_v2: true,
        systemd_cgroup: true,
        oom_score_floor: Some(0),
        ..facts()
    };
    check("systemd", &spec, &sandbox, &facts);
}

#[test]
fn the_init_of_a_pod_that_shares_its_process_ids() {
    let namespaces = SandboxNamespaces {
        pid: PidMode::Pod,
        ..Default::default()
    };
    let dns = Some(Dns {
        servers: vec!["10.96.0.10".into()],
        searches: vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    let sandbox = SandboxSpec {
        namespaces,
        dns,
        ..sandbox()
    };
    let plan = plan_sandbox(SANDBOX_ID, &sandbox, &paths(), &facts()).unwrap();
    assert_eq!(
        plan.etc_resolv_conf,
        "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    );
    compare("init", serde_json::to_value(plan.init.unwrap()).unwrap());
}
