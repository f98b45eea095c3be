//! The first process of a container: carries an [`InitPlan`] out, top to bottom.
//!
//! It runs in the child of clone3, which has this program's memory but none of its threads or
//! duties: it never returns, prints nothing until the socket to its parent is closed, and sends a
//! failure back as a value. The order of steps is that of runc, which engines and hooks rely on.

mod console;
mod copy;
mod devices;
mod lookup;
pub(crate) mod mountpoints;
mod mounts;
mod process;
mod protect;
pub(crate) mod rooted;
mod rootfs;
mod scheduling;
pub(crate) mod walk;

pub(crate) use process::become_root;
pub(crate) use scheduling::pin;

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::setsid;

use crate::cgroups::Entrance;
use crate::failure::{Attempt, Failure, Result};
use crate::filter::Filter;
use crate::hooks::{self, Hook, HookState};
use crate::plan::{InitPlan, NamespaceKind, Nature, ProcessPlan};
use crate::prepare::{self, Folders, Joined, ProcRoot, Sources};
use crate::rights::Rights;
use crate::sync::{ChildEnd, Message};
use crate::{launch, process_limits};

/// Exit status of a process that could not become the program it was to be.
const FAILED: i32 = 255;

/// What every new process of a container needs, its first or a further one.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) sync: ChildEnd,
    /// The way into the container's control group.
    pub(crate) entrance: &'a Entrance,
    pub(crate) process: &'a ProcessPlan<'a>,
    pub(crate) nature: &'a Nature,
    pub(crate) filter: Option<&'a Filter>,
    /// Where the master of a new terminal goes.
    pub(crate) console: Option<&'a OwnedFd>,
    /// Name of the session keyring to join.
    pub(crate) keyring: Option<&'a str>,
    /// Descriptors after the standard streams that the program keeps.
    pub(crate) preserved: u32,
}

/// What only the first process needs.
#[derive(Debug)]
pub(crate) struct FirstErrand<'a> {
    pub(crate) plan: &'a InitPlan<'a>,
    /// Of who made this process.
    pub(crate) rights: Rights,
    /// `None`: its maker could not open them, so it does.
    pub(crate) sources: Option<&'a Sources>,
    /// For what it opens itself.
    pub(crate) folders: Folders<'a>,
    pub(crate) joined: &'a Joined,
    /// Blocks until `start` writes a byte.
    pub(crate) gate: &'a OwnedFd,
    /// The parent has something to do once the mounts are there: network devices to move, prestart
    /// and createRuntime hooks to run.
    pub(crate) errands_on_host: bool,
    pub(crate) create_container: &'a [Hook],
    pub(crate) start_container: &'a [Hook],
    /// The state that hooks read on their standard input.
    pub(crate) hook_state: &'a HookState,
}

/// The life of the first process until it becomes the container's program.
pub(crate) fn first(errand: Errand<'_>, first: &FirstErrand<'_>) -> ! {
    let prepared = (|| {
        arrive(&errand, first)?;
        let own;
        let sources = match first.sources {
            Some(sources) => sources,
            None => {
                own = prepare::sources(first.plan, &first.rights, &first.folders)?;
                &own
            }
        };
        let root = build(&errand, first, sources)?;
        finish(&errand, first, sources, &root)
    })();
    match prepared {
        Ok(program) => await_start(errand, first, program),
        Err(failure) => give_up(&errand.sync, &failure),
    }
}

/// The life of a further process until it becomes its program. `join` enters the container.
pub(crate) fn further(
    errand: Errand<'_>,
    proc: Option<&ProcRoot>,
    join: impl FnOnce() -> Result<()>,
) -> ! {
    let prepared = (|| {
        errand.entrance.step_in(|| errand.sync.wait_for_go())?;
        if errand.process.affinity.initial.is_none() {
            scheduling::unpin();
        }
        scheduling::pin(errand.process.affinity.last.as_deref())?;
        process::be_untraceable()?;
        join()?;
        let root = rootfs::open_current()?;
        setsid().attempt(|| "start a session".to_owned())?;
        if let Some(name) = errand.keyring {
            process::join_keyring(name)?;
        }
        if let Some(socket) = errand.console {
            console::set_up(root.as_fd(), socket, errand.process, false)?;
        }
        process::set_apparmor(proc, errand.process)?;
        become_ready(&errand, root.as_fd(), proc)
    })();
    match prepared {
        Ok(program) => {
            let Errand {
                sync,
                process,
                preserved,
                ..
            } = errand;
            let _told = sync.tell(&Message::Waiting);
            drop(sync);
            process::execute(&program, process, preserved)
        }
        Err(failure) => give_up(&errand.sync, &failure),
    }
}

/// Into the control group and the namespaces.
fn arrive(errand: &Errand<'_>, first: &FirstErrand<'_>) -> Result<()> {
    let FirstErrand { plan, rights, .. } = first;
    errand.entrance.step_in(|| errand.sync.wait_for_go())?;
    scheduling::unpin();
    // Folders that are made on the way must not depend on the caller's; the program gets its own.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if plan.namespaces.is_new(NamespaceKind::User) {
        // Its id maps are written meanwhile.
        errand.sync.wait_for_go()?;
    }
    if !rights.administers {
        // A file of procfs is only its own while it can be traced; so is that of the clocks.
        if let Some(warning) = process_limits::set_own_badness(errand.process)? {
            errand.sync.tell(&Message::Warning(warning))?;
        }
    }
    if !rights.returns {
        launch::own_time_namespace(&plan.namespaces)?;
    }
    process::be_untraceable()?;
    process::join_namespaces(first.joined)
}

