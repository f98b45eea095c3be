//! The control group of a container. The only file that knows the `cgroup` crate.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cgroup::{Driver, Group, Property};

pub(crate) use cgroup::Host;
use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::failure::{Attempt, Failure, Result, because};

/// Annotations that begin like this name properties of the unit that systemd makes.
const UNIT_PROPERTY: &str = "org.systemd.property.";

/// Who makes control groups.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Manager {
    #[default]
    Cgroupfs,
    Systemd,
    /// Nobody: the container stays in the groups of its maker, without limits.
    Disabled,
}

/// A container's group, made or found again.
#[derive(Debug)]
pub(crate) struct ContainerGroup {
    /// `None` if it has none of its own.
    group: Option<Group>,
    /// It turned out to be another container's when it was to be made.
    others: Cell<bool>,
    /// There is none because this process may not make one.
    refused: bool,
    /// An ordinary user asks for it.
    rootless: bool,
}

/// Which group a container is to get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) manager: Manager,
    /// As the configuration has it.
    pub(crate) path: Option<&'a str>,
    /// Of the container, for the default path.
    pub(crate) id: &'a str,
    /// A group that nobody asks for by name is made below this process's own, as far as that is
    /// permitted.
    pub(crate) rootless: bool,
}

/// The way into a group for a process that is about to be made. Moving a process that exists makes
/// the whole machine wait (12 ms here), so it is born there or goes in by itself.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// v2: for clone3.
    Folder(OwnedFd),
    /// v1: the new process writes to each.
    Files(Vec<OwnedFd>),
    /// systemd makes the group around the new process, which waits until that is done.
    Made,
}

impl Entrance {
    /// For clone3.
    pub(crate) fn for_clone(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Entrance::Folder(folder) => Some(folder.as_fd()),
            Entrance::Files(_) | Entrance::Made => None,
        }
    }

    /// What the new process does first; `wait` returns when its parent lets it go on.
    pub(crate) fn step_in(&self, wait: impl FnOnce() -> Result<()>) -> Result<()> {
        let files = match self {
            Entrance::Folder(_) => return Ok(()),
            Entrance::Made => return wait(),
            Entrance::Files(files) => files,
        };
        for file in files {
            rustix::io::retry_on_intr(|| rustix::io::write(file, b"0"))
                .attempt(|| "unable to apply cgroup configuration: enter".to_owned())?;
        }
        Ok(())
    }
}

/// What every failure to make or enter a group begins with, as engines look for it.
const APPLY: &str = "unable to apply cgroup configuration";

/// What an ordinary user is told who asks for more than that, in runc's words.
const NEEDS_NO_GROUP: &str =
    "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";

fn failed(what: &str, error: &cgroup::Error) -> Failure {
    because(what, error)
}

/// What this host has; it may have nothing where `manager` wants nothing.
pub(crate) fn detect(manager: Manager) -> Result<Option<Host>> {
    match Host::detect() {
        Err(_) if manager == Manager::Disabled => Ok(None),
        host => host
            .map(Some)
            .map_err(|error| failed("look for control groups", &error)),
    }
}

/// Limits, as the `cgroup` crate takes them.
fn resources(raw: Option<&RawValue>) -> Result<LinuxResources> {
    serde_json::from_str(raw.map_or("{}", RawValue::get))
        .map_err(|error| because("read linux.resources", &error))
}

impl ContainerGroup {
    fn of(group: Option<Group>) -> Self {
        Self {
            group,
            others: Cell::new(false),
            refused: false,
            rootless: false,
        }
    }

    /// The group that is asked for, or the default one of the container. Nothing is made yet.
    pub(crate) fn plan(host: Option<&Host>, asked: Asked<'_>) -> Result<ContainerGroup> {
        let Asked { manager, id, .. } = asked;
        let path = asked.path.filter(|path| !path.is_empty());
        let (driver, default) = match manager {
            Manager::Cgroupfs => (Driver::Cgroupfs, format!("/wrun-{id}")),
            Manager::Systemd => (Driver::Systemd, format!(":wrun:{id}")),
            Manager::Disabled => return Ok(ContainerGroup::of(None)),
        };
        let host = host.ok_or_else(|| Failure::new(format!("{APPLY}: there are none")))?;
        if manager == Manager::Cgroupfs && path.is_none() && asked.rootless {
            let group = host.group_if_permitted(&format!("wrun-{id}"));
            let group = group.map_err(|error| failed(APPLY, &error))?;
            return Ok(ContainerGroup {
                refused: group.is_none(),
                rootless: true,
                ..ContainerGroup::of(group)
            });
        }
        host.group_by(driver, path.unwrap_or(&default))
            .map(|group| ContainerGroup {
                rootless: asked.rootless,
                ..ContainerGroup::of(Some(group))
            })
            .map_err(|error| failed(APPLY, &error))
    }

