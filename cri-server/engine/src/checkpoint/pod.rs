//! Checkpoints of pods: a folder with an archive for each container, and what they share.
//!
//! The folder holds `pod.json` ([`PodDocument`]), `<name>.tar` for each container (see
//! [`super::archive`]) and `shm.tar`, the pod's `/dev/shm`. `pod.json` is named last: a folder without
//! it is not whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use pod::container::Connections;
use pod::sandbox::NamespaceMode;
use pod::{ContainerSpec, SandboxSpec};
use serde::{Deserialize, Serialize};

use super::archive::{self, Draft};
use super::{Job, check_absolute};
use crate::error::Error;
use crate::view::Container;
use crate::{Engine, LOCK, blocking, now};

/// Version of the folder's form.
const VERSION: u32 = 1;
/// What describes the pod.
const DOCUMENT: &str = "pod.json";
/// The pod's `/dev/shm`.
pub(super) const SHM: &str = "shm.tar";

/// What is known of a pod that was written.
#[derive(Debug, Serialize, Deserialize)]
struct PodDocument {
    version: u32,
    /// Id of the sandbox that it was.
    id: String,
    /// When all of it stood still, nanoseconds since the epoch.
    taken_at: i64,
    /// The sandbox as asked for.
    spec: SandboxSpec,
    /// Addresses that it had; a restored pod has others.
    ips: Vec<IpAddr>,
    containers: Vec<ContainerEntry>,
}

/// A container of a pod that was written.
#[derive(Debug, Serialize, Deserialize)]
struct ContainerEntry {
    name: String,
    /// Id that it had.
    id: String,
    /// Its archive, in the same folder.
    archive: String,
}

/// A pod that was made from a checkpoint.
#[derive(Clone, Debug)]
pub struct RestoredPod {
    /// Id of the sandbox.
    pub id: String,
    /// Names and ids of its containers.
    pub containers: Vec<(String, String)>,
}

impl Engine {
    /// Writes running containers of a sandbox, as of one moment, into an empty folder; they go on,
    /// with their connections whatever becomes of these in the checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the field; [`Error::WrongState`] unless all of them run;
    /// [`Error::Unsupported`] where the OCI runtime cannot do it. The folder is empty then.
    pub async fn checkpoint_sandbox(
        &self,
        id: &str,
        containers: &[String],
        folder: &Path,
        connections: Connections,
    ) -> Result<(), Error> {
        let sandbox = self.sandbox(id)?;
        check_absolute("output_path", folder)?;
        let containers = self.chosen(&sandbox.id, containers)?;
        let to = folder.to_owned();
        blocking(move || check_empty(&to)).await?;
        let job = self.job(&sandbox.id, containers, None, connections)?;
        let folder = folder.to_owned();
        job.run(move |job| drafts(job, &folder)).await
    }

