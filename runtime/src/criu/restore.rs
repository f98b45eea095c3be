//! `restore`: a container from images.
//!
//! A child of this program makes the places of the mounts, stands in the container's control group
//! and becomes criu, in a mount namespace of its own, so that nothing stays on the host however it
//! ends. criu makes the container's processes as children of this program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::dump::namespace_key;
use super::options::{self, Folders};
use super::service::{self, Line, Notice};
use super::wire::{CgroupRoot, InheritFd, JoinNamespace, Kind, Options, Request};
use super::{DESCRIPTORS, Opened, explained, external};
use crate::cgroups::Entrance;
use crate::container::Container;
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result, because};
use crate::hooks::{HookState, HostHooks};
use crate::init::mountpoints;
use crate::launch::{self, Child};
use crate::parent::{self, Maker, Request as Asked};
use crate::plan::{InitPlan, NamespaceKind};
use crate::rdt::{self, Share};
use crate::reap::reap;
use crate::spec::Spec;
use crate::state::State;
use crate::sync::{ChildEnd, Message, ParentEnd};
use crate::{activation, file, net_devices, socket};

/// criu's log of it.
const LOG: &str = "restore.log";

/// What goes to the console socket with the master of a terminal; runc's text.
const MASTER: &[u8] = b"orphan-pts-master";

/// What the command line asks for, beside what it does for `create`.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) folders: Folders,
    pub(crate) options: Options,
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) container: Container,
    pub(crate) child: Child,
}

/// Restores a container. Whatever fails, nothing is left of it.
pub(crate) fn restore(
    context: &Context,
    spec: &Spec<'_>,
    asked: &Asked<'_>,
    wanted: &Wanted,
) -> Result<Restored> {
    let program = service::checked()?;
    parent::make(context, spec, asked, |maker| {
        let hooks = maker.host_hooks()?;
        maker.write_filter()?;
        maker.note_groups()?;
        activation::make_folder(maker.folder)?;
        let folders = maker.make_group()?;
        let restorer = Restorer {
            maker,
            program: &program,
            wanted,
            hooks: &hooks,
            hook_state: maker.hook_state(),
            root: criu_root(maker)?,
        };
        let restored = restorer.restore(&folders);
        restored.inspect_err(|_failure| {
            // criu takes its processes back when it fails, but not when it is killed.
            if let Err(second) = maker.group.kill() {
                context.log.warning(&second.to_string());
            }
        })
    })
}

/// Where criu gets to see the root file system: it has to be a mount.
fn criu_root(maker: &Maker<'_>) -> Result<PathBuf> {
    let path = maker.folder.path().join("criu-root");
    std::fs::create_dir(&path).attempt(|| format!("make {path:?}"))?;
    std::fs::canonicalize(&path).attempt(|| format!("find {path:?}"))
}

#[derive(Debug)]
struct Restorer<'a> {
    maker: &'a Maker<'a>,
    program: &'a Path,
    wanted: &'a Wanted,
    hooks: &'a HostHooks,
    hook_state: HookState,
    root: PathBuf,
}

