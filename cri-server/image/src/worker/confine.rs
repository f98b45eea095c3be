//! What a worker gives up before it reads the first byte of a layer.
//!
//! In this order, each step as a list that can be ticked off:
//!
//! | step | what is left |
//! |---|---|
//! | death | it dies with the thread that started it |
//! | limits | no core files, some descriptors, bounded memory |
//! | root | the folder of the layer in staging, mounted for itself: no path leads elsewhere |
//! | namespaces | a network and System V objects of its own, with nothing in them |
//! | capabilities | what making files of any kind and owner takes; for an image none |
//! | Landlock | making and removing files in the tree; no reading of contents, nothing beside the tree |
//! | seccomp | the calls that unpacking makes; all others fail with EPERM |
//!
//! Descriptors are not part of it: it has its streams, and those of the request.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sys::landlock;

use crate::Error;
use crate::error::During;
use crate::layer::Form;
use crate::store::layers::{REPLACED, TREE};

/// What it is called in lists of processes.
const NAME: &std::ffi::CStr = c"wherryd-unpack";
/// Most memory, counted by addresses: names of a large image and the windows of a decoder (128 MiB).
const MAX_MEMORY: u64 = 4 << 30;
/// Most descriptors. A tree is unpacked with some ten of them.
const MAX_FILES: u64 = 256;
/// `EPERM`, what a refused call fails with.
const EPERM: u32 = 1;
/// `ENOSYS`, which makes the C library take an older call.
const ENOSYS: u32 = 38;
/// `PROT_EXEC`.
const PROT_EXEC: u64 = 4;
/// `CLONE_THREAD`.
const CLONE_THREAD: u64 = 0x1_0000;
/// `F_GETFD`, `F_GETFL`.
const LOOKS: [u64; 2] = [1, 3];

/// The calls that unpacking makes, whatever their arguments.
const CALLS: &str = "\
    read readv pread64 write writev pwrite64 lseek close fstat newfstatat statx \
    openat openat2 mkdirat mknodat symlinkat linkat unlinkat renameat renameat2 \
    fchmod fchmodat fchown fchownat fsetxattr utimensat ftruncate \
    munmap mremap madvise brk futex set_robust_list rseq sched_yield sched_getaffinity \
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall \
    sendto sendmsg poll ppoll getrandom clock_gettime gettid getpid exit exit_group";

/// Where files are made: all that can be reached, by descriptors from which nothing leads out.
#[derive(Debug)]
pub(super) struct Room {
    /// The tree.
    pub(super) tree: OwnedFd,
    /// Where to move what gets in the way.
    pub(super) replaced: OwnedFd,
}

/// Gives all of it up. Answers with where files may be made, if they may, and with what this kernel
/// lacks for the confinement.
pub(super) fn confine(
    parent: u32,
    form: Form,
    folder: OwnedFd,
) -> Result<(Option<Room>, Option<&'static str>), Error> {
    rustix::thread::set_name(NAME).during(|| "taking a name")?;
    die_with(parent)?;
    limit()?;
    let room = enter(form, folder)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
        .during(|| "leaving the network")?;
    drop_capabilities(form)?;
    rustix::thread::set_no_new_privs(true).during(|| "giving up new privileges")?;
    let lacks = restrict_files(room.as_ref())?;
    filter_calls()?;
    Ok((room, lacks))
}

/// Makes the layer's folder the root of all paths. It is a mount of its own, which hangs nowhere:
/// `..` at its top leads nowhere either, whichever descriptor one begins from. (Landlock does not
/// rule over owners, permissions and times, which a path from elsewhere could otherwise change.)
fn enter(form: Form, folder: OwnedFd) -> Result<Option<Room>, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let what = || "making the folder of the layer the root";
    let mount = open_tree(&folder, c"", flags).during(what)?;
    // The one that leads out must not stay.
    drop(folder);
    rustix::process::fchdir(&mount).during(what)?;
    rustix::process::chroot(c".").during(what)?;
    if form == Form::Erofs {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |name| openat(CWD, name, flags, Mode::empty()).during(what);
    Ok(Some(Room {
        tree: open(TREE)?,
        replaced: open(REPLACED)?,
    }))
}

