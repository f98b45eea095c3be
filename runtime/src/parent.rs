//! Making a container: everything that its first process cannot do for itself, in order, and the
//! way back if any of it fails.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Rlimit;
use serde_json::value::RawValue;

use crate::cgroups::{self, ContainerGroup, Entrance, Host};
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::filter::Filter;
use crate::hooks::{self, Hook, HookState, HostHooks};
use crate::init::{self, Errand, FirstErrand};
use crate::launch::{self, Child};
use crate::plan::{self, Choices, HostFacts, InitPlan, NamespaceKind};
use crate::prepare::{self, Folders, Joined, Sources};
use crate::reap::reap;
use crate::rights::Rights;
use crate::spec::Spec;
use crate::state::{Folder, Noted, Own, RuncConfig, State};
use crate::sync::{self, Message, ParentEnd};
use crate::{
    activation, container, file, listener, messages, net_devices, process_limits, rdt, time,
    user_namespace,
};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) id: &'a str,
    /// Absolute.
    pub(crate) bundle: &'a Path,
    /// Its configuration, absolute.
    pub(crate) config: &'a Path,
    pub(crate) choices: Choices,
    pub(crate) preserved: u32,
    /// The program may start as soon as all is ready, without a `start`.
    pub(crate) at_once: bool,
    /// Where the terminal's master goes.
    pub(crate) console: Option<&'a OwnedFd>,
}

/// A container whose first process waits to be started.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) container: container::Container,
    pub(crate) child: Child,
    /// It does not wait: it was to start at once, and nothing had to come in between.
    pub(crate) started: bool,
}

/// What the first process waits at.
enum Gate {
    /// A file, for another `wrun` to open.
    File(OwnedFd),
    /// A pipe, for this one.
    Pipe { inside: OwnedFd, outside: OwnedFd },
}

impl Gate {
    fn make(folder: &Folder, at_once: bool) -> Result<Gate> {
        if !at_once {
            return folder.make_gate().map(Gate::File);
        }
        let (inside, outside) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .attempt(|| "make the gate".to_owned())?;
        Ok(Gate::Pipe { inside, outside })
    }

    fn inside(&self) -> &OwnedFd {
        match self {
            Gate::File(fd) | Gate::Pipe { inside: fd, .. } => fd,
        }
    }

    fn opens_at_once(&self) -> bool {
        matches!(self, Gate::Pipe { .. })
    }

    /// Lets the child through when it comes by.
    fn open_early(&self) -> Result<()> {
        if let Gate::Pipe { outside, .. } = self {
            rustix::io::write(outside, b"s").attempt(|| "open the gate".to_owned())?;
        }
        Ok(())
    }
}

/// Reads a `config.json`.
pub(crate) fn read_config(path: &Path) -> Result<Vec<u8>> {
    file::read(path).attempt(|| format!("open {}", path.display()))
}

/// Parses its bytes.
pub(crate) fn parse_config<'a>(path: &Path, bytes: &'a [u8]) -> Result<Spec<'a>> {
    serde_json::from_slice(bytes)
        .map_err(|error| because(&format!("parse {}", path.display()), &error))
}

/// Asks the host what a plan depends on.
pub(crate) fn host_facts(rights: &Rights, cgroup_v2: bool) -> HostFacts {
    let last = file::read(Path::new("/proc/sys/kernel/cap_last_cap")).ok();
    let last = last.and_then(|text| str::from_utf8(&text).ok()?.trim().parse().ok());
    HostFacts {
        last_capability: last.unwrap_or(40),
        may_make_nodes: rights.makes_nodes,
        cgroup_v2,
    }
}

/// Makes a container. Whatever fails, nothing is left of it.
pub(crate) fn create(context: &Context, spec: &Spec<'_>, request: &Request<'_>) -> Result<Created> {
    make(context, spec, request, |maker| maker.make())
}

