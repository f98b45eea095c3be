//! One group: its directory on v2, its directories on v1.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::dir::Dir;
use crate::stats::{self, Stats};
use crate::systemd::{self, Property, Unit};
use crate::{Account, Error, account, devices, host, ownership, signal, v1, v2};

/// A group, which need not exist yet.
#[derive(Debug)]
pub struct Group {
    kind: Kind,
    /// If systemd makes and ends it.
    unit: Option<Unit>,
}

#[derive(Debug)]
enum Kind {
    V1(v1::Dirs),
    V2 { mount: PathBuf, dir: Dir },
}

impl Group {
    pub(crate) fn v1(dirs: v1::Dirs) -> Self {
        Self {
            kind: Kind::V1(dirs),
            unit: None,
        }
    }

    pub(crate) fn v2(mount: &Path, path: PathBuf) -> Self {
        Self {
            kind: Kind::V2 {
                mount: mount.to_owned(),
                dir: Dir::new(path),
            },
            unit: None,
        }
    }

    pub(crate) fn managed_by(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// The group with the directories that [`Group::paths`] gave earlier, also in another process.
    ///
    /// # Errors
    ///
    /// [`Error::NoHierarchy`] if there are none.
    pub fn open(paths: BTreeMap<String, PathBuf>) -> Result<Self, Error> {
        if let Some(path) = paths.get("") {
            return Ok(Self::v2(Path::new("/sys/fs/cgroup"), path.clone()));
        }
        if paths.is_empty() {
            return Err(Error::NoHierarchy);
        }
        Ok(Self::v1(
            paths
                .into_iter()
                .map(|(name, path)| (name, Dir::new(path)))
                .collect(),
        ))
    }

    /// As [`Group::open`], of a group that systemd made: with the name that [`Group::unit`] gave.
    ///
    /// # Errors
    ///
    /// As [`Group::open`].
    pub fn open_unit(paths: BTreeMap<String, PathBuf>, unit: &str) -> Result<Self, Error> {
        Ok(Self::open(paths)?.managed_by(Unit::open(unit)))
    }

    /// The name of the unit if systemd makes the group.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_ref().map(Unit::name)
    }

    /// Whether the group comes to life with a process: [`Group::start`] then takes the place of
    /// [`Group::create`] and entering.
    pub fn needs_process(&self) -> bool {
        self.unit.as_ref().is_some_and(Unit::is_scope)
    }

    /// Makes the group with `process` in it, which is moved there if systemd does not make it.
    /// `resources` are told to systemd at once, as are `properties`, which override; limits that
    /// systemd does not know come with [`Group::apply`], as always.
    ///
    /// # Errors
    ///
    /// As [`Group::create`] and [`Group::enter`]; [`Error::Unit`] and [`Error::Job`] if systemd
    /// refuses, [`Error::Bus`] if it cannot be asked or does not finish in 30 s. A unit that was
    /// made before is not undone: [`Group::remove`] does that, once the process is killed.
    pub fn start(
        &self,
        process: i32,
        resources: &LinuxResources,
        properties: &[Property],
    ) -> Result<(), Error> {
        let Some(unit) = self.unit.as_ref().filter(|unit| unit.is_scope()) else {
            self.create()?;
            return self.enter(process);
        };
        let mut all = self.limits_for_systemd(resources)?;
        if matches!(self.kind, Kind::V1(_)) {
            let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
            let majors = std::fs::read_to_string("/proc/devices").unwrap_or_default();
            all.extend(systemd::devices_v1(&devices::lists(&rules)?, &majors));
        }
        all.extend_from_slice(properties);
        unit.start(Some(process), &all)?;
        // The controllers that systemd does not hand down: hugetlb, rdma, misc; on v1 its
        // hierarchies that systemd does not use: cpuset, freezer and more.
        self.make()?;
        self.dirs()
            .into_iter()
            .filter(|dir| signal::own_procs(dir).is_ok_and(|inside| !inside.contains(&process)))
            .try_for_each(|dir| dir.write("cgroup.procs", &process.to_string()))
    }

