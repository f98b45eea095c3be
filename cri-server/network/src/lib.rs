//! The network of a pod: CNI plugins, or the built-in bridge where there are none.
//!
//! Knows nothing of pods beyond an id, a name for CNI and a pinned network namespace.
//!
//! # Files
//!
//! All are written by this crate alone; a file that is replaced is replaced by rename.
//!
//! | file | holds | survives |
//! |---|---|---|
//! | `<root>/attachments/<sandbox id>.json` | what an attachment consists of, written before its first effect: `id`, `netns`, `interface`, `ips`, `ports` (`protocol`, `host`, `container`, `host_ip`), `via` (`kind` `builtin` with `link`; or `cni` with `conflist` as used, `args`, `capabilities`) | daemon, reboot |
//! | `<root>/addresses/<address>` | id of the sandbox that has it; made with `O_EXCL`: the name is the lock | daemon, reboot (then freed) |
//! | `<state>/ip_forward` | value of `net.ipv4.ip_forward` before we set it to 1 | daemon |
//! | `<cni cache>/<network>-<sandbox id>-<interface>` | libcni's cached result, `cniCacheV1`; read by plugins' other callers too | daemon, reboot |
//!
//! In the kernel: bridge `wherry0` and the pods' `vw<hash>` links, whose aliases begin with
//! `wherry:<hash of the root's path>`, and the firewall table `inet wherry0` with that as comment.

mod builtin;
mod cni;
mod netlink;
mod netns;
mod records;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use builtin::Builtin;
use cni::{Cni, NetworkList, Scan};
use records::{Records, Via, check_id};

/// How long plugins may take at start, all together.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How many sandboxes plugins are asked to release at once at start.
const REPLAYS_AT_ONCE: usize = 8;

/// Which network new pods get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI if a conflist lies in its folder, else built-in.
    #[default]
    Auto,
    /// CNI only; not ready until a conflist appears.
    Cni,
    /// Built-in only.
    Builtin,
}

/// Configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which network new pods get.
    pub mode: Mode,
    /// Folder of CNI's configuration, `/etc/cni/net.d`.
    pub cni_conf_dir: PathBuf,
    /// Folders of CNI's plugins, `/opt/cni/bin`.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Folder of CNI's cached results, `/var/lib/cni/results`.
    pub cni_cache_dir: PathBuf,
    /// Name of the built-in bridge; also names the nft table.
    pub bridge: String,
    /// Range of the built-in network, `10.x.y.z/n`.
    pub subnet: String,
    /// Ranges from and to which pods of the built-in network are reached by their own addresses:
    /// where the pods of other nodes are.
    pub routed: Vec<String>,
    /// Folder for what must survive a reboot.
    pub root: PathBuf,
    /// Folder for what must not.
    pub state: PathBuf,
}

/// A pod that wants a network.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Id of the sandbox.
    pub id: String,
    /// Pinned network namespace.
    pub netns: PathBuf,
    /// `CNI_ARGS` pairs (`K8S_POD_NAME`, ...).
    pub args: BTreeMap<String, String>,
    /// Host ports.
    pub ports: Vec<Port>,
    /// Control group of the pod, for plugins that ask.
    pub cgroup_parent: String,
    /// Annotations of the pod, for plugins that ask.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads into the pod.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port of the host, never 0.
    pub host: u16,
    /// Port inside.
    pub container: u16,
    /// Address of the host; `None` means all.
    pub host_ip: Option<IpAddr>,
}

/// What a pod got.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attached {
    /// Addresses, the main one first.
    pub ips: Vec<IpAddr>,
    /// The interface inside.
    pub interface: String,
    /// CNI's result, as JSON, for those who show it; empty for the built-in network.
    pub cni_result: String,
}

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network to give (the reason is shown in Status).
    #[error("network is not ready: {0}")]
    NotReady(String),
    /// What was asked for can't be.
    #[error("{0}")]
    Invalid(String),
    /// Another pod or program has it (host port, subnet, bridge name).
    #[error("{0}")]
    Conflict(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// This error, after all was undone; a failure of that is told too.
    fn after_undo(self, undone: Result<(), Self>) -> Self {
        match undone {
            Ok(()) => self,
            Err(why) => Self::Other(format!("{self}; and undoing it failed: {why}")),
        }
    }
}

