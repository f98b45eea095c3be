//! What most tests of the daemon begin with: a registry with one small image, a `wherryd` that
//! knows it, crictl.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use serde_json::Value;

use crate::conformance::images;
use crate::daemon::Setup;
use crate::image::Packed;
use crate::{Crictl, Daemon, Registry, pod, wait};

/// A registry, a daemon, a client. The daemon ends first.
#[derive(Debug)]
pub struct Node {
    /// crictl on the daemon's socket.
    pub crictl: Crictl,
    /// The daemon.
    pub daemon: Daemon,
    /// Reference of the image that the registry has.
    pub image: String,
    /// The registry.
    pub registry: Registry,
    _folder: tempfile::TempDir,
}

/// A running pod with one container.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The pod's id.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// The container's log.
    pub log: PathBuf,
}

impl Node {
    /// Starts all three; `None`, said so, if the machine lacks something.
    ///
    /// # Errors
    ///
    /// If something that is there does not come up.
    pub fn start() -> Result<Option<Node>> {
        Node::start_with(|setup| setup)
    }

    /// The same with changes to the daemon's configuration.
    ///
    /// # Errors
    ///
    /// If something that is there does not come up.
    pub fn start_with(change: impl FnOnce(Setup) -> Setup) -> Result<Option<Node>> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let Some(registry) = Registry::start(folder.path())? else {
            return Ok(None);
        };
        images::push_busybox(&registry, &busybox()?)?;
        let setup = Daemon::setup().mirror(&registry.host, &registry);
        let daemon = change(setup).start()?;
        let Some(crictl) = daemon.crictl() else {
            return Ok(None);
        };
        let image = format!("{}/{}", registry.host, pod::BUSYBOX);
        Ok(Some(Node {
            crictl,
            daemon,
            image,
            registry,
            _folder: folder,
        }))
    }

    /// Writes a pod's configuration and gives the file's path.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn file(&self, name: &str, config: &Value) -> Result<String> {
        let path = pod::file(self.daemon.scratch(), name, config)?;
        Ok(pod::arg(&path).to_owned())
    }

    /// Runs a pod with a container of the same name that runs a script.
    ///
    /// # Errors
    ///
    /// If a verb fails.
    pub fn run(&self, name: &str, script: &str) -> Result<Pod> {
        let sandbox = pod::sandbox(self.daemon.scratch(), name);
        self.run_as(&[], &sandbox, &pod::container(name, &self.image, script))
    }

    /// Runs a pod with a container from configurations; `flags` are those of `crictl runp`.
    ///
    /// # Errors
    ///
    /// If a verb fails.
    pub fn run_as(&self, flags: &[&str], sandbox: &Value, container: &Value) -> Result<Pod> {
        let name = sandbox["metadata"]["name"].as_str().unwrap_or_default();
        let sandbox_file = self.file(&format!("{name}-pod"), sandbox)?;
        let container_file = self.file(name, container)?;
        self.crictl.ok(&["pull", &self.image])?;
        let id = self
            .crictl
            .ok(&[&["runp"], flags, &[&sandbox_file]].concat())?;
        let create = ["create", "--no-pull", &id, &container_file, &sandbox_file];
        let container_id = self.crictl.ok(&create)?;
        self.crictl.ok(&["start", &container_id])?;
        let logs = sandbox["log_directory"].as_str().unwrap_or_default();
        let log = container["log_path"].as_str().unwrap_or_default();
        Ok(Pod {
            id,
            container: container_id,
            log: PathBuf::from(logs).join(log),
        })
    }

    /// The output of a shell script in a container.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0.
    pub fn exec(&self, container: &str, script: &str) -> Result<String> {
        self.crictl
            .ok(&["exec", "-s", container, "sh", "-c", script])
    }

    /// Removes a pod with all that is in it.
    ///
    /// # Errors
    ///
    /// If a verb fails.
    pub fn remove(&self, pod: &Pod) -> Result<()> {
        self.crictl.ok(&["stopp", &pod.id])?;
        self.crictl.ok(&["rmp", &pod.id])?;
        Ok(())
    }
}

impl Pod {
    /// Waits until its log holds some text, and gives the lines without their prefixes.
    ///
    /// # Errors
    ///
    /// If it does not appear in time.
    pub fn wait_for_log(&self, text: &str) -> Result<Vec<String>> {
        wait::until(&format!("{text:?} in {}", self.log.display()), || {
            let log = std::fs::read_to_string(&self.log).ok()?;
            log.contains(text).then(|| messages(&log))
        })
    }

    /// The lines of its log without time, stream and tag.
    ///
    /// # Errors
    ///
    /// If there is no log.
    pub fn messages(&self) -> Result<Vec<String>> {
        Ok(messages(&std::fs::read_to_string(&self.log)?))
    }
}

/// The lines of a log in CRI's form without time, stream and tag.
pub fn messages_of(log: &str) -> Vec<String> {
    messages(log)
}

/// `TIME STREAM TAG text` to `text`.
fn messages(log: &str) -> Vec<String> {
    let texts = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
    texts.map(str::to_owned).collect()
}

/// The layer of the small image, packed once a process.
fn busybox() -> Result<Packed> {
    static PACKED: OnceLock<Packed> = OnceLock::new();
    if let Some(packed) = PACKED.get() {
        return Ok(packed.clone());
    }
    let packed = images::busybox()?;
    Ok(PACKED.get_or_init(|| packed).clone())
}