/// What criu inherits beside its socket: namespaces, each under its key.
type Namespaces = Vec<(&'static str, OwnedFd)>;

impl Restorer<'_> {
    fn restore(&self, folders: &[(String, PathBuf)]) -> Result<Restored> {
        let namespaces = open_namespaces(self.maker.plan)?;
        let options = self.options(folders, &namespaces)?;
        let entrance = self.maker.entrance()?;
        let (criu, near) = launch::aside(NamespaceKind::Mount.flag(), &entrance, |sync| {
            self.live(&sync, &entrance, &namespaces)
        })?;
        drop(namespaces);
        let told = self.accompany(&criu, &near, options);
        // With this gone it waits for nothing any more.
        drop(near);
        let ended = reap(&criu.pidfd)?;
        let (state, child) = told?;
        if ended.code != 0 {
            return Err(self.explained(&Failure::new(format!(
                "criu failed after its answer: exit status {}",
                ended.code
            ))));
        }
        // Only a mount of criu's own namespace was on it.
        std::fs::remove_dir(&self.root).attempt(|| format!("remove {:?}", self.root))?;
        let folder = self.maker.folder.clone();
        Ok(Restored {
            container: Container { folder, state },
            child,
        })
    }

    fn explained(&self, failure: &Failure) -> Failure {
        explained(self.maker.context, &self.wanted.folders, LOG, failure)
    }

    fn options(&self, folders: &[(String, PathBuf)], namespaces: &Namespaces) -> Result<Options> {
        let plan = self.maker.plan;
        let mut options = self.wanted.options.clone();
        options.root = self.root.to_string_lossy().into_owned();
        LOG.clone_into(&mut options.log_file);
        options.evasive_devices = true;
        options.rst_sibling = true;
        let pairs = self.hook_state.annotations.iter();
        let pairs = pairs.map(|(key, value)| (key.as_str(), value.as_str()));
        let own_config = Path::new(options::OWN_CONFIG).exists();
        options.config_file =
            options::config_file(options::config_annotation(pairs), own_config).to_owned();
        options.join_namespaces = joined(plan)?;
        let inherit = |(key, fd): &(&'static str, OwnedFd)| InheritFd {
            key: (*key).to_owned(),
            fd: fd.as_raw_fd(),
        };
        options.inherit_fds = namespaces.iter().map(inherit).collect();
        options
            .inherit_fds
            .extend(pipes(&self.wanted.folders.images)?);
        let root = external::Root::open(&plan.rootfs.path)?;
        let all = external::all(plan, folders, |path| root.resolved(path));
        options.external_mounts = external::found(all);
        options.external_mounts.extend(external::null(plan));
        Ok(options)
    }

    /// The child's life until it is criu.
    fn live(&self, sync: &ChildEnd, entrance: &Entrance, namespaces: &Namespaces) -> Infallible {
        let Err(failure) = self.become_criu(sync, entrance, namespaces);
        let _told = sync.tell(&Message::Failed(failure.to_string()));
        sys::process::exit_now(1)
    }

    fn become_criu(
        &self,
        sync: &ChildEnd,
        entrance: &Entrance,
        namespaces: &Namespaces,
    ) -> Result<Infallible> {
        entrance.step_in(|| sync.wait_for_go())?;
        sys::process::reset_signals().attempt(|| "reset signals".to_owned())?;
        mountpoints::show(self.maker.plan, &self.root)?;
        for (_, namespace) in namespaces {
            service::pass_on(namespace)?;
        }
        // Opened and made here, because criu mounts things below these folders: they have to be in
        // its mount namespace.
        let opened = Opened::of(&self.wanted.folders)?;
        let (line, far) = Line::pair()?;
        service::pass_on(&opened.images)?;
        opened.work.as_ref().map(service::pass_on).transpose()?;
        let number = service::pass_on(&far)?;
        let (images, work) = opened.numbers();
        sync.ask(&Message::Criu([line.number(), images, work]))?;
        drop(line);
        self.execute(number)
    }

    fn execute(&self, number: i32) -> Result<Infallible> {
        let what = || format!("execute {:?}", self.program);
        let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(std::io::Error::from);
        let program = c_string(self.program.as_os_str().as_bytes().to_vec()).attempt(what)?;
        let args = [
            b"criu".to_vec(),
            b"swrk".to_vec(),
            number.to_string().into(),
        ];
        let args = args
            .map(c_string)
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>();
        let env = std::env::vars_os().map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            c_string(entry.into_vec())
        });
        let env = env.collect::<std::io::Result<Vec<_>>>().attempt(what)?;
        nix::unistd::execve(&program, &args.attempt(what)?, &env).attempt(what)
    }

    /// The parent's side, until the container runs.
    fn accompany(
        &self,
        criu: &Child,
        near: &ParentEnd,
        options: Options,
    ) -> Result<(State, Child)> {
        self.maker.start_group(criu, near)?;
        // Inherited by what it makes.
        let share = self.maker.share(criu.pid)?;
        let told = self.converse(criu, near, options, share.as_ref());
        if let (Err(_), Some(share)) = (&told, &share) {
            rdt::leave(share)?;
        }
        told
    }

    fn converse(
        &self,
        criu: &Child,
        near: &ParentEnd,
        mut options: Options,
        share: Option<&Share>,
    ) -> Result<(State, Child)> {
        let line = await_criu(criu, near, &mut options)?;
        options.cgroup_roots = groups_of(criu.pid)?;
        let request = Request {
            kind: Kind::Restore.into(),
            options: Some(Box::new(options)),
            ..Request::default()
        };
        let mut made = None;
        let answer = line.ask(&request, &mut |notice, descriptor| {
            self.hear(notice, descriptor, share, &mut made)
        });
        answer.map_err(|failure| self.explained(&failure))?;
        made.ok_or_else(|| Failure::new("criu did not tell of a restored process"))
    }

    fn hear(
        &self,
        notice: &Notice,
        descriptor: Option<OwnedFd>,
        share: Option<&Share>,
        made: &mut Option<(State, Child)>,
    ) -> Result<()> {
        let log = &self.maker.context.log;
        log.debug(&format!("criu: {}", notice.script));
        match notice.script.as_str() {
            "setup-namespaces" => {
                if self.maker.plan.namespaces.is_new(NamespaceKind::Network) {
                    bring_loopback_up(notice.pid)?;
                }
                net_devices::move_all(&self.maker.plan.net_devices, notice.pid)?;
                self.hooks
                    .run(&self.hook_state.text("creating", notice.pid))
            }
            "post-restore" => {
                let state = self.publish(notice.pid, share)?;
                let child = Child {
                    pid: notice.pid,
                    pidfd: handle(notice.pid)?,
                };
                *made = Some((state, child));
                Ok(())
            }
            "orphan-pts-master" => self.hand_over(descriptor),
            _ => Ok(()),
        }
    }

    /// The processes are there and about to go on: from now on it is a container like any other.
    fn publish(&self, pid: i32, share: Option<&Share>) -> Result<State> {
        let mut state = self.maker.state(pid)?;
        state.wrun.rdt = share.cloned();
        // criu gives it one, so that its clocks go on from where they stood.
        if in_other_namespace(pid, NamespaceKind::Time)? {
            state.wrun.namespaces |= NamespaceKind::Time.flag();
        }
        self.maker.folder.save(&state)?;
        Ok(state)
    }

    fn hand_over(&self, master: Option<OwnedFd>) -> Result<()> {
        let master = master.ok_or_else(|| Failure::new("criu sent no terminal"))?;
        let console = self
            .maker
            .request
            .console
            .ok_or_else(|| Failure::new("the container has a terminal and nobody wants it"))?;
        socket::send(console, MASTER, master.as_fd())
            .attempt(|| "send the terminal to the console socket".to_owned())
    }
}

