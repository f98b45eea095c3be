//! This program's file, out of a container's reach (CVE-2019-5736).
//!
//! A container can get at the file of a process that enters it, through `/proc/PID/exe`, and would
//! overwrite the runtime of the whole host. Commands that put a process of ours into a container
//! therefore execute themselves again from a read-only detached mount of the same file, which costs
//! no copy; where making one is not permitted, from a sealed copy in memory. A caller that executes
//! a sealed memfd of this program saves both.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{
    AtFlags, CWD, MemfdFlags, Mode, OFlags, PROC_SUPER_MAGIC, SealFlags, StatVfsMountFlags,
    fcntl_add_seals, fcntl_get_seals, fstatvfs, memfd_create, open, statfs,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use sys::mount::{MountAttr, RDONLY, mount_setattr};

use crate::failure::{Attempt, Failure, Result};

/// This program, by the kernel's own name for it.
const SELF: &str = "/proc/self/exe";

/// Returns if this program's file cannot be written through this process, else starts over.
pub(crate) fn ensure() -> Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = open(SELF, flags, Mode::empty()).attempt(|| format!("open {SELF}"))?;
    if is_read_only(&program)? || is_sealed() {
        return be_untraceable();
    }
    check_procfs()?;
    let copy = match read_only_mount() {
        Err(Errno::PERM | Errno::INVAL | Errno::NOSYS) => sealed_copy()?,
        mount => mount.attempt(|| "make a read-only mount of this program".to_owned())?,
    };
    match execute(&copy)? {}
}

/// Nobody may trace this process or open what `/proc` has of it, and neither its children, who may
/// be visible in a container's process ids from their first moment (CVE-2016-9962). For an ordinary
/// user it is the child that does this, because until then its maker has to write its id maps.
fn be_untraceable() -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt(|| "forbid tracing".to_owned())
}

/// Under a `/proc` that is none, this program would never see that it has started over.
fn check_procfs() -> Result<()> {
    let magic = statfs("/proc")
        .attempt(|| "look at /proc".to_owned())?
        .f_type;
    if magic == PROC_SUPER_MAGIC {
        Ok(())
    } else {
        Err(Failure::new("/proc of the host is not a procfs"))
    }
}

fn is_read_only(program: &OwnedFd) -> Result<bool> {
    let status = fstatvfs(program).attempt(|| "look at this program's mount".to_owned())?;
    Ok(status.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn is_sealed() -> bool {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(fcntl_get_seals)
        .is_ok_and(|seals| seals.contains(all))
}

fn read_only_mount() -> std::result::Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, SELF, flags)?;
    let attr = MountAttr {
        set: RDONLY,
        ..MountAttr::default()
    };
    mount_setattr(tree.as_fd(), false, attr)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let what = || "copy this program into memory".to_owned();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // runc's name, which its test for leaked descriptors knows.
    let copy = memfd_create("runc_cloned:/proc/self/exe", flags).attempt(what)?;
    let mut to = File::from(copy);
    let mut from = File::open(SELF).attempt(what)?;
    std::io::copy(&mut from, &mut to).attempt(what)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&to, seals).attempt(what)?;
    Ok(to.into())
}

fn execute(program: &OwnedFd) -> Result<Infallible> {
    let what = || "execute this program again".to_owned();
    let c_string = |text: std::ffi::OsString| CString::new(text.into_vec());
    let args = std::env::args_os()
        .map(c_string)
        .collect::<std::result::Result<Vec<_>, _>>();
    let env = std::env::vars_os().map(|(name, value)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        c_string(entry)
    });
    let env = env.collect::<std::result::Result<Vec<_>, _>>();
    let args = args.map_err(std::io::Error::from).attempt(what)?;
    let env = env.map_err(std::io::Error::from).attempt(what)?;
    let flags = nix::fcntl::AtFlags::from_bits_retain(i32::from_ne_bytes(
        AtFlags::EMPTY_PATH.bits().to_ne_bytes(),
    ));
    nix::unistd::execveat(program, c"", &args, &env, flags).attempt(what)
}
