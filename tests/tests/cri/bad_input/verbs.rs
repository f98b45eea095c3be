//! Every other verb: ids, states, numbers.

use cri_api as cri;
use cri_api::runtime_service_client::RuntimeServiceClient;
use tests::Client;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, Unimplemented};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::asked::{Asked, run, sandbox};

/// Longer than any id, and than any header.
const HUGE: usize = 1 << 20;

/// A verb called with this id.
type ById = fn(&Client, String) -> Result<(), Status>;

/// Verbs on containers that must be there.
const CONTAINER: &[(&str, ById)] = &[
    ("StartContainer", |client, container_id| {
        let request = cri::StartContainerRequest { container_id };
        call(client, async |mut cri| cri.start_container(request).await)
    }),
    ("ContainerStatus", |client, container_id| {
        let verbose = true;
        let request = cri::ContainerStatusRequest {
            container_id,
            verbose,
        };
        call(client, async |mut cri| cri.container_status(request).await)
    }),
    ("UpdateContainerResources", |client, container_id| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id,
            ..Default::default()
        };
        call(client, async |mut cri| {
            cri.update_container_resources(request).await
        })
    }),
    ("ReopenContainerLog", |client, container_id| {
        let request = cri::ReopenContainerLogRequest { container_id };
        call(client, async |mut cri| {
            cri.reopen_container_log(request).await
        })
    }),
    ("ExecSync", |client, container_id| {
        let cmd = vec!["true".to_owned()];
        let request = cri::ExecSyncRequest {
            container_id,
            cmd,
            timeout: 0,
        };
        call(client, async |mut cri| cri.exec_sync(request).await)
    }),
    ("Exec", |client, container_id| {
        let request = cri::ExecRequest {
            container_id,
            ..shown()
        };
        call(client, async |mut cri| cri.exec(request).await)
    }),
    ("Attach", |client, container_id| {
        let request = cri::AttachRequest {
            container_id,
            stdout: true,
            ..Default::default()
        };
        call(client, async |mut cri| cri.attach(request).await)
    }),
    ("ContainerStats", |client, container_id| {
        let request = cri::ContainerStatsRequest { container_id };
        call(client, async |mut cri| cri.container_stats(request).await)
    }),
    ("CheckpointContainer", |client, container_id| {
        let location = "/no/such/folder/archive".to_owned();
        let request = cri::CheckpointContainerRequest {
            container_id,
            location,
            timeout: 0,
        };
        call(client, async |mut cri| {
            cri.checkpoint_container(request).await
        })
    }),
];

/// Verbs on pods that must be there.
const POD: &[(&str, ById)] = &[
    ("PodSandboxStatus", |client, pod_sandbox_id| {
        let verbose = true;
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose,
        };
        call(client, async |mut cri| {
            cri.pod_sandbox_status(request).await
        })
    }),
    ("PodSandboxStats", |client, pod_sandbox_id| {
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id };
        call(client, async |mut cri| cri.pod_sandbox_stats(request).await)
    }),
    ("UpdatePodSandboxResources", |client, pod_sandbox_id| {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id,
            ..Default::default()
        };
        call(client, async |mut cri| {
            cri.update_pod_sandbox_resources(request).await
        })
    }),
    ("PortForward", |client, pod_sandbox_id| {
        let request = cri::PortForwardRequest {
            pod_sandbox_id,
            port: vec![80],
        };
        call(client, async |mut cri| cri.port_forward(request).await)
    }),
    ("CreateContainer", |client, pod_sandbox_id| {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "a".into(),
                attempt: 0,
            }),
            image: Some(super::asked::image("a")),
            ..Default::default()
        };
        let config = Some(config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id,
            config,
            ..Default::default()
        };
        call(client, async |mut cri| cri.create_container(request).await)
    }),
    ("CheckpointPod", |client, pod_sandbox_id| {
        let request = cri::CheckpointPodRequest {
            pod_sandbox_id,
            output_path: "/no/such/folder".into(),
            container_ids: vec!["0123".into()],
            ..Default::default()
        };
        call(client, async |mut cri| cri.checkpoint_pod(request).await)
    }),
];

