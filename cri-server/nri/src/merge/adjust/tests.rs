//! What several plugins want of each field of a container.

use nri_api::{
    CdiDevice, CreateContainerRequest, CreateContainerResponse, Hook, LinuxCpu, LinuxPids,
    LinuxResources, OptionalInt, OptionalInt64, OptionalRepeatedString, OptionalString,
    OptionalUInt64, PosixRlimit,
};

use super::*;

fn creation() -> Creation {
    let container = Container {
        id: "c".into(),
        env: vec!["PATH=/bin".into(), "HOME=/".into()],
        mounts: vec![mount("/etc", "tmpfs"), mount("/data", "bind")],
        annotations: [("old".to_owned(), "1".to_owned())].into(),
        args: vec!["/bin/sh".into()],
        linux: Some(LinuxContainer {
            namespaces: vec![namespace("network"), namespace("ipc")],
            ..Default::default()
        }),
        ..Default::default()
    };
    Creation::new(CreateContainerRequest {
        pod: None,
        container: Some(container),
    })
}

fn mount(destination: &str, kind: &str) -> Mount {
    Mount {
        destination: destination.into(),
        r#type: kind.into(),
        ..Default::default()
    }
}

fn namespace(kind: &str) -> LinuxNamespace {
    LinuxNamespace {
        r#type: kind.into(),
        path: String::new(),
    }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
    }
}

#[track_caller]
fn take(creation: &mut Creation, plugin: &str, adjust: ContainerAdjustment) {
    answer(creation, plugin, adjust).unwrap();
}

fn answer(
    creation: &mut Creation,
    plugin: &str,
    adjust: ContainerAdjustment,
) -> Result<(), String> {
    let answer = CreateContainerResponse {
        adjust: Some(adjust),
        ..Default::default()
    };
    let taken = creation.take(answer, plugin);
    taken.map_err(|error| error.to_string())
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment {
        linux: Some(linux),
        ..Default::default()
    }
}

/// Two plugins that want the same are in each other's way, whatever the field.
#[track_caller]
fn conflict(adjust: &ContainerAdjustment, field: &str) {
    let mut creation = creation();
    take(&mut creation, "10-a", adjust.clone());
    let error = answer(&mut creation, "20-b", adjust.clone()).unwrap_err();
    let text = format!("plugins \"20-b\" and \"10-a\" both set {field}");
    assert!(error.starts_with(&text), "{error}");
}

fn seen(creation: &Creation) -> &Container {
    creation.request.container.as_ref().unwrap()
}

