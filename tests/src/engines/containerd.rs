//! A containerd of one test's own: own folders and sockets, pods on a bridge of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::{path_with, push};
use crate::process::{self, Output, Running};
use crate::traces::{Marks, Traces, remove_parent};
use crate::{Registry, Scratch, conformance::images, daemon, peers, wait};

/// A running containerd, with one OCI runtime for everything.
#[derive(Debug)]
pub struct Containerd {
    scratch: Scratch,
    programs: PathBuf,
    runtime: PathBuf,
    form: Form,
    running: Option<Running>,
}

/// The form of its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Version 2: containerd 1.
    Two,
    /// Version 3: containerd 2.
    Three,
}

impl Containerd {
    /// Starts the newest containerd that is here; `None`, said so, if there is none.
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start(registry: &Registry, runtime: &Path) -> Result<Option<Containerd>> {
        let folder = peers::folder();
        let newest = [folder.join("bin"), folder.join("docker/bin")];
        let Some(programs) = newest
            .into_iter()
            .find(|dir| dir.join("containerd").exists())
        else {
            crate::skipped("containerd of `hack/peers`");
            return Ok(None);
        };
        Containerd::start_in(programs, Form::Three, registry, runtime).map(Some)
    }

    /// Starts Debian's containerd, which is an old one; `None`, said so, if there is none.
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start_debian(registry: &Registry, runtime: &Path) -> Result<Option<Containerd>> {
        let Some(program) = peers::peer("debian/usr/bin/containerd") else {
            return Ok(None);
        };
        let programs = program.parent().context("it lies in a folder")?.to_owned();
        Containerd::start_in(programs, Form::Two, registry, runtime).map(Some)
    }

    fn start_in(
        programs: PathBuf,
        form: Form,
        registry: &Registry,
        runtime: &Path,
    ) -> Result<Containerd> {
        let mut engine = Containerd {
            scratch: Scratch::new()?,
            programs,
            runtime: runtime.to_owned(),
            form,
            running: None,
        };
        engine.configure(registry)?;
        engine.launch()?;
        let log = engine.log();
        let served = wait::until("containerd", || engine.ctr(&["version"]).ok()?.ok().ok());
        served.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(engine)
    }