/// Whoever started it waits for it: without him, nobody wants the layer.
fn die_with(parent: u32) -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .during(|| "asking to die with the daemon")?;
    let living = getppid().map(Pid::as_raw_pid);
    if living != i32::try_from(parent).ok() {
        return Err(Error::Other("the daemon has gone".into()));
    }
    Ok(())
}

fn limit() -> Result<(), Error> {
    let limits = [
        (Resource::Core, 0),
        (Resource::Nofile, MAX_FILES),
        (Resource::As, MAX_MEMORY),
    ];
    for (resource, wanted) in limits {
        let before = getrlimit(resource).maximum;
        let most = before.map_or(wanted, |before| before.min(wanted));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).during(|| format!("limiting {resource:?}"))?;
    }
    Ok(())
}

/// What it takes to make files as they are in a layer: of any owner, set-user-ID, devices, with
/// capabilities, and with the marks of overlayfs, which are `trusted` extended attributes.
fn kept(form: Form) -> CapabilitySet {
    match form {
        Form::Erofs => CapabilitySet::empty(),
        Form::Dir => {
            CapabilitySet::CHOWN
                | CapabilitySet::DAC_OVERRIDE
                | CapabilitySet::FOWNER
                | CapabilitySet::FSETID
                | CapabilitySet::MKNOD
                | CapabilitySet::SETFCAP
                | CapabilitySet::SYS_ADMIN
        }
    }
}

fn drop_capabilities(form: Form) -> Result<(), Error> {
    let what = || "dropping capabilities";
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The last that this kernel knows was the one before.
            Err(Errno::INVAL) => break,
            // A daemon without this one has few to give away.
            Err(Errno::PERM) => break,
            removed => removed.during(what)?,
        }
    }
    let had = rustix::thread::capabilities(None).during(what)?;
    let kept = kept(form) & had.permitted;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).during(what)
}

/// What Landlock lets one do (linux/landlock.h), by the version of its ABI.
mod access {
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_CHAR: u64 = 1 << 6;
    pub(super) const MAKE_DIR: u64 = 1 << 7;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    pub(super) const MAKE_FIFO: u64 = 1 << 10;
    pub(super) const MAKE_BLOCK: u64 = 1 << 11;
    pub(super) const MAKE_SYM: u64 = 1 << 12;
    pub(super) const REFER: u64 = 1 << 13;
    /// All of ABI 2, which has 14 of them.
    pub(super) const ALL: u64 = (1 << 14) - 1;
    /// ABI 3.
    pub(super) const TRUNCATE: u64 = 1 << 14;
    /// ABI 5.
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
    /// ABI 4: bind and connect.
    pub(super) const ALL_NETWORK: u64 = 3;
    /// ABI 6: abstract sockets and signals.
    pub(super) const ALL_SCOPES: u64 = 3;
}

/// What it may do in its folders: whatever makes names there, and nothing that reads contents.
const IN_FOLDERS: u64 = access::READ_DIR
    | access::WRITE_FILE
    | access::REMOVE_DIR
    | access::REMOVE_FILE
    | access::MAKE_CHAR
    | access::MAKE_DIR
    | access::MAKE_REG
    | access::MAKE_FIFO
    | access::MAKE_BLOCK
    | access::MAKE_SYM
    | access::REFER;

/// All that a version of Landlock can forbid.
fn handled(version: u32) -> landlock::Handled {
    let from = |first, bits| if version >= first { bits } else { 0 };
    landlock::Handled {
        files: access::ALL | from(3, access::TRUNCATE) | from(5, access::IOCTL_DEV),
        network: from(4, access::ALL_NETWORK),
        scoped: from(6, access::ALL_SCOPES),
    }
}

