//! What a process gives up and takes on before it becomes the container's program.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, fchdir, set_dumpable_behavior, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{complain, rooted};
use crate::failure::{Attempt, Failure, Result};
use crate::plan::{CapabilityPlan, InitPlan, NamespaceKind, ProcessPlan};
use crate::prepare::{Joined, ProcRoot};

/// What is to be executed.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: CString,
    pub(super) env: Vec<CString>,
}

/// `KEY_USR_SEARCH` for the owner of a keyring (keyctl(2)).
const KEY_OWNER_SEARCH: u32 = 0x8_0000;

/// A session keyring of its own; kernels without keyrings have nothing to share either.
pub(super) fn join_keyring(name: &str) -> Result<()> {
    let what = || format!("join the session keyring {name:?}");
    let c_name = CString::new(name).map_err(|_zero| Failure::new(what()))?;
    let key = match sys::keyring::join_session(&c_name) {
        Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => return Ok(()),
        key => key.attempt(what)?,
    };
    sys::keyring::allow(key, KEY_OWNER_SEARCH).attempt(what)
}

/// What is already in a namespace must not trace what enters it, until that has executed its program.
pub(super) fn be_untraceable() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt(|| "forbid tracing".to_owned())
}

/// Enters the namespaces that the configuration names by path. Those of kind pid, time and user are
/// entered by the process that cloned this one, because they only hold for children.
pub(super) fn join_namespaces(joined: &Joined) -> Result<()> {
    for (kind, fd) in joined {
        if matches!(
            kind,
            NamespaceKind::Pid | NamespaceKind::Time | NamespaceKind::User
        ) {
            continue;
        }
        sys::process::setns(fd, kind.flag())
            .attempt(|| format!("join the {} namespace", kind.name()))?;
    }
    Ok(())
}

/// In a user namespace ids only mean something once this process has those of its root.
pub(super) fn become_root_of_user_namespace(plan: &InitPlan<'_>) -> Result<()> {
    if plan.namespaces.has(NamespaceKind::User) {
        become_root()
    } else {
        Ok(())
    }
}

/// Takes the ids of the user namespace's root.
pub(crate) fn become_root() -> Result<()> {
    let what = || "become root of the user namespace".to_owned();
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).attempt(what)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).attempt(what)?;
    match set_thread_groups(&[]) {
        // user_namespaces(7): denied where an ordinary user wrote the maps.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(error).attempt(what),
    }
}

/// The root of a new cgroup namespace is where this process is by now.
pub(super) fn unshare_cgroups(plan: &InitPlan<'_>) -> Result<()> {
    if !plan.namespaces.is_new(NamespaceKind::Cgroup) {
        return Ok(());
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
        .attempt(|| "make a cgroup namespace".to_owned())
}

/// Host and domain name.
pub(super) fn set_names(plan: &InitPlan<'_>) -> Result<()> {
    if let Some(name) = plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .attempt(|| format!("set the hostname {name:?}"))?;
    }
    if let Some(name) = plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .attempt(|| format!("set the domainname {name:?}"))?;
    }
    Ok(())
}

/// The AppArmor profile that the exec will enter.
pub(super) fn set_apparmor(proc: Option<&ProcRoot>, plan: &ProcessPlan<'_>) -> Result<()> {
    let Some(profile) = plan.apparmor_profile else {
        return Ok(());
    };
    let what = || format!("set the apparmor profile {profile:?}");
    let proc = proc.ok_or_else(|| Failure::new(what()))?;
    let value = format!("exec {profile}");
    match proc.write("self/attr/apparmor/exec", &value) {
        // Before Linux 5.8 there was one file for all modules.
        Err(Errno::NOENT) => proc.write("self/attr/exec", &value).attempt(what),
        result => result.attempt(what),
    }
}

/// The SELinux label that the exec will enter.
pub(super) fn set_selinux(proc: Option<&ProcRoot>, plan: &ProcessPlan<'_>) -> Result<()> {
    let Some(label) = plan.selinux_label else {
        return Ok(());
    };
    let what = || format!("set the selinux label {label:?}");
    let proc = proc.ok_or_else(|| Failure::new(what()))?;
    proc.write("self/attr/exec", label).attempt(what)
}

/// What needs descriptors or files, found before limits are set that may forbid opening any.
#[derive(Debug)]
pub(super) struct Prepared {
    folder: std::result::Result<OwnedFd, Errno>,
    /// The environment, with `HOME`.
    pub(super) env: Vec<CString>,
}

/// Finds what [`become_user`] and [`execute`] will need.
pub(super) fn prepare(plan: &ProcessPlan<'_>, root: BorrowedFd<'_>) -> Prepared {
    Prepared {
        folder: open_folder(root, plan.cwd),
        env: environment(plan),
    }
}

