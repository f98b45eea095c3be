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
use crate::prepare::Joined;
use crate::reap::reap;
use crate::rights::Rights;
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
    joined: &Joined,
    rights: &Rights,
    entrance: &Entrance,
    life: impl FnOnce(ChildEnd) -> Infallible,
) -> Result<(Child, ParentEnd)> {
    let flags = u64::from(namespaces.clone_flags().unsigned_abs());
    with_socket(|own| {
        let mut back = Back::default();
        if rights.returns {
            make_time_namespace(namespaces, &mut back)?;
        }
        let stays = !joined.iter().any(|(kind, _)| is_early(*kind));
        let joins_user = namespaces.joined(NamespaceKind::User).is_some();
        let child = if joins_user || !(rights.returns || stays) {
            let enter = || enter_early(joined);
            through(enter, flags, [None, Some(entrance)], || life(own()))
        } else {
            enter_for_children(joined, &mut back)?;
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

/// Namespaces that a process enters before it is cloned, when it joins those in `all` (`CLONE_NEW*`):
/// they hold only for children. Who does not administer them now does so as soon as it is in their
/// user namespace, which then comes with them.
pub(crate) fn early(rights: &Rights, all: i32) -> i32 {
    let children = NamespaceKind::Pid.flag() | NamespaceKind::Time.flag();
    if rights.administers {
        all & children
    } else {
        all & (children | NamespaceKind::User.flag())
    }
}

/// Clones this process into new namespaces of the kinds in `namespaces` and into a control group, to
/// work for a container from outside.
pub(crate) fn aside(
    namespaces: i32,
    entrance: &Entrance,
    life: impl FnOnce(ChildEnd) -> Infallible,
) -> Result<(Child, ParentEnd)> {
    let flags = u64::from(namespaces.unsigned_abs());
    with_socket(|own| clone(flags, false, Some(entrance), || life(own())))
}

/// Clones this process beside a container's, in its process ids; the child joins the rest itself.
/// `before` is done by the last process that still is outside of the container's user namespace, for
/// a maker who cannot do it from outside.
pub(crate) fn further(
    init: &OwnedFd,
    joined: i32,
    rights: &Rights,
    entrance: &Entrance,
    before: impl FnOnce(),
    life: impl FnOnce(ChildEnd) -> Infallible,
) -> Result<(Child, ParentEnd)> {
    let early = early(rights, joined);
    if early != 0 && !rights.returns {
        return with_socket(|own| {
            let enter = || {
                before();
                setns(init, early).attempt(|| "join the container's process ids".to_owned())
            };
            // The one between is born in the group, so a refusal of that is still known as such.
            through(enter, 0, [Some(entrance), None], || life(own()))
        });
    }
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
    match clone3(flags, sibling, entrance.and_then(Entrance::for_clone)).attempt(
        || match entrance {
            Some(Entrance::Folder(_)) => "clone a process into its control group".to_owned(),
            _ => "clone the container's first process".to_owned(),
        },
    )? {
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

fn enter_for_children(joined: &Joined, back: &mut Back) -> Result<()> {
    for (kind, fd) in joined {
        if matches!(kind, NamespaceKind::Pid | NamespaceKind::Time) {
            back.remember(*kind)?;
            setns(fd, kind.flag()).attempt(|| format!("join the {} namespace", kind.name()))?;
        }
    }
    Ok(())
}

/// A time namespace is entered by children only, and belongs to the user namespace of its maker:
/// here that of this process, also where the container has one of its own. Who could not go back
/// leaves it to the child, see [`own_time_namespace`].
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

/// The same by the child for itself.
pub(crate) fn own_time_namespace(namespaces: &Namespaces<'_>) -> Result<()> {
    if !namespaces.is_new(NamespaceKind::Time) {
        return Ok(());
    }
    let flag = NamespaceKind::Time.flag();
    unshare(CloneFlags::from_bits_retain(flag)).attempt(|| "make a time namespace".to_owned())?;
    set_clocks(namespaces)?;
    let what = || "enter the new time namespace".to_owned();
    let path = "/proc/self/ns/time_for_children";
    let made = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).attempt(what)?;
    setns(&made, flag).attempt(what)
}

/// Holds only for children, or may own what does.
fn is_early(kind: NamespaceKind) -> bool {
    matches!(
        kind,
        NamespaceKind::User | NamespaceKind::Pid | NamespaceKind::Time
    )
}

/// Joined namespaces that have to be entered before the clone.
fn enter_early(joined: &Joined) -> Result<()> {
    for (kind, fd) in joined.iter().filter(|(kind, _)| is_early(*kind)) {
        setns(fd, kind.flag()).attempt(|| format!("join the {} namespace", kind.name()))?;
    }
    Ok(())
}

/// Clones by a process between, which enters namespaces first: a user namespace to which those that
/// are made must belong, or others from which there is no way back for this process. Each of the two
/// may be born in a control group.
fn through(
    enter: impl FnOnce() -> Result<()>,
    flags: u64,
    [between, last]: [Option<&Entrance>; 2],
    life: impl FnOnce() -> Infallible,
) -> Result<Child> {
    let (near, far) = sync::pair()?;
    let between = clone(0, false, between, || {
        let told = match enter().and_then(|()| clone(flags, true, last, life)) {
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