    /// The containers of a sandbox that a client names: at least one, none twice.
    fn chosen(&self, sandbox: &str, ids: &[String]) -> Result<Vec<Arc<Container>>, Error> {
        let refused =
            |place: usize, why: &str| Err(Error::Invalid(format!("container_ids[{place}]: {why}")));
        if ids.is_empty() {
            return Err(Error::Invalid("container_ids: is empty".into()));
        }
        let mut chosen: Vec<Arc<Container>> = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            let container = self.container(id)?;
            if container.sandbox_id != sandbox {
                return refused(place, "is a container of another pod");
            }
            if chosen.iter().any(|other| other.id == container.id) {
                return refused(place, "is named twice");
            }
            if chosen
                .iter()
                .any(|other| other.spec.name == container.spec.name)
            {
                return refused(place, "has the name of another one");
            }
            if container.spec.name.contains('/') {
                return refused(place, "has a name that is no file name");
            }
            chosen.push(container);
        }
        Ok(chosen)
    }

    /// Makes a pod from a checkpoint, with containers that go on when they are started.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] without a checkpoint; [`Error::Invalid`] where the request does not fit
    /// it. Nothing is left then.
    pub async fn restore_sandbox(
        &self,
        folder: &Path,
        spec: SandboxSpec,
        containers: Vec<ContainerSpec>,
    ) -> Result<RestoredPod, Error> {
        check_absolute("checkpoint_path", folder)?;
        let from = folder.to_owned();
        let document = blocking(move || read(&from)).await?;
        let containers = matched(&document, containers, folder)?;
        let (engine, folder) = (self.clone(), folder.to_owned());
        #[expect(
            clippy::disallowed_methods,
            reason = "belongs to the engine, as every operation; its steps are bounded"
        )]
        let task =
            tokio::spawn(
                async move { Box::pin(engine.make_restored(&folder, spec, containers)).await },
            );
        task.await
            .map_err(|_cut| Error::Unavailable("the daemon stops".into()))?
    }

    async fn make_restored(
        &self,
        folder: &Path,
        spec: SandboxSpec,
        containers: Vec<ContainerSpec>,
    ) -> Result<RestoredPod, Error> {
        let shares_memory = spec.namespaces.ipc == NamespaceMode::Pod;
        let known = {
            let pods = self.inner.pods.lock().expect(LOCK);
            pods.by_key.contains_key(&spec.key())
        };
        let id = self.run_sandbox(spec).await?;
        let made = async {
            // A retry finds it as its containers have left it.
            if shares_memory && !known {
                let (tar, shm) = (folder.join(SHM), self.inner.paths.shm(&id));
                blocking(move || load_shm(&tar, &shm))
                    .await
                    .map_err(|error| Error::failed("bringing back the pod's /dev/shm", error))?;
            }
            let mut made = Vec::new();
            for container in containers {
                let name = container.name.clone();
                made.push((name, self.create_container(&id, container).await?));
            }
            Ok(made)
        };
        match made.await {
            Ok(containers) => Ok(RestoredPod { id, containers }),
            Err(error) => {
                if !known && let Err(left) = self.remove_sandbox(&id).await {
                    tracing::error!(sandbox = id, error = %left, "undoing a restored pod");
                }
                Err(error)
            }
        }
    }
}

fn check_empty(folder: &Path) -> Result<(), Error> {
    let refused = |why: String| Error::Invalid(format!("output_path: {why}"));
    let mut entries = fs::read_dir(folder)
        .map_err(|error| refused(format!("reading {}: {error}", folder.display())))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(refused(format!("{} is not empty", folder.display()))),
    }
}

/// Everything of the folder, the document last.
fn drafts(job: &Job, folder: &Path) -> Result<Vec<Draft>, Error> {
    let mut drafts = Vec::new();
    let mut containers = Vec::new();
    for container in &job.containers {
        let archive = format!("{}.tar", container.spec.name);
        let from = job.folder_of(&container.id);
        drafts.push(Draft::archive(&from, folder.join(&archive))?);
        containers.push(ContainerEntry {
            name: container.spec.name.clone(),
            id: container.id.clone(),
            archive,
        });
    }
    let shm = job.folder.join(SHM);
    if shm.exists() {
        drafts.push(Draft::copy(&shm, folder.join(SHM))?);
    }
    let document = PodDocument {
        version: VERSION,
        id: job.sandbox.id.clone(),
        taken_at: now(),
        spec: (*job.sandbox.spec).clone(),
        ips: job.sandbox.ips.clone(),
        containers,
    };
    let text = serde_json::to_vec(&document)
        .map_err(|error| Error::failed("describing the pod", error))?;
    drafts.push(Draft::of(&text, folder.join(DOCUMENT))?);
    Ok(drafts)
}

fn read(folder: &Path) -> Result<PodDocument, Error> {
    let path = folder.join(DOCUMENT);
    let refused = |error: &dyn std::fmt::Display| {
        Error::Invalid(format!("checkpoint_path: {}: {error}", path.display()))
    };
    let bytes = archive::document(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            kind: "checkpoint",
            id: folder.display().to_string(),
        },
        _ => refused(&error),
    })?;
    let document: PodDocument = serde_json::from_slice(&bytes).map_err(|error| refused(&error))?;
    if document.version != VERSION {
        let version = document.version;
        return Err(refused(&format!("version {version} is not known")));
    }
    Ok(document)
}