/// The working directory; no link of procfs to a descriptor leads there.
fn open_folder(root: BorrowedFd<'_>, path: &str) -> std::result::Result<OwnedFd, Errno> {
    rooted::open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// From root to the user that the program runs as: working directory, ids, capabilities.
pub(super) fn become_user(
    plan: &ProcessPlan<'_>,
    prepared: &Prepared,
    root: BorrowedFd<'_>,
) -> Result<()> {
    let identity = &plan.identity;
    own_streams(identity.uid)?;
    // First as root; a folder that only the user may enter gets its second chance below.
    let entered = prepared
        .folder
        .as_ref()
        .map_err(|error| *error)
        .and_then(fchdir);
    drop_bounding(&plan.capabilities)?;
    umask(Mode::from_raw_mode(identity.umask.unwrap_or(0o022)));
    change_ids(plan)?;
    if entered.is_err() {
        open_folder(root, plan.cwd)
            .and_then(fchdir)
            .attempt(|| format!("chdir to cwd ({:?}) set in config.json failed", plan.cwd))?;
    }
    check_working_directory()?;
    apply_capabilities(&plan.capabilities)
}

/// A descriptor of the host's that leaked in could be the working directory: then its path does not
/// start at this root (CVE-2024-21626).
fn check_working_directory() -> Result<()> {
    let path = rustix::process::getcwd(Vec::new()).attempt(|| {
        "current working directory is outside of container mount namespace root".to_owned()
    })?;
    if path.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Failure::new(
        "current working directory is outside of container mount namespace root",
    ))
}

/// The program must be able to reopen its streams through `/dev/stdout` and the like.
fn own_streams(uid: u32) -> Result<()> {
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    for stream in streams {
        let Ok(status) = fstat(stream) else { continue };
        // /dev/null is shared with everybody; what the user owns already needs nothing.
        let null = rustix::fs::makedev(1, 3) == status.st_rdev;
        if status.st_uid == uid || null {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), None) {
            // Owned by an id outside of the user namespace, or on something read-only.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(error).attempt(|| "change the owner of a stream".to_owned()),
        }
    }
    Ok(())
}

fn capability_set(bits: u64) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bits)
}

fn drop_bounding(plan: &CapabilityPlan) -> Result<()> {
    for number in 0..=plan.last.min(63) {
        if plan.bounding & (1 << number) != 0 {
            continue;
        }
        // One that is not there any more may be dropped again.
        remove_capability_from_bounding_set(capability_set(1 << number))
            .attempt(|| format!("drop capability {number} from the bounding set"))?;
    }
    Ok(())
}

fn change_ids(plan: &ProcessPlan<'_>) -> Result<()> {
    let identity = &plan.identity;
    set_keep_capabilities(true).attempt(|| "keep capabilities".to_owned())?;
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    match set_thread_groups(&groups) {
        // Denied in a user namespace whose maps an ordinary user wrote; then there are none anyway.
        Err(Errno::PERM) if groups.is_empty() => {}
        Err(Errno::PERM) => {
            return Err(Failure::new(
                "cannot set any additional groups in a rootless container",
            ));
        }
        result => result.attempt(|| "set additional groups".to_owned())?,
    }
    let gid = Gid::from_raw(identity.gid);
    set_thread_res_gid(gid, gid, gid).attempt(|| format!("set the group id {}", identity.gid))?;
    let uid = Uid::from_raw(identity.uid);
    set_thread_res_uid(uid, uid, uid).attempt(|| format!("set the user id {}", identity.uid))?;
    set_keep_capabilities(false).attempt(|| "stop keeping capabilities".to_owned())
}

fn apply_capabilities(plan: &CapabilityPlan) -> Result<()> {
    let sets = CapabilitySets {
        effective: capability_set(plan.effective),
        permitted: capability_set(plan.permitted),
        inheritable: capability_set(plan.inheritable),
    };
    set_capabilities(None, sets).attempt(|| "set capabilities".to_owned())?;
    for number in (0..=plan.last.min(63)).filter(|number| plan.ambient & (1 << number) != 0) {
        // As runc: a capability that cannot be ambient is left out.
        let _raised = configure_capability_in_ambient_set(capability_set(1 << number), true);
    }
    Ok(())
}

/// Becomes the program. Nothing but its streams and what it was promised survives.
pub(super) fn execute(program: &Program, plan: &ProcessPlan<'_>, preserved: u32) -> ! {
    let ready = sys::process::close_on_exec_from(3 + preserved)
        .and_then(|()| sys::process::reset_signals())
        .attempt(|| "prepare to execute".to_owned());
    if let Err(failure) = ready {
        complain(&failure);
    }
    let error = match nix::unistd::execve(&program.path, &plan.args, &program.env) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let result: std::result::Result<(), _> = Err(error);
    match result.attempt(|| format!("exec {:?}", program.path)) {
        Err(failure) => complain(&failure),
        Ok(()) => sys::process::exit_now(super::FAILED),
    }
}

/// The environment, with `HOME` of the user where it is missing.
fn environment(plan: &ProcessPlan<'_>) -> Vec<CString> {
    let mut env = plan.env.clone();
    if plan.variable("HOME").is_none_or(<[u8]>::is_empty) {
        env.retain(|entry| !entry.to_bytes().starts_with(b"HOME="));
        let home = home(plan.identity.uid);
        env.extend(CString::new(format!("HOME={home}")));
    }
    env
}

/// Most of a container's `/etc/passwd` that is read, bytes: thousands of users.
const MAX_PASSWD: usize = 1 << 20;

/// passwd(5): the folder of the first line with this uid; `/` if there is none.
fn home(uid: u32) -> String {
    let path = std::path::Path::new("/etc/passwd");
    let passwd = crate::file::read_some_of_theirs(path, MAX_PASSWD).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2))?
    });
    found
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned()
}
