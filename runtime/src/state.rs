//! What is kept of a container under `--root`, and where.
//!
//! ```text
//! <root>/<id>/state.json   this; written by rename. Its top level has runc's names, because tools
//!                          read those; "wrun" holds what only we need.
//! <root>/<id>/exec.fifo    exists until the container is started; its first process waits on it
//! <root>/<id>/seccomp.bpf  the compiled filter, for exec
//! <root>/<id>/criu-root    an empty folder while it is restored, for criu to see the root on
//! <root>/<id>/groups       who makes its control groups and where: what `delete --force` needs of a
//!                          container whose maker was killed before there was a state. A link that
//!                          leads nowhere: its text appears at once and takes no block of a disk.
//! ```
//!
//! The folder's existence is the reservation of the id.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, flock, mkdirat, mknodat, open,
    readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cgroups::Manager;
use crate::failure::{Attempt, Failure, Result, because};
use crate::hooks::Hook;
use crate::plan::Nature;
use crate::{adopt, file, messages, rdt};

/// Version of the part that is ours.
const VERSION: u32 = 1;

/// Longest id: a file name.
const MAX_ID: usize = 255;

/// `state.json`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) init_process_pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat`; tells a pid from its reuse.
    pub(crate) init_process_start: u64,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) rootless: bool,
    /// Folder by v1 controller; under the empty name on v2.
    pub(crate) cgroup_paths: BTreeMap<String, PathBuf>,
    /// What the standard streams of its first process were, as `/proc/PID/fd` names them.
    #[serde(default)]
    pub(crate) external_descriptors: Vec<String>,
    pub(crate) config: RuncConfig,
    pub(crate) wrun: Own,
}

/// Whose state it is.
#[derive(Deserialize)]
struct Written {
    wrun: Option<serde::de::IgnoredAny>,
}

/// The few parts of runc's `config` that are read by others.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RuncConfig {
    pub(crate) rootfs: PathBuf,
    /// `key=value`: the annotations, and `bundle=PATH`.
    pub(crate) labels: Vec<String>,
}

/// What only we need.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Own {
    pub(crate) version: u32,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    /// Its `config.json`, which `exec` takes from what its flags do not say.
    #[serde(default)]
    pub(crate) config: Option<PathBuf>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// `CLONE_NEW*` of all kinds that the container does not share with its maker.
    pub(crate) namespaces: i32,
    /// Its first process is the first of a pid namespace, whose end is that of all others in it.
    pub(crate) own_pids: bool,
    /// Its processes get session keyrings of their own.
    pub(crate) keyring: bool,
    pub(crate) seccomp: bool,
    /// Another runtime made it; only what is the same with all has been read of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) foreign: bool,
    /// A further control group without use, which goes with the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) other_group: Option<PathBuf>,
    /// `linux.resources` as it holds now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<Box<RawValue>>,
    /// The unit of systemd that the control groups belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    /// Its class of service of resctrl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rdt: Option<rdt::Share>,
    #[serde(default)]
    pub(crate) nature: Nature,
    pub(crate) poststart: Vec<Hook>,
    pub(crate) poststop: Vec<Hook>,
}

impl Own {
    /// Of the version that this program writes.
    pub(crate) fn version() -> u32 {
        VERSION
    }
}

/// The text of `groups`: who makes the control groups, and the path that the configuration gives.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Noted(pub(crate) Manager, pub(crate) Option<String>);

