//! The second socket: what cAdvisor asks of containerd, answered for containers of ours.

use containerd_api::containers::GetContainerRequest;
use containerd_api::containers::containers_client::ContainersClient;
use containerd_api::tasks::tasks_client::TasksClient;
use containerd_api::tasks::{GetRequest, Process, Status as Phase};
use containerd_api::version::VersionRequest;
use containerd_api::version::version_client::VersionClient;
use containerd_api::{NAMESPACE, NAMESPACE_HEADER, containers::Container};
use tests::{Node, pod};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A client of the second socket.
struct Asking {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

/// A request in the one namespace.
fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let name = NAMESPACE.parse().unwrap();
    request.metadata_mut().insert(NAMESPACE_HEADER, name);
    request
}

impl Asking {
    fn on(node: &Node) -> Asking {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let path = node.daemon.containerd_socket();
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        Asking { runtime, channel }
    }

    fn version(&self) -> String {
        let mut client = VersionClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.version(VersionRequest {}));
        answer.unwrap().into_inner().version
    }

    fn container(&self, id: &str) -> Result<Container, Status> {
        let mut client = ContainersClient::new(self.channel.clone());
        let request = asked(GetContainerRequest { id: id.to_owned() });
        let answer = self.runtime.block_on(client.get(request))?;
        Ok(answer.into_inner().container.unwrap())
    }

    fn process(&self, id: &str) -> Result<Process, Status> {
        let mut client = TasksClient::new(self.channel.clone());
        let request = asked(GetRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        let answer = self.runtime.block_on(client.get(request))?;
        Ok(answer.into_inner().process.unwrap())
    }
}

/// The namespace of a kind that a process is in.
fn namespace(pid: u32, kind: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

#[test]
fn whose_a_control_group_is() {
    let Some(mut node) = Node::start_with(|setup| setup.containerd()).unwrap() else {
        return;
    };
    let pod = node.run("watched", "echo up; exec sleep 1000").unwrap();
    let asking = Asking::on(&node);
    assert!(!asking.version().is_empty());

    let container = asking.container(&pod.container).unwrap();
    assert_eq!(container.labels["name"], "watched");
    assert_eq!(container.labels["io.cri-containerd.kind"], "container");
    assert_eq!(container.image, node.image);
    assert_eq!(container.sandbox, pod.id);
    let spec: serde_json::Value = serde_json::from_slice(&container.spec.unwrap().value).unwrap();
    assert_eq!(spec["process"]["args"][0], "sh");
    let process = asking.process(&pod.container).unwrap();
    assert_eq!(process.status(), Phase::Running);

    let sandbox = asking.container(&pod.id).unwrap();
    assert_eq!(sandbox.labels["io.cri-containerd.kind"], "sandbox");
    assert_eq!(sandbox.labels["test"], node.daemon.scratch().name());
    let own = asking.process(&pod.id).unwrap();
    assert_eq!(namespace(own.pid, "net"), namespace(process.pid, "net"));
    assert_ne!(namespace(own.pid, "pid"), namespace(process.pid, "pid"));

    // The pod does not need that process: it goes, and the daemon, and nothing else.
    node.daemon.kill();
    node.daemon.start().unwrap();
    let asking = Asking::on(&node);
    assert_eq!(asking.process(&pod.id).unwrap().pid, own.pid);
    let kill = ["-KILL".to_owned(), own.pid.to_string()];
    tests::process::ok(tests::process::bounded("kill").args(kill)).unwrap();
    tests::wait::until("the pod's process to be gone", || {
        let gone = asking.process(&pod.id).err()?;
        (gone.code() == Code::NotFound).then_some(())
    })
    .unwrap();
    assert_eq!(asking.process(&pod.container).unwrap().pid, process.pid);
    assert_eq!(node.exec(&pod.container, "echo still").unwrap(), "still");

    node.crictl.ok(&["stop", &pod.container]).unwrap();
    let ended = asking.process(&pod.container).unwrap();
    assert_eq!((ended.status(), ended.pid), (Phase::Stopped, 0));
    node.remove(&pod).unwrap();
    for id in [pod.id.as_str(), &pod.container, "../..", ""] {
        assert_eq!(asking.container(id).unwrap_err().code(), Code::NotFound);
        let refused = asking.process(id).unwrap_err().code();
        assert!(
            [Code::NotFound, Code::InvalidArgument].contains(&refused),
            "{refused:?}"
        );
    }
}

#[test]
fn a_pod_has_no_process_where_nobody_asks_for_one() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let config = pod::sandbox(node.daemon.scratch(), "quiet");
    let file = node.file("quiet", &config).unwrap();
    let id = node.crictl.ok(&["runp", &file]).unwrap();
    let traces = node.daemon.traces();
    let of_pod = traces
        .processes
        .iter()
        .filter(|(_, line)| line.contains(&id));
    assert_eq!(of_pod.count(), 0, "{traces}");
    assert!(!node.daemon.containerd_socket().exists());
}
