//! The demo: one pod from image to exit code, shown step by step, and a proof that nothing stays.
//!
//! `hack/demo` builds and starts it. It is an ordinary CRI client; all that it knows of Wherry is
//! `wherryd`'s command line.

#![expect(clippy::print_stdout, reason = "its output is the demo")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cri_api::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest,
    PullImageRequest, RunPodSandboxRequest, StopContainerRequest,
};
use serde_json::json;
use tests::image::{Format, Image, Layer, Packed};
use tests::process::{self, Running};
use tests::traces::{Marks, Traces, remove_parent};
use tests::{Client, Registry, programs, wait};

/// What the demo's image has, where the machine has it.
const TOOLS: [&str; 9] = [
    "sh", "cat", "date", "hostname", "id", "ls", "sleep", "uname", "env",
];

/// What the demo's container runs: it greets, then waits for its stop signal.
const SCRIPT: &str = "echo \"hello from $(hostname), pid $$, uid $(id -u)\"; echo 'a line for stderr' >&2; \
    trap 'echo told to stop; exit 7' TERM; echo ready; while :; do sleep 1 & wait $!; done";

/// Exit code of the script.
const EXIT_CODE: i32 = 7;

/// Seconds between the stop signal and SIGKILL.
const GRACE: i64 = 10;

/// Parent of the demo's control groups.
const CGROUP: &str = "wherry-demo";

/// Where the kernel lists links.
const NET: &str = "/sys/class/net";

/// The bridge of a daemon that nobody configured.
const BRIDGE: &str = "wherry0";

const STEPS: usize = 9;

fn main() -> Result<()> {
    let image = arguments()?;
    let folder = tempfile::Builder::new()
        .prefix("wherry-demo.")
        .tempdir_in("/var/tmp")?;
    let mut demo = Demo {
        marks: Marks {
            folder: folder.path().to_owned(),
            kept: vec![folder.path().join("root"), folder.path().join("state")],
            cgroup: CGROUP.into(),
            bridge: BRIDGE.into(),
        },
        seen: Traces::default(),
        folder: folder.path().to_owned(),
        registry: None,
        daemon: None,
        step: 0,
        started: Instant::now(),
    };
    let shown = demo.show(image);
    if shown.is_err() {
        demo.explain();
    }
    shown
}

/// `--image REF`, if given.
fn arguments() -> Result<Option<String>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        ["--image", reference] => Ok(Some(reference.to_owned())),
        _ => bail!("usage: demo [--image REF]   (an image with a shell)"),
    }
}

struct Demo {
    folder: PathBuf,
    marks: Marks,
    /// What was there while the pod ran.
    seen: Traces,
    registry: Option<Registry>,
    daemon: Option<Running>,
    step: usize,
    started: Instant,
}

/// A running pod, as far as the demo looks at it.
struct Pod {
    id: String,
    container: String,
    log: PathBuf,
    namespaces: BTreeSet<String>,
}