/// Says what was being attempted when the kernel refused.
fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |error| Error::Other(format!("{what}: {error}"))
}

/// The network of one daemon.
#[derive(Debug)]
pub struct Network {
    mode: Mode,
    builtin: Arc<Builtin>,
    cni: Cni,
    records: Arc<Records>,
    root: PathBuf,
    /// Files of CNI's folder that were refused and told of, so that each is told of once.
    told: Mutex<Vec<String>>,
}

/// What a new pod gets.
enum Choice {
    Builtin,
    Cni(NetworkList),
}

impl Network {
    /// Reads what earlier runs left. Makes nothing yet: the bridge comes with the first pod.
    ///
    /// # Errors
    ///
    /// The configuration is wrong, or the folders cannot be used.
    pub fn open(config: &Config) -> Result<Arc<Self>, Error> {
        let what = || format!("making folder {}", config.state.display());
        std::fs::create_dir_all(&config.state).map_err(failed(what()))?;
        let records = Arc::new(Records::open(config.root.join("attachments"))?);
        let builtin = Arc::new(Builtin::open(config, Arc::clone(&records))?);
        let cni = Cni::new(config, Arc::clone(&records));
        let (mode, root, told) = (config.mode, config.root.clone(), Mutex::default());
        Ok(Arc::new(Self {
            mode,
            builtin,
            cni,
            records,
            root,
            told,
        }))
    }

    /// Whether a pod could get a network now. Cheap.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`] with the reason.
    pub fn status(&self) -> Result<(), Error> {
        match self.choose(self.cni.scan())? {
            Choice::Cni(network) => self.cni.check_programs(&network),
            Choice::Builtin => self
                .builtin
                .check()
                .map_err(|error| Error::NotReady(error.to_string())),
        }
    }

    /// What a new pod gets, by the mode and by what CNI's folder holds now. In `auto`, a folder
    /// with nothing but broken files is no empty folder: whoever wrote them wants CNI.
    fn choose(&self, scan: Scan) -> Result<Choice, Error> {
        if self.mode == Mode::Builtin {
            return Ok(Choice::Builtin);
        }
        self.tell(&scan.rejected);
        match scan.network {
            Some(network) => Ok(Choice::Cni(network)),
            None if self.mode == Mode::Auto && scan.rejected.is_empty() => Ok(Choice::Builtin),
            None if scan.rejected.is_empty() => {
                let folder = self.cni.folder().display();
                Err(Error::NotReady(format!(
                    "no CNI configuration is in {folder}"
                )))
            }
            None => Err(Error::NotReady(scan.rejected.join("; "))),
        }
    }

    /// Logs files that were refused, each time the list changes.
    fn tell(&self, rejected: &[String]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != rejected {
            rejected
                .iter()
                .for_each(|why| tracing::warn!(why, "a CNI configuration is skipped"));
            *told = rejected.to_vec();
        }
    }

