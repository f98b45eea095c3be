//! The plan of a container, put together from its parts.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Process, Root, Spec, User};

use super::capabilities::Granted;
use super::devices::Devices;
use super::identity::Identity;
use super::selinux::Labels;
use super::{
    ContainerInputs, ContainerPlan, OCI_VERSION, PlanError, account, apparmor, capabilities,
    cgroup, check, classes, devices, edits, identity, mounts, namespaces, process, resources,
    seccomp, selinux, signals,
};
use crate::container::{ContainerSpec, Security};
use crate::facts::NodeFacts;
use crate::sandbox::SandboxSpec;

/// Permissions that new files of a container lack.
const UMASK: u32 = 0o022;

/// Plans a container.
///
/// # Errors
///
/// [`PlanError`] names the field that is wrong or cannot be had on this node.
pub fn plan_container(
    spec: &ContainerSpec,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
) -> Result<ContainerPlan, PlanError> {
    check_spec(spec, inputs.sandbox)?;
    let mut identity = identity::resolve(&spec.security, &inputs.image.user, inputs.accounts)?;
    let granted = capabilities::plan(&spec.security, facts)?;
    let labels = selinux::plan(&spec.security, facts)?;
    edits::add_groups(inputs.edits, &mut identity.groups);
    let mut env = process::env(
        spec,
        inputs.image,
        super::sandbox::hostname(inputs.sandbox, facts),
    )?;
    edits::add_env(inputs.edits, &mut env)?;
    let cgroup = cgroup::path(&inputs.sandbox.cgroup_parent, inputs.id, facts)?;
    let (stop_signal, stop_signal_name) = signals::stop_signal(spec, inputs.image)?;
    let account = account::plan(spec, &identity, inputs.accounts, &env);

    let mut process = process(spec, inputs, facts, &identity, &env)?;
    process.set_capabilities(Some(granted.to_oci()));
    process.set_selinux_label(labels.as_ref().map(|labels| labels.process.clone()));
    let mut mounts = mounts::plan(spec, inputs, facts)?;
    let namespaces = &inputs.sandbox.namespaces;
    edits::add_mounts(inputs.edits, namespaces, &mut mounts.list)?;
    let mut linux = linux(spec, inputs, facts, granted, labels, &identity)?;
    classes::add(inputs.shares, &mut linux);
    let version = edits::add_resources(inputs.edits, namespaces, &mut linux)?;
    linux.set_rootfs_propagation(mounts.rootfs_propagation);
    linux.set_cgroups_path(Some(PathBuf::from(&cgroup)));
    let mut spec = assemble(
        process,
        mounts.list,
        linux,
        annotations(spec, inputs),
        spec.security.readonly_rootfs,
    );
    spec.set_hooks(edits::hooks(inputs.edits));
    if let Some(version) = version {
        spec.set_version(version.to_owned());
    }
    Ok(ContainerPlan {
        spec,
        cgroup,
        stop_signal,
        stop_signal_name,
        uid: identity.uid,
        gid: identity.gid,
        supplemental_groups: identity.groups,
        account,
        env,
    })
}

/// A whole specification from its parts; the root lies beside it.
pub(super) fn assemble(
    process: Process,
    mounts: Vec<oci_spec::runtime::Mount>,
    linux: Linux,
    annotations: HashMap<String, String>,
    readonly: bool,
) -> Spec {
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(readonly));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned());
    spec.set_root(Some(root));
    spec.set_process(Some(process));
    spec.set_mounts(Some(mounts));
    // The name is the pod's, set once in its namespace; no container sets it again.
    spec.set_hostname(None);
    spec.set_linux(Some(linux));
    spec.set_annotations(Some(annotations));
    spec
}

fn check_spec(spec: &ContainerSpec, sandbox: &SandboxSpec) -> Result<(), PlanError> {
    if spec.name.is_empty() {
        return Err(PlanError::invalid("metadata.name", "is empty"));
    }
    if spec.security.privileged && !sandbox.privileged {
        let field = "linux.security_context.privileged";
        return Err(PlanError::invalid(
            field,
            "needs a pod that is privileged too",
        ));
    }
    if Path::new(&spec.log_path)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(PlanError::invalid(
            "log_path",
            "leads out of the pod's log directory",
        ));
    }
    check::no_nul("log_path", &spec.log_path)
}

fn process(
    spec: &ContainerSpec,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
    identity: &Identity,
    env: &BTreeMap<String, String>,
) -> Result<Process, PlanError> {
    let mut process = Process::default();
    process.set_terminal(Some(spec.tty));
    process.set_user(user(identity));
    process.set_args(Some(process::args(spec, inputs.image)?));
    process.set_env(Some(
        env.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    ));
    process.set_cwd(process::working_dir(spec, inputs.image)?);
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(spec.security.no_new_privs));
    process.set_apparmor_profile(apparmor::plan(&spec.security, facts)?);
    process.set_oom_score_adj(Some(resources::oom_score_adj(&spec.resources, facts)?));
    Ok(process)
}

/// The ids as the specification has them.
pub(super) fn user(identity: &Identity) -> User {
    let mut user = User::default();
    user.set_uid(identity.uid);
    user.set_gid(identity.gid);
    user.set_umask(Some(UMASK));
    user.set_additional_gids(Some(identity.groups.clone()));
    user
}

