//! The control group of a container. The only file that knows the `cgroup` crate.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgroup::{Driver, Group, Host};
use oci_spec::runtime::LinuxResources;
use serde::Deserialize as _;
use serde_json::value::RawValue;

use crate::failure::{Attempt, Failure, Result, because};

/// A container's group, made or found again.
#[derive(Debug)]
pub(crate) struct ContainerGroup(Group);

/// The way into a group for a process that is about to be made. Moving a process that exists makes
/// the whole machine wait (12 ms here), so it is born there or goes in by itself.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// v2: for clone3.
    Folder(OwnedFd),
    /// v1: the new process writes to each.
    Files(Vec<OwnedFd>),
}

impl Entrance {
    /// For clone3.
    pub(crate) fn for_clone(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Entrance::Folder(folder) => Some(folder.as_fd()),
            Entrance::Files(_) => None,
        }
    }

    /// What the new process does first.
    pub(crate) fn step_in(&self) -> Result<()> {
        let Entrance::Files(files) = self else {
            return Ok(());
        };
        for file in files {
            rustix::io::retry_on_intr(|| rustix::io::write(file, b"0"))
                .attempt(|| "unable to apply cgroup configuration: enter".to_owned())?;
        }
        Ok(())
    }
}

fn failed(what: &str, error: &cgroup::Error) -> Failure {
    because(what, error)
}

/// What this host has.
pub(crate) fn detect() -> Result<Host> {
    Host::detect().map_err(|error| failed("look for control groups", &error))
}

impl ContainerGroup {
    /// The group at `path`, or the default one of container `id`. Nothing is made yet.
    pub(crate) fn plan(
        host: &Host,
        systemd: bool,
        path: Option<&str>,
        id: &str,
    ) -> Result<ContainerGroup> {
        let default = format!("/wrun-{id}");
        let path = path.filter(|path| !path.is_empty()).unwrap_or(&default);
        let driver = if systemd {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        };
        host.group_by(driver, path)
            .map(ContainerGroup)
            .map_err(|error| failed("unable to apply cgroup configuration", &error))
    }

    /// A group that exists, by its folders.
    pub(crate) fn open(paths: &BTreeMap<String, PathBuf>) -> Result<ContainerGroup> {
        let group = Group::open(paths.clone());
        group
            .map(ContainerGroup)
            .map_err(|error| failed("open the container's control groups", &error))
    }

    /// Makes it.
    pub(crate) fn create(&self) -> Result<()> {
        self.0
            .create()
            .map_err(|error| failed("unable to apply cgroup configuration", &error))
    }

    /// How a new process gets into it.
    pub(crate) fn entrance(&self) -> Result<Entrance> {
        let what = "unable to apply cgroup configuration";
        let folder = self.0.dir_fd().map_err(|error| failed(what, &error))?;
        if let Some(folder) = folder {
            let own = folder.try_clone_to_owned();
            return own.map(Entrance::Folder).attempt(|| what.to_owned());
        }
        let files = self.0.entrances().map_err(|error| failed(what, &error))?;
        Ok(Entrance::Files(files))
    }

    /// Sets limits.
    pub(crate) fn apply(&self, raw: Option<&RawValue>) -> Result<()> {
        let text = raw.map_or("{}", RawValue::get);
        let resources: LinuxResources =
            serde_json::from_str(text).map_err(|error| because("read linux.resources", &error))?;
        self.0
            .apply(&resources)
            .map_err(|error| failed("set limits", &error))
    }

    /// Sets other limits; device rules stay.
    pub(crate) fn update(&self, resources: &serde_json::Value) -> Result<()> {
        let resources = LinuxResources::deserialize(resources)
            .map_err(|error| because("read linux.resources", &error))?;
        self.0
            .update(&resources)
            .map_err(|error| failed("set limits", &error))
    }

    /// Folders by controller.
    pub(crate) fn paths(&self) -> BTreeMap<String, PathBuf> {
        self.0.paths()
    }

    /// Stops its processes where they are.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.0
            .freeze()
            .map_err(|error| failed("pause the container", &error))
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.0
            .thaw()
            .map_err(|error| failed("resume the container", &error))
    }

    /// They are stopped; a group that is gone is not.
    pub(crate) fn is_frozen(&self) -> bool {
        self.0.is_frozen().unwrap_or(false)
    }

    /// Ends all of its processes.
    pub(crate) fn kill(&self) -> Result<()> {
        self.0
            .kill()
            .map_err(|error| failed("kill the container's processes", &error))
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        self.0
            .procs()
            .map_err(|error| failed("list the container's processes", &error))
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        self.0
            .remove()
            .map_err(|error| failed("remove the container's control groups", &error))
    }

    /// For mounts of type cgroup: the name of each hierarchy's folder, and the group's in it.
    pub(crate) fn mount_folders(&self, path: &str) -> Vec<(String, PathBuf)> {
        let mut folders: Vec<(String, PathBuf)> = Vec::new();
        for folder in self.paths().into_values() {
            if folders.iter().any(|(_, seen)| *seen == folder) {
                continue;
            }
            let name = hierarchy_name(&folder, path);
            folders.push((name, folder));
        }
        folders
    }
}

/// The last part of the mount point: `cpu,cpuacct` of `/sys/fs/cgroup/cpu,cpuacct/a/b` with `/a/b`.
fn hierarchy_name(folder: &Path, path: &str) -> String {
    let depth = Path::new(path)
        .components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)));
    let mount = folder.ancestors().nth(depth.count()).unwrap_or(folder);
    mount
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, path: &str, expect: &str) {
        assert_eq!(hierarchy_name(Path::new(folder), path), expect);
    }

    #[test]
    fn a_hierarchy_is_named_after_its_mount_point() {
        check("/sys/fs/cgroup/cpu,cpuacct/a/b", "/a/b", "cpu,cpuacct");
        check("/sys/fs/cgroup/memory/a", "a/", "memory");
    }
}