/// The containers asked for, each with its archive.
fn matched(
    document: &PodDocument,
    mut containers: Vec<ContainerSpec>,
    folder: &Path,
) -> Result<Vec<ContainerSpec>, Error> {
    let mut names = BTreeSet::new();
    for (place, container) in containers.iter_mut().enumerate() {
        let name = container.name.clone();
        let refused =
            |why: &str| Error::Invalid(format!("container_configs[{place}]: {name:?} {why}"));
        let entry = document.containers.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| refused("is not in the checkpoint"))?;
        let archive = Path::new(&entry.archive);
        if archive.file_name() != Some(archive.as_os_str()) {
            return Err(refused("has an archive outside of the checkpoint"));
        }
        if !names.insert(name.clone()) {
            return Err(refused("is named twice"));
        }
        container.checkpoint = Some(folder.join(archive));
    }
    let missing = document
        .containers
        .iter()
        .find(|entry| !names.contains(&entry.name));
    match missing {
        Some(entry) => Err(Error::Invalid(format!(
            "container_configs: {:?} of the checkpoint is missing",
            entry.name
        ))),
        None => Ok(containers),
    }
}

/// Writes what lies in a pod's `/dev/shm`; nothing where the pod has none of its own.
pub(super) fn save_shm(shm: &Path, tar: &Path) -> io::Result<()> {
    if !shm.exists() {
        return Ok(());
    }
    let mut builder = tar::Builder::new(File::create_new(tar)?);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", shm)?;
    builder.into_inner().map(drop)
}

/// Brings it back; nothing where none was written.
fn load_shm(tar: &Path, shm: &Path) -> io::Result<()> {
    let file = match File::open(tar) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut archive = tar::Archive::new(file);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.unpack(shm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> PodDocument {
        let entry = |name: &str, archive: &str| ContainerEntry {
            name: name.into(),
            id: "1".into(),
            archive: archive.into(),
        };
        PodDocument {
            version: VERSION,
            id: "p".into(),
            taken_at: 1,
            spec: SandboxSpec::default(),
            ips: Vec::new(),
            containers: vec![entry("a", "a.tar"), entry("b", "../b.tar")],
        }
    }

    fn check(names: &[&str], expect: &str) {
        let specs = names.iter().map(|name| ContainerSpec {
            name: (*name).into(),
            ..ContainerSpec::default()
        });
        let error = matched(&document(), specs.collect(), Path::new("/f")).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }

    #[test]
    fn containers_are_those_of_the_checkpoint() {
        check(&["a"], "\"b\" of the checkpoint is missing");
        check(&["a", "a"], "container_configs[1]: \"a\" is named twice");
        check(
            &["c"],
            "container_configs[0]: \"c\" is not in the checkpoint",
        );
        check(&["b"], "outside of the checkpoint");
    }

    #[test]
    fn shared_memory_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("shm/in")).unwrap();
        fs::create_dir(at("again")).unwrap();
        fs::write(at("shm/in/x"), "1").unwrap();
        save_shm(&at("shm"), &at("tar")).unwrap();
        load_shm(&at("tar"), &at("again")).unwrap();
        assert_eq!(fs::read(at("again/in/x")).unwrap(), b"1");
        save_shm(&at("none"), &at("other")).unwrap();
        load_shm(&at("other"), &at("again")).unwrap();
    }

    #[test]
    fn a_folder_without_document_is_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(Error::NotFound { .. })));
        fs::write(dir.path().join(DOCUMENT), "{}").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::Invalid(_))));
        assert!(matches!(check_empty(dir.path()), Err(Error::Invalid(_))));
        assert!(matches!(
            check_empty(&dir.path().join("x")),
            Err(Error::Invalid(_))
        ));
    }
}