/// Takes the id of a new container and has `maker` make it. Whatever fails, nothing is left of it.
pub(crate) fn make<T>(
    context: &Context,
    spec: &Spec<'_>,
    request: &Request<'_>,
    make: impl FnOnce(&Maker<'_>) -> Result<T>,
) -> Result<T> {
    let host = cgroups::detect(context.manager)?;
    let rights = Rights::own()?;
    let facts = host_facts(&rights, host.as_ref().is_some_and(Host::is_v2));
    let (plan, warnings) = plan::init(spec, request.id, request.bundle, facts, request.choices)
        .map_err(|error| Failure::new(error.to_string()))?;
    warnings
        .iter()
        .for_each(|warning| context.log.warning(warning));
    check_rights(&plan, &rights)?;
    check_console(&plan, request)?;
    check_preserved(request.preserved)?;
    let linux = spec.linux.as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path.as_deref());
    let asked = cgroups::Asked {
        manager: context.manager,
        path,
        id: request.id,
        rootless: context.rootless,
    };
    let group = ContainerGroup::plan(host.as_ref(), asked)?;
    let devices = plan.devices.as_ref().map_or(0, Vec::len);
    let room = process_limits::make_room(plan.mounts.len() + devices)?;
    context.make_root()?;
    let folder = Folder::of(&context.root, request.id)?;
    folder.reserve()?;
    let _lock = folder.lock()?;
    let maker = Maker {
        rights,
        room,
        context,
        spec,
        request,
        plan: &plan,
        group: &group,
        cgroup_path: path,
        folder: &folder,
    };
    make(&maker).inspect_err(|_failure| maker.undo())
}

/// runc's words for what an ordinary user cannot do without.
fn check_rights(plan: &InitPlan<'_>, rights: &Rights) -> Result<()> {
    if rights.administers || plan.namespaces.has(NamespaceKind::User) {
        return Ok(());
    }
    Err(Failure::new("rootless container requires user namespaces"))
}

fn check_console(plan: &InitPlan<'_>, request: &Request<'_>) -> Result<()> {
    match (plan.process.terminal, request.console.is_some()) {
        (true, false) => Err(Failure::new(messages::TERMINAL_NEEDS_SOCKET)),
        (false, true) => Err(Failure::new(messages::SOCKET_NEEDS_TERMINAL)),
        _ => Ok(()),
    }
}

/// Every descriptor that the container is to keep must be there.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for number in 3..3 + count {
        let open = rustix::fs::stat(format!("/proc/self/fd/{number}")).is_ok();
        if !open {
            return Err(Failure::new(format!(
                "please check that preserved-fd {number} is present"
            )));
        }
    }
    Ok(())
}

/// One container on its way into being.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker<'a> {
    rights: Rights,
    /// The limit of descriptors, if it had to be raised meanwhile.
    room: Option<Rlimit>,
    pub(crate) context: &'a Context,
    spec: &'a Spec<'a>,
    pub(crate) request: &'a Request<'a>,
    pub(crate) plan: &'a InitPlan<'a>,
    pub(crate) group: &'a ContainerGroup,
    /// `linux.cgroupsPath`.
    cgroup_path: Option<&'a str>,
    pub(crate) folder: &'a Folder,
}

/// Hooks, in the form in which they run.
struct AllHooks {
    host: HostHooks,
    create_container: Vec<Hook>,
    start_container: Vec<Hook>,
}

impl AllHooks {
    fn of(raw: &crate::spec::Hooks<'_>) -> Result<AllHooks> {
        Ok(AllHooks {
            host: HostHooks::of(raw)?,
            create_container: hooks::from_spec(&raw.create_container)?,
            start_container: hooks::from_spec(&raw.start_container)?,
        })
    }
}

/// What the child inherits open.
struct Opened<'a> {
    /// `None`: the child has to open them.
    sources: Option<&'a Sources>,
    folders: &'a [(String, PathBuf)],
    joined: &'a Joined,
    gate: &'a OwnedFd,
    entrance: &'a Entrance,
}