fn restrict_files(room: Option<&Room>) -> Result<Option<&'static str>, Error> {
    let version = match landlock::version() {
        // The first one forbids to move files between folders, whatever the rules.
        Ok(0 | 1) => return Ok(Some("Landlock that knows moves of files (Linux 5.19)")),
        Err(_) => {
            return Ok(Some(
                "Landlock (CONFIG_SECURITY_LANDLOCK, and lsm=landlock)",
            ));
        }
        Ok(version) => version,
    };
    let what = || "restricting access to files";
    let ruleset = landlock::create_ruleset(handled(version)).during(what)?;
    for allowed in room.iter().flat_map(|room| [&room.tree, &room.replaced]) {
        landlock::allow_beneath(ruleset.as_fd(), allowed.as_fd(), IN_FOLDERS).during(what)?;
    }
    landlock::restrict_self(ruleset.as_fd()).during(what)?;
    Ok(None)
}

fn filter_calls() -> Result<(), Error> {
    let process = u64::from(std::process::id());
    let program = seccomp::compile(&profile(process))
        .map_err(|cause| Error::Other(format!("filtering system calls: {cause}")))?;
    let convert = |one: &seccomp::Instruction| sys::seccomp::Instruction {
        code: one.code,
        jt: one.jt,
        jf: one.jf,
        k: one.k,
    };
    let instructions: Vec<_> = program.filter.iter().map(convert).collect();
    sys::seccomp::load(&instructions, program.flags).during(|| "filtering system calls")?;
    Ok(())
}

/// The filter of the worker that is that process.
fn profile(process: u64) -> LinuxSeccomp {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpMaskedEq};
    let equal = |index, value| argument(index, ScmpCmpEq, value, None);
    let masked = |index, mask, value| argument(index, ScmpCmpMaskedEq, mask, Some(value));
    let mut rules = vec![rule(CALLS.split_whitespace(), None)];
    // Memory is never both written and executed, and never executed that was not so before.
    rules.push(rule(["mmap", "mprotect"], Some(masked(2, PROT_EXEC, 0))));
    // Threads, but no processes. The flags of clone3 lie in memory, where no filter can see them.
    rules.push(rule(["clone"], Some(masked(0, CLONE_THREAD, CLONE_THREAD))));
    let mut clone3 = rule(["clone3"], None);
    clone3.set_action(LinuxSeccompAction::ScmpActErrno);
    clone3.set_errno_ret(Some(ENOSYS));
    rules.push(clone3);
    // A look at a descriptor; others would have signals sent to anybody.
    rules.extend(LOOKS.map(|look| rule(["fcntl"], Some(equal(1, look)))));
    // How a program that panics ends itself.
    rules.push(rule(["tgkill"], Some(equal(0, process))));
    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(LinuxSeccompAction::ScmpActErrno);
    filter.set_default_errno_ret(Some(EPERM));
    filter.set_architectures(None);
    filter.set_syscalls(Some(rules));
    filter
}

fn argument(
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    second: Option<u64>,
) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(operator)
        .value(value);
    let argument = match second {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    argument
        .build()
        .expect("every field of an argument has a default")
}

fn rule<'a>(
    names: impl IntoIterator<Item = &'a str>,
    argument: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(Into::into).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args(argument.map(|argument| vec![argument]));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_landlock_is_asked_for_what_it_knows() {
        let check = |version, files, network, scoped| {
            let expect = landlock::Handled {
                files,
                network,
                scoped,
            };
            assert_eq!(handled(version), expect, "{version}");
        };
        check(2, 0x3fff, 0, 0);
        check(3, 0x7fff, 0, 0);
        check(4, 0x7fff, 3, 0);
        check(5, 0xffff, 3, 0);
        check(6, 0xffff, 3, 3);
        check(7, 0xffff, 3, 3);
    }

    #[test]
    fn what_is_allowed_in_folders_is_ruled_over() {
        assert_eq!(IN_FOLDERS & handled(2).files, IN_FOLDERS);
    }

    #[test]
    fn an_image_needs_no_capability() {
        assert_eq!(kept(Form::Erofs), CapabilitySet::empty());
    }

    #[test]
    fn the_filter_can_be_built() {
        let program = seccomp::compile(&profile(7)).unwrap();
        assert!(!program.needs_listener && program.filter.len() > 10);
    }
}
