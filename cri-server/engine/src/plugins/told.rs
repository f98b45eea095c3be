//! What there is, in the plugins' words.
//!
//! A container is told from its OCI specification as JSON, just made or read from its bundle: an older
//! one may lack anything.

use std::collections::BTreeMap;

use nri_api as api;
use pod::container::{ProfileRequest, Resources};
use pod::lifecycle::ContainerPhase;
use serde_json::Value;

use crate::view;

/// A sandbox.
pub(super) fn pod(sandbox: &view::Sandbox) -> api::PodSandbox {
    let spec = &sandbox.spec;
    let namespaces = ["network", "ipc", "uts", "pid", "user"].map(|kind| {
        let file = if kind == "network" { "net" } else { kind };
        let path = sandbox.namespaces.join(file);
        path.exists().then(|| api::LinuxNamespace {
            r#type: kind.into(),
            path: path.to_string_lossy().into_owned(),
        })
    });
    let linux = api::LinuxPodSandbox {
        pod_overhead: sandbox.budget.overhead.as_ref().map(resources),
        pod_resources: sandbox.budget.resources.as_ref().map(resources),
        cgroup_parent: spec.cgroup_parent.clone(),
        namespaces: namespaces.into_iter().flatten().collect(),
        ..Default::default()
    };
    api::PodSandbox {
        id: sandbox.id.clone(),
        name: spec.name.clone(),
        uid: spec.uid.clone(),
        namespace: spec.namespace.clone(),
        labels: spec.labels.clone(),
        annotations: spec.annotations.clone(),
        runtime_handler: spec.handler.clone(),
        linux: Some(linux),
        pid: number(sandbox.init_pid),
        ips: sandbox.ips.iter().map(ToString::to_string).collect(),
    }
}

fn number(pid: Option<i32>) -> u32 {
    pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

/// A container with the limits that it has and its specification.
pub(super) fn container(
    container: &view::Container,
    limits: &Resources,
    spec: &Value,
) -> api::Container {
    let (asked, process) = (&container.spec, &spec["process"]);
    let mut annotations = texts_by_name(&spec["annotations"]);
    annotations.extend(asked.annotations.clone());
    let exit = container.exit.as_ref();
    let digest = container.image_ref.rsplit('@').next().unwrap_or_default();
    api::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox_id.clone(),
        name: asked.name.clone(),
        state: state(container.phase).into(),
        labels: asked.labels.clone(),
        annotations,
        args: texts(&process["args"]),
        env: texts(&process["env"]),
        mounts: list(&spec["mounts"], mount),
        hooks: spec.get("hooks").map(hooks),
        linux: Some(linux(container, limits, spec)),
        pid: number(container.pid),
        rlimits: list(&process["rlimits"], rlimit),
        created_at: container.created_at,
        started_at: container.started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        status_reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
        status_message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        cdi_devices: asked
            .cdi_devices
            .iter()
            .map(|name| api::CdiDevice { name: name.clone() })
            .collect(),
        user: Some(api::User {
            uid: container.uid,
            gid: container.gid,
            additional_gids: container.supplemental_groups.clone(),
        }),
        image: Some(api::Image {
            name: container.image_name.clone(),
            digest: digest.to_owned(),
            config_digest: container.image_id.clone(),
        }),
    }
}

fn state(phase: ContainerPhase) -> api::ContainerState {
    match phase {
        ContainerPhase::Created => api::ContainerState::ContainerCreated,
        ContainerPhase::Running => api::ContainerState::ContainerRunning,
        ContainerPhase::Exited => api::ContainerState::ContainerStopped,
    }
}

