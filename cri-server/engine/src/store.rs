//! Records of sandboxes and containers on disk: one JSON file each, replaced by rename.
//!
//! No fsync: a power cut may lose the newest records, and with them nothing that still lives; what
//! they had reserved is found by its folder, its cgroup or its network attachment and freed. A
//! record that cannot be read counts as lost, not as an error; one of a later version is an error,
//! for what it stands for lives.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxBlockIo;
use pod::container::Resources;
use pod::lifecycle::SandboxPhase;
use pod::plan::StorageLimits;
use pod::{ContainerSpec, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::view::{Budget, Exit};

/// Version of the records; a reader of a later version still reads this one. What may be passed over
/// (a field that is missing in older records) leaves it as it is; what may not, raises it.
const VERSION: u32 = 1;

/// A sandbox on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) spec: Arc<SandboxSpec>,
    /// The OCI runtime's program when it was made: what was made with it is ended with it.
    pub(crate) runtime: PathBuf,
    pub(crate) phase: SandboxPhase,
    pub(crate) created_at: i64,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) cni_result: String,
    /// What the client last said of the pod's resources.
    #[serde(default)]
    pub(crate) budget: Budget,
    /// It has an init, or is about to.
    #[serde(default)]
    pub(crate) has_init: bool,
}

impl SandboxRecord {
    pub(crate) fn reserved(
        id: String,
        spec: SandboxSpec,
        runtime: PathBuf,
        created_at: i64,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            budget: Budget {
                overhead: spec.overhead.clone(),
                resources: spec.resources.clone(),
            },
            spec: Arc::new(spec),
            runtime,
            phase: SandboxPhase::Reserved,
            created_at,
            ips: Vec::new(),
            cni_result: String::new(),
            has_init: false,
        }
    }
}

/// A container on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) spec: Arc<ContainerSpec>,
    /// False until the container could be handed out: what is found so after a crash is undone.
    pub(crate) made: bool,
    pub(crate) image_id: String,
    pub(crate) image_name: String,
    pub(crate) image_ref: String,
    /// For each mount, the digest of its image; empty where it has none.
    #[serde(default)]
    pub(crate) volume_refs: Vec<String>,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    /// Why it could not be started; how it ended is told by `exit` all the same.
    pub(crate) start_error: Option<String>,
    pub(crate) exit: Option<Exit>,
    /// How much it may leave on disk.
    #[serde(default)]
    pub(crate) limits: StorageLimits,
    /// Why it was ended, where it has left more.
    #[serde(default)]
    pub(crate) overuse: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) stop_signal: i32,
    pub(crate) stop_signal_name: String,
    pub(crate) cgroup: String,
    /// Its start restores it from a checkpoint.
    #[serde(default)]
    pub(crate) restored: bool,
    /// Its limits, where plugins made them other than those of `spec`.
    #[serde(default)]
    pub(crate) tuned: Option<Resources>,
    /// Its weights and limits of block devices, where a class gave it some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) block_io: Option<LinuxBlockIo>,
}

impl ContainerRecord {
    /// Whether the images of a checkpoint are still needed.
    pub(crate) fn awaits_restore(&self) -> bool {
        self.restored && self.started_at == 0 && self.exit.is_none()
    }

