//! Cloning the child: which namespaces this process has to enter first, because they hold only for
//! children, and the one case in which a process between is needed.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sys::process::{Clone3, clone3, setns};

use crate::cgroups::Entrance;
use crate::failure::{Attempt, Failure, Result};
use crate::plan::{NamespaceKind, Namespaces};
use crate::prepare::Sources;
use crate::reap::reap;
use crate::sync::{self, ChildEnd, Message, ParentEnd};

/// A process that was made here.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Clones this process into the namespaces of a new container; `life` is what the child does.
pub(crate) fn first(
    namespaces: &Namespaces<'_>,
    sources: &Sources,
    entrance: &Entrance,
    life: impl FnOnce(ChildEnd) -> Infallible,
) -> Result<(Child, ParentEnd)> {
    let flags = u64::from(namespaces.clone_flags().unsigned_abs());
    with_socket(|own| {
        let mut back = Back::default();
        make_time_namespace(namespaces, &mut back)?;
        let child = if namespaces.joined(NamespaceKind::User).is_some() {
            through_user_namespace(flags, sources, entrance, || life(own()))
        } else {
            enter_for_children(sources, &mut back)?;
            clone(flags, false, Some(entrance), || life(own()))
        };
        back.restore()?;
        child
    })
}

/// Makes the sync socket around a clone. What `cloner` gets is for the child: it closes the parent's
/// end, so that each side sees the other one go, and gives the child's.
fn with_socket(
    cloner: impl FnOnce(&mut dyn FnMut() -> ChildEnd) -> Result<Child>,
) -> Result<(Child, ParentEnd)> {
    let mut ends = Some(sync::pair()?);
    let child = cloner(&mut || {
        let (near, far) = ends.take().expect("one child takes its end once");
        drop(near);
        far
    })?;
    let (near, far) = ends.take().expect("this is not the child");
    drop(far);
    Ok((child, near))
}

/// Clones this process beside a container's, in its process ids; the child joins the rest itself.
pub(crate) fn further(
    init: &OwnedFd,
    joined: i32,
    entrance: &Entrance,
    life: impl FnOnce(ChildEnd) -> Infallible,
) -> Result<(Child, ParentEnd)> {
    with_socket(|own| {
        let mut back = Back::default();
        for kind in [NamespaceKind::Pid, NamespaceKind::Time] {
            if joined & kind.flag() != 0 {
                back.remember(kind)?;
                setns(init, kind.flag())
                    .attempt(|| format!("join the {} namespace", kind.name()))?;
            }
        }
        let child = clone(0, false, Some(entrance), || life(own()));
        back.restore()?;
        child
    })
}

fn clone(
    flags: u64,
    sibling: bool,
    entrance: Option<&Entrance>,
    life: impl FnOnce() -> Infallible,
) -> Result<Child> {
    match clone3(flags, sibling, entrance.and_then(Entrance::for_clone))
        .attempt(|| "clone the container's first process".to_owned())?
    {
        Clone3::Child => live(life),
        Clone3::Parent { pid, pidfd } => Ok(Child { pid, pidfd }),
    }
}

/// The child's way, from which there is none back.
fn live(life: impl FnOnce() -> Infallible) -> ! {
    match life() {}
}

/// Namespaces of this process to go back to, so that hooks do not run in the container's.
#[derive(Debug, Default)]
struct Back(Vec<(NamespaceKind, OwnedFd)>);

impl Back {
    fn remember(&mut self, kind: NamespaceKind) -> Result<()> {
        let path = format!("/proc/self/ns/{}", kind.file());
        let own = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .attempt(|| format!("open {path}"))?;
        self.0.push((kind, own));
        Ok(())
    }

    fn restore(self) -> Result<()> {
        for (kind, own) in self.0 {
            setns(&own, kind.flag())
                .attempt(|| format!("go back to the own {} namespace", kind.name()))?;
        }
        Ok(())
    }
}

fn enter_for_children(sources: &Sources, back: &mut Back) -> Result<()> {
    for (kind, fd) in &sources.namespaces {
        if matches!(kind, NamespaceKind::Pid | NamespaceKind::Time) {
            back.remember(*kind)?;
            setns(fd, kind.flag()).attempt(|| format!("join the {} namespace", kind.name()))?;
        }
    }
    Ok(())
}

/// A time namespace is entered by children only, and belongs to the user namespace of its maker:
/// here that of this process, also where the container has one of its own.
fn make_time_namespace(namespaces: &Namespaces<'_>, back: &mut Back) -> Result<()> {
    if !namespaces.is_new(NamespaceKind::Time) {
        return Ok(());
    }
    back.remember(NamespaceKind::Time)?;
    // Not in nix's list of flags.
    let flag = CloneFlags::from_bits_retain(NamespaceKind::Time.flag());
    unshare(flag).attempt(|| "make a time namespace".to_owned())?;
    set_clocks(namespaces)
}

/// time_namespaces(7): offsets are set before the first process is in it.
fn set_clocks(namespaces: &Namespaces<'_>) -> Result<()> {
    for offset in &namespaces.time_offsets {
        let line = format!(
            "{} {} {}\n",
            offset.clock, offset.seconds, offset.nanoseconds
        );
        std::fs::write("/proc/self/timens_offsets", line)
            .attempt(|| format!("set the offset of clock {}", offset.clock))?;
    }
    Ok(())
}

/// Namespaces that are made while a user namespace is joined must belong to it, so somebody has to
/// enter it and then clone; that cannot be this process, which would lose the host's privileges.
fn through_user_namespace(
    flags: u64,
    sources: &Sources,
    entrance: &Entrance,
    life: impl FnOnce() -> Infallible,
) -> Result<Child> {
    let (near, far) = sync::pair()?;
    let between = clone(0, false, None, || {
        let entered = sources.namespaces.iter().try_for_each(|(kind, fd)| {
            let early = matches!(
                kind,
                NamespaceKind::User | NamespaceKind::Pid | NamespaceKind::Time
            );
            if !early {
                return Ok(());
            }
            setns(fd, kind.flag()).attempt(|| format!("join the {} namespace", kind.name()))
        });
        let told = match entered.and_then(|()| clone(flags, true, Some(entrance), life)) {
            Ok(child) => far.tell(&Message::Born(child.pid)),
            Err(failure) => far.tell(&Message::Failed(failure.to_string())),
        };
        sys::process::exit_now(i32::from(told.is_err()))
    })?;
    let said = near.next();
    reap(&between.pidfd)?;
    match said? {
        Some(Message::Born(pid)) => {
            let what = || "open the container's first process".to_owned();
            let number = Pid::from_raw(pid).ok_or_else(|| Failure::new(what()))?;
            // It is our child (CLONE_PARENT), so the number stays its own until it is reaped.
            let pidfd = pidfd_open(number, PidfdFlags::empty()).attempt(what)?;
            Ok(Child { pid, pidfd })
        }
        Some(Message::Failed(text)) => Err(Failure::new(text)),
        _ => Err(Failure::new(
            "the process that joined the user namespace was killed",
        )),
    }
}
