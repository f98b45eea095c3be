//! A real kubelet on a daemon of ours: no API server, pods from manifests in a folder.
//!
//! It has folders, ports and control groups of the test's own; what it leaves is taken away by
//! [`Kubelet::finish`], so that the daemon's own check of what is left holds for both.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::process::{self, Output, Running};
use crate::{Crictl, Daemon, Node, peers, registry, traces, wait};

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where a kubelet links the logs of all containers; no setting moves it.
const LINKS: &str = "/var/log/containers";
/// How long one answer over HTTP may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kubelet.
#[derive(Debug)]
pub struct Kubelet {
    folder: PathBuf,
    node: String,
    cgroup: String,
    program: PathBuf,
    flags: Vec<String>,
    /// Secure, read-only and health port.
    ports: [u16; 3],
    running: Option<Running>,
    runtime: Runtime,
    client: Client,
}

/// What a kubelet is told beyond what all need.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Feature gates that are not as they are by default.
    pub gates: Vec<&'static str>,
    /// cAdvisor asks on a second socket, in containerd's words.
    pub containerd: bool,
}

/// What a session with a kubelet is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// SPDY/3.1, as kubectl until 1.31.
    Spdy,
    /// WebSocket, as kubectl since.
    WebSocket,
}

impl Kubelet {
    /// Starts one; `None`, said so, if there is none.
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start(daemon: &Daemon, setup: &Setup) -> Result<Option<Kubelet>> {
        // The last that `hack/peers kubelet` builds: without it the others are not complete.
        let Some(last) = program() else {
            return Ok(None);
        };
        let scratch = daemon.scratch();
        let folder = scratch.join("kubelet");
        for name in ["manifests", "root", "logs", "pki", "plugins"] {
            fs::create_dir_all(folder.join(name))?;
        }
        make_cgroup(&group(&scratch.cgroup()))?;
        let ports = [
            registry::free_port()?,
            registry::free_port()?,
            registry::free_port()?,
        ];
        let mut kubelet = Kubelet {
            node: scratch.name().to_owned(),
            cgroup: scratch.cgroup(),
            program: last.with_file_name("kubelet"),
            flags: flags(&folder, daemon, setup),
            ports,
            running: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            client: Client::builder()
                .no_proxy()
                .timeout(PATIENCE)
                .danger_accept_invalid_certs(true)
                .build()?,
            folder,
        };
        let config = kubelet.configuration(&daemon.socket(), setup);
        fs::write(kubelet.folder.join("config.yaml"), config)?;
        kubelet.start_again()?;
        Ok(Some(kubelet))
    }

    /// Starts it after [`Kubelet::kill`].
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start_again(&mut self) -> Result<()> {
        // Two that make this socket at once get in each other's way, and one of them ends.
        let _alone = START.lock().unwrap_or_else(PoisonError::into_inner);
        let before = plugin_socket();
        let args: Vec<&OsStr> = self.flags.iter().map(AsRef::as_ref).collect();
        let mut running = Running::start(&self.program, &args, &self.folder.join("log"))?;
        let mut ended = None;
        let health = format!("http://127.0.0.1:{}/healthz", self.ports[2]);
        let healthy = wait::until("the kubelet to be healthy", || {
            ended = running.ended();
            if ended.is_some() {
                return Some(());
            }
            if plugin_socket() == before {
                return None;
            }
            self.fetch(&health).ok().map(drop)
        });
        self.running = Some(running);
        if healthy.is_err() || ended.is_some() {
            bail!("the kubelet is not healthy ({ended:?}):\n{}", self.log());
        }
        Ok(())
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The name that its pods get at the end of theirs.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Gives it a pod.
    ///
    /// # Errors
    ///
    /// If the manifest cannot be written.
    pub fn add(&self, manifest: &Value) -> Result<()> {
        let name = manifest["metadata"]["name"].as_str().context("no name")?;
        let path = self.folder.join("manifests").join(format!("{name}.json"));
        // A kubelet reads whatever appears, and leaves out names that begin with a dot.
        let fresh = path.with_file_name(format!(".{name}"));
        fs::write(&fresh, manifest.to_string())?;
        Ok(fs::rename(fresh, path)?)
    }

    /// Takes a pod away; it ends in its own time.
    ///
    /// # Errors
    ///
    /// If there is no such manifest.
    pub fn take(&self, name: &str) -> Result<()> {
        let folder = self.folder.join("manifests");
        Ok(fs::remove_file(folder.join(format!("{name}.json")))?)
    }

    /// Where the logs of its pods lie.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// A pod as the kubelet sees it.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let mut pods = self.json("/pods").ok()?;
        let full = format!("{name}-{}", self.node);
        let pods = pods["items"].as_array_mut()?;
        let at = pods
            .iter()
            .position(|pod| pod["metadata"]["name"] == full)?;
        Some(pods.swap_remove(at))
    }

