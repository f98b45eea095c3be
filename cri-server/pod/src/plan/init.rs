//! The first process of a process id namespace that the containers of a pod share.
//!
//! It does nothing but wait and reap. It sits in an empty root with its own program and nothing to
//! gain: no capability, no identity that owns a file, and a proc that cannot be used against the
//! node, since a container of the pod may look at it through `/proc/1/root`.

use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxNamespaceType, LinuxResources, Process, Spec, get_default_maskedpaths,
    get_default_readonly_paths,
};

use super::capabilities::{Granted, Set};
use super::identity::Identity;
use super::selinux::Labels;
use super::{
    PlanError, SandboxPaths, cgroup, container, devices, mounts, namespaces, resources, seccomp,
    selinux,
};
use crate::facts::NodeFacts;
use crate::sandbox::SandboxSpec;

/// Where the program is mounted.
const PROGRAM: &str = "/init";
/// "nobody": owns nothing.
const NOBODY: u32 = 65_534;
/// The out-of-memory killer takes nearly anything else first: with this process the pod dies.
const OOM_SCORE_ADJ: i32 = -998;
/// The smallest weight that the kernel knows.
const CPU_SHARES: u64 = 2;

/// The specification of the init.
pub(super) fn plan(
    id: &str,
    spec: &SandboxSpec,
    paths: &SandboxPaths,
    facts: &NodeFacts,
) -> Result<Spec, PlanError> {
    let program = mounts::mount(
        PROGRAM,
        "bind",
        &paths.init_program,
        &["rbind", "rprivate", "ro"],
    );
    // proc and dev are for OCI runtimes that do not start a process without them.
    let list = vec![mounts::proc(), mounts::dev(), program];
    let mut annotations = container::pod_annotations(spec, id, "sandbox");
    let logs = "io.kubernetes.cri.sandbox-log-directory".to_owned();
    annotations.insert(logs, spec.log_directory.clone());
    let labels = selinux::labels(spec.selinux.as_ref(), facts)?;
    Ok(container::assemble(
        process(spec, facts, labels.as_ref()),
        list,
        linux(id, spec, paths, facts, labels.as_ref())?,
        annotations,
        true,
    ))
}

fn process(spec: &SandboxSpec, facts: &NodeFacts, labels: Option<&Labels>) -> Process {
    let user = spec.namespaces.user;
    // A short namespace has no such id: then its last.
    let last = |length: u32| NOBODY.min(length.saturating_sub(1));
    let gid = user.map_or(NOBODY, |user| last(user.gids.length));
    let identity = Identity {
        uid: user.map_or(NOBODY, |user| last(user.uids.length)),
        gid,
        groups: vec![gid],
    };
    let mut process = Process::default();
    process.set_terminal(Some(false));
    process.set_user(container::user(&identity));
    process.set_args(Some(vec![PROGRAM.to_owned()]));
    process.set_env(Some(Vec::new()));
    process.set_cwd(PathBuf::from("/"));
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(true));
    process.set_selinux_label(labels.map(|labels| labels.process.clone()));
    process.set_capabilities(Some(Granted::default().to_oci()));
    process.set_oom_score_adj(Some(resources::clamp_oom_score(OOM_SCORE_ADJ, facts)));
    process
}

fn linux(
    id: &str,
    spec: &SandboxSpec,
    paths: &SandboxPaths,
    facts: &NodeFacts,
    labels: Option<&Labels>,
) -> Result<Linux, PlanError> {
    let mut list = namespaces::pinned(&spec.namespaces, paths);
    list.extend([LinuxNamespaceType::Pid, LinuxNamespaceType::Mount].map(namespaces::new));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut limits = LinuxResources::default();
    limits.set_cpu(Some(cpu));
    limits.set_devices(Some(devices::default_rules()));
    let mut linux = Linux::default();
    linux.set_namespaces(Some(list));
    linux.set_resources(Some(limits));
    linux.set_cgroups_path(Some(cgroup::path(&spec.cgroup_parent, id, facts)?.into()));
    linux.set_seccomp(seccomp::default_filter(facts, Set::default()));
    linux.set_masked_paths(Some(get_default_maskedpaths()));
    linux.set_mount_label(labels.map(|labels| labels.mount.clone()));
    linux.set_readonly_paths(Some(get_default_readonly_paths()));
    Ok(linux)
}