fn linux(
    spec: &ContainerSpec,
    inputs: &ContainerInputs<'_>,
    facts: &NodeFacts,
    granted: Granted,
    labels: Option<Labels>,
    identity: &Identity,
) -> Result<Linux, PlanError> {
    let security = &spec.security;
    let mut devices = devices::plan(security, inputs.devices, facts)?;
    edits::add_devices(inputs.edits, identity, security.privileged, &mut devices)?;
    let Devices { nodes, rules } = devices;
    let mut limits = resources::plan_resources(&spec.resources, facts)?;
    limits.set_devices(Some(rules));
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces::plan(security, inputs, facts)?));
    linux.set_resources(Some(limits));
    linux.set_devices((!nodes.is_empty()).then_some(nodes));
    linux.set_seccomp(seccomp::plan(
        security,
        facts,
        granted.set,
        inputs.seccomp_profile,
    )?);
    linux.set_masked_paths(Some(hidden(
        security,
        "masked_paths",
        &security.masked_paths,
    )?));
    linux.set_readonly_paths(Some(hidden(
        security,
        "readonly_paths",
        &security.readonly_paths,
    )?));
    linux.set_mount_label(labels.map(|labels| labels.mount));
    Ok(linux)
}

/// Paths to hide or to protect, exactly as given; none for a privileged container.
fn hidden(security: &Security, list: &str, paths: &[String]) -> Result<Vec<String>, PlanError> {
    for (place, path) in paths.iter().enumerate() {
        check::absolute(&format!("linux.security_context.{list}[{place}]"), path)?;
    }
    Ok(if security.privileged {
        Vec::new()
    } else {
        paths.to_vec()
    })
}

/// What other software on the node reads to tell whose container this is. The pod's own
/// annotations stay out: any could mean something to a runtime.
fn annotations(spec: &ContainerSpec, inputs: &ContainerInputs<'_>) -> HashMap<String, String> {
    let image = match spec.user_specified_image.is_empty() {
        true => &spec.image,
        false => &spec.user_specified_image,
    };
    let mut annotations = pod_annotations(inputs.sandbox, inputs.sandbox_id, "container");
    for (key, value) in [("container-name", &spec.name), ("image-name", image)] {
        annotations.insert(format!("io.kubernetes.cri.{key}"), value.clone());
    }
    annotations
}

/// The annotations that containers share with the pod's init.
pub(super) fn pod_annotations(
    sandbox: &SandboxSpec,
    sandbox_id: &str,
    kind: &str,
) -> HashMap<String, String> {
    [
        ("container-type", kind),
        ("sandbox-id", sandbox_id),
        ("sandbox-name", &sandbox.name),
        ("sandbox-namespace", &sandbox.namespace),
        ("sandbox-uid", &sandbox.uid),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Accounts, ImageFacts};
    use crate::plan::SandboxPaths;

    fn plan(spec: &ContainerSpec, sandbox: &SandboxSpec) -> Result<ContainerPlan, PlanError> {
        let cmd = vec!["/bin/true".into()];
        let inputs = ContainerInputs {
            id: "c1",
            sandbox_id: "s1",
            sandbox,
            paths: &SandboxPaths::default(),
            image: &ImageFacts {
                cmd,
                ..Default::default()
            },
            accounts: &Accounts::default(),
            target_pid: None,
            devices: &[],
            shares: &crate::plan::Shares::default(),
            edits: &Default::default(),
            seccomp_profile: None,
            mount_sources: &[],
        };
        plan_container(spec, &inputs, &NodeFacts::default())
    }

    fn named() -> ContainerSpec {
        ContainerSpec {
            name: "web".into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn refuse(spec: &ContainerSpec, part: &str) {
        let error = plan(spec, &SandboxSpec::default()).unwrap_err();
        assert!(error.to_string().starts_with(part), "{error}");
    }

    #[test]
    fn contradictions_name_the_field() {
        refuse(&ContainerSpec::default(), "metadata.name: ");
        refuse(
            &ContainerSpec {
                log_path: "../x".into(),
                ..named()
            },
            "log_path: ",
        );
        let security = Security {
            privileged: true,
            ..Default::default()
        };
        refuse(
            &ContainerSpec {
                security,
                ..named()
            },
            "linux.security_context.privileged: ",
        );
        let security = Security {
            masked_paths: vec!["/a".into(), "b".into()],
            ..Default::default()
        };
        let spec = ContainerSpec {
            security,
            ..named()
        };
        refuse(&spec, "linux.security_context.masked_paths[1]: ");
    }

    #[test]
    fn masked_paths_are_as_given_but_for_the_privileged() {
        let masked = |privileged| {
            let masked_paths = vec!["/proc/kcore".into()];
            let security = Security {
                masked_paths,
                privileged,
                ..Default::default()
            };
            let sandbox = SandboxSpec {
                privileged: true,
                ..Default::default()
            };
            let plan = plan(
                &ContainerSpec {
                    security,
                    ..named()
                },
                &sandbox,
            )
            .unwrap();
            plan.spec
                .linux()
                .as_ref()
                .unwrap()
                .masked_paths()
                .clone()
                .unwrap()
        };
        assert_eq!(masked(false), ["/proc/kcore"]);
        assert!(masked(true).is_empty());
    }

    #[test]
    fn the_plan_repeats_what_is_in_the_specification() {
        let plan = plan(&named(), &SandboxSpec::default()).unwrap();
        assert_eq!(plan.cgroup, "/wherry/c1");
        let linux = plan.spec.linux().as_ref().unwrap();
        assert_eq!(
            linux.cgroups_path().as_deref(),
            Some(Path::new("/wherry/c1"))
        );
        assert_eq!(
            (plan.stop_signal, plan.stop_signal_name.as_str()),
            (15, "SIGTERM")
        );
        assert_eq!(
            (plan.uid, plan.gid, plan.supplemental_groups),
            (0, 0, vec![0])
        );
        assert_eq!(plan.spec.hostname(), &None);
    }
}