fn linux(container: &view::Container, limits: &Resources, spec: &Value) -> api::LinuxContainer {
    let (linux, process) = (&spec["linux"], &spec["process"]);
    let mut resources = resources(limits);
    resources.devices = list(&linux["resources"]["devices"], device_rule);
    let score = process["oomScoreAdj"].as_i64();
    let links = linux["netDevices"].as_object().into_iter().flatten();
    api::LinuxContainer {
        namespaces: list(&linux["namespaces"], |one| api::LinuxNamespace {
            r#type: text(&one["type"]),
            path: text(&one["path"]),
        }),
        devices: list(&linux["devices"], device),
        resources: Some(resources),
        oom_score_adj: score.map(|value| api::OptionalInt { value }),
        cgroups_path: match container.cgroup.as_str() {
            "" => text(&linux["cgroupsPath"]),
            path => path.to_owned(),
        },
        io_priority: process.get("ioPriority").map(io_priority),
        seccomp_profile: Some(profile(&container.spec.security.seccomp)),
        seccomp_policy: linux.get("seccomp").map(seccomp),
        sysctl: texts_by_name(&linux["sysctl"]),
        net_devices: links
            .map(|(host, link)| {
                let name = text(&link["name"]);
                (host.clone(), api::LinuxNetDevice { name })
            })
            .collect(),
        scheduler: process.get("scheduler").map(scheduler),
        rdt: linux.get("intelRdt").map(rdt),
    }
}

