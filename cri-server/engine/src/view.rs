//! The published picture: immutable values behind a lock that is held for a lookup only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use pod::container::Resources;
use pod::lifecycle::{ContainerPhase, SandboxPhase};
use pod::plan::StorageLimits;
use pod::{ContainerSpec, SandboxSpec};

use crate::error::Error;
use crate::events::{self, Change, Listeners};

/// A sandbox as it was when it was looked up.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// 64 hexadecimal digits.
    pub id: String,
    /// What was asked for.
    pub spec: Arc<SandboxSpec>,
    /// Where it is in its life.
    pub phase: SandboxPhase,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its addresses, the main one first; none with the host's network, none once stopped.
    pub ips: Vec<IpAddr>,
    /// CNI's result as JSON, where CNI made the network.
    pub cni_result: String,
    /// Folder with its pinned namespaces.
    pub namespaces: PathBuf,
    /// Pid of the built-in init, where process ids are shared.
    pub init_pid: Option<i32>,
    /// What the client last said of its resources.
    pub budget: Budget,
}

/// What a client says of a pod's resources. The client itself limits the pod's control group; this
/// is for those who look.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    /// What the pod takes beside its containers.
    pub overhead: Option<Resources>,
    /// What its containers may take together.
    pub resources: Option<Resources>,
}

/// A container as it was when it was looked up.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Id of its sandbox.
    pub sandbox_id: String,
    /// What was asked for.
    pub spec: Arc<ContainerSpec>,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// Id of its image.
    pub image_id: String,
    /// First tag of its image when it was made, else what was asked for.
    pub image_name: String,
    /// First digest name of its image when it was made, else the id.
    pub image_ref: String,
    /// For each mount, the first digest name of its image; empty where it has none.
    pub volume_refs: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0: never.
    pub started_at: i64,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Pid of its init, while it lives.
    pub pid: Option<i32>,
    /// Its log file.
    pub log_path: Option<PathBuf>,
    /// User id that its process got.
    pub uid: u32,
    /// Group id that it got.
    pub gid: u32,
    /// Its other groups.
    pub supplemental_groups: Vec<u32>,
    /// Name of the signal that asks it to stop.
    pub stop_signal: String,
    /// Its control group, as in the OCI specification.
    pub cgroup: String,
    /// How much it may leave on disk.
    pub limits: StorageLimits,
    /// Its bundle.
    pub bundle: PathBuf,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + N where signal N ended it.
    pub code: i32,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// One word: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`,
    /// `WritableLayerLimit`.
    pub reason: String,
    /// What is worth telling; often empty.
    pub message: String,
}

/// Everything published.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Who hears of what changes.
    pub(crate) listeners: Listeners,
    pods: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<String, Arc<Container>>>,
    /// Containers that are being made: of these the kernel shows traces before they are published.
    announced: RwLock<BTreeMap<String, Arc<Container>>>,
}

const LOCK: &str = "no thread panics while it holds this lock";

impl View {
    pub(crate) fn put_sandbox(&self, sandbox: Sandbox) {
        let sandbox = Arc::new(sandbox);
        let before = self
            .pods
            .write()
            .expect(LOCK)
            .insert(sandbox.id.clone(), Arc::clone(&sandbox));
        let changes = events::of_sandbox(before.map(|before| before.phase), sandbox.phase);
        self.tell(&sandbox.id, &changes, Some(&sandbox));
    }

    pub(crate) fn put_container(&self, container: Container) {
        let (id, sandbox, phase) = (
            container.id.clone(),
            container.sandbox_id.clone(),
            container.phase,
        );
        let before = self
            .containers
            .write()
            .expect(LOCK)
            .insert(id.clone(), Arc::new(container));
        self.withdraw(&id);
        let changes = events::of_container(before.map(|before| before.phase), phase);
        self.tell(&id, &changes, self.sandbox(&sandbox).ok().as_ref());
    }

    /// Makes a container known that is being made.
    pub(crate) fn announce(&self, container: Container) {
        let mut announced = self.announced.write().expect(LOCK);
        announced.insert(container.id.clone(), Arc::new(container));
    }