    /// Waits until a pod is as it should be, and gives it.
    ///
    /// # Errors
    ///
    /// If it does not get there in time: with how it is instead, and both programs' last words.
    pub fn wait(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = wait::until(&format!("pod {name}: {what}"), || {
            last = self.pod(name).unwrap_or_default();
            is(&last).then(|| last.clone())
        });
        found.with_context(|| format!("{:#}\n{}", last["status"], tail(&self.log())))
    }

    /// Waits until a pod has gone from the engine.
    ///
    /// # Errors
    ///
    /// If it does not go in time.
    pub fn gone(&self, crictl: &Crictl, name: &str) -> Result<()> {
        let label = format!("io.kubernetes.pod.name={name}-{}", self.node);
        let gone = wait::until(&format!("pod {name} to go"), || {
            let left = crictl.ok(&["pods", "-q", "--label", &label]);
            left.ok().filter(String::is_empty).map(drop)
        });
        gone.with_context(|| tail(&self.log()))
    }

    /// A text from the port that only reads.
    ///
    /// # Errors
    ///
    /// If it does not answer, or answers with anything but 200.
    pub fn text(&self, path: &str) -> Result<String> {
        self.fetch(&format!("http://127.0.0.1:{}{path}", self.ports[1]))
    }

    /// The same, of JSON.
    ///
    /// # Errors
    ///
    /// As above, and if it is none.
    pub fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.text(path)?)?)
    }

    /// A text from the port that does everything.
    ///
    /// # Errors
    ///
    /// If it does not answer, or answers with anything but 200.
    pub fn secure_text(&self, path: &str) -> Result<String> {
        self.fetch(&self.secure(path))
    }

    /// What the port that does everything answers to a POST with nothing in it.
    ///
    /// # Errors
    ///
    /// If it does not answer, or answers with anything but 200.
    pub fn post(&self, path: &str) -> Result<String> {
        self.answer(self.client.post(self.secure(path)))
    }

    fn secure(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports[0])
    }

    fn fetch(&self, url: &str) -> Result<String> {
        self.answer(self.client.get(url))
    }

    fn answer(&self, request: RequestBuilder) -> Result<String> {
        self.runtime.block_on(async {
            let response = request.send().await?;
            let (url, status) = (response.url().clone(), response.status());
            let text = response.text().await?;
            ensure!(status.is_success(), "{url} answered {status}: {text}");
            Ok(text)
        })
    }

    /// The path of one of a pod's containers for `exec`, `attach`, `containerLogs` or `checkpoint`.
    pub fn path(&self, verb: &str, pod: &str, container: &str) -> String {
        let pod = format!("{pod}-{}", self.node);
        match container {
            "" => format!("/{verb}/default/{pod}"),
            _ => format!("/{verb}/default/{pod}/{container}"),
        }
    }

    /// Runs a session of exec or attach, with some input; `query` says which streams.
    ///
    /// # Errors
    ///
    /// If the client cannot be started.
    pub fn stdio(&self, wire: Wire, path: &str, query: &[&str], input: &str) -> Result<Output> {
        let url = format!("{}?{}", self.secure(path), query.join("&"));
        self.session(wire, &["stdio", &url], input)
    }

    /// Says something to a port of a pod and gives the answer.
    ///
    /// # Errors
    ///
    /// If the client cannot be started.
    pub fn port(&self, wire: Wire, pod: &str, port: u16, input: &str) -> Result<Output> {
        let url = self.secure(&self.path("portForward", pod, ""));
        self.session(wire, &["port", &url, &port.to_string()], input)
    }

    fn session(&self, wire: Wire, args: &[&str], input: &str) -> Result<Output> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        fs::write(file.path(), input)?;
        let mut command = process::bounded(self.program.with_file_name("kubelet-streams"));
        command.stdin(fs::File::open(file.path())?);
        let wire = match wire {
            Wire::Spdy => "spdy",
            Wire::WebSocket => "websocket",
        };
        process::run(command.arg(wire).args(args))
    }

    /// The end: its pods go as a node's do that is drained, then it, then what it made.
    ///
    /// # Errors
    ///
    /// If something does not go.
    pub fn finish(mut self, crictl: &Crictl) -> Result<()> {
        for manifest in fs::read_dir(self.folder.join("manifests"))? {
            fs::remove_file(manifest?.path())?;
        }
        let gone = wait::until("all pods to end", || {
            let left = crictl.ok(&["pods", "-q", "--state", "ready"]);
            left.ok().filter(String::is_empty).map(drop)
        });
        gone.with_context(|| tail(&self.log()))?;
        // The kubelet itself removes what has ended once a minute.
        let ended = crictl.ok(&["pods", "-q"])?;
        for pod in ended.split_whitespace() {
            crictl.ok(&["rmp", "--force", pod])?;
        }
        self.running
            .take()
            .context("the kubelet does not run")?
            .terminate()?;
        self.clean();
        Ok(())
    }

    /// Mounts, control groups, and the links to logs that every kubelet makes in one place; what is
    /// in use stays.
    fn clean(&self) {
        let entries = fs::read_dir(LINKS).into_iter().flatten().flatten();
        for link in entries.map(|entry| entry.path()) {
            if fs::read_link(&link).is_ok_and(|log| log.starts_with(&self.folder)) {
                fs::remove_file(link).ok();
            }
        }
        for mount in traces::mounts(&self.folder).iter().rev() {
            process::run(process::bounded("umount").arg(mount)).ok();
        }
        for hierarchy in hierarchies() {
            remove_groups(&hierarchy.join(group(&self.cgroup).trim_start_matches('/')));
        }
    }

    fn configuration(&self, socket: &Path, setup: &Setup) -> String {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let [secure, reading, health] = self.ports;
        let gates: String = setup
            .gates
            .iter()
            .map(|gate| format!("  {gate}: true\n"))
            .collect();
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             address: 127.0.0.1\nport: {secure}\nreadOnlyPort: {reading}\nhealthzPort: {health}\n\
             staticPodPath: {}\npodLogsDir: {}\nvolumePluginDir: {}\n\
             containerRuntimeEndpoint: unix://{}\n\
             cgroupRoot: {}\ncgroupDriver: cgroupfs\nenforceNodeAllocatable: []\n\
             failCgroupV1: false\nfailSwapOn: false\nmakeIPTablesUtilChains: false\n\
             authentication:\n  anonymous:\n    enabled: true\n  webhook:\n    enabled: false\n\
             authorization:\n  mode: AlwaysAllow\n\
             fileCheckFrequency: 2s\nsyncFrequency: 5s\n\
             crashLoopBackOff:\n  maxContainerRestartPeriod: 2s\n\
             containerLogMaxSize: 16Ki\ncontainerLogMonitorInterval: 3s\n\
             evictionHard:\n  memory.available: 50Mi\n  nodefs.available: 0%\n  \
             nodefs.inodesFree: 0%\n  imagefs.available: 0%\n\
             imageGCHighThresholdPercent: 100\n{}",
            path("manifests"),
            path("logs"),
            path("plugins"),
            socket.display(),
            self.cgroup,
            match gates.is_empty() {
                true => String::new(),
                false => format!("featureGates:\n{gates}"),
            },
        )
    }
}

