//! `checkpoint`: a container into images.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, stat};

use super::options::{self, Folders};
use super::service::{self, Line, Notice};
use super::wire::{Features, Kind, Options, Request};
use super::{DESCRIPTORS, Opened, explained, external, make_directory};
use crate::cgroups::{self, Manager};
use crate::container::{Container, Status};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::plan::{self, Choices, InitPlan, NamespaceKind};
use crate::rights::Rights;
use crate::spec::Spec;
use crate::{file, parent};

/// criu's log of it.
const LOG: &str = "dump.log";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) folders: Folders,
    pub(crate) options: Options,
    /// Memory only; the container goes on, and a later checkpoint takes what has changed.
    pub(crate) memory_only: bool,
    /// Gets a zero byte once memory can be fetched from here.
    pub(crate) status_fd: Option<i32>,
}

/// Dumps a running or paused container. When it fails, the container goes on.
pub(crate) fn dump(context: &Context, container: &Container, wanted: &Wanted) -> Result<()> {
    let program = service::checked()?;
    check_features(&program, wanted)?;
    let was_paused = container.status()? == Status::Paused;
    let status = StatusFd::take(wanted)?;
    prepare_folders(&wanted.folders)?;
    let request = request(container, wanted)?;
    let folders = &wanted.folders;
    let dumped = converse(&program, folders, request, status, context);
    dumped.map_err(|failure| {
        if let Err(second) = go_on(container, was_paused) {
            context.log.warning(&second.to_string());
        }
        explained(context, folders, LOG, &failure)
    })
}

fn check_features(program: &Path, wanted: &Wanted) -> Result<()> {
    let features = Features {
        mem_track: wanted.memory_only,
        lazy_pages: wanted.options.lazy_pages,
    };
    if features == Features::default() {
        return Ok(());
    }
    service::require(program, features)
}

fn prepare_folders(folders: &Folders) -> Result<()> {
    make_directory(&folders.images)?;
    let Some(parent) = &folders.parent else {
        return Ok(());
    };
    let path = folders.images.join(parent);
    let what = || format!("invalid --parent-path: stat {}", path.display());
    if !std::fs::metadata(&path).attempt(what)?.is_dir() {
        let none: std::result::Result<(), _> = Err(rustix::io::Errno::NOTDIR);
        none.attempt(what)?;
    }
    Ok(())
}

/// A criu that was killed may have left the container frozen.
fn go_on(container: &Container, was_paused: bool) -> Result<()> {
    let group = container.group()?;
    if !was_paused && group.is_frozen() {
        group.thaw()?;
    }
    Ok(())
}

fn request(container: &Container, wanted: &Wanted) -> Result<Request> {
    let state = &container.state;
    let own = &state.wrun;
    let mut options = wanted.options.clone();
    options.pid = state.init_process_pid;
    options.root = state.config.rootfs.to_string_lossy().into_owned();
    LOG.clone_into(&mut options.log_file);
    if let Some(parent) = &wanted.folders.parent {
        options.parent_img = parent.to_string_lossy().into_owned();
        options.track_mem = true;
    }
    let pairs = own.annotations.iter();
    let pairs = pairs.map(|(key, value)| (key.as_str(), value.as_str()));
    let own_config = Path::new(options::OWN_CONFIG).exists();
    options.config_file =
        options::config_file(options::config_annotation(pairs), own_config).to_owned();
    options.freeze_cgroup = freezer(container);
    options.cgroup_dump_controllers = own_hierarchies(container)?;
    add_from_config(container, wanted, &mut options)?;
    let kind = if wanted.memory_only {
        Kind::PreDump
    } else {
        Kind::Dump
    };
    Ok(Request {
        kind: kind.into(),
        options: Some(Box::new(options)),
        ..Request::default()
    })
}

