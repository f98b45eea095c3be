//! CNI: lists of plugins, executed in order to give, in reverse to take back.
//!
//! The record of an attachment holds the list as it was used, so taking back never depends on what
//! the folder of configuration says by then. GC and STATUS of version 1.1 are not asked: other
//! engines may share a network's name, and their attachments are not ours to collect.

mod cache;
mod capabilities;
mod config;
mod plugin;
mod result;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

pub(crate) use self::config::{NetworkList, Scan};
use self::plugin::{Call, Failure, Verb};
use crate::records::{Record, Records, Via};
use crate::{Attached, Attachment, Config, Error, blocking};

/// Name of the interface inside a pod.
const INTERFACE: &str = "eth0";
/// File system type of a pinned namespace (`NSFS_MAGIC`, linux/magic.h).
const NSFS: u64 = 0x6e73_6673;

/// CNI as configured.
#[derive(Clone, Debug)]
pub(crate) struct Cni {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    cache_dir: PathBuf,
    records: Arc<Records>,
}

/// What a record says of an attachment by plugins.
struct Used<'a> {
    record: &'a Record,
    network: NetworkList,
    args: &'a BTreeMap<String, String>,
    capabilities: &'a Map<String, Value>,
}

impl Cni {
    pub(crate) fn new(config: &Config, records: Arc<Records>) -> Self {
        Self {
            conf_dir: config.cni_conf_dir.clone(),
            bin_dirs: config.cni_bin_dirs.clone(),
            cache_dir: config.cni_cache_dir.clone(),
            records,
        }
    }

    /// What the folder of configuration holds now.
    pub(crate) fn scan(&self) -> Scan {
        config::scan(&self.conf_dir)
    }

    /// Where the configuration is looked for.
    pub(crate) fn folder(&self) -> &Path {
        &self.conf_dir
    }

    /// Whether all plugins of the network are there.
    pub(crate) fn check_programs(&self, network: &NetworkList) -> Result<(), Error> {
        let missing = network
            .plugins
            .iter()
            .find_map(|it| self.program(&it.kind).err());
        missing.map_or(Ok(()), |why| {
            Err(Error::NotReady(format!(
                "CNI network {}: {}",
                network.name, why.message
            )))
        })
    }

    /// Gives the namespace its network. On failure all is undone, as far as that succeeds.
    pub(crate) async fn attach(
        &self,
        pod: &Attachment,
        network: NetworkList,
    ) -> Result<Attached, Error> {
        let mut record = plan(pod, &network)?;
        if !pod.ports.is_empty() && !network.plugins.iter().any(|it| it.declares("portMappings")) {
            tracing::warn!(
                id = pod.id,
                network = network.name,
                "no plugin of the network says that it maps host ports"
            );
        }
        let (records, claimed) = (Arc::clone(&self.records), record.clone());
        blocking(move || records.claim(&claimed)).await?;
        match self.add_and_keep(&mut record).await {
            Ok(result) => Ok(Attached {
                ips: record.ips,
                interface: record.interface,
                cni_result: result.to_string(),
            }),
            Err(error) => Err(error.after_undo(self.detach(&record.id).await)),
        }
    }

    async fn add_and_keep(&self, record: &mut Record) -> Result<Value, Error> {
        let used = used(record)?;
        let result = self.add(&used).await?;
        let ips = result::addresses(&result)
            .map_err(|why| Error::Other(format!("CNI network {}: {why}", used.network.name)))?;
        record.ips = ips;
        let (this, kept, told) = (self.clone(), record.clone(), result.clone());
        blocking(move || this.keep(&kept, &told)).await?;
        Ok(result)
    }

    fn keep(&self, record: &Record, result: &Value) -> Result<(), Error> {
        let used = used(record)?;
        let folder = &self.cache_dir;
        cache::keep(
            folder,
            &used.network,
            record,
            used.args,
            used.capabilities,
            result,
        )?;
        self.records.complete(record)
    }

    /// ADD: each plugin gets the result of the one before it.
    async fn add(&self, used: &Used<'_>) -> Result<Value, Error> {
        let mut previous: Option<Value> = None;
        for plugin in &used.network.plugins {
            let input = used
                .network
                .input(plugin, used.capabilities, previous.as_ref());
            let result = match self.run(Verb::Add, used, &plugin.kind, &input).await {
                Ok(output) => result::parse(&output).map_err(|why| (why, &plugin.kind)),
                Err(failure) => Err((failure.message, &plugin.kind)),
            };
            previous = Some(result.map_err(|(why, kind)| told(Verb::Add, used, kind, &why))?);
        }
        previous.ok_or_else(|| Error::Other("a list of plugins is never empty".to_owned()))
    }

    /// Undoes an attachment by plugins; no record of one is no error.
    pub(crate) async fn detach(&self, id: &str) -> Result<(), Error> {
        let Some(record) = self.records.leave(id) else {
            return Ok(());
        };
        let used = used(&record)?;
        self.del(&used).await?;
        let (this, network, record) = (self.clone(), used.network, record.clone());
        blocking(move || {
            cache::forget(&this.cache_dir, &network, &record)?;
            this.records.forget(&record.id)
        })
        .await
    }