    /// Gives the namespace its network: loopback up, an interface, addresses, routes, host ports.
    /// What it needs for its undoing lies on disk before the first effect; on failure all is
    /// undone. What an earlier attempt for the same id left is undone first. To be awaited to its
    /// end, and never beside another call for the same id: the kernel's part runs on if it is not.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn attach(&self, pod: &Attachment) -> Result<Attached, Error> {
        check_id(&pod.id)?;
        self.detach(&pod.id).await?;
        let cni = self.cni.clone();
        let scan = blocking(move || Ok(cni.scan())).await?;
        match self.choose(scan)? {
            Choice::Cni(network) => {
                self.cni.check_programs(&network)?;
                self.loopback(&pod.netns).await?;
                self.cni.attach(pod, network).await
            }
            Choice::Builtin => {
                let (builtin, pod) = (Arc::clone(&self.builtin), pod.clone());
                blocking(move || builtin.attach(&pod)).await
            }
        }
    }

    /// Brings up loopback in the namespace of a pod, nothing else.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn loopback(&self, netns: &Path) -> Result<(), Error> {
        let path = netns.to_path_buf();
        blocking(move || {
            let mut pod = netns::open(&path)?;
            netlink::route::loopback_up(&mut pod.socket).map_err(failed(format!(
                "bringing up loopback in {}",
                path.display()
            )))
        })
        .await
    }

    /// Undoes [`Network::attach`], from what lies on disk; already undone is no error. `netns` may
    /// be gone.
    ///
    /// # Errors
    ///
    /// See [`Error`]; may be called again.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        check_id(id)?;
        if self.is_of_plugins(id) {
            return self.cni.detach(id).await;
        }
        let (builtin, id) = (Arc::clone(&self.builtin), id.to_owned());
        blocking(move || builtin.detach(&id)).await
    }

    /// Whether what the pod was given is still there. Asks plugins to CHECK, so it may take long.
    ///
    /// # Errors
    ///
    /// [`Error::Other`] says what is missing; [`Error::Invalid`]: the pod has no network of ours.
    pub async fn check(&self, id: &str) -> Result<(), Error> {
        let Some(record) = self.records.find(id) else {
            return Err(Error::Invalid(format!(
                "sandbox {id} has no network of ours"
            )));
        };
        if matches!(record.via, Via::Cni { .. }) {
            return self.cni.check(&record).await;
        }
        let builtin = Arc::clone(&self.builtin);
        blocking(move || builtin.check_link(&record)).await
    }

    /// Told once at start: the sandboxes that keep their network. All others are detached; rules
    /// and links of those that stay are checked and mended. `rebooted` says that the kernel forgot
    /// everything since.
    ///
    /// Plugins get a limited time in all: those that wait for a pod which waits for us must not
    /// keep us from starting. What they did not take back stays recorded, for
    /// [`Network::detach`] or the next start.
    pub async fn reconcile(&self, live: &HashSet<String>, rebooted: bool) {
        let mut ids = self.records.ids();
        ids.extend(self.records.unreadable());
        ids.retain(|id| rebooted || !live.contains(id));
        let (by_plugins, by_bridge): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| self.is_of_plugins(id));
        for id in by_bridge {
            released(&id, self.detach(&id).await);
        }
        let builtin = Arc::clone(&self.builtin);
        let mended = blocking(move || builtin.free_strays().and_then(|()| builtin.mend())).await;
        if let Err(error) = mended {
            tracing::warn!(%error, "mending the built-in network");
        }
        let count = by_plugins.len();
        if tokio::time::timeout(START_PATIENCE, self.replay(by_plugins))
            .await
            .is_err()
        {
            tracing::warn!(
                count,
                "plugins take long to release sandboxes; some stay recorded"
            );
        }
    }

    /// Asks plugins to take back what they gave to sandboxes that are gone, some at once.
    async fn replay(&self, ids: Vec<String>) {
        let mut running = tokio::task::JoinSet::new();
        for id in ids {
            if running.len() >= REPLAYS_AT_ONCE {
                running.join_next().await;
            }
            let cni = self.cni.clone();
            running.spawn(async move { released(&id, cni.detach(&id).await) });
        }
        while running.join_next().await.is_some() {}
    }

    fn is_of_plugins(&self, id: &str) -> bool {
        self.records
            .find(id)
            .is_some_and(|record| matches!(record.via, Via::Cni { .. }))
    }

    /// Removes every link, rule and file of ours. What plugins refuse to take back stays recorded,
    /// and all else goes.
    ///
    /// # Errors
    ///
    /// See [`Error`]; may be called again.
    pub async fn reset(&self) -> Result<(), Error> {
        let mut ids = self.records.ids();
        ids.extend(self.records.unreadable());
        let mut outcome = Ok(());
        for id in ids {
            outcome = outcome.and(self.detach(&id).await);
        }
        let (builtin, root) = (Arc::clone(&self.builtin), self.root.clone());
        blocking(move || builtin.reset()).await.and(outcome)?;
        blocking(move || {
            remove_folder(&root.join("addresses"))?;
            remove_folder(&root.join("attachments"))
        })
        .await
    }
}

/// Removes a folder that nothing needs any more; gone already is no error.
fn remove_folder(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Logs what was not released.
fn released(id: &str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::warn!(id, %error, "releasing the network of a sandbox that is gone");
    }
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Other(format!("network work ended early: {error}")))?
}