/// Verbs for which a thing that is gone is as wanted.
const ENDINGS: &[(&str, ById)] = &[
    ("StopContainer", |client, container_id| {
        let request = cri::StopContainerRequest {
            container_id,
            timeout: 0,
        };
        call(client, async |mut cri| cri.stop_container(request).await)
    }),
    ("RemoveContainer", |client, container_id| {
        let request = cri::RemoveContainerRequest { container_id };
        call(client, async |mut cri| cri.remove_container(request).await)
    }),
    ("StopPodSandbox", |client, pod_sandbox_id| {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id };
        call(client, async |mut cri| cri.stop_pod_sandbox(request).await)
    }),
    ("RemovePodSandbox", |client, pod_sandbox_id| {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
        call(client, async |mut cri| {
            cri.remove_pod_sandbox(request).await
        })
    }),
];

fn call<T>(
    client: &Client,
    verb: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<(), Status> {
    client.call(verb).map(drop)
}

/// An exec that wants some output.
fn shown() -> cri::ExecRequest {
    cri::ExecRequest {
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    }
}

#[test]
fn ids_that_lead_to_nothing() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let before = asked.everything();
    for (verb, call) in CONTAINER.iter().chain(POD) {
        for (id, code) in [
            ("0123abcd", NotFound),
            ("../x", NotFound),
            ("", InvalidArgument),
        ] {
            let answer = call(&asked.client, id.into());
            asked.expect(answer.map_err(named(verb)), code, id);
        }
        // What cannot be found may be as long as it likes: the answer is an answer.
        let answer = call(&asked.client, "a".repeat(HUGE));
        asked.expect(answer.map_err(named(verb)), NotFound, "aaaa");
    }
    for (verb, call) in ENDINGS {
        let gone = call(&asked.client, "0123abcd".into());
        gone.unwrap_or_else(|status| panic!("{verb}: {status:?}"));
        let answer = call(&asked.client, String::new());
        asked.expect(answer.map_err(named(verb)), InvalidArgument, "id is empty");
    }
    asked.judge(&before);
}

/// Puts the verb into a refusal's text, for the reader of a failed test.
fn named(verb: &str) -> impl Fn(Status) -> Status {
    move |status| Status::new(status.code(), format!("{} ({verb})", status.message()))
}

#[test]
fn short_ids_that_fit_several() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let (mut pods, mut containers) = (vec![asked.id.clone()], Vec::new());
    // Of 17 ids two begin with the same digit.
    let shared_pod = loop {
        if let Some(start) = shared(&pods) {
            break start;
        }
        let mut config = sandbox(&asked.node, &format!("p{}", pods.len()));
        let network = cri::NamespaceMode::Node.into();
        super::asked::namespaces(&mut config).network = network;
        config.hostname.clear();
        pods.push(run(&asked.client, config).unwrap());
    };
    let shared_container = loop {
        if let Some(start) = shared(&containers) {
            break start;
        }
        let request = asked.container(&format!("c{}", containers.len()));
        containers.push(asked.create(request).unwrap());
    };
    let before = asked.everything();
    let of_pods = POD.iter().chain(&ENDINGS[2..]);
    let of_containers = CONTAINER.iter().chain(&ENDINGS[..2]);
    for (verbs, id) in [
        (of_pods.collect::<Vec<_>>(), shared_pod),
        (of_containers.collect(), shared_container),
    ] {
        for (verb, call) in verbs {
            let answer = call(&asked.client, id.clone());
            asked.expect(answer.map_err(named(verb)), InvalidArgument, "is ambiguous");
        }
    }
    asked.judge(&before);
}

/// The first digit of two of these.
fn shared(ids: &[String]) -> Option<String> {
    let begin = |id: &String| id[..1].to_owned();
    let again =
        |(n, id): &(usize, &String)| ids[..*n].iter().any(|other| begin(other) == begin(id));
    ids.iter().enumerate().find(again).map(|(_, id)| begin(id))
}