/// Everything up to and with the new root.
fn build(errand: &Errand<'_>, first: &FirstErrand<'_>, sources: &Sources) -> Result<OwnedFd> {
    let FirstErrand { plan, .. } = first;
    process::become_root_of_user_namespace(plan)?;
    setsid().attempt(|| "start a session".to_owned())?;
    if let Some(name) = &plan.keyring {
        process::join_keyring(name)?;
    }
    if plan.namespaces.is_new(NamespaceKind::Network) {
        sys::link::loopback_up().attempt(|| "bring the loopback device up".to_owned())?;
    }
    process::unshare_cgroups(plan)?;
    let hooks = !first.create_container.is_empty();
    rootfs::attach(plan, sources, hooks)?;
    let root = sources.rootfs.as_fd();
    mounts::make_all(root, plan, sources)?;
    if let Some(planned) = &plan.devices {
        devices::make_all(root, planned, sources)?;
    }
    rootfs::make_working_directory(root, plan)?;
    if first.errands_on_host {
        errand.sync.ask(&Message::HooksPlease)?;
    }
    if !first.create_container.is_empty() {
        let state = first.hook_state.text("creating", own_pid());
        hooks::run_all("createContainer", first.create_container, &state)?;
    }
    rootfs::enter(plan, sources)
}

/// Everything between the new root and the program.
fn finish(
    errand: &Errand<'_>,
    first: &FirstErrand<'_>,
    sources: &Sources,
    root: &OwnedFd,
) -> Result<process::Program> {
    let FirstErrand { plan, .. } = first;
    if let Some(socket) = errand.console {
        console::set_up(root.as_fd(), socket, errand.process, true)?;
    }
    if plan.devices.is_some() {
        devices::reopen_null(root.as_fd())?;
    }
    rootfs::finalise(root.as_fd(), plan)?;
    process::set_names(plan)?;
    process::set_apparmor(sources.proc.as_ref(), errand.process)?;
    protect::set_sysctls(sources.proc.as_ref(), &plan.sysctls)?;
    protect::make_read_only(root.as_fd(), &plan.readonly_paths)?;
    protect::mask(root.as_fd(), &plan.masked_paths, sources.null.as_ref())?;
    become_ready(errand, root.as_fd(), sources.proc.as_ref())
}

/// The tail that first and further processes share: privileges go, the filter comes.
///
/// Without no_new_privs a filter needs `CAP_SYS_ADMIN`, so it is loaded before capabilities are
/// dropped; with it the filter comes last, so that it sees as little of us as possible.
fn become_ready(
    errand: &Errand<'_>,
    root: BorrowedFd<'_>,
    proc: Option<&ProcRoot>,
) -> Result<process::Program> {
    let plan = errand.process;
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).attempt(|| "set no_new_privs".to_owned())?;
    }
    scheduling::apply(plan, errand.nature)?;
    let prepared = process::prepare(plan, root);
    errand.sync.ask(&Message::Ready)?;
    process::set_selinux(proc, plan)?;
    if !plan.no_new_privileges {
        load_filter(errand)?;
    }
    process::become_user(plan, &prepared, root)?;
    let path = lookup::program(plan)?;
    if plan.no_new_privileges {
        load_filter(errand)?;
    }
    Ok(process::Program {
        path,
        env: prepared.env,
    })
}

fn load_filter(errand: &Errand<'_>) -> Result<()> {
    let Some(filter) = errand.filter else {
        return Ok(());
    };
    let listener = filter.load()?;
    if let Some(listener) = listener {
        use std::os::fd::AsRawFd;
        errand.sync.ask(&Message::Listener(listener.as_raw_fd()))?;
    }
    Ok(())
}

/// `create` returns when the socket closes; this process goes on when `start` opens the gate.
fn await_start(errand: Errand<'_>, first: &FirstErrand<'_>, program: process::Program) -> ! {
    let Errand {
        sync,
        process,
        preserved,
        ..
    } = errand;
    let _told = sync.tell(&Message::Waiting);
    drop(sync);
    let hooks = first.start_container;
    let state = first.hook_state;
    sys::process::close_all_but(3 + preserved, first.gate.as_fd(), move || -> Infallible {
        let mut byte = [0_u8; 1];
        let started = rustix::io::retry_on_intr(|| rustix::io::read(first.gate, &mut byte));
        if !matches!(started, Ok(1)) {
            sys::process::exit_now(FAILED);
        }
        if !hooks.is_empty() {
            let text = state.text("created", own_pid());
            if let Err(failure) = hooks::run_all("startContainer", hooks, &text) {
                complain(&failure);
            }
        }
        process::execute(&program, process, preserved)
    })
}

/// As this process and its hooks see it.
fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Tells the parent why and ends.
fn give_up(sync: &ChildEnd, failure: &Failure) -> ! {
    let _told = sync.tell(&Message::Failed(failure.to_string()));
    sys::process::exit_now(FAILED)
}

/// Says why on standard error, when there is no parent any more to tell, and ends.
fn complain(failure: &Failure) -> ! {
    let _written = rustix::io::write(rustix::stdio::stderr(), format!("{failure}\n").as_bytes());
    sys::process::exit_now(FAILED)
}