    fn limits_for_systemd(&self, resources: &LinuxResources) -> Result<Vec<Property>, Error> {
        match self.kind {
            Kind::V1(_) => systemd::limits_v1(resources),
            Kind::V2 { .. } => systemd::limits(resources),
        }
    }

    /// The group's directories by v1 controller; on v2 one, under the empty name.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        match &self.kind {
            Kind::V1(dirs) => dirs
                .iter()
                .map(|(name, dir)| (name.clone(), dir.path().to_owned()))
                .collect(),
            Kind::V2 { dir, .. } => BTreeMap::from([(String::new(), dir.path().to_owned())]),
        }
    }

    fn make(&self) -> Result<bool, Error> {
        match &self.kind {
            Kind::V1(dirs) => v1::create(dirs),
            Kind::V2 { mount, dir } => v2::create(mount, dir),
        }
    }

    /// Makes the group and what is missing above it. An empty one that exists is taken over.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`] or [`Error::Frozen`] of a group that exists; the kernel's; systemd's
    /// if it makes slices, and [`Error::NeedsProcess`] if it makes scopes. What was new of the
    /// group itself is gone again then.
    pub fn create(&self) -> Result<(), Error> {
        match &self.unit {
            Some(unit) if unit.is_scope() => {
                return Err(Error::NeedsProcess(unit.name().to_owned()));
            }
            Some(unit) => unit.start(None, &[])?,
            None => {}
        }
        match self.make() {
            Ok(false) => Ok(()),
            Ok(true) => self.refuse_used(),
            Err(error) => {
                self.undo_create();
                Err(error)
            }
        }
    }

    /// Only empty directories can be removed this way, so nobody else's group is.
    fn undo_create(&self) {
        for dir in self.dirs() {
            // The error that led here says more than one of its cleaning up.
            let _ = dir.unmake();
        }
    }

    fn refuse_used(&self) -> Result<(), Error> {
        for dir in self.dirs() {
            if !signal::own_procs(dir)?.is_empty() {
                return Err(Error::NotEmpty(dir.path().to_owned()));
            }
        }
        if self.is_frozen()? {
            return Err(Error::Frozen(self.main_dir().path().to_owned()));
        }
        Ok(())
    }

    /// Moves a process with all its threads into the group.
    ///
    /// # Errors
    ///
    /// The kernel's, with the file.
    pub fn enter(&self, pid: i32) -> Result<(), Error> {
        let pid = pid.to_string();
        self.dirs()
            .iter()
            .try_for_each(|dir| dir.write("cgroup.procs", &pid))
    }

    /// Has systemd move a process into the group, for a user who may not do that (a session of an
    /// ordinary user lies outside of what that user's systemd was given).
    ///
    /// # Errors
    ///
    /// [`Error::Unit`] and [`Error::Bus`]; as [`Group::enter`] where systemd does not make the group.
    pub fn attach(&self, process: i32) -> Result<(), Error> {
        match &self.unit {
            Some(unit) => unit.attach(process),
            None => self.enter(process),
        }
    }

    /// Files through which a process with one thread moves itself in, by writing `0` to each: much
    /// faster than [`Group::enter`] on v1, where moving another process waits for the whole
    /// machine's threads to pass a barrier, once for each hierarchy. Close-on-exec.
    ///
    /// # Errors
    ///
    /// The kernel's, with the file.
    pub fn entrances(&self) -> Result<Vec<OwnedFd>, Error> {
        let file = match &self.kind {
            Kind::V1(_) => "tasks",
            Kind::V2 { .. } => "cgroup.procs",
        };
        self.dirs()
            .iter()
            .map(|dir| dir.open_file(file, OFlags::WRONLY))
            .collect()
    }

    /// The directory to clone into (`CLONE_INTO_CGROUP`); none on v1, which cannot. `O_PATH`,
    /// close-on-exec.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn dir_fd(&self) -> Result<Option<BorrowedFd<'_>>, Error> {
        match &self.kind {
            Kind::V1(_) => Ok(None),
            Kind::V2 { dir, .. } => dir.fd().map(Some),
        }
    }

    /// Sets limits and device rules of a new group. The container's default devices are allowed
    /// whatever the rules say; without rules, only those. Who is not root of the machine cannot
    /// set device rules and does without: such a user has no devices but those of the host that
    /// are open to everybody.
    ///
    /// # Errors
    ///
    /// A limit that contradicts itself or that the host cannot set; the kernel's, with file and
    /// value.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        match self.confine(&rules) {
            Err(error) if is_refusal(&error) && !host::is_root_of_the_machine() => {}
            confined => confined?,
        }
        self.limit(resources)
    }

    fn confine(&self, rules: &[devices::Rule]) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(dirs) => v1::apply_devices(dirs, rules),
            Kind::V2 { dir, .. } => {
                devices::attach(dir.fd()?.as_fd(), rules).map_err(|(what, error)| {
                    Error::DeviceFilter {
                        what,
                        path: dir.path().to_owned(),
                        source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
                    }
                })
            }
        }
    }

    /// Gives the group to `user` (as this process's user namespace numbers it), who may then make
    /// groups in it and move processes between them: the directory and what
    /// `/sys/kernel/cgroup/delegate` lists. v1 has no delegation; nothing is done there.
    ///
    /// # Errors
    ///
    /// The kernel's, with the file.
    pub fn delegate(&self, user: u32) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(_) => Ok(()),
            Kind::V2 { dir, .. } => ownership::delegate(dir, user),
        }
    }

    /// Sets limits of a living group; device rules stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Group::apply`].
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(unit) = &self.unit {
            // systemd would set at once what may not be set.
            if let (Kind::V2 { dir, .. }, Some(memory)) = (&self.kind, resources.memory()) {
                v2::check_usage(dir, memory)?;
            }
            unit.set(&self.limits_for_systemd(resources)?)?;
        }
        self.limit(resources)
    }

    fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(dirs) => v1::apply(dirs, resources),
            Kind::V2 { dir, .. } => v2::apply(dir, resources),
        }
    }

    /// The processes of the group and all below, by id in the caller's PID namespace.
    ///
    /// # Errors
    ///
    /// The kernel's. A group that is gone has none.
    pub fn procs(&self) -> Result<Vec<i32>, Error> {
        signal::procs(self.main_dir())
    }

    /// Stops every process until [`Group::thaw`]; returns when they stand.
    ///
    /// # Errors
    ///
    /// [`Error::Late`] if one does not stop (then all run again), [`Error::NoController`] without
    /// a freezer.
    pub fn freeze(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(dirs) => signal::freeze_v1(v1::find(dirs, "freezer", "freezer.state")?),
            Kind::V2 { dir, .. } => signal::freeze_v2(dir, true),
        }
    }

    /// Lets every process go on.
    ///
    /// # Errors
    ///
    /// The kernel's; [`Error::NoController`] without a freezer.
    pub fn thaw(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::V1(dirs) => signal::thaw_v1(v1::find(dirs, "freezer", "freezer.state")?),
            Kind::V2 { dir, .. } => signal::freeze_v2(dir, false),
        }
    }

    /// Whether the group is frozen or about to be. A group that is gone is not.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match &self.kind {
            Kind::V1(dirs) => match v1::find(dirs, "freezer", "freezer.state") {
                Ok(dir) => match signal::is_frozen_v1(dir) {
                    Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
                    frozen => frozen,
                },
                Err(_) => Ok(false),
            },
            Kind::V2 { dir, .. } => match signal::is_frozen_v2(dir) {
                Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
                frozen => frozen,
            },
        }
    }

    /// SIGKILL to every process, whether frozen or not. Does not wait for their ends;
    /// [`Group::remove`] does.
    ///
    /// # Errors
    ///
    /// The kernel's. A group that is gone has nobody to kill.
    pub fn kill(&self) -> Result<(), Error> {
        let killed = match &self.kind {
            Kind::V1(dirs) => kill_v1(self.main_dir(), dirs),
            Kind::V2 { dir, .. } => kill_v2(dir),
        };
        match killed {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
            killed => killed,
        }
    }

    /// Removes the group and all groups below. Waits for processes that are on their way out;
    /// systemd, if it makes the group, ends them itself (SIGTERM first).
    ///
    /// # Errors
    ///
    /// [`Error::Late`] if processes stay; the kernel's and systemd's. What is gone already is no
    /// error.
    pub fn remove(&self) -> Result<(), Error> {
        if let Some(unit) = &self.unit {
            unit.stop()?;
        }
        self.dirs().into_iter().try_for_each(signal::remove)
    }

    /// Whether any of the group's directories exists.
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.path().exists())
    }

    /// What the group uses now.
    ///
    /// # Errors
    ///
    /// The kernel's; what the host does not account is `None` instead.
    pub fn stats(&self) -> Result<Stats, Error> {
        match &self.kind {
            Kind::V1(dirs) => stats::read_v1(dirs),
            Kind::V2 { dir, .. } => stats::read_v2(dir),
        }
    }

    /// All that is accounted of the group: many files, for callers that ask seldom.
    ///
    /// # Errors
    ///
    /// The kernel's; what the host does not account is empty instead.
    pub fn account(&self) -> Result<Account, Error> {
        match &self.kind {
            Kind::V1(dirs) => account::read_v1(dirs),
            Kind::V2 { dir, .. } => account::read_v2(dir),
        }
    }

    /// The file with the line `oom_kill N`, N counting processes killed for want of memory; none
    /// without a memory controller.
    pub fn oom_counter(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::V1(dirs) => v1::find(dirs, "memory", "memory.oom_control")
                .ok()
                .map(|dir| dir.path().join("memory.oom_control")),
            Kind::V2 { dir, .. } => Some(dir.path().join("memory.events")),
        }
    }

    /// The file that kills all processes when `1` is written; none on v1.
    pub fn kill_file(&self) -> Option<PathBuf> {
        match &self.kind {
            Kind::V1(_) => None,
            Kind::V2 { dir, .. } => Some(dir.path().join("cgroup.kill")),
        }
    }

    /// The file that lists the group's own processes.
    pub fn procs_file(&self) -> PathBuf {
        self.main_dir().path().join("cgroup.procs")
    }

    /// Each directory once: v1 controllers may share one.
    fn dirs(&self) -> Vec<&Dir> {
        match &self.kind {
            Kind::V1(dirs) => {
                let mut once: Vec<&Dir> = Vec::with_capacity(dirs.len());
                for (_, dir) in dirs {
                    if once.iter().all(|other| other.path() != dir.path()) {
                        once.push(dir);
                    }
                }
                once
            }
            Kind::V2 { dir, .. } => vec![dir],
        }
    }

    /// The hierarchy whose list of processes is asked: the freezer's, because a list from there is
    /// complete while it is frozen.
    fn main_dir(&self) -> &Dir {
        match &self.kind {
            Kind::V1(dirs) => ["freezer", "devices", "memory"]
                .iter()
                .find_map(|wanted| dirs.iter().find(|(name, _)| name == wanted))
                .map_or(&dirs[0].1, |(_, dir)| dir),
            Kind::V2 { dir, .. } => dir,
        }
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::PERM | Errno::ACCESS))
}

fn kill_v2(dir: &Dir) -> Result<(), Error> {
    match dir.write("cgroup.kill", "1") {
        // Before 5.14.
        Err(error) if error.errno() == Some(Errno::NOENT) && dir.has("cgroup.freeze")? => {
            drop(signal::freeze_v2(dir, true));
            signal::kill_each(dir)?;
            signal::freeze_v2(dir, false)
        }
        written => written,
    }
}

/// Frozen processes cannot fork, and die as soon as they may run. One that cannot be frozen is
/// killed all the same.
fn kill_v1(main: &Dir, dirs: &v1::Dirs) -> Result<(), Error> {
    let freezer = v1::find(dirs, "freezer", "freezer.state").ok();
    if signal::procs(main)?.is_empty() {
        return Ok(());
    }
    if let Some(freezer) = freezer {
        drop(signal::freeze_v1(freezer));
    }
    let killed = signal::kill_each(main);
    if let Some(freezer) = freezer {
        signal::thaw_v1(freezer)?;
    }
    killed
}