    /// DEL: every plugin is asked, the last first, also after one that failed: what the others
    /// hold must not leak with it. The first failure is told.
    async fn del(&self, used: &Used<'_>) -> Result<(), Error> {
        let previous = self.previous(used);
        let mut outcome = Ok(());
        for plugin in used.network.plugins.iter().rev() {
            let input = used
                .network
                .input(plugin, used.capabilities, previous.as_ref());
            match self.run(Verb::Del, used, &plugin.kind, &input).await {
                Err(failure) if !failure.nothing_there() && outcome.is_ok() => {
                    outcome = Err(told(Verb::Del, used, &plugin.kind, &failure.message));
                }
                _ => {}
            }
        }
        outcome
    }

    /// CHECK: asks each plugin whether what it gave is still as it was.
    pub(crate) async fn check(&self, record: &Record) -> Result<(), Error> {
        let used = used(record)?;
        if !used.network.checks() {
            return Ok(());
        }
        let previous = self.previous(&used);
        for plugin in &used.network.plugins {
            let input = used
                .network
                .input(plugin, used.capabilities, previous.as_ref());
            self.run(Verb::Check, &used, &plugin.kind, &input)
                .await
                .map_err(|failure| told(Verb::Check, &used, &plugin.kind, &failure.message))?;
        }
        Ok(())
    }

    fn previous(&self, used: &Used<'_>) -> Option<Value> {
        let wanted = used.network.passes_result_to_del();
        cache::result(&self.cache_dir, &used.network, used.record).filter(|_| wanted)
    }

    async fn run(
        &self,
        verb: Verb,
        used: &Used<'_>,
        kind: &str,
        input: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let call = Call {
            verb,
            container: used.record.id.clone(),
            netns: netns(&used.record.netns),
            interface: used.record.interface.clone(),
            args: joined(used.args),
            path: self.path(),
            patience: plugin::PATIENCE,
        };
        plugin::run(&self.program(kind)?, &call, input).await
    }

    /// The plugin's program in the first folder that has it.
    fn program(&self, kind: &str) -> Result<PathBuf, Failure> {
        let candidates = self.bin_dirs.iter().map(|folder| folder.join(kind));
        candidates
            .into_iter()
            .find(|path| is_program(path))
            .ok_or_else(|| {
                let folders = self.path();
                Failure::plain(format!("plugin {kind} is not in {}", folders.display()))
            })
    }

    fn path(&self) -> OsString {
        let folders: Vec<_> = self
            .bin_dirs
            .iter()
            .map(|folder| folder.as_os_str())
            .collect();
        folders.join(std::ffi::OsStr::new(":"))
    }
}

/// The record of an attachment that is about to be made.
fn plan(pod: &Attachment, network: &NetworkList) -> Result<Record, Error> {
    for (key, value) in &pod.args {
        if [key, value].iter().any(|it| it.contains([';', '=', '\0'])) {
            return Err(Error::Invalid(format!(
                "CNI argument {key}={value} has ; or = in it"
            )));
        }
    }
    Ok(Record {
        id: pod.id.clone(),
        netns: pod.netns.clone(),
        interface: INTERFACE.to_owned(),
        ips: vec![],
        ports: pod.ports.clone(),
        via: Via::Cni {
            conflist: network.value.clone(),
            args: pod.args.clone(),
            capabilities: capabilities::of(pod)?,
        },
    })
}

fn used(record: &Record) -> Result<Used<'_>, Error> {
    let Via::Cni {
        conflist,
        args,
        capabilities,
    } = &record.via
    else {
        return Err(Error::Other(format!(
            "attachment {} is not of CNI",
            record.id
        )));
    };
    let network = NetworkList::parse(conflist.clone()).map_err(|why| {
        Error::Other(format!(
            "the recorded CNI network of sandbox {} {why}",
            record.id
        ))
    })?;
    Ok(Used {
        record,
        network,
        args,
        capabilities,
    })
}

/// The pairs as plugins want them. `IgnoreUnknown` keeps strict plugins from refusing ours.
fn joined(args: &BTreeMap<String, String>) -> String {
    let mut pairs = vec!["IgnoreUnknown=1".to_owned()];
    let others = args.iter().filter(|(key, _)| *key != "IgnoreUnknown");
    pairs.extend(others.map(|(key, value)| format!("{key}={value}")));
    pairs.join(";")
}

/// The namespace's path, or nothing if no namespace is pinned there any more.
fn netns(path: &Path) -> OsString {
    let pinned = rustix::fs::statfs(path).is_ok_and(|it| u64::try_from(it.f_type) == Ok(NSFS));
    if pinned {
        path.as_os_str().to_owned()
    } else {
        OsString::new()
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

fn told(verb: Verb, used: &Used<'_>, kind: &str, why: &str) -> Error {
    let (verb, network, id) = (verb.name(), &used.network.name, &used.record.id);
    Error::Other(format!(
        "CNI network {network}: {verb} by plugin {kind} for {id}: {why}"
    ))
}