/// Limits.
pub(super) fn resources(limits: &Resources) -> api::LinuxResources {
    let long = |value: i64| (value != 0).then_some(api::OptionalInt64 { value });
    let set = |value: Option<i64>| value.map(|value| api::OptionalInt64 { value });
    let whole = |value: i64| {
        let value = u64::try_from(value).ok().filter(|value| *value != 0);
        value.map(|value| api::OptionalUInt64 { value })
    };
    let tuning = limits.tuning;
    let flag = |value: Option<bool>| value.map(|value| api::OptionalBool { value });
    let memory = api::LinuxMemory {
        limit: long(limits.memory_limit),
        reservation: set(tuning.memory_reservation),
        swap: long(limits.memory_swap_limit),
        kernel: set(tuning.memory_kernel),
        kernel_tcp: set(tuning.memory_kernel_tcp),
        swappiness: tuning.swappiness.map(|value| api::OptionalUInt64 { value }),
        disable_oom_killer: flag(tuning.disable_oom_killer),
        use_hierarchy: flag(tuning.use_hierarchy),
    };
    let cpu = api::LinuxCpu {
        shares: whole(limits.cpu_shares),
        quota: long(limits.cpu_quota),
        period: whole(limits.cpu_period),
        realtime_runtime: set(tuning.realtime_runtime),
        realtime_period: tuning
            .realtime_period
            .map(|value| api::OptionalUInt64 { value }),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
    };
    let pages = limits.hugepages.iter();
    api::LinuxResources {
        memory: Some(memory),
        cpu: Some(cpu),
        hugepage_limits: pages
            .map(|(size, limit)| api::HugepageLimit {
                page_size: size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: limits.unified.clone(),
        pids: tuning.pids.map(|limit| api::LinuxPids { limit }),
        blockio_class: limits
            .blockio_class
            .clone()
            .map(|value| api::OptionalString { value }),
        ..Default::default()
    }
}

fn profile(asked: &ProfileRequest) -> api::SecurityProfile {
    use api::security_profile::ProfileType;
    let (kind, path) = match asked {
        ProfileRequest::Unconfined => (ProfileType::Unconfined, ""),
        ProfileRequest::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        ProfileRequest::Localhost(path) => (ProfileType::Localhost, path.as_str()),
    };
    api::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: path.to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list<T>(value: &Value, one: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(one).collect()
}

fn texts(value: &Value) -> Vec<String> {
    list(value, text)
}

fn texts_by_name(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

fn unsigned(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|value| u32::try_from(value).ok())
}

fn small(value: &Value) -> i32 {
    let small = value.as_i64().and_then(|value| i32::try_from(value).ok());
    small.unwrap_or(0)
}

fn mount(value: &Value) -> api::Mount {
    api::Mount {
        destination: text(&value["destination"]),
        r#type: text(&value["type"]),
        source: text(&value["source"]),
        options: texts(&value["options"]),
    }
}

fn hooks(value: &Value) -> api::Hooks {
    let at = |point: &str| list(&value[point], hook);
    api::Hooks {
        prestart: at("prestart"),
        create_runtime: at("createRuntime"),
        create_container: at("createContainer"),
        start_container: at("startContainer"),
        poststart: at("poststart"),
        poststop: at("poststop"),
    }
}

fn hook(value: &Value) -> api::Hook {
    let timeout = value["timeout"].as_i64();
    api::Hook {
        path: text(&value["path"]),
        args: texts(&value["args"]),
        env: texts(&value["env"]),
        timeout: timeout.map(|value| api::OptionalInt { value }),
    }
}

fn rlimit(value: &Value) -> api::PosixRlimit {
    api::PosixRlimit {
        r#type: text(&value["type"]),
        hard: value["hard"].as_u64().unwrap_or(0),
        soft: value["soft"].as_u64().unwrap_or(0),
    }
}

fn device(value: &Value) -> api::LinuxDevice {
    let mode = unsigned(&value["fileMode"]);
    let id = |value: &Value| unsigned(value).map(|value| api::OptionalUInt32 { value });
    api::LinuxDevice {
        path: text(&value["path"]),
        r#type: text(&value["type"]),
        major: value["major"].as_i64().unwrap_or(0),
        minor: value["minor"].as_i64().unwrap_or(0),
        file_mode: mode.map(|value| api::OptionalFileMode { value }),
        uid: id(&value["uid"]),
        gid: id(&value["gid"]),
    }
}

fn device_rule(value: &Value) -> api::LinuxDeviceCgroup {
    let number = |value: &Value| value.as_i64().map(|value| api::OptionalInt64 { value });
    api::LinuxDeviceCgroup {
        allow: value["allow"].as_bool().unwrap_or(false),
        r#type: text(&value["type"]),
        major: number(&value["major"]),
        minor: number(&value["minor"]),
        access: text(&value["access"]),
    }
}

fn io_priority(value: &Value) -> api::LinuxIoPriority {
    let class = api::IoPrioClass::from_str_name(&text(&value["class"]));
    api::LinuxIoPriority {
        class: class.unwrap_or_default().into(),
        priority: small(&value["priority"]),
    }
}

fn scheduler(value: &Value) -> api::LinuxScheduler {
    let policy = api::LinuxSchedulerPolicy::from_str_name(&text(&value["policy"]));
    let flags = texts(&value["flags"]);
    let flags = flags
        .iter()
        .filter_map(|name| api::LinuxSchedulerFlag::from_str_name(name));
    let time = |name: &str| value[name].as_u64().unwrap_or(0);
    api::LinuxScheduler {
        policy: policy.unwrap_or_default().into(),
        nice: small(&value["nice"]),
        priority: small(&value["priority"]),
        flags: flags.map(Into::into).collect(),
        runtime: time("runtime"),
        deadline: time("deadline"),
        period: time("period"),
    }
}

fn rdt(value: &Value) -> api::LinuxRdt {
    let class = value["closID"].as_str();
    let lines = value.get("schemata").map(texts);
    api::LinuxRdt {
        clos_id: class.map(|value| api::OptionalString {
            value: value.to_owned(),
        }),
        schemata: lines.map(|value| api::OptionalRepeatedString { value }),
        enable_monitoring: value["enableMonitoring"]
            .as_bool()
            .map(|value| api::OptionalBool { value }),
        remove: false,
    }
}

fn seccomp(value: &Value) -> api::LinuxSeccomp {
    let errno = |value: &Value| unsigned(value).map(|value| api::OptionalUInt32 { value });
    let argument = |value: &Value| api::LinuxSeccompArg {
        index: unsigned(&value["index"]).unwrap_or(0),
        value: value["value"].as_u64().unwrap_or(0),
        value_two: value["valueTwo"].as_u64().unwrap_or(0),
        op: text(&value["op"]),
    };
    api::LinuxSeccomp {
        default_action: text(&value["defaultAction"]),
        default_errno: errno(&value["defaultErrnoRet"]),
        architectures: texts(&value["architectures"]),
        flags: texts(&value["flags"]),
        listener_path: text(&value["listenerPath"]),
        listener_metadata: text(&value["listenerMetadata"]),
        syscalls: list(&value["syscalls"], |one| api::LinuxSyscall {
            names: texts(&one["names"]),
            action: text(&one["action"]),
            errno_ret: errno(&one["errnoRet"]),
            args: list(&one["args"], argument),
        }),
    }
}