    /// Takes an announcement back: it is published now, or will not be.
    pub(crate) fn withdraw(&self, id: &str) {
        self.announced.write().expect(LOCK).remove(id);
    }

    /// All containers, published or announced.
    pub(crate) fn all_containers(&self) -> Vec<Arc<Container>> {
        // In this order: what is published meanwhile is found in one or the other.
        let announced = self.announced.read().expect(LOCK).clone();
        let mut all = announced;
        all.extend(self.containers.read().expect(LOCK).clone());
        all.into_values().collect()
    }

    /// A container by its whole id, published or announced.
    pub(crate) fn announced(&self, id: &str) -> Option<Arc<Container>> {
        // In this order: what is published meanwhile is found in one or the other.
        let announced = self.announced.read().expect(LOCK).get(id).cloned();
        announced.or_else(|| self.containers.read().expect(LOCK).get(id).cloned())
    }

    pub(crate) fn drop_sandbox(&self, id: &str) {
        let gone = self.pods.write().expect(LOCK).remove(id);
        if gone.is_some() {
            self.tell(id, &[Change::Deleted], gone.as_ref());
        }
    }

    pub(crate) fn drop_container(&self, id: &str) {
        let gone = self.containers.write().expect(LOCK).remove(id);
        if let Some(gone) = gone {
            let sandbox = self.sandbox(&gone.sandbox_id).ok();
            self.tell(id, &[Change::Deleted], sandbox.as_ref());
        }
    }

    /// Tells who listens; each pod is published by its one task, so that its events keep their
    /// order.
    fn tell(&self, id: &str, changes: &[Change], sandbox: Option<&Arc<Sandbox>>) {
        if changes.is_empty() || self.listeners.is_empty() {
            return;
        }
        let containers = sandbox.map(|sandbox| self.containers_of(&sandbox.id));
        let containers = containers.unwrap_or_default();
        self.listeners.tell(id, changes, sandbox, &containers);
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.pods.read().expect(LOCK).values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.containers
            .read()
            .expect(LOCK)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let containers = self.containers.read().expect(LOCK);
        let of_it = containers
            .values()
            .filter(|container| container.sandbox_id == sandbox);
        of_it.cloned().collect()
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        by_prefix(&self.pods.read().expect(LOCK), id, "sandbox")
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        by_prefix(&self.containers.read().expect(LOCK), id, "container")
    }
}

/// The one value whose key is `id` or begins with it.
fn by_prefix<T>(
    map: &BTreeMap<String, Arc<T>>,
    id: &str,
    kind: &'static str,
) -> Result<Arc<T>, Error> {
    if id.is_empty() {
        return Err(Error::Invalid(format!("{kind} id is empty")));
    }
    let mut fits = map
        .range(id.to_owned()..)
        .take_while(|(key, _)| key.starts_with(id));
    let Some((key, value)) = fits.next() else {
        return Err(Error::NotFound {
            kind,
            id: id.into(),
        });
    };
    if key == id {
        return Ok(Arc::clone(value));
    }
    match fits.count() {
        0 => Ok(Arc::clone(value)),
        more => Err(Error::Ambiguous {
            kind,
            id: id.into(),
            count: more + 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], id: &str, expect: Result<&str, &str>) {
        let map: BTreeMap<String, Arc<String>> = keys
            .iter()
            .map(|key| ((*key).to_owned(), Arc::new((*key).to_owned())))
            .collect();
        match (by_prefix(&map, id, "thing"), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(*found, expect),
            (Err(error), Err(expect)) => assert_eq!(error.to_string(), expect),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn short_ids() {
        let keys = ["aaa", "aab", "abc"];
        check(&keys, "aaa", Ok("aaa"));
        check(&keys, "ab", Ok("abc"));
        check(&keys, "aa", Err("thing id \"aa\" is ambiguous: it fits 2"));
        check(&keys, "b", Err("thing \"b\" not found"));
        check(&keys, "", Err("thing id is empty"));
        check(&["ab", "abc"], "ab", Ok("ab"));
    }
}