/// The group to freeze, so that nothing is born meanwhile.
fn freezer(container: &Container) -> String {
    let paths = &container.state.cgroup_paths;
    let group = paths.get("freezer").or_else(|| paths.get(""));
    group.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

/// The v1 hierarchies in which the container has a group of its own, each as criu and
/// /proc/PID/cgroup name it; none, for all, where groups are of v2.
///
/// In any other it stands in a group of somebody else (`unified` beside v1: often the root), and criu
/// would write down all that lies below, other containers' groups with it, and a restore would make
/// those again that have gone since.
fn own_hierarchies(container: &Container) -> Result<Vec<String>> {
    let paths = &container.state.cgroup_paths;
    if paths.contains_key("") {
        return Ok(Vec::new());
    }
    let path = format!("/proc/{}/cgroup", container.state.init_process_pid);
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    Ok(hierarchies_with(&text, |controller| {
        paths.contains_key(controller)
    }))
}

/// The second fields of such lines (cgroups(7)) as have one of the wanted controllers.
fn hierarchies_with(proc_cgroup: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = proc_cgroup
        .lines()
        .filter_map(|line| line.split(':').nth(1));
    // The name of a hierarchy without controllers has a `=`, never a `:` (`name=systemd`).
    let with_one = names.filter(|names| names.split(',').any(&wanted));
    with_one.map(str::to_owned).collect()
}

/// Adds what only the container's configuration knows: its namespaces and mounts.
fn add_from_config(container: &Container, wanted: &Wanted, options: &mut Options) -> Result<()> {
    let own = &container.state.wrun;
    let path = own.config.clone();
    let path = path.unwrap_or_else(|| own.bundle.join("config.json"));
    let bytes = parent::read_config(&path)?;
    let spec = parent::parse_config(&path, &bytes)?;
    let host = cgroups::detect(Manager::default())?;
    let is_v2 = host.is_some_and(|host| host.is_v2());
    let facts = parent::host_facts(&Rights::own()?, is_v2);
    let id = &container.state.id;
    let (plan, _told_when_made) = plan::init(&spec, id, &own.bundle, facts, Choices::default())
        .map_err(|error| Failure::new(error.to_string()))?;
    options.external = namespaces(&plan, container.state.init_process_pid)?;
    if wanted.memory_only {
        return Ok(());
    }
    let folders = group_folders(container, &spec)?;
    let root = external::Root::open(&plan.rootfs.path)?;
    let all = external::all(&plan, &folders, |path| root.resolved(path));
    options.external_mounts = external::named(all);
    let inside = root_of(container.state.init_process_pid)?;
    options
        .external_mounts
        .extend(external::masked(&plan, &inside));
    write_descriptors(
        &wanted.folders.images,
        &container.state.external_descriptors,
    )
}

/// Namespaces that were there before the container and stay: criu leaves them out.
fn namespaces(plan: &InitPlan<'_>, pid: i32) -> Result<Vec<String>> {
    let joined = [NamespaceKind::Network, NamespaceKind::Pid]
        .into_iter()
        .filter(|kind| plan.namespaces.joined(*kind).is_some());
    let name = |kind: NamespaceKind| {
        let path = format!("/proc/{pid}/ns/{}", kind.file());
        let inode = stat(&path).attempt(|| format!("look at {path}"))?.st_ino;
        Ok(format!("{}[{inode}]:{}", kind.file(), namespace_key(kind)))
    };
    joined.map(name).collect()
}

/// What runc's images call an external namespace.
pub(super) fn namespace_key(kind: NamespaceKind) -> &'static str {
    if kind == NamespaceKind::Network {
        "extRootNetNS"
    } else {
        "extRootPidNS"
    }
}

/// As they were when its mounts of type cgroup were made.
fn group_folders(container: &Container, spec: &Spec<'_>) -> Result<Vec<(String, PathBuf)>> {
    let group = container.group()?;
    if group.needs_process() {
        return Ok(Vec::new());
    }
    let linux = spec.linux.as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path.as_deref());
    Ok(group.mount_folders(path.unwrap_or(&container.state.id)))
}

fn root_of(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(&path, flags, Mode::empty()).attempt(|| format!("open {path}"))
}

fn write_descriptors(images: &Path, names: &[String]) -> Result<()> {
    let text = serde_json::to_vec(names)
        .map_err(|error| because("write the names of the standard streams", &error))?;
    let path = images.join(DESCRIPTORS);
    file::write(&path, &text).attempt(|| format!("write {path:?}"))
}

fn converse(
    program: &Path,
    folders: &Folders,
    mut request: Request,
    mut status: Option<StatusFd>,
    context: &Context,
) -> Result<()> {
    let options = request.options.as_mut().expect("it was made with options");
    let opened = Opened::of(folders)?;
    options.set_folders(opened.numbers());
    let (line, far) = Line::pair()?;
    let criu = service::start(program, &far)?;
    // So that its end is heard.
    drop(far);
    let mut hear = |notice: &Notice, _| {
        context.log.debug(&format!("criu: {}", notice.script));
        if notice.script == "status-ready"
            && let Some(status) = status.take()
        {
            status.tell()?;
        }
        Ok(())
    };
    let answer = line.ask(&request, &mut hear);
    // After a dump of memory criu waits for more requests until this is closed.
    drop(line);
    let ended = service::end(criu);
    answer?;
    if request.kind == i32::from(Kind::Dump) && !ended?.success() {
        return Err(Failure::new("criu failed after its answer"));
    }
    Ok(())
}

/// `--status-fd`.
#[derive(Debug)]
struct StatusFd(OwnedFd);

impl StatusFd {
    fn take(wanted: &Wanted) -> Result<Option<StatusFd>> {
        let Some(number) = wanted.status_fd.filter(|_| wanted.options.lazy_pages) else {
            return Ok(None);
        };
        let what = || format!("invalid --status-fd argument {number}");
        if number < 3 {
            return Err(Failure::new(format!("{}: a standard stream", what())));
        }
        let fd = sys::fd::inherited(number).attempt(what)?;
        let flags = rustix::fs::fcntl_getfl(&fd).attempt(what)?;
        if !flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Failure::new(format!("{}: not writable", what())));
        }
        Ok(Some(StatusFd(fd)))
    }

    fn tell(self) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, &[0]))
            .attempt(|| format!("write to descriptor {}", self.0.as_raw_fd()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hierarchies_with_a_group_of_its_own_are_written_down() {
        let text = "9:name=systemd:/a\n4:memory:/a\n2:cpu,cpuacct:/a\n1:net_cls:/\n0::/\n";
        let own = ["cpuacct", "memory", "name=systemd"];
        let seen = hierarchies_with(text, |controller| own.contains(&controller));
        assert_eq!(seen, ["name=systemd", "memory", "cpu,cpuacct"]);
    }
}