#[test]
fn the_next_plugin_sees_what_the_last_has_changed() {
    let mut creation = creation();
    take(
        &mut creation,
        "10-a",
        ContainerAdjustment {
            env: vec![variable("HOME", "/root"), variable("-PATH", "")],
            mounts: vec![mount("-/etc", ""), mount("/new", "tmpfs")],
            annotations: [("-old", ""), ("new", "2")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            args: vec!["/bin/a".into()],
            ..Default::default()
        },
    );
    let found = seen(&creation);
    assert_eq!(found.env, ["HOME=/root"]);
    let mounts: Vec<_> = found.mounts.iter().map(|one| &one.destination).collect();
    assert_eq!(mounts, ["/data", "/new"]);
    assert_eq!(found.annotations.keys().collect::<Vec<_>>(), ["new"]);
    assert_eq!(found.args, ["/bin/a"]);
    let adjust = &creation.adjust;
    let keys: Vec<_> = adjust.env.iter().map(|one| &one.key).collect();
    assert_eq!(keys, ["-PATH", "HOME"]);
    let mounts: Vec<_> = adjust.mounts.iter().map(|one| &one.destination).collect();
    assert_eq!(mounts, ["-/etc", "/new"]);
    assert_eq!(
        adjust.annotations.keys().collect::<Vec<_>>(),
        ["-old", "new"]
    );
}

#[test]
fn what_is_removed_can_be_set_by_who_removes_it() {
    let mut creation = creation();
    let args = |words: &[&str]| ContainerAdjustment {
        args: words.iter().map(ToString::to_string).collect(),
        env: vec![variable("X", words[words.len() - 1])],
        ..Default::default()
    };
    take(&mut creation, "10-a", args(&["/a"]));
    assert!(answer(&mut creation, "20-b", args(&["/b"])).is_err());
    let mut wanted = args(&["", "/b"]);
    wanted.env.insert(0, variable("-X", ""));
    take(&mut creation, "20-b", wanted);
    assert_eq!(creation.adjust.args, ["/b"]);
    assert_eq!(creation.adjust.env, [variable("X", "/b")]);
    assert!(seen(&creation).env.contains(&"X=/b".to_owned()));
}

#[test]
fn every_field_has_one_owner() {
    let pair = |key: &str| (key.to_owned(), "1".to_owned());
    conflict(
        &ContainerAdjustment {
            annotations: [pair("x")].into(),
            ..Default::default()
        },
        "Annotations x",
    );
    conflict(
        &ContainerAdjustment {
            mounts: vec![mount("/m", "tmpfs")],
            ..Default::default()
        },
        "Mounts /m",
    );
    conflict(
        &ContainerAdjustment {
            env: vec![variable("E", "1")],
            ..Default::default()
        },
        "Env E",
    );
    conflict(
        &ContainerAdjustment {
            args: vec!["/x".into()],
            ..Default::default()
        },
        "Args",
    );
    let limit = PosixRlimit {
        r#type: "RLIMIT_CORE".into(),
        ..Default::default()
    };
    conflict(
        &ContainerAdjustment {
            rlimits: vec![limit],
            ..Default::default()
        },
        "Rlimits RLIMIT_CORE",
    );
    let device = CdiDevice {
        name: "v/c=d".into(),
    };
    conflict(
        &ContainerAdjustment {
            cdi_devices: vec![device],
            ..Default::default()
        },
        "CdiDevices v/c=d",
    );
}

#[test]
fn every_field_of_linux_has_one_owner() {
    let device = LinuxDevice {
        path: "/dev/x".into(),
        ..Default::default()
    };
    let node = || LinuxContainerAdjustment::default();
    let check = |adjust: LinuxContainerAdjustment, field: &str| conflict(&linux(adjust), field);
    check(
        LinuxContainerAdjustment {
            devices: vec![device],
            ..node()
        },
        "Devices /dev/x",
    );
    check(
        LinuxContainerAdjustment {
            cgroups_path: "/x".into(),
            ..node()
        },
        "CgroupsPath",
    );
    let score = Some(OptionalInt { value: 0 });
    check(
        LinuxContainerAdjustment {
            oom_score_adj: score,
            ..node()
        },
        "OomScoreAdj",
    );
    check(
        LinuxContainerAdjustment {
            io_priority: Some(Default::default()),
            ..node()
        },
        "IoPriority",
    );
    check(
        LinuxContainerAdjustment {
            seccomp_policy: Some(Default::default()),
            ..node()
        },
        "SeccompPolicy",
    );
    check(
        LinuxContainerAdjustment {
            scheduler: Some(Default::default()),
            ..node()
        },
        "LinuxSched",
    );
    check(
        LinuxContainerAdjustment {
            memory_policy: Some(Default::default()),
            ..node()
        },
        "MemoryPolicy",
    );
    check(
        LinuxContainerAdjustment {
            namespaces: vec![namespace("-ipc")],
            ..node()
        },
        "Namespace ipc",
    );
    let pair = ("a.b".to_owned(), "1".to_owned());
    check(
        LinuxContainerAdjustment {
            sysctl: [pair].into(),
            ..node()
        },
        "Sysctl a.b",
    );
    let link = ("eth7".to_owned(), Default::default());
    check(
        LinuxContainerAdjustment {
            net_devices: [link].into(),
            ..node()
        },
        "LinuxNetDevices eth7",
    );
    let class = LinuxRdt {
        clos_id: Some(OptionalString { value: "x".into() }),
        ..Default::default()
    };
    check(
        LinuxContainerAdjustment {
            rdt: Some(class),
            ..node()
        },
        "RdtClosID",
    );
    let resources = |cpu: LinuxCpu, pids| LinuxContainerAdjustment {
        resources: Some(LinuxResources {
            cpu: Some(cpu),
            pids,
            ..Default::default()
        }),
        ..Default::default()
    };
    let cpu = LinuxCpu {
        shares: Some(OptionalUInt64 { value: 2 }),
        ..Default::default()
    };
    check(resources(cpu, None), "CPUShares");
    check(
        resources(LinuxCpu::default(), Some(LinuxPids { limit: 3 })),
        "PidsLimit",
    );
}

#[test]
fn every_limit_has_one_owner() {
    let long = || Some(OptionalInt64 { value: 1 });
    let whole = || Some(OptionalUInt64 { value: 1 });
    let flag = || Some(nri_api::OptionalBool { value: true });
    let text = || Some(OptionalString { value: "x".into() });
    let page = nri_api::HugepageLimit {
        page_size: "2MB".into(),
        limit: 1,
    };
    let all = LinuxResources {
        memory: Some(nri_api::LinuxMemory {
            limit: long(),
            reservation: long(),
            swap: long(),
            kernel: long(),
            kernel_tcp: long(),
            swappiness: whole(),
            disable_oom_killer: flag(),
            use_hierarchy: flag(),
        }),
        cpu: Some(LinuxCpu {
            shares: whole(),
            quota: long(),
            period: whole(),
            realtime_runtime: long(),
            realtime_period: whole(),
            cpus: "0".into(),
            mems: "0".into(),
        }),
        hugepage_limits: vec![page],
        blockio_class: text(),
        rdt_class: text(),
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        devices: Vec::new(),
        pids: Some(LinuxPids { limit: 1 }),
    };
    let mut creation = creation();
    let wanted = LinuxContainerAdjustment {
        resources: Some(all.clone()),
        ..Default::default()
    };
    take(&mut creation, "10-a", linux(wanted));
    let merged = creation.adjust.linux.clone().unwrap().resources;
    assert_eq!(merged, Some(all.clone()));
    assert_eq!(seen(&creation).linux.as_ref().unwrap().resources, Some(all));
    let of = &creation.owners.0.owners["c"];
    let simple: Vec<i32> = of.simple.keys().copied().collect();
    // MemLimit to PidsLimit, and the two classes.
    assert_eq!(simple, (8..=23).chain(25..=26).collect::<Vec<_>>());
    let compound: Vec<i32> = of.compound.keys().copied().collect();
    assert_eq!(
        compound,
        [Field::HugepageLimits as i32, Field::CgroupsUnified as i32]
    );
}

#[test]
fn hooks_and_namespaces_add_up() {
    let mut creation = creation();
    let hook = |path: &str| ContainerAdjustment {
        hooks: Some(Hooks {
            poststart: vec![Hook {
                path: path.into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    take(&mut creation, "10-a", hook("/a"));
    take(&mut creation, "20-b", hook("/b"));
    let hooks = creation.adjust.hooks.clone().unwrap();
    assert_eq!(hooks.poststart.len(), 2);
    assert_eq!(seen(&creation).hooks, creation.adjust.hooks);
    take(
        &mut creation,
        "10-a",
        linux(LinuxContainerAdjustment {
            namespaces: vec![namespace("-ipc"), namespace("cgroup")],
            ..Default::default()
        }),
    );
    let seen = &seen(&creation).linux.as_ref().unwrap().namespaces;
    let kinds: Vec<_> = seen.iter().map(|one| &one.r#type).collect();
    assert_eq!(kinds, ["network", "cgroup"]);
}

#[test]
fn classes_of_service_are_removed_and_set() {
    let mut creation = creation();
    let class = |class: &str, remove| {
        linux(LinuxContainerAdjustment {
            rdt: Some(LinuxRdt {
                clos_id: (!class.is_empty()).then(|| OptionalString {
                    value: class.into(),
                }),
                schemata: None,
                enable_monitoring: None,
                remove,
            }),
            ..Default::default()
        })
    };
    take(&mut creation, "10-a", class("gold", false));
    take(&mut creation, "20-b", class("", true));
    let found = |creation: &Creation| creation.adjust.linux.clone().unwrap().rdt.unwrap();
    assert!(found(&creation).remove && found(&creation).clos_id.is_none());
    let lines = linux(LinuxContainerAdjustment {
        rdt: Some(LinuxRdt {
            schemata: Some(OptionalRepeatedString {
                value: vec!["L3:0=f".into()],
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
    take(&mut creation, "20-b", lines);
    let found = found(&creation);
    assert!(found.remove && found.schemata.is_some());
}
