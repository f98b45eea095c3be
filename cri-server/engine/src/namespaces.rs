//! The kernel namespaces of a pod, kept alive by bind mounts instead of a process.
//!
//! A namespace is made by unshare(2) on a thread of its own, which ends at once; what remains is
//! the bind mount of its `/proc/thread-self/ns` entry on a file of ours.
//!
//! A user namespace cannot be made by a process with more than one thread. It is made, with those
//! that it is to own, by a small process ([`Holder`]) that stays until they are pinned.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use pod::plan::{Namespace, SandboxPlan};
use pod::sandbox::{IdRange, UserNamespace};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Uid;

/// How long the process that makes namespaces may take.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);

/// Type of the file system behind a pinned namespace (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A process with namespaces that nobody has pinned yet. It ends, and they with it, when this is
/// dropped, and also when we are killed.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Child,
}

impl Holder {
    /// Has `program` (the shim) make a user namespace with these maps, which owns the namespaces
    /// of the other kinds.
    pub(crate) fn start(
        program: &Path,
        kinds: &[Namespace],
        user: UserNamespace,
    ) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "its owner ends and reaps it")]
        let process = Command::new(program)
            .arg("namespaces")
            .args(kinds.iter().map(|kind| file_name(*kind)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut holder = Self { process };
        holder.wait()?;
        let write = |file: &str, range: IdRange| {
            let line = format!("0 {} {}\n", range.host, range.length);
            fs::write(holder.path(file), line).map_err(|error| {
                io::Error::new(error.kind(), format!("writing the pod's {file}: {error}"))
            })
        };
        write("uid_map", user.uids)?;
        write("gid_map", user.gids)?;
        Ok(holder)
    }

    /// A file of the process.
    fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.process.id())
    }

    /// The file that is its user namespace.
    pub(crate) fn user_namespace(&self) -> String {
        self.path("ns/user")
    }

    /// Waits until it has made its namespaces.
    fn wait(&mut self) -> io::Result<()> {
        let Some(output) = &mut self.process.stdout else {
            return Err(io::Error::other("it has no output"));
        };
        let patience = Timespec::try_from(HOLDER_PATIENCE).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&patience))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if output.read(&mut [0])? == 1 {
            return Ok(());
        }
        let mut words = [0; 512];
        let said = self
            .process
            .stderr
            .as_mut()
            .map(|errors| errors.read(&mut words));
        let length = said.transpose()?.unwrap_or(0);
        let words = String::from_utf8_lossy(&words[..length]).trim().to_owned();
        Err(io::Error::other(words))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            tracing::warn!(%error, "ending the process that made a pod's namespaces");
        }
    }
}

/// Makes the namespaces of a plan and pins them in `folder` (which exists). The shared process id
/// namespace is not made here: it needs its init first, see [`pin_pid`]. `program` is the shim.
pub(crate) fn pin(plan: &SandboxPlan, folder: &Path, program: &Path) -> io::Result<()> {
    let made: Vec<Namespace> = plan
        .namespaces
        .iter()
        .copied()
        .filter(|kind| *kind != Namespace::Pid)
        .collect();
    if made.is_empty() {
        return Ok(());
    }
    let holder = plan.user.map(|user| Holder::start(program, &made, user));
    let holder = holder.transpose()?;
    thread::scope(|scope| {
        thread::Builder::new()
            .name("pin".into())
            .spawn_scoped(scope, || make(&made, plan, folder, holder.as_ref()))?
            .join()
            .expect("making namespaces does not panic")
    })
}

/// Gives the pinned UTS namespace in `folder` its name again.
pub(crate) fn name_host(folder: &Path, name: &str) -> io::Result<()> {
    let uts = fs::File::open(folder.join(file_name(Namespace::Uts)))?;
    thread::scope(|scope| {
        thread::Builder::new()
            .name("name".into())
            .spawn_scoped(scope, || {
                nix::sched::setns(uts, CloneFlags::CLONE_NEWUTS)?;
                Ok(nix::unistd::sethostname(name)?)
            })?
            .join()
            .expect("naming a host does not panic")
    })
}

