//! A node whose pods run with a runtime that fails as told, and the steps that tests take on it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::node::Pod;
use tests::process::{self, Running};
use tests::traces::Traces;
use tests::{Node, pod, wait};

use super::faulty::Faulty;

/// The handler of the runtime that fails.
pub(super) const HANDLER: &str = "faulty";

/// What must not wait for any patience is done within this time, on a loaded machine too. (The
/// shortest patience of daemon and shim for what does not end is 10 s.)
pub(super) const PROMPT: Duration = Duration::from_secs(8);

/// Says that it runs, ends with 5 when told to.
pub(super) const SCRIPT: &str =
    "trap 'echo end; exit 5' TERM; echo begin; while :; do sleep 1 & wait $!; done";

/// The node. Its daemon ends before the runtime goes.
#[derive(Debug)]
pub(super) struct Ill {
    pub(super) node: Node,
    pub(super) runtime: Faulty,
}

/// The `n` of several pods on a node.
pub(super) fn name(kind: &str, n: usize) -> String {
    format!("{kind}-{n}")
}

impl Ill {
    pub(super) fn start() -> Option<Ill> {
        let runtime = Faulty::new();
        let program = runtime.program();
        let node = Node::start_with(|setup| setup.runtime(HANDLER, &program)).unwrap()?;
        node.crictl.ok(&["pull", &node.image]).unwrap();
        Some(Ill { node, runtime })
    }

    /// The answer of crictl, which must work.
    pub(super) fn ok(&self, args: &[impl AsRef<str>]) -> String {
        let answer = self.node.crictl.ok(&words(args));
        answer.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// What crictl says of an error, which there must be.
    pub(super) fn refused(&self, args: &[impl AsRef<str>]) -> String {
        let answer = self.node.crictl.run(&words(args)).unwrap();
        assert_ne!(answer.code, 0, "{answer:?}");
        answer.stderr
    }

    /// A pod from its configuration, with nothing in it.
    pub(super) fn pod(&self, config: &Value) -> String {
        let name = config["metadata"]["name"].as_str().unwrap();
        let file = self.node.file(&format!("{name}-pod"), config).unwrap();
        self.ok(&["runp", "-r", HANDLER, &file])
    }

    /// A pod of that name and nothing in it.
    pub(super) fn empty_pod(&self, name: &str) -> String {
        self.pod(&pod::sandbox(self.node.daemon.scratch(), name))
    }

    /// The arguments of crictl that create a container in the pod of the same name.
    pub(super) fn create_args(&self, pod: &str, config: &Value) -> [String; 5] {
        let name = config["metadata"]["name"].as_str().unwrap();
        let file = self.node.file(name, config).unwrap();
        let sandbox = pod::sandbox(self.node.daemon.scratch(), name);
        let sandbox = self.node.file(&format!("{name}-pod"), &sandbox).unwrap();
        [
            "create".into(),
            "--no-pull".into(),
            pod.into(),
            file,
            sandbox,
        ]
    }

    pub(super) fn container(&self, name: &str, script: &str) -> Value {
        pod::container(name, &self.node.image, script)
    }

    /// A pod with a container that was not started.
    pub(super) fn create(&self, name: &str, script: &str) -> Pod {
        let id = self.empty_pod(name);
        let args = self.create_args(&id, &self.container(name, script));
        let container = self.ok(&args);
        let logs = self.node.daemon.scratch().join("logs").join(name);
        Pod {
            id,
            container,
            log: logs.join(format!("{name}.log")),
        }
    }

    /// A pod with a container that runs.
    pub(super) fn run(&self, name: &str, script: &str) -> Pod {
        let pod = self.create(name, script);
        self.ok(&["start", &pod.container]);
        pod
    }

    /// Begins what will not end soon.
    pub(super) fn begin(&self, args: &[impl AsRef<str>]) -> Running {
        let output = self.node.daemon.scratch().join("begun");
        self.node.crictl.start(&words(args), &output).unwrap()
    }

    pub(super) fn state(&self, container: &str) -> Value {
        self.node.crictl.container(container, "state").unwrap()
    }

    /// How a container has ended, once it has.
    pub(super) fn end(&self, container: &str) -> (i64, String) {
        let code = self.node.crictl.exit_code(container).unwrap();
        let reason = self.node.crictl.container(container, "reason").unwrap();
        (code, reason.as_str().unwrap_or_default().to_owned())
    }

    /// Processes with both words on their command lines.
    pub(super) fn processes(&self, of: &str, and: &str) -> Vec<i32> {
        let all = self.node.daemon.traces().processes.into_iter();
        all.filter(|(_, command)| command.contains(of) && command.contains(and))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Sends a signal to the shim of a container.
    pub(super) fn signal_shim(&self, signal: &str, container: &str) {
        let shims = self.processes("wherry-shim", container);
        assert_eq!(shims.len(), 1, "{shims:?}");
        send(signal, shims[0]);
    }

    /// What the runtime still knows of.
    pub(super) fn known(&self) -> Vec<PathBuf> {
        let root = self.node.daemon.state().join("runtimes").join(HANDLER);
        let entries = fs::read_dir(root).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// What is there beyond that which a daemon without pods has.
    pub(super) fn remains(&self) -> Traces {
        let daemon = &self.node.daemon;
        let mut traces = daemon.traces();
        let own = daemon.pid().map(|pid| i32::try_from(pid).unwrap()).ok();
        traces.processes.retain(|(pid, _)| Some(*pid) != own);
        traces.mounts.retain(|mount| *mount != daemon.state());
        traces.links.retain(|link| link != daemon.scratch().name());
        traces.tables.clear();
        traces.files = self.known();
        let bundles = fs::read_dir(daemon.state().join("containers"));
        traces.files.extend(
            bundles
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path()),
        );
        traces
    }

    /// Waits until no process of any container, shim or runtime is left.
    pub(super) fn no_process_remains(&self) {
        wait::until("all processes to end", || {
            self.remains().processes.is_empty().then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}:\n{}", self.remains()));
    }

    /// Waits until nothing is there but the daemon.
    pub(super) fn nothing_remains(&self) {
        let gone = wait::until("all to be gone", || self.remains().is_empty().then_some(()));
        gone.unwrap_or_else(|error| panic!("{error}:\n{}", self.remains()));
    }

    /// Removes a pod as a client does; all of it is gone then.
    pub(super) fn remove(&self, pod: &str) {
        self.ok(&["stopp", pod]);
        self.ok(&["rmp", pod]);
        self.nothing_remains();
    }
}

fn words(args: &[impl AsRef<str>]) -> Vec<&str> {
    args.iter().map(AsRef::as_ref).collect()
}

/// Sends a signal to a process that is there.
pub(super) fn send(signal: &str, pid: i32) {
    process::ok(process::bounded("kill").args([&format!("-{signal}"), &pid.to_string()])).unwrap();
}

/// Does something that must not wait for any patience.
pub(super) fn promptly<T>(what: &str, deed: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = deed();
    let took = began.elapsed();
    assert!(took < PROMPT, "{what} took {took:?}");
    done
}

/// Waits until what was begun has ended.
pub(super) fn ended(running: &mut Running) {
    wait::until("crictl to come back", || running.ended()).unwrap();
}