impl Maker<'_> {
    fn make(&self) -> Result<Created> {
        let hooks = AllHooks::of(&self.spec.hooks)?;
        let filter = self.write_filter()?;
        self.note_groups()?;
        activation::make_folder(self.folder)?;
        let folders = self.make_group()?;
        let joined = prepare::joined(self.plan)?;
        let sources = self.sources(&folders)?;
        let gate = Gate::make(self.folder, self.request.at_once && self.has_no_poststart())?;
        let hook_state = self.hook_state();
        let entrance = self.entrance()?;
        let fds = Opened {
            sources: sources.as_ref(),
            folders: &folders,
            joined: &joined,
            gate: gate.inside(),
            entrance: &entrance,
        };
        let namespaces = &self.plan.namespaces;
        let (child, near) = launch::first(namespaces, &joined, &self.rights, &entrance, |far| {
            self.live(&fds, far, filter.as_ref(), &hooks, &hook_state)
        })?;
        match self.accompany(&child, &near, &gate, filter.as_ref(), &hooks, &hook_state) {
            Ok(state) => {
                let folder = self.folder.clone();
                Ok(Created {
                    container: container::Container { folder, state },
                    child,
                    started: gate.opens_at_once(),
                })
            }
            Err(failure) => {
                // It may have ended by itself.
                let _sent = sys::process::pidfd_send_signal(child.pidfd.as_fd(), 9);
                reap(&child.pidfd)?;
                Err(failure)
            }
        }
    }

    fn sources(&self, folders: &[(String, PathBuf)]) -> Result<Option<Sources>> {
        if !self.rights.copies_mounts {
            return Ok(None);
        }
        let groups_made = !self.group.needs_process();
        let folders = self.folders(folders, groups_made);
        prepare::sources(self.plan, &self.rights, &folders).map(Some)
    }

    fn folders<'f>(&'f self, groups: &'f [(String, PathBuf)], groups_made: bool) -> Folders<'f> {
        Folders {
            groups,
            groups_made,
            nodes: self.folder.path().join("nodes"),
        }
    }

    /// Makes the control group with its limits, unless that takes a process. Gives the folders
    /// that a mount of type cgroup shows.
    pub(crate) fn make_group(&self) -> Result<Vec<(String, PathBuf)>> {
        let path = self.cgroup_path.unwrap_or(self.request.id);
        let folders = self.group.mount_folders(path);
        if self.group.needs_process() {
            return Ok(folders);
        }
        self.group.create()?;
        // Before anybody is in it: on v1 device rules begin with denying everything, and the child
        // must not try to make its nodes at that moment.
        self.group.apply(self.resources())?;
        self.delegate_group()?;
        Ok(folders)
    }

    /// The child's way into the group.
    pub(crate) fn entrance(&self) -> Result<Entrance> {
        if self.group.needs_process() {
            return Ok(Entrance::Made);
        }
        self.group.entrance()
    }

    /// Notes the group that is about to be made, for a `delete` after this process was killed.
    pub(crate) fn note_groups(&self) -> Result<()> {
        let path = self.cgroup_path.map(str::to_owned);
        self.folder.note_groups(&Noted(self.context.manager, path))
    }

    /// prestart and createRuntime hooks.
    pub(crate) fn host_hooks(&self) -> Result<HostHooks> {
        HostHooks::of(&self.spec.hooks)
    }

    /// Has systemd make the control group around the child, which waits for that.
    pub(crate) fn start_group(&self, child: &Child, near: &ParentEnd) -> Result<()> {
        if !self.group.needs_process() {
            return Ok(());
        }
        let annotations = self.spec.annotations.iter();
        let annotations = annotations.map(|(key, value)| (key.as_str(), value.as_str()));
        self.group.start(child.pid, self.resources(), annotations)?;
        self.group.apply(self.resources())?;
        self.delegate_group()?;
        near.go()
    }

    /// config-linux.md, "Cgroup ownership": where the container sees its group as its own and may
    /// write to it, the group belongs to the root of its user namespace.
    fn delegate_group(&self) -> Result<()> {
        match self.plan.owner_of_group() {
            Some(user) => self.group.delegate(user),
            None => Ok(()),
        }
    }

    fn resources(&self) -> Option<&RawValue> {
        self.spec.linux.as_ref().and_then(|linux| linux.resources)
    }

    /// The child's side of the clone.
    fn live(
        &self,
        fds: &Opened<'_>,
        sync: sync::ChildEnd,
        filter: Option<&Filter>,
        hooks: &AllHooks,
        hook_state: &HookState,
    ) -> std::convert::Infallible {
        let errand = Errand {
            sync,
            entrance: fds.entrance,
            process: &self.plan.process,
            nature: &self.plan.nature,
            filter,
            console: self.request.console,
            keyring: self.plan.keyring.as_deref(),
            preserved: self.request.preserved,
        };
        let first = FirstErrand {
            plan: self.plan,
            rights: self.rights,
            sources: fds.sources,
            folders: self.folders(fds.folders, true),
            joined: fds.joined,
            gate: fds.gate,
            errands_on_host: !self.plan.net_devices.is_empty() || !hooks.host.is_empty(),
            create_container: &hooks.create_container,
            start_container: &hooks.start_container,
            hook_state,
        };
        init::first(errand, &first)
    }

    /// The parent's side: everything that it does for the child, until that waits to be started.
    fn accompany(
        &self,
        child: &Child,
        near: &ParentEnd,
        gate: &Gate,
        filter: Option<&Filter>,
        hooks: &AllHooks,
        hook_state: &HookState,
    ) -> Result<State> {
        self.start_group(child, near)?;
        let namespaces = &self.plan.namespaces;
        if namespaces.is_new(NamespaceKind::User) {
            let (uids, gids) = (&namespaces.uid_maps, &namespaces.gid_maps);
            user_namespace::write_maps(&self.rights, child.pid, uids, gids)?;
            near.go()?;
        }
        // Written while the child makes its mounts, shown when it is ready.
        let mut state = self.state(child.pid)?;
        state.wrun.rdt = self.share(child.pid)?;
        let served = self
            .folder
            .prepare(&state)
            .and_then(|()| self.serve(child, near, gate, filter, hooks, hook_state));
        if let (Err(_), Some(share)) = (&served, &state.wrun.rdt) {
            rdt::leave(share)?;
        }
        served.map(|()| state)
    }

    /// Answers the child until it waits to be started.
    fn serve(
        &self,
        child: &Child,
        near: &ParentEnd,
        gate: &Gate,
        filter: Option<&Filter>,
        hooks: &AllHooks,
        hook_state: &HookState,
    ) -> Result<()> {
        let debug = |text: &str| self.context.log.debug(text);
        let mut ready = false;
        loop {
            match near.next()? {
                Some(Message::Warning(text)) => self.context.log.warning(&text),
                Some(Message::HooksPlease) => {
                    net_devices::move_all(&self.plan.net_devices, child.pid)?;
                    debug("running prestart and createRuntime hooks");
                    hooks.host.run(&hook_state.text("creating", child.pid))?;
                    near.go()?;
                }
                Some(Message::Ready) => {
                    debug("child process in init()");
                    prepare::forget_nodes(self.plan, &self.folders(&[], true))?;
                    self.limit(child)?;
                    self.folder.publish()?;
                    ready = true;
                    gate.open_early()?;
                    near.go()?;
                }
                Some(Message::Listener(number)) => {
                    let text = hook_state.text("creating", child.pid);
                    listener::hand_over(child, number, filter, &text)?;
                    near.go()?;
                }
                Some(Message::Failed(text)) => return Err(Failure::new(text)),
                Some(Message::Waiting) => {
                    debug("init: closing the pipe to signal completion");
                    return if ready {
                        Ok(())
                    } else {
                        Err(Failure::new("the child was never ready"))
                    };
                }
                Some(Message::Born(_) | Message::Criu(_)) | None => {
                    return Err(Failure::new("the container's first process was killed"));
                }
            }
        }
    }

    fn limit(&self, child: &Child) -> Result<()> {
        let (log, process) = (&self.context.log, &self.plan.process);
        process_limits::apply(log, child.pid, process, self.rights.administers)?;
        process_limits::undo_room(child.pid, self.room, process)
    }

    /// Enters the class of resctrl that the configuration names.
    pub(crate) fn share(&self, pid: i32) -> Result<Option<rdt::Share>> {
        let plan = self.plan.rdt.as_ref();
        plan.map(|plan| rdt::enter(&rdt::root()?, plan, pid))
            .transpose()
    }

    fn has_no_poststart(&self) -> bool {
        self.spec.hooks.poststart.is_empty()
    }

    /// Compiles the system call filter and keeps it, for `exec` too.
    pub(crate) fn write_filter(&self) -> Result<Option<Filter>> {
        let raw = self.spec.linux.as_ref().and_then(|linux| linux.seccomp);
        let Some(raw) = raw else { return Ok(None) };
        let filter = Filter::compile(raw)?;
        let path = self.folder.filter();
        file::write(&path, filter.bytes()).attempt(|| format!("write {path:?}"))?;
        Ok(Some(filter))
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let pairs = self.spec.annotations.iter();
        pairs
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    /// What hooks read.
    pub(crate) fn hook_state(&self) -> HookState {
        HookState {
            oci_version: self.spec.oci_version.to_string(),
            id: self.request.id.to_owned(),
            bundle: self.request.bundle.to_owned(),
            annotations: self.annotations(),
        }
    }

    /// What is to be kept of the container with first process `pid`.
    pub(crate) fn state(&self, pid: i32) -> Result<State> {
        let bundle = self.request.bundle.to_owned();
        // It may have failed already; what it says about that is still to be read.
        let start = container::process_start(pid).unwrap_or(0);
        let annotations = self.annotations();
        let mut labels = vec![format!("bundle={}", bundle.display())];
        labels.extend(
            annotations
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
        let has = |kind: &NamespaceKind| self.plan.namespaces.has(*kind);
        Ok(State {
            id: self.request.id.to_owned(),
            init_process_pid: pid,
            init_process_start: start,
            created: time::now(),
            rootless: self.context.rootless,
            cgroup_paths: self.group.paths(),
            external_descriptors: streams(),
            config: RuncConfig {
                rootfs: self.plan.rootfs.path.clone(),
                labels,
            },
            wrun: Own {
                version: Own::version(),
                oci_version: self.spec.oci_version.to_string(),
                bundle,
                config: Some(self.request.config.to_owned()),
                annotations,
                namespaces: NamespaceKind::all()
                    .filter(has)
                    .map(NamespaceKind::flag)
                    .sum(),
                own_pids: self.plan.namespaces.is_new(NamespaceKind::Pid),
                keyring: self.plan.keyring.is_some(),
                seccomp: self
                    .spec
                    .linux
                    .as_ref()
                    .is_some_and(|linux| linux.seccomp.is_some()),
                foreign: false,
                other_group: None,
                resources: self.resources().map(ToOwned::to_owned),
                unit: self.group.unit(),
                rdt: None,
                nature: self.plan.nature.clone(),
                poststart: hooks::from_spec(&self.spec.hooks.poststart)?,
                poststop: hooks::from_spec(&self.spec.hooks.poststop)?,
            },
        })
    }

    /// Removes what was made. Each step is tried; a failure here would only hide the first one.
    fn undo(&self) {
        for undone in [self.group.remove(), self.folder.remove()] {
            if let Err(failure) = undone {
                self.context
                    .log
                    .warning(&format!("after a failed create: {failure}"));
            }
        }
    }
}

/// What the standard streams of this process are, which the container's first process gets unless it
/// has a terminal: a checkpoint notes it, so that a restore can put others in the place of pipes.
fn streams() -> Vec<String> {
    let name = |number| {
        let link = rustix::fs::readlinkat(
            rustix::fs::CWD,
            format!("/proc/self/fd/{number}"),
            Vec::new(),
        );
        link.ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default()
    };
    (0..3).map(name).collect()
}