#[test]
fn what_a_state_does_not_permit() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let id = asked.create(asked.container("late")).unwrap();
    for (verb, call) in CONTAINER {
        if ["ExecSync", "Exec", "Attach", "CheckpointContainer"].contains(verb) {
            let answer = call(&asked.client, id.clone());
            asked.expect(answer.map_err(named(verb)), FailedPrecondition, verb);
        }
    }
    let start = CONTAINER[0].1;
    start(&asked.client, id.clone()).unwrap();
    let again = start(&asked.client, id.clone());
    asked.expect(again, FailedPrecondition, &id);
    let stop_pod = ENDINGS[2].1;
    stop_pod(&asked.client, asked.id.clone()).unwrap();
    for (verb, call) in CONTAINER {
        let of_the_dead = ["ContainerStatus", "ContainerStats"].contains(verb);
        if !of_the_dead {
            let answer = call(&asked.client, id.clone());
            asked.expect(answer.map_err(named(verb)), FailedPrecondition, verb);
        }
    }
    let answer = asked.create(asked.container("too-late"));
    asked.expect(answer, FailedPrecondition, "its sandbox is not ready");
    let before = asked.everything();
    asked.judge(&before);
}

#[test]
fn numbers_and_streams_out_of_range() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let id = asked.create(asked.container("main")).unwrap();
    CONTAINER[0].1(&asked.client, id.clone()).unwrap();
    let before = asked.everything();
    let exec = |change: fn(&mut cri::ExecRequest)| {
        let mut request = cri::ExecRequest {
            container_id: id.clone(),
            ..shown()
        };
        change(&mut request);
        call(&asked.client, async |mut cri| cri.exec(request).await)
    };
    let sync = |cmd: &[&str], timeout| {
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        let request = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd,
            timeout,
        };
        call(&asked.client, async |mut cri| cri.exec_sync(request).await)
    };
    let attach = |stderr, tty, stdout| {
        let container_id = id.clone();
        let request = cri::AttachRequest {
            container_id,
            stdout,
            stderr,
            tty,
            ..Default::default()
        };
        call(&asked.client, async |mut cri| cri.attach(request).await)
    };
    let forward = |port| {
        let pod_sandbox_id = asked.id.clone();
        let request = cri::PortForwardRequest {
            pod_sandbox_id,
            port: vec![80, port],
        };
        call(&asked.client, async |mut cri| {
            cri.port_forward(request).await
        })
    };
    let stop = |timeout| {
        let request = cri::StopContainerRequest {
            container_id: id.clone(),
            timeout,
        };
        call(&asked.client, async |mut cri| {
            cri.stop_container(request).await
        })
    };
    let update = |cpu_period| {
        let linux = cri::LinuxContainerResources {
            cpu_period,
            ..Default::default()
        };
        let (container_id, linux) = (id.clone(), Some(linux));
        let request = cri::UpdateContainerResourcesRequest {
            container_id,
            linux,
            ..Default::default()
        };
        call(&asked.client, async |mut cri| {
            cri.update_container_resources(request).await
        })
    };
    let budget = |field: fn(&mut cri::UpdatePodSandboxResourcesRequest)| {
        let pod_sandbox_id = asked.id.clone();
        let mut request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id,
            ..Default::default()
        };
        field(&mut request);
        call(&asked.client, async |mut cri| {
            cri.update_pod_sandbox_resources(request).await
        })
    };
    let network = |pod_cidr: &str| {
        let network_config = Some(cri::NetworkConfig {
            pod_cidr: pod_cidr.into(),
        });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        let request = cri::UpdateRuntimeConfigRequest { runtime_config };
        call(&asked.client, async |mut cri| {
            cri.update_runtime_config(request).await
        })
    };
    let answers = [
        (exec(|r| r.cmd.clear()), "cmd"),
        (exec(|r| r.cmd.push("\0".into())), "cmd[1]"),
        (exec(|r| r.stdout = false), "std"),
        (exec(|r| (r.tty, r.stderr) = (true, true)), "stderr"),
        (sync(&[], 0), "cmd"),
        (sync(&["a\0"], 0), "cmd[0]"),
        (sync(&["true"], -1), "timeout"),
        (attach(true, true, true), "stderr"),
        (attach(false, false, false), "std"),
        (forward(0), "port"),
        (forward(-1), "port"),
        (forward(65_536), "port"),
        (stop(-1), "timeout"),
        (update(-1), "linux.cpu_period"),
        (update(5), "cpu_period"),
        (
            budget(|r| r.overhead.get_or_insert_default().cpu_shares = -1),
            "overhead.cpu_shares",
        ),
        (
            budget(|r| r.resources.get_or_insert_default().oom_score_adj = 2000),
            "resources.oom_score_adj",
        ),
        (network("10.0.0.0/33"), "pod_cidr"),
        (network("nonsense"), "pod_cidr"),
    ];
    for (answer, field) in answers {
        asked.expect(answer, InvalidArgument, field);
    }
    let windows = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        windows: Some(cri::WindowsContainerResources::default()),
        ..Default::default()
    };
    let windows = call(&asked.client, async |mut cri| {
        cri.update_container_resources(windows).await
    });
    asked.expect(windows, Unimplemented, "windows");
    asked.judge(&before);
}