/// The right to change a container.
#[derive(Debug)]
pub(crate) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not only closed: a child may have inherited the descriptor.
        let _gone = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Why there is no state to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", messages::DOES_NOT_EXIST)]
    DoesNotExist,
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// The folder of one container.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of container `id`, whether it exists or not.
    ///
    /// # Errors
    ///
    /// An id that is no plain file name.
    pub(crate) fn of(root: &Path, id: &str) -> Result<Folder> {
        check_id(id)?;
        Ok(Folder {
            path: root.join(id),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder, which reserves the id.
    ///
    /// # Errors
    ///
    /// [`messages::ALREADY_EXISTS`], or what the filesystem says.
    pub(crate) fn reserve(&self) -> Result<()> {
        let what = || format!("make {:?}", self.path);
        let mut made = mkdirat(CWD, &self.path, Mode::from_raw_mode(0o711));
        if made == Err(Errno::NOENT) {
            let root = self.path.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(root).attempt(|| format!("make {root:?}"))?;
            made = mkdirat(CWD, &self.path, Mode::from_raw_mode(0o711));
        }
        match made {
            Err(Errno::EXIST) => Err(Failure::new(messages::ALREADY_EXISTS)),
            made => made.attempt(what),
        }
    }

    /// Removes the folder with all that is in it.
    pub(crate) fn remove(&self) -> Result<()> {
        // What is there as a rule; whatever else there is takes longer.
        for name in ["state.json", "groups", "exec.fifo", "seccomp.bpf"] {
            let _gone_or_not = unlinkat(CWD, self.path.join(name), AtFlags::empty());
        }
        match unlinkat(CWD, &self.path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) => {}
        }
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.attempt(|| format!("remove {:?}", self.path)),
        }
    }

    /// Keeps other commands that change the container out, until what it gives is dropped or this
    /// process ends. Whoever holds it waits for nothing without a deadline.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotExist`].
    pub(crate) fn lock(&self) -> std::result::Result<Lock, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match open(&self.path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(Error::DoesNotExist),
            folder => folder.attempt(|| format!("open {:?}", self.path))?,
        };
        rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive))
            .attempt(|| format!("lock {:?}", self.path))?;
        Ok(Lock(folder))
    }

    /// The pipe that the first process waits on.
    pub(crate) fn gate(&self) -> PathBuf {
        self.path.join("exec.fifo")
    }

    /// Makes it and opens both of its ends at once.
    pub(crate) fn make_gate(&self) -> Result<OwnedFd> {
        let (path, mode) = (self.gate(), Mode::from_raw_mode(0o600));
        mknodat(CWD, &path, FileType::Fifo, mode, 0).attempt(|| format!("make {path:?}"))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).attempt(|| format!("open {path:?}"))
    }

    fn groups(&self) -> PathBuf {
        self.path.join("groups")
    }

    /// Notes control groups that are about to be made.
    pub(crate) fn note_groups(&self, noted: &Noted) -> Result<()> {
        let what = || format!("write {:?}", self.groups());
        let text = serde_json::to_string(noted)
            .map_err(|error| because("write the control groups", &error))?;
        symlinkat(&text, CWD, self.groups()).attempt(what)
    }

    /// What [`Folder::note_groups`] wrote; `None` if it was not, in which case there are no groups
    /// yet.
    pub(crate) fn noted_groups(&self) -> Option<Noted> {
        let text = readlinkat(CWD, self.groups(), Vec::new()).ok()?;
        serde_json::from_slice(text.to_bytes()).ok()
    }

    /// The compiled system call filter.
    pub(crate) fn filter(&self) -> PathBuf {
        self.path.join("seccomp.bpf")
    }

    /// Writes the state by rename: a reader sees all or nothing.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        self.prepare(state)?;
        self.publish()
    }

    /// Writes the state where nobody looks for it yet.
    pub(crate) fn prepare(&self, state: &State) -> Result<()> {
        let text = serde_json::to_vec(state).map_err(|error| because("write the state", &error))?;
        let part = self.unpublished();
        file::write(&part, &text).attempt(|| format!("write {part:?}"))
    }

    /// Shows what [`Folder::prepare`] wrote.
    pub(crate) fn publish(&self) -> Result<()> {
        let whole = self.path.join("state.json");
        std::fs::rename(self.unpublished(), &whole).attempt(|| format!("rename to {whole:?}"))
    }

    fn unpublished(&self) -> PathBuf {
        self.path.join("state.json.new")
    }

    /// Reads the state.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotExist`] if there is none, also while a container is being made.
    pub(crate) fn load(&self) -> std::result::Result<State, Error> {
        let path = self.path.join("state.json");
        let text = match file::read(&path) {
            Err(Errno::NOENT) => return Err(Error::DoesNotExist),
            text => text.attempt(|| format!("read {path:?}"))?,
        };
        let state = match serde_json::from_slice::<Written>(&text) {
            Ok(Written { wrun: None }) => adopt::from_runc(&text),
            _ => serde_json::from_slice(&text),
        };
        Ok(state.map_err(|error| because(&format!("read {path:?}"), &error))?)
    }
}

/// Ids are file names of a few characters, as in runc.
fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Failure::new("container id cannot be empty"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.len() > MAX_ID || matches!(id, "." | "..") || !id.chars().all(plain) {
        return Err(Failure::new(format!("{}: {id:?}", messages::INVALID_ID)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, good: bool) {
        assert_eq!(check_id(id).is_ok(), good, "{id:?}");
    }

    #[test]
    fn ids_are_plain_file_names() {
        check("a-b_c+d.1", true);
        check("", false);
        check(".", false);
        check("..", false);
        check("a/b", false);
        check("../x", false);
        check("a b", false);
        check("ä", false);
        check(&"a".repeat(256), false);
    }

    #[test]
    fn an_id_is_reserved_once() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::of(&root.path().join("deep/root"), "a").unwrap();
        folder.reserve().unwrap();
        let error = folder.reserve().unwrap_err();
        assert_eq!(error.to_string(), messages::ALREADY_EXISTS);
        assert!(matches!(folder.load(), Err(Error::DoesNotExist)));
        folder.remove().unwrap();
        folder.remove().unwrap();
    }
}