/// Held while one starts.
static START: Mutex<()> = Mutex::new(());

/// Every kubelet makes this socket anew, wherever else its files are.
const PLUGIN_SOCKET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";

/// What tells one socket there from the next.
fn plugin_socket() -> Option<(u64, i64, i64)> {
    let status = fs::metadata(PLUGIN_SOCKET).ok()?;
    Some((status.ino(), status.ctime(), status.ctime_nsec()))
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let failed = self.running.is_some();
        self.kill();
        if failed {
            self.clean();
        }
        if std::thread::panicking() {
            report(&tail(&self.log()));
        }
    }
}

/// A kubelet on a node: the test's beginning. `None`, said so, if the machine lacks something.
///
/// # Errors
///
/// If something that is there does not come up.
pub fn on_node(setup: &Setup) -> Result<Option<(Kubelet, Node)>> {
    // Said before a registry and a daemon are started.
    if program().is_none() {
        return Ok(None);
    }
    let Some(node) = Node::start_with(|daemon| match setup.containerd {
        true => daemon.containerd(),
        false => daemon,
    })?
    else {
        return Ok(None);
    };
    let kubelet = Kubelet::start(&node.daemon, setup)?;
    Ok(kubelet.map(|kubelet| (kubelet, node)))
}

/// The last of the programs that `hack/peers kubelet` builds; `None`, said so, if it is not there.
fn program() -> Option<PathBuf> {
    let found = peers::folder().join("bin/kubelet-health");
    if found.exists() {
        return Some(found);
    }
    crate::skipped("kubelet (hack/peers kubelet)");
    None
}