    pub(crate) fn reserved(
        id: String,
        sandbox_id: String,
        spec: Arc<ContainerSpec>,
        created_at: i64,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            sandbox_id,
            spec,
            made: false,
            image_id: String::new(),
            image_name: String::new(),
            image_ref: String::new(),
            volume_refs: Vec::new(),
            created_at,
            started_at: 0,
            start_error: None,
            exit: None,
            limits: StorageLimits::default(),
            overuse: None,
            uid: 0,
            gid: 0,
            supplemental_groups: Vec::new(),
            stop_signal: 0,
            stop_signal_name: String::new(),
            cgroup: String::new(),
            restored: false,
            tuned: None,
            block_io: None,
        }
    }
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    state: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path, state: &Path) -> Self {
        Self {
            root: root.into(),
            state: state.into(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Folder with a folder for each sandbox's records.
    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("pods")
    }

    fn sandbox_records(&self, sandbox: &str) -> PathBuf {
        self.records().join(sandbox)
    }

    fn sandbox_record(&self, sandbox: &str) -> PathBuf {
        self.sandbox_records(sandbox).join("pod.json")
    }

    fn container_record(&self, sandbox: &str, container: &str) -> PathBuf {
        self.sandbox_records(sandbox)
            .join(format!("{container}.json"))
    }

    /// Folder with a folder for each sandbox that lives.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state.join("pods")
    }

    pub(crate) fn sandbox(&self, sandbox: &str) -> PathBuf {
        self.sandboxes().join(sandbox)
    }

    pub(crate) fn namespaces(&self, sandbox: &str) -> PathBuf {
        self.sandbox(sandbox).join("ns")
    }

    pub(crate) fn shm(&self, sandbox: &str) -> PathBuf {
        self.sandbox(sandbox).join("shm")
    }

    /// Folder with the bundles.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.state.join("containers")
    }

    pub(crate) fn bundle(&self, container: &str) -> PathBuf {
        self.bundles().join(container)
    }

    /// Folder with a folder for each OCI runtime.
    pub(crate) fn runtimes(&self) -> PathBuf {
        self.state.join("runtimes")
    }

    /// Where an OCI runtime keeps its own state.
    pub(crate) fn runtime_root(&self, handler: &str) -> PathBuf {
        self.runtimes().join(handler)
    }

    /// Folder with a folder for each checkpoint under way: being taken, or not restored yet.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The checkpoint that a container goes on from, until it does.
    pub(crate) fn checkpoint(&self, container: &str) -> PathBuf {
        self.checkpoints().join(container)
    }

    /// There as long as containers of the sandbox are paused for a checkpoint.
    pub(crate) fn paused(&self, sandbox: &str) -> PathBuf {
        self.sandbox(sandbox).join("paused")
    }

    pub(crate) fn pod_cidr(&self) -> PathBuf {
        self.root.join("pod_cidr")
    }

    pub(crate) fn boot_id(&self) -> PathBuf {
        self.root.join("boot_id")
    }

    /// Lock files: one daemon for each folder.
    pub(crate) fn locks(&self) -> [PathBuf; 2] {
        [self.root.join("lock"), self.state.join("lock")]
    }

    /// What plans are told of a sandbox's paths.
    pub(crate) fn for_plan(&self, sandbox: &str, init_program: &Path) -> pod::plan::SandboxPaths {
        let folder = self.sandbox(sandbox);
        pod::plan::SandboxPaths {
            namespaces: self.namespaces(sandbox),
            shm: self.shm(sandbox),
            hostname: folder.join("hostname"),
            hosts: folder.join("hosts"),
            resolv_conf: folder.join("resolv.conf"),
            init_program: init_program.into(),
        }
    }
}

/// A sandbox and its containers, as found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) sandbox: SandboxRecord,
    pub(crate) containers: Vec<ContainerRecord>,
}

/// What lies on disk after an earlier run.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) found: Vec<Found>,
    /// Ids of sandboxes whose record is missing or cannot be read, with the reason.
    pub(crate) damaged: Vec<(String, String)>,
}

pub(crate) fn put_sandbox(paths: &Paths, record: &SandboxRecord) -> io::Result<()> {
    fs::create_dir_all(paths.sandbox_records(&record.id))?;
    replace(&paths.sandbox_record(&record.id), record)
}

pub(crate) fn put_container(paths: &Paths, record: &ContainerRecord) -> io::Result<()> {
    replace(
        &paths.container_record(&record.sandbox_id, &record.id),
        record,
    )
}

pub(crate) fn remove_container(paths: &Paths, sandbox: &str, container: &str) -> io::Result<()> {
    gone_is_fine(fs::remove_file(paths.container_record(sandbox, container)))
}

pub(crate) fn remove_sandbox(paths: &Paths, sandbox: &str) -> io::Result<()> {
    gone_is_fine(fs::remove_dir_all(paths.sandbox_records(sandbox)))
}