fn make(
    kinds: &[Namespace],
    plan: &SandboxPlan,
    folder: &Path,
    holder: Option<&Holder>,
) -> io::Result<()> {
    match holder {
        None => nix::sched::unshare(kinds.iter().map(|kind| clone_flag(*kind)).collect())?,
        Some(holder) => join(kinds, holder)?,
    }
    if kinds.contains(&Namespace::Uts) {
        nix::unistd::sethostname(&plan.hostname)?;
    }
    let (network, others): (Vec<_>, Vec<_>) = plan
        .sysctls
        .iter()
        .partition(|(name, _)| name.starts_with("net/"));
    write_sysctls(&network)?;
    for kind in kinds {
        let name = file_name(*kind);
        let source = match (kind, holder) {
            (Namespace::User, Some(holder)) => holder.user_namespace(),
            _ => format!("/proc/thread-self/ns/{name}"),
        };
        bind(&source, &folder.join(name))?;
    }
    if let Some(user) = plan.user {
        // The kernel lets nobody set these but the root of their own user namespace.
        let root = Some(Uid::from_raw(user.uids.host));
        rustix::thread::set_thread_res_uid(None, root, None)?;
    }
    write_sysctls(&others)
}

/// Joins what the holder has made. The user namespace is left out: a thread cannot join one.
fn join(kinds: &[Namespace], holder: &Holder) -> io::Result<()> {
    for kind in kinds.iter().filter(|kind| **kind != Namespace::User) {
        let namespace = File::open(holder.path(&format!("ns/{}", file_name(*kind))))?;
        nix::sched::setns(namespace, clone_flag(*kind))?;
    }
    Ok(())
}

fn write_sysctls(sysctls: &[&(String, String)]) -> io::Result<()> {
    sysctls.iter().try_for_each(|(name, value)| {
        fs::write(Path::new("/proc/sys").join(name), value).map_err(|error| {
            io::Error::new(error.kind(), format!("setting sysctl {name}: {error}"))
        })
    })
}

/// Pins the process id namespace of a process.
pub(crate) fn pin_pid(pid: i32, folder: &Path) -> io::Result<()> {
    bind(
        &format!("/proc/{pid}/ns/pid"),
        &folder.join(file_name(Namespace::Pid)),
    )
}

fn bind(source: &str, target: &Path) -> io::Result<()> {
    File::create(target)?;
    nix::mount::mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Lets the namespaces go; already gone is fine.
pub(crate) fn unpin(folder: &Path) -> io::Result<()> {
    for kind in [
        Namespace::Pid,
        Namespace::Network,
        Namespace::Ipc,
        Namespace::Uts,
        Namespace::User,
    ] {
        let path = folder.join(file_name(kind));
        unmount(&path)?;
        crate::store::gone_is_fine(fs::remove_file(&path))?;
    }
    Ok(())
}

/// Whether a namespace is pinned at `path`.
pub(crate) fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC))
}

/// Unmounts whatever is mounted at `path`, layer by layer; nothing mounted, or nothing there, is
/// fine.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    /// More mounts on one another than we ever make.
    const MOST_LAYERS: usize = 8;
    for _ in 0..MOST_LAYERS {
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn clone_flag(kind: Namespace) -> CloneFlags {
    match kind {
        Namespace::Network => CloneFlags::CLONE_NEWNET,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        Namespace::Pid => CloneFlags::CLONE_NEWPID,
        Namespace::User => CloneFlags::CLONE_NEWUSER,
    }
}

fn file_name(kind: Namespace) -> &'static str {
    match kind {
        Namespace::Network => "net",
        Namespace::Ipc => "ipc",
        Namespace::Uts => "uts",
        Namespace::Pid => "pid",
        Namespace::User => "user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_outlive_their_thread_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let plan = SandboxPlan {
            namespaces: vec![Namespace::Network, Namespace::Uts, Namespace::Ipc],
            hostname: "inside".into(),
            sysctls: vec![("kernel/shm_rmid_forced".into(), "1".into())],
            ..SandboxPlan::default()
        };
        pin(&plan, folder.path(), Path::new("/nowhere")).unwrap();
        for name in ["net", "uts", "ipc"] {
            assert!(is_pinned(&folder.path().join(name)), "{name} is not pinned");
        }
        assert!(!is_pinned(&folder.path().join("pid")));
        unpin(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        unpin(folder.path()).unwrap();
    }
}