fn flags(folder: &Path, daemon: &Daemon, setup: &Setup) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut flags = vec![
        format!("--config={}", path("config.yaml")),
        format!("--root-dir={}", path("root")),
        format!("--cert-dir={}", path("pki")),
        format!("--hostname-override={}", daemon.scratch().name()),
        "--v=2".to_owned(),
    ];
    if setup.containerd {
        let socket = daemon.containerd_socket();
        flags.push(format!("--containerd={}", socket.display()));
    }
    flags
}

/// Every hierarchy of control groups: one of v2, or one a controller of v1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.path());
    folders
        .filter(|folder| folder.join("cgroup.procs").exists())
        .collect()
}

/// The folder of a control group that a kubelet is told by name: with systemd, which the daemon
/// chooses where it is init and groups are v2, that of a slice.
fn group(name: &str) -> String {
    let unified = Path::new(CGROUPS).join("cgroup.controllers").exists();
    match unified && Path::new("/run/systemd/system").is_dir() {
        true => format!("{name}.slice"),
        false => name.to_owned(),
    }
}

/// Makes a kubelet's control group: it wants to find it, on v1 with a cpuset that is not empty.
fn make_cgroup(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name.trim_start_matches('/'));
        fs::create_dir_all(&group)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = hierarchy.join(file);
            if above.exists() && group.join("cpuset.effective_cpus").exists() {
                fs::write(group.join(file), fs::read(above)?)?;
            }
        }
    }
    Ok(())
}

/// Removes a control group with those in it, deepest first, as far as nothing lives there.
fn remove_groups(group: &Path) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    fs::remove_dir(group).ok();
}

/// The last of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Shows a failed test's kubelet log.
#[expect(
    clippy::print_stderr,
    reason = "the line is for the reader of a failed test"
)]
fn report(log: &str) {
    eprintln!("---- kubelet's last words ----\n{log}");
}
