//! The kernel namespaces of a pod, kept alive by bind mounts instead of a process.
//!
//! A namespace is made by unshare(2) on a thread of its own, which ends at once; what remains is
//! the bind mount of its `/proc/thread-self/ns` entry on a file of ours.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use pod::plan::{Namespace, SandboxPlan};

/// Type of the file system behind a pinned namespace (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Makes the namespaces of a plan and pins them in `folder` (which exists). The shared process id
/// namespace is not made here: it needs its init first, see [`pin_pid`].
pub(crate) fn pin(plan: &SandboxPlan, folder: &Path) -> io::Result<()> {
    let made: Vec<Namespace> = plan
        .namespaces
        .iter()
        .copied()
        .filter(|kind| *kind != Namespace::Pid)
        .collect();
    if made.is_empty() {
        return Ok(());
    }
    thread::scope(|scope| {
        thread::Builder::new()
            .name("pin".into())
            .spawn_scoped(scope, || make(&made, plan, folder))?
            .join()
            .expect("making namespaces does not panic")
    })
}

fn make(kinds: &[Namespace], plan: &SandboxPlan, folder: &Path) -> io::Result<()> {
    nix::sched::unshare(kinds.iter().map(|kind| clone_flag(*kind)).collect())?;
    if kinds.contains(&Namespace::Uts) {
        nix::unistd::sethostname(&plan.hostname)?;
    }
    for (name, value) in &plan.sysctls {
        write_sysctl(name, value)?;
    }
    kinds.iter().try_for_each(|kind| {
        let name = file_name(*kind);
        bind(&format!("/proc/thread-self/ns/{name}"), &folder.join(name))
    })
}

fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value)
        .map_err(|error| io::Error::new(error.kind(), format!("setting sysctl {name}: {error}")))
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
    }
}

fn file_name(kind: Namespace) -> &'static str {
    match kind {
        Namespace::Network => "net",
        Namespace::Ipc => "ipc",
        Namespace::Uts => "uts",
        Namespace::Pid => "pid",
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
        pin(&plan, folder.path()).unwrap();
        for name in ["net", "uts", "ipc"] {
            assert!(is_pinned(&folder.path().join(name)), "{name} is not pinned");
        }
        assert!(!is_pinned(&folder.path().join("pid")));
        unpin(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        unpin(folder.path()).unwrap();
    }
}