#[test]
fn lists_of_states_that_do_not_exist() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let client = asked.node.daemon.client().unwrap();
    let pods = || {
        let state = Some(cri::PodSandboxStateValue { state: 7 });
        Some(cri::PodSandboxFilter {
            state,
            ..Default::default()
        })
    };
    let containers = || {
        let state = Some(cri::ContainerStateValue { state: -1 });
        Some(cri::ContainerFilter {
            state,
            ..Default::default()
        })
    };
    let answers = [
        call(&client, async |mut cri| {
            cri.list_pod_sandbox(cri::ListPodSandboxRequest { filter: pods() })
                .await
        }),
        call(&client, async |mut cri| {
            cri.stream_pod_sandboxes(cri::StreamPodSandboxesRequest { filter: pods() })
                .await
        }),
        call(&client, async |mut cri| {
            cri.list_containers(cri::ListContainersRequest {
                filter: containers(),
            })
            .await
        }),
        call(&client, async |mut cri| {
            cri.stream_containers(cri::StreamContainersRequest {
                filter: containers(),
            })
            .await
        }),
    ];
    for answer in answers {
        asked.expect(answer, InvalidArgument, "filter.state");
    }
    let before = asked.everything();
    asked.judge(&before);
}

#[test]
fn images_without_a_name() {
    let Some(mut asked) = Asked::start() else {
        return;
    };
    let before = asked.everything();
    let client = asked.node.daemon.client().unwrap();
    for (image, field) in [
        (None, "image"),
        (Some(cri::ImageSpec::default()), "image.image"),
    ] {
        let (a, b) = (image.clone(), image.clone());
        let pull = cri::PullImageRequest {
            image,
            ..Default::default()
        };
        let answer = client.image_call(async |mut cri| cri.pull_image(pull).await);
        asked.expect(answer, InvalidArgument, field);
        let status = cri::ImageStatusRequest {
            image: a,
            verbose: true,
        };
        let answer = client.image_call(async |mut cri| cri.image_status(status).await);
        asked.expect(answer, InvalidArgument, field);
        let remove = cri::RemoveImageRequest { image: b };
        let answer = client.image_call(async |mut cri| cri.remove_image(remove).await);
        asked.expect(answer, InvalidArgument, field);
    }
    let pull = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: asked.node.image.clone(),
            runtime_handler: "nobody's".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = client.image_call(async |mut cri| cri.pull_image(pull).await);
    asked.expect(answer, InvalidArgument, "image.runtime_handler");
    asked.judge(&before);
}