impl Demo {
    fn show(&mut self, image: Option<String>) -> Result<()> {
        let reference = match image {
            Some(reference) => reference,
            None => self.own_image()?,
        };
        let client = self.start_daemon()?;
        self.pull(&client, &reference)?;
        let pod = self.run_pod(&client, &reference)?;
        self.use_pod(&client, &pod)?;
        self.stop_pod(&client, &pod)?;
        drop(client);
        self.remove_everything()?;
        self.prove(&pod)?;
        println!("done in {:.1} s", self.started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Begins a step.
    fn next(&mut self, what: &str) {
        self.step += 1;
        let time = self.started.elapsed().as_secs_f64();
        println!("[{}/{STEPS}] {time:5.1} s  {what}", self.step);
    }

    /// Makes an image of this machine's own tools and pushes it to a registry on loopback.
    fn own_image(&mut self) -> Result<String> {
        self.next("image: a shell and a few tools of this machine, into a registry on loopback");
        let registry = Registry::start(&self.folder.join("registry"))?
            .context("docker-registry is not installed")?;
        let mut layer = Layer::default();
        for folder in ["/dev", "/proc", "/sys", "/etc", "/root"] {
            layer.dir(folder, 0o755)?;
        }
        layer.dir("/tmp", 0o1777)?;
        layer.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        for tool in TOOLS {
            if let Some(path) = installed(tool) {
                programs::add(&mut layer, Path::new("/"), &path, &format!("/bin/{tool}"))?;
            }
        }
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
        let image = Image::indexed(Format::Oci, &[Packed::new(layer)?], &config);
        registry.push("demo", &["latest"], &image)?;
        let reference = format!("{}/demo:latest", registry.host);
        println!("      {reference}");
        self.registry = Some(registry);
        Ok(reference)
    }

    /// Starts wherryd with folders of its own and no configuration.
    fn start_daemon(&mut self) -> Result<Client> {
        self.next("wherryd: embedded defaults, built-in network, no configuration file");
        let path = |name: &str| self.folder.join(name).display().to_string();
        let socket = self.folder.join("cri.sock");
        let listen = format!("unix://{}", socket.display());
        let (root, state, hosts) = (path("root"), path("state"), path("certs.d"));
        if let Some(registry) = &self.registry {
            // The registry on loopback speaks no TLS.
            let folder = self.folder.join("certs.d").join(&registry.host);
            fs::create_dir_all(&folder)?;
            let text = tests::daemon::hosts(&registry.host, &registry.host)?;
            fs::write(folder.join("hosts.toml"), text)?;
        }
        let args = ["--listen", &listen, "--root", &root, "--state", &state];
        let args = [&args[..], &["--registry-config", &hosts]].concat();
        let args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
        let program = tests::daemon::programs().join("wherryd");
        let mut daemon = Running::start(&program, &args, &self.folder.join("wherryd.log"))?;
        let client = wait::until("wherryd to serve", || match daemon.ended() {
            Some(status) => Some(Err(anyhow::anyhow!("wherryd ended: {status}"))),
            None => Client::connect(&socket).ok().map(Ok),
        });
        self.daemon = Some(daemon);
        println!("      {listen}");
        client?
    }

    fn pull(&mut self, client: &Client, reference: &str) -> Result<()> {
        self.next(&format!("pull {reference}"));
        let image = Some(ImageSpec {
            image: reference.to_owned(),
            ..ImageSpec::default()
        });
        let request = PullImageRequest {
            image,
            ..PullImageRequest::default()
        };
        let began = Instant::now();
        let pulled = client.image_call(async |mut cri| cri.pull_image(request).await)?;
        println!("      {} in {:.0} ms", pulled.image_ref, millis(began));
        Ok(())
    }

    fn run_pod(&mut self, client: &Client, reference: &str) -> Result<Pod> {
        self.next("pod: its namespaces and its network");
        let config = self.pod_config();
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let began = Instant::now();
        let id = client
            .call(async |mut cri| cri.run_pod_sandbox(request).await)?
            .pod_sandbox_id;
        let status_of = PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            ..Default::default()
        };
        let status = client
            .call(async |mut cri| cri.pod_sandbox_status(status_of).await)?
            .status;
        let address = status
            .and_then(|status| status.network)
            .unwrap_or_default()
            .ip;
        println!(
            "      {} has address {address} after {:.0} ms",
            short(&id),
            millis(began)
        );
        let log = Path::new(&config.log_directory).join("hello.log");

        self.next("container: created and started");
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container_config(reference)),
            sandbox_config: Some(config),
        };
        let began = Instant::now();
        let container = client
            .call(async |mut cri| cri.create_container(request).await)?
            .container_id;
        let start = cri_api::StartContainerRequest {
            container_id: container.clone(),
        };
        client.call(async |mut cri| cri.start_container(start).await)?;
        println!(
            "      {} runs after {:.0} ms",
            short(&container),
            millis(began)
        );
        let namespaces = namespaces(&container)?;
        Ok(Pod {
            id,
            container,
            log,
            namespaces,
        })
    }

    fn use_pod(&mut self, client: &Client, pod: &Pod) -> Result<()> {
        self.next("its log, a command in it, what it uses");
        let log = wait::until("the container's log", || {
            fs::read_to_string(&pod.log)
                .ok()
                .filter(|log| log.contains("ready"))
        })?;
        for line in log.lines() {
            println!("      log   {line}");
        }
        let cmd = ["sh", "-c", "uname -sr; cd /proc; echo processes: [0-9]*"];
        let exec = ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd: cmd.map(str::to_owned).to_vec(),
            timeout: GRACE,
        };
        self.seen = Traces::of(&self.marks);
        let result = client.call(async |mut cri| cri.exec_sync(exec).await)?;
        for line in String::from_utf8_lossy(&result.stdout).lines() {
            println!("      exec  {line}");
        }
        println!("      exec  exit code {}", result.exit_code);
        let request = cri_api::ContainerStatsRequest {
            container_id: pod.container.clone(),
        };
        let stats = client
            .call(async |mut cri| cri.container_stats(request).await)?
            .stats;
        let stats = stats.unwrap_or_default();
        let cpu = stats
            .cpu
            .and_then(|cpu| cpu.usage_core_nano_seconds)
            .unwrap_or_default()
            .value;
        let memory = stats
            .memory
            .and_then(|memory| memory.usage_bytes)
            .unwrap_or_default()
            .value;
        println!(
            "      stats {} us of CPU time, {} KiB of memory",
            cpu / 1000,
            memory / 1024
        );
        Ok(())
    }

    fn stop_pod(&mut self, client: &Client, pod: &Pod) -> Result<()> {
        self.next("stopped: the container is told to end, then the pod is removed");
        let stop = StopContainerRequest {
            container_id: pod.container.clone(),
            timeout: GRACE,
        };
        client.call(async |mut cri| cri.stop_container(stop).await)?;
        let request = ContainerStatusRequest {
            container_id: pod.container.clone(),
            ..Default::default()
        };
        let status = client
            .call(async |mut cri| cri.container_status(request).await)?
            .status;
        let status = status.context("no status")?;
        println!("      exit code {}, {}", status.exit_code, status.reason);
        if status.state() != ContainerState::ContainerExited || status.exit_code != EXIT_CODE {
            bail!("the container should have ended with {EXIT_CODE}: {status:?}");
        }
        let last = fs::read_to_string(&pod.log)?;
        println!("      log   {}", last.lines().last().unwrap_or_default());
        let stop = cri_api::StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        client.call(async |mut cri| cri.stop_pod_sandbox(stop).await)?;
        let remove = cri_api::RemovePodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        client.call(async |mut cri| cri.remove_pod_sandbox(remove).await)?;
        Ok(())
    }

    /// `wherryd reset`, which also ends the daemon.
    fn remove_everything(&mut self) -> Result<()> {
        self.next("wherryd reset: removes images, bridge, rules, files, and ends the daemon");
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut reset = process::bounded(tests::daemon::programs().join("wherryd"));
        reset.args(["--root", &path("root"), "--state", &path("state"), "reset"]);
        process::ok(&mut reset)?;
        let mut daemon = self.daemon.take().context("the daemon does not run")?;
        wait::until("wherryd to end", || daemon.ended())?;
        drop(self.registry.take());
        Ok(())
    }

    fn prove(&mut self, pod: &Pod) -> Result<()> {
        self.next("what is left?");
        let left = Traces::of(&self.marks);
        let links = self
            .seen
            .links
            .iter()
            .filter(|link| Path::new(NET).join(link).exists());
        let held = held_namespaces().intersection(&pod.namespaces).count();
        // The parent belongs to who named it, which is the demo.
        remove_parent(CGROUP);
        let seen = &self.seen;
        let counts = [
            ("process", seen.processes.len(), left.processes.len()),
            ("mount", seen.mounts.len(), left.mounts.len()),
            ("namespace", pod.namespaces.len(), held),
            ("control group", seen.cgroups.len(), left.cgroups.len()),
            ("link", seen.links.len(), left.links.len() + links.count()),
            ("firewall table", seen.tables.len(), left.tables.len()),
            ("file of the daemon's", seen.files.len(), left.files.len()),
        ];
        for (kind, before, after) in counts {
            println!("      {kind}: {before} before, {after} now");
        }
        if counts.iter().all(|(.., after)| *after == 0) {
            return Ok(());
        }
        left.remove();
        bail!("left behind:\n{left}");
    }

    /// Shows the daemon's log and cleans up after a failure.
    fn explain(&mut self) {
        let log = fs::read_to_string(self.folder.join("wherryd.log")).unwrap_or_default();
        println!("---- wherryd's log ----\n{log}");
        if self.daemon.is_some() {
            self.remove_everything().ok();
        }
        drop(self.daemon.take());
        Traces::of(&self.marks).remove();
        remove_parent(CGROUP);
    }

    fn pod_config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "demo".into(),
                uid: "demo".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: "demo".into(),
            log_directory: self.folder.join("logs").display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{CGROUP}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn container_config(reference: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "hello".into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        }),
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        log_path: "hello.log".into(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(own_pids()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A process id namespace of each container's own, which is what kubelet asks for.
fn own_pids() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}

/// Where a program of this machine lies.
fn installed(tool: &str) -> Option<String> {
    let folders = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"];
    folders
        .map(|folder| format!("{folder}/{tool}"))
        .into_iter()
        .find(|path| Path::new(path).exists())
}

/// Namespaces of the processes in a container's control group that are not the demo's own.
fn namespaces(container: &str) -> Result<BTreeSet<String>> {
    let of = |pid: &str| -> BTreeSet<String> {
        let links = fs::read_dir(format!("/proc/{pid}/ns"))
            .into_iter()
            .flatten()
            .flatten();
        let links = links.filter_map(|link| fs::read_link(link.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(container) {
            found.extend(of(&entry.file_name().to_string_lossy()));
        }
    }
    let own = of("self");
    let found: BTreeSet<String> = found.difference(&own).cloned().collect();
    anyhow::ensure!(!found.is_empty(), "the container's process was not found");
    Ok(found)
}

/// Namespaces that a process is in, or that a mount keeps.
fn held_namespaces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let links = fs::read_dir(entry.path().join("ns"))
            .into_iter()
            .flatten()
            .flatten();
        found.extend(
            links
                .filter_map(|l| fs::read_link(l.path()).ok())
                .map(|l| l.display().to_string()),
        );
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = table.lines().filter_map(|line| line.split(' ').nth(3));
    found.extend(roots.map(str::to_owned));
    found
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