    /// A group that exists, by its folders and the unit of systemd that it belongs to.
    pub(crate) fn open(
        paths: &BTreeMap<String, PathBuf>,
        unit: Option<&str>,
    ) -> Result<ContainerGroup> {
        if paths.is_empty() {
            return Ok(ContainerGroup::of(None));
        }
        let group = match unit {
            Some(unit) => Group::open_unit(paths.clone(), unit),
            None => Group::open(paths.clone()),
        };
        group
            .map(|group| ContainerGroup::of(Some(group)))
            .map_err(|error| failed("open the container's control groups", &error))
    }

    /// The group below it that `requests` (`PATH`, or `CONTROLLER,..:PATH` on v1) name.
    pub(crate) fn below(self, requests: &[&str]) -> Result<ContainerGroup> {
        if requests.is_empty() || !self.is_there() {
            return Ok(self);
        }
        let mut paths = self.paths();
        for (controller, below) in parse_below(requests)? {
            if controller.is_empty() {
                for path in paths.values_mut() {
                    *path = joined(path, below)?;
                }
                continue;
            }
            let path = paths
                .get_mut(controller)
                .ok_or_else(|| Failure::new(format!("unknown controller {controller}")))?;
            *path = joined(path, below)?;
        }
        let group = ContainerGroup::open(&paths, None)?;
        // runc's words, which its tests look for; there is no process yet that would have a number.
        group.entrance().map_err(|failure| {
            let pid = std::process::id();
            Failure::new(format!("error adding pid {pid} to cgroups: {failure}"))
        })?;
        Ok(group)
    }

    /// There is one.
    pub(crate) fn is_there(&self) -> bool {
        self.group.is_some()
    }

    fn each<T: Default>(
        &self,
        what: &str,
        call: impl FnOnce(&Group) -> std::result::Result<T, cgroup::Error>,
    ) -> Result<T> {
        match &self.group {
            Some(group) => call(group).map_err(|error| failed(what, &error)),
            None => Ok(T::default()),
        }
    }

    /// It comes to life with a process ([`ContainerGroup::start`]) instead of
    /// [`ContainerGroup::create`].
    pub(crate) fn needs_process(&self) -> bool {
        self.group.as_ref().is_some_and(Group::needs_process)
    }