    /// Starts the daemon, after [`Containerd::terminate`]; does not wait until it serves.
    ///
    /// # Errors
    ///
    /// If the program cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = process::lasting(self.programs.join("containerd"));
        command
            .arg("--config")
            .arg(self.scratch.join("config.toml"));
        command.env("PATH", path_with(&self.programs));
        self.running = Some(Running::spawn(&mut command, &self.log())?);
        Ok(())
    }

    /// Asks the daemon to end, as an upgrade would; containers and shims live on.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn terminate(&mut self) -> Result<()> {
        let mut running = self.running.take().context("containerd does not run")?;
        running.terminate().map(drop)
    }

    /// The daemon's process id.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        let running = self.running.as_ref().context("containerd does not run")?;
        Ok(running.pid())
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.scratch.join("log")
    }

    /// The socket of CRI and of everything else.
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("containerd.sock")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.join("config.toml")
    }

    /// Its place.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Its version, and that of the runtime.
    ///
    /// # Errors
    ///
    /// If one of them does not say so.
    pub fn versions(&self) -> Result<String> {
        let said = |program: &Path| -> Result<String> {
            let text = process::ok(process::bounded(program).arg("--version"))?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        let own = said(&self.programs.join("containerd"))?;
        Ok(format!("{own}, {}", said(&self.runtime)?))
    }

    /// Runs a command of ctr.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn ctr(&self, args: &[&str]) -> Result<Output> {
        let mut command = process::bounded(self.programs.join("ctr"));
        process::run(command.arg("-a").arg(self.socket()).args(args))
    }

    /// Runs a command of ctr that must work.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.ctr(args)?.ok();
        let output = output.with_context(|| format!("ctr {}", args.join(" ")))?;
        Ok(output.trim_end().to_owned())
    }

    /// Writes what happens from now on into a file, until it is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn listen(&self, file: &Path) -> Result<Running> {
        let mut command = process::lasting(self.programs.join("ctr"));
        command.arg("-a").arg(self.socket()).arg("events");
        Running::spawn(&mut command, file)
    }

    /// Pulls the tests' image and gives its name.
    ///
    /// # Errors
    ///
    /// If registry or containerd fail.
    pub fn pull(&self, registry: &Registry) -> Result<String> {
        let image = push(registry)?;
        self.ok(&["images", "pull", "--plain-http", &image])?;
        Ok(image)
    }

    /// Flags of `ctr run` for a container of this test, with the runtime in runc's place.
    pub fn flags(&self, name: &str) -> [String; 5] {
        [
            "--runc-binary".into(),
            self.runtime.display().to_string(),
            "--cgroup".into(),
            format!("{}/{name}", self.scratch.cgroup()),
            "--rm".into(),
        ]
    }

    fn configure(&self, registry: &Registry) -> Result<()> {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        for host in images::HOSTS {
            let folder = self.scratch.join("certs.d").join(host);
            fs::create_dir_all(&folder)?;
            fs::write(
                folder.join("hosts.toml"),
                daemon::hosts(host, &registry.host)?,
            )?;
        }
        fs::create_dir_all(self.scratch.join("cni"))?;
        let network = json!({"cniVersion": "1.0.0", "name": self.scratch.name(), "plugins": [
            {"type": "bridge", "bridge": self.scratch.name(), "isGateway": true, "ipMasq": true,
             "hairpinMode": true, "ipam": {
                "type": "host-local", "dataDir": path("addresses"),
                "ranges": [[{"subnet": self.scratch.subnet()}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        fs::write(self.scratch.join("cni/10.conflist"), network.to_string())?;
        let text = match self.form {
            Form::Two => self.version_two(),
            Form::Three => self.version_three(),
        };
        fs::write(self.config(), text)?;
        Ok(())
    }

    fn version_two(&self) -> String {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n\
             [{cri}]\nsandbox_image = \"registry.k8s.io/pause:3.10\"\n\
             max_concurrent_downloads = 2\n\
             [{cri}.cni]\nbin_dir = {plugins:?}\nconf_dir = {cni:?}\n\
             [{cri}.containerd]\nsnapshotter = \"overlayfs\"\ndefault_runtime_name = \"runc\"\n\
             [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.runc.options]\nBinaryName = {runtime:?}\n\
             SystemdCgroup = false\n\
             [{cri}.registry]\nconfig_path = {certs:?}\n",
            root = path("root"),
            state = path("state"),
            socket = path("containerd.sock"),
            opt = path("opt"),
            certs = path("certs.d"),
            plugins = peers::folder().join("cni"),
            cni = path("cni"),
            runtime = self.runtime,
        )
    }

    fn version_three(&self) -> String {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let cri = "plugins.\"io.containerd.cri.v1";
        // Version 3 of the format: containerd 2.
        format!(
            "version = 3\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n\
             [{cri}.images\"]\nsnapshotter = \"overlayfs\"\n\
             [{cri}.images\".registry]\nconfig_path = {certs:?}\n\
             [{cri}.images\".pinned_images]\nsandbox = \"registry.k8s.io/pause:3.10\"\n\
             [{cri}.runtime\"]\nrestrict_oom_score_adj = true\n\
             netns_mounts_under_state_dir = true\n\
             [{cri}.runtime\".cni]\nbin_dirs = [{plugins:?}]\nconf_dir = {cni:?}\n\
             [{cri}.runtime\".containerd]\ndefault_runtime_name = \"runc\"\n\
             [{cri}.runtime\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.runtime\".containerd.runtimes.runc.options]\nBinaryName = {runtime:?}\n\
             SystemdCgroup = false\n\
             [plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\nsocket_path = {nri:?}\n\
             plugin_path = {nri_plugins:?}\nplugin_config_path = {nri_plugins:?}\n",
            root = path("root"),
            state = path("state"),
            socket = path("containerd.sock"),
            certs = path("certs.d"),
            plugins = peers::folder().join("cni"),
            cni = path("cni"),
            runtime = self.runtime,
            nri = path("nri.sock"),
            nri_plugins = path("nri"),
        )
    }

    fn traces(&self) -> Traces {
        Traces::of(&Marks {
            folder: self.scratch.path().to_owned(),
            kept: Vec::new(),
            cgroup: self.scratch.name().to_owned(),
            bridge: self.scratch.name().to_owned(),
        })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What a foreign engine leaves is removed and not judged: tests look for themselves.
        drop(self.running.take());
        let gone = wait::until("what is left to go", || {
            let left = self.traces();
            left.remove();
            left.is_empty().then_some(())
        });
        remove_parent(self.scratch.name());
        if let (Err(error), false) = (gone, std::thread::panicking()) {
            panic!("{error:?}\n{}", self.traces());
        }
    }
}