/// Waits until the child has become criu.
fn await_criu(child: &Child, near: &ParentEnd, options: &mut Options) -> Result<Line> {
    let mut line = None;
    loop {
        match (near.next()?, line) {
            (Some(Message::Criu([number, images, work])), None) => {
                line = Some(Line::fetch(&child.pidfd, number)?);
                options.set_folders((images, work));
                near.go()?;
            }
            (Some(Message::Failed(text)), _) => return Err(Failure::new(text)),
            // The socket is closed by the exec, and by an end that criu's line then tells of.
            (None, Some(line)) => return Ok(line),
            (None, None) => return Err(Failure::new("the child that was to be criu was killed")),
            (Some(_), _) => return Err(Failure::new("the child that is to be criu went astray")),
        }
    }
}

/// The groups that it stands in, in all hierarchies: where the container is to be.
fn groups_of(pid: i32) -> Result<Vec<CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    let root = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(CgroupRoot {
            controller: Some(fields.next()?.to_owned()),
            path: fields.next()?.to_owned(),
        })
    };
    Ok(text.lines().filter_map(root).collect())
}

/// Namespaces of others that criu gets as descriptors.
fn open_namespaces(plan: &InitPlan<'_>) -> Result<Namespaces> {
    let kinds = [NamespaceKind::Network, NamespaceKind::Pid].into_iter();
    let joined = kinds.filter_map(|kind| Some((kind, plan.namespaces.joined(kind)?)));
    let open = |(kind, path): (NamespaceKind, &str)| {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .attempt(|| format!("open the {} namespace {path:?}", kind.name()))?;
        Ok((namespace_key(kind), fd))
    };
    joined.map(open).collect()
}

/// Namespaces of others that criu joins by their paths.
fn joined(plan: &InitPlan<'_>) -> Result<Vec<JoinNamespace>> {
    let others = plan
        .namespaces
        .all_joined()
        .filter(|(kind, _)| !matches!(kind, NamespaceKind::Network | NamespaceKind::Pid));
    let join = |(kind, path): (NamespaceKind, &str)| match kind {
        NamespaceKind::Cgroup => Err(Failure::new(
            "criu cannot restore into the cgroup namespace of another container",
        )),
        _ => Ok(JoinNamespace {
            kind: kind.file().to_owned(),
            path: path.to_owned(),
        }),
    };
    others.map(join).collect()
}

/// Standard streams that were pipes get those of this program.
fn pipes(images: &Path) -> Result<Vec<InheritFd>> {
    let path = images.join(DESCRIPTORS);
    let text = file::read(&path).attempt(|| format!("read {path:?}"))?;
    let names: Vec<String> = serde_json::from_slice(&text)
        .map_err(|error| because(&format!("read {path:?}"), &error))?;
    let streams = (0..3).zip(names);
    let streams = streams.filter(|(_, name)| name.contains("pipe:"));
    Ok(streams.map(|(fd, key)| InheritFd { key, fd }).collect())
}

fn handle(pid: i32) -> Result<OwnedFd> {
    let what = || "open the container's first process".to_owned();
    let number = Pid::from_raw(pid).ok_or_else(|| Failure::new(what()))?;
    pidfd_open(number, PidfdFlags::empty()).attempt(what)
}

fn namespace(process: &str, kind: NamespaceKind) -> Result<OwnedFd> {
    let path = format!("/proc/{process}/ns/{}", kind.file());
    open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).attempt(|| format!("open {path}"))
}

fn in_other_namespace(pid: i32, kind: NamespaceKind) -> Result<bool> {
    let what = || format!("look at a {} namespace", kind.name());
    let own = rustix::fs::fstat(namespace("self", kind)?).attempt(what)?;
    let other = rustix::fs::fstat(namespace(&pid.to_string(), kind)?).attempt(what)?;
    Ok(own.st_ino != other.st_ino)
}

/// criu leaves a network namespace empty, as it is asked to; a new container's has the loopback
/// device up.
fn bring_loopback_up(pid: i32) -> Result<()> {
    let kind = NamespaceKind::Network;
    let back = namespace("self", kind)?;
    let join = |fd: &OwnedFd| {
        sys::process::setns(fd, kind.flag()).attempt(|| "change the network namespace".to_owned())
    };
    join(&namespace(&pid.to_string(), kind)?)?;
    let up = sys::link::loopback_up().attempt(|| "bring the loopback device up".to_owned());
    join(&back)?;
    up
}