    /// Makes it.
    pub(crate) fn create(&self) -> Result<()> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        self.seen(group.create()).map_err(|error| {
            let refused = matches!(
                error.errno(),
                Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
            );
            match self.rootless && refused {
                true => failed(&format!("{APPLY}: {NEEDS_NO_GROUP}"), &error),
                false => failed(APPLY, &error),
            }
        })
    }

    /// Remembers whether the group could not be made because it is there.
    fn seen(
        &self,
        made: std::result::Result<(), cgroup::Error>,
    ) -> std::result::Result<(), cgroup::Error> {
        self.others
            .set(made.as_ref().is_err_and(cgroup::Error::is_in_use));
        made
    }

    /// Has systemd make it around process `pid`. `annotations` may name properties of the unit.
    pub(crate) fn start<'a>(
        &self,
        pid: i32,
        raw: Option<&RawValue>,
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<()> {
        let resources = resources(raw)?;
        let properties = annotations
            .filter_map(|(key, value)| Some((key.strip_prefix(UNIT_PROPERTY)?, value)))
            .map(|(name, value)| Property::parse(name, value));
        let properties = properties
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| failed(APPLY, &error))?;
        self.each(APPLY, |group| {
            self.seen(group.start(pid, &resources, &properties))
        })
    }

    /// Gives it to `user`, who then may make groups below it.
    pub(crate) fn delegate(&self, user: u32) -> Result<()> {
        self.each("delegate the container's control group", |group| {
            group.delegate(user)
        })
    }

    /// Has systemd move process `pid` into it, where this user may not.
    pub(crate) fn attach(&self, pid: i32) -> Result<()> {
        self.each(APPLY, |group| group.attach(pid))
    }

    /// How a new process gets into it.
    pub(crate) fn entrance(&self) -> Result<Entrance> {
        let Some(group) = &self.group else {
            return Ok(Entrance::Files(Vec::new()));
        };
        let folder = group.dir_fd().map_err(|error| failed(APPLY, &error))?;
        if let Some(folder) = folder {
            let own = folder.try_clone_to_owned();
            return own.map(Entrance::Folder).attempt(|| APPLY.to_owned());
        }
        let files = group.entrances().map_err(|error| failed(APPLY, &error))?;
        Ok(Entrance::Files(files))
    }

    /// Sets limits.
    pub(crate) fn apply(&self, raw: Option<&RawValue>) -> Result<()> {
        let resources = resources(raw)?;
        if let Some(limit) = cgroup::first_limit(&resources).filter(|_| self.refused) {
            // runc's words on v1 and on v2, which its tests look for.
            return Err(Failure::new(format!(
                "cannot set {limit} limit: container could not join or create cgroup \
                 ({NEEDS_NO_GROUP})"
            )));
        }
        self.each("set limits", |group| group.apply(&resources))
    }

    /// Sets other limits; device rules stay.
    pub(crate) fn update(&self, resources: &serde_json::Value) -> Result<()> {
        let resources = LinuxResources::deserialize(resources)
            .map_err(|error| because("read linux.resources", &error))?;
        self.required()?
            .update(&resources)
            .map_err(|error| failed("set limits", &error))
    }

    fn required(&self) -> Result<&Group> {
        self.group
            .as_ref()
            .ok_or_else(|| Failure::new("the container has no control groups"))
    }

    /// Folders by controller.
    pub(crate) fn paths(&self) -> BTreeMap<String, PathBuf> {
        self.group.as_ref().map(Group::paths).unwrap_or_default()
    }

    /// The unit of systemd that it belongs to.
    pub(crate) fn unit(&self) -> Option<String> {
        self.group.as_ref().and_then(Group::unit).map(str::to_owned)
    }

    /// Stops its processes where they are.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.required()?
            .freeze()
            .map_err(|error| failed("pause the container", &error))
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) -> Result<()> {
        self.required()?
            .thaw()
            .map_err(|error| failed("resume the container", &error))
    }

    /// They are stopped; a group that is gone is not.
    pub(crate) fn is_frozen(&self) -> bool {
        self.group
            .as_ref()
            .is_some_and(|group| group.is_frozen().unwrap_or(false))
    }

    /// Ends all of its processes.
    pub(crate) fn kill(&self) -> Result<()> {
        self.each("kill the container's processes", Group::kill)
    }

    /// Lets process `pid` go on if somebody has moved it into another group of v1 and frozen that:
    /// it would not see a signal. Whoever kills has the last word.
    pub(crate) fn thaw_elsewhere(&self, pid: i32) {
        let Some(own) = self.paths().remove("freezer") else {
            return;
        };
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let Some(other) = freezer_of(&groups, &own).filter(|other| *other != own) else {
            return;
        };
        let file = other.join("freezer.state");
        let frozen = std::fs::read_to_string(&file).is_ok_and(|state| state.trim() != "THAWED");
        if frozen {
            // If this fails, so does the wait for the end, which says so.
            let _thawed = std::fs::write(&file, "THAWED");
        }
    }

    /// Its processes.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        self.each("list the container's processes", Group::procs)
    }

    /// What it uses.
    pub(crate) fn account(&self) -> Result<cgroup::Account> {
        self.required()?
            .account()
            .map_err(|error| failed("read what the container uses", &error))
    }

    /// The file that counts processes killed for want of memory.
    pub(crate) fn oom_counter(&self) -> Option<PathBuf> {
        self.group.as_ref().and_then(Group::oom_counter)
    }

    /// Removes it, unless it was another container's.
    pub(crate) fn remove(&self) -> Result<()> {
        if self.others.get() {
            return Ok(());
        }
        self.each("remove the container's control groups", Group::remove)
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

/// Controller (none: all) and path of each request.
fn parse_below<'a>(requests: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>> {
    let invalid =
        |one: &str, why: &str| Failure::new(format!("invalid --cgroup argument: {one} ({why})"));
    let mut all: Vec<(&str, &str)> = Vec::new();
    for request in requests {
        let Some((controllers, path)) = request.split_once(':') else {
            if requests.len() > 1 {
                return Err(invalid(request, "missing <controller>: prefix"));
            }
            return Ok(vec![("", request)]);
        };
        for controller in controllers.split(',') {
            if controller.is_empty() || all.iter().any(|(other, _)| *other == controller) {
                return Err(invalid(request, "a controller is empty or named twice"));
            }
            all.push((controller, path));
        }
    }
    Ok(all)
}