/// Reads all records. Temporary files of a killed writer are passed over.
///
/// # Errors
///
/// A folder cannot be read, or a record is of a later version: nothing has been changed then.
pub(crate) fn load(paths: &Paths) -> io::Result<Inventory> {
    let ids = names(&paths.records())?;
    for id in &ids {
        refuse_later(paths, id)?;
    }
    let mut inventory = Inventory::default();
    for id in ids {
        match load_one(paths, &id) {
            Ok(found) => inventory.found.push(found),
            Err(error) => inventory.damaged.push((id, error.to_string())),
        }
    }
    Ok(inventory)
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Stamp {
    version: u32,
}

/// Refuses what an earlier program cannot know the meaning of, before anything is taken for lost.
fn refuse_later(paths: &Paths, id: &str) -> io::Result<()> {
    let folder = paths.sandbox_records(id);
    for name in names(&folder)?
        .iter()
        .filter(|name| name.ends_with(".json"))
    {
        let path = folder.join(name);
        // One that cannot be read is dealt with where it is read.
        let Ok(Stamp { version }) = read(&path) else {
            continue;
        };
        if version > VERSION {
            return Err(io::Error::other(format!(
                "{path:?} is of version {version}, and this wherryd knows {VERSION} and earlier \
                 ones: a later wherryd wrote it, and only such a one can go on with its pods, or \
                 remove them (wherryd reset)"
            )));
        }
    }
    Ok(())
}

fn load_one(paths: &Paths, id: &str) -> io::Result<Found> {
    let sandbox = read(&paths.sandbox_record(id))?;
    let mut containers = Vec::new();
    for name in names(&paths.sandbox_records(id))? {
        let Some(container) = name.strip_suffix(".json").filter(|name| *name != "pod") else {
            continue;
        };
        match read(&paths.container_record(id, container)) {
            Ok(record) => containers.push(record),
            // Lost with its content: its bundle, if any, is found as an orphan.
            Err(error) => {
                tracing::warn!(container, %error, "a container's record cannot be read");
                fs::remove_file(paths.container_record(id, container))?;
            }
        }
    }
    Ok(Found {
        sandbox,
        containers,
    })
}

/// Names in a folder; none if it does not exist.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name| !matches!(name, Ok(name) if name.starts_with('.')))
        .collect()
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn replace<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace_bytes(path, &serde_json::to_vec(value)?)
}

/// Writes a file beside `path` and renames it over it: readers see the old or the new one.
pub(crate) fn replace_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, path)
}

/// Turns "does not exist" into success.
pub(crate) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &tempfile::TempDir) -> Paths {
        Paths::new(&folder.path().join("root"), &folder.path().join("state"))
    }

    fn spec(name: &str) -> SandboxSpec {
        SandboxSpec {
            name: name.into(),
            ..SandboxSpec::default()
        }
    }

    #[test]
    fn what_was_put_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder);
        put_sandbox(
            &paths,
            &SandboxRecord::reserved("s1".into(), spec("web"), "/bin/wrun".into(), 7),
        )
        .unwrap();
        let container = ContainerRecord::reserved("c1".into(), "s1".into(), Arc::default(), 8);
        put_container(&paths, &container).unwrap();
        let inventory = load(&paths).unwrap();
        assert_eq!(inventory.found.len(), 1);
        assert_eq!(inventory.found[0].sandbox.spec.name, "web");
        assert_eq!(inventory.found[0].containers[0].id, "c1");
        assert!(inventory.damaged.is_empty());
    }

    #[test]
    fn a_torn_record_is_reported_not_fatal() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder);
        put_sandbox(
            &paths,
            &SandboxRecord::reserved("s1".into(), spec("web"), "/bin/wrun".into(), 7),
        )
        .unwrap();
        fs::write(paths.sandbox_record("s1"), b"").unwrap();
        let inventory = load(&paths).unwrap();
        assert!(inventory.found.is_empty());
        assert_eq!(inventory.damaged[0].0, "s1");
    }

    #[test]
    fn a_record_of_a_later_version_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder);
        let record = SandboxRecord::reserved("s1".into(), spec("web"), "/bin/wrun".into(), 7);
        put_sandbox(&paths, &record).unwrap();
        let torn = SandboxRecord::reserved("s2".into(), spec("db"), "/bin/wrun".into(), 7);
        put_sandbox(&paths, &torn).unwrap();
        fs::write(paths.sandbox_record("s2"), b"").unwrap();
        let container = paths.container_record("s1", "c1");
        let later = br#"{"version": 2, "shape": "unknown"}"#;
        fs::write(&container, later).unwrap();
        let error = load(&paths).unwrap_err().to_string();
        assert!(
            error.contains("c1.json\" is of version 2, and this wherryd knows 1"),
            "{error}"
        );
        assert_eq!(fs::read(&container).unwrap(), later);
        assert!(paths.sandbox_record("s2").exists());
    }

    #[test]
    fn what_a_later_program_added_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder);
        let record = SandboxRecord::reserved("s1".into(), spec("web"), "/bin/wrun".into(), 7);
        put_sandbox(&paths, &record).unwrap();
        let path = paths.sandbox_record("s1");
        let mut value: serde_json::Value = read(&path).unwrap();
        value["added"] = serde_json::json!({"since": "then"});
        value["spec"]["added"] = serde_json::json!([1]);
        replace(&path, &value).unwrap();
        let inventory = load(&paths).unwrap();
        assert_eq!(inventory.found[0].sandbox.spec.name, "web");
    }

    #[test]
    fn removal_accepts_already_gone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(&folder);
        remove_sandbox(&paths, "never").unwrap();
        remove_container(&paths, "never", "was").unwrap();
        assert!(load(&paths).unwrap().found.is_empty());
    }
}