/// `below` below `group`, never beside it.
fn joined(group: &Path, below: &str) -> Result<PathBuf> {
    let mut path = group.to_owned();
    for part in Path::new(below).components() {
        match part {
            std::path::Component::Normal(name) => path.push(name),
            std::path::Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    if path.starts_with(group) {
        Ok(path)
    } else {
        Err(Failure::new(format!(
            "bad sub cgroup path: {}",
            path.display()
        )))
    }
}

/// The folder of the freezer group that the text of `/proc/PID/cgroup` names, beside `own`.
fn freezer_of(groups: &str, own: &Path) -> Option<PathBuf> {
    let hierarchy = own.strip_prefix(UNIFIED).ok()?.components().next()?;
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        let is_freezer = controllers.split(',').any(|name| name == "freezer");
        is_freezer.then_some(path)
    })?;
    Some(Path::new(UNIFIED).join(hierarchy).join(path))
}

/// The way into the v2 group that process `pid` is in.
pub(crate) fn of_process(pid: i32) -> Result<Entrance> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.ok_or_else(|| Failure::new(format!("{path} names no v2 group")))?;
    let paths = BTreeMap::from([(String::new(), Path::new(UNIFIED).join(group))]);
    ContainerGroup::open(&paths, None)?.entrance()
}

/// Where v2 is mounted, and each v1 hierarchy below.
const UNIFIED: &str = "/sys/fs/cgroup";

/// The name below `/sys/fs/cgroup`, where hierarchies are as a rule; else the last part of the mount
/// point: `cpu,cpuacct` of `/sys/fs/cgroup/cpu,cpuacct/a/b` with `/a/b`.
fn hierarchy_name(folder: &Path, path: &str) -> String {
    if let Some(name) = folder.strip_prefix(UNIFIED).ok().and_then(|rest| {
        let first = rest.components().next()?;
        Some(first.as_os_str().to_string_lossy().into_owned())
    }) {
        return name;
    }
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

    fn check_below(requests: &[&str], expect: &str) {
        let got = match parse_below(requests) {
            Ok(all) => format!("{all:?}"),
            Err(failure) => failure.to_string(),
        };
        assert!(got.contains(expect), "{got}");
    }

    #[test]
    fn requests_name_controllers_or_all() {
        check_below(&["a"], r#"[("", "a")]"#);
        check_below(
            &["cpu,memory:/a", "pids:b"],
            r#"("memory", "/a"), ("pids", "b")"#,
        );
        check_below(&["cpu:a", "cpu:b"], "named twice");
        check_below(&[":a"], "is empty");
        check_below(&["cpu:a", "b"], "missing <controller>");
    }

    #[test]
    fn nothing_is_beside_the_group() {
        let group = Path::new("/sys/fs/cgroup/a");
        assert_eq!(joined(group, "/b/../c").unwrap(), group.join("c"));
        assert_eq!(joined(group, "/").unwrap(), group);
        assert!(joined(group, "../ab").is_err() && joined(group, "b/../../..").is_err());
    }

    #[test]
    fn the_freezer_of_a_process_is_found() {
        let own = Path::new("/sys/fs/cgroup/freezer/a");
        let text = "7:cpu,cpuacct:/x\n5:freezer:/frozen/b\n0::/";
        let found = freezer_of(text, own).unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup/freezer/frozen/b"));
        assert!(freezer_of("0::/a", own).is_none());
    }

    #[test]
    fn a_hierarchy_is_named_after_its_mount_point() {
        check("/sys/fs/cgroup/cpu,cpuacct/a/b", "/a/b", "cpu,cpuacct");
        check("/sys/fs/cgroup/memory/a", "a/", "memory");
        check(
            "/sys/fs/cgroup/pids/system.slice/a.scope",
            "system.slice:a:b",
            "pids",
        );
        check("/cgroups/memory/a", "a/", "memory");
    }
}
