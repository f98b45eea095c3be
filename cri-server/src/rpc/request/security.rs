//! `LinuxContainerSecurityContext` to [`Security`].

use cri_api as cri;
use pod::PlanError as Refused;
use pod::container::{
    Capabilities, ContainerPidMode, GroupsPolicy, ProfileRequest, Security, SelinuxOptions,
    UserRequest,
};
use pod::sandbox::{NamespaceMode, PidMode, SandboxNamespaces};

use super::{absolute, account, choice, each, filled, invalid, namespace, plain, user_namespace};

const SECURITY: &str = "config.linux.security_context";

/// The rights and identity that a client asks for, in a pod with these namespaces.
///
/// # Errors
///
/// [`Refused`] names the field.
pub(super) fn security(
    context: cri::LinuxContainerSecurityContext,
    of_pod: SandboxNamespaces,
) -> Result<Security, Refused> {
    let (network, ipc, pid) = namespaces(context.namespace_options, of_pod)?;
    let capabilities = context.capabilities.unwrap_or_default();
    #[expect(
        deprecated,
        reason = "clients older than the fields that replace them send these"
    )]
    let (seccomp_path, apparmor_name) = (context.seccomp_profile_path, context.apparmor_profile);
    let group = context.run_as_group.map(|group| group.value);
    let user = user(context.run_as_user, context.run_as_username)?;
    Ok(Security {
        privileged: context.privileged,
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        network,
        ipc,
        pid,
        group: check_group(group, &user)?,
        user,
        supplemental_groups: each(
            &format!("{SECURITY}.supplemental_groups"),
            context.supplemental_groups,
            account,
        )?,
        groups_policy: groups_policy(context.supplemental_groups_policy)?,
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: each(
            &format!("{SECURITY}.masked_paths"),
            context.masked_paths,
            absolute,
        )?,
        readonly_paths: each(
            &format!("{SECURITY}.readonly_paths"),
            context.readonly_paths,
            absolute,
        )?,
        seccomp: seccomp(context.seccomp, &seccomp_path)?,
        apparmor: apparmor(context.apparmor, &apparmor_name)?,
        selinux: context.selinux_options.map(selinux),
    })
}

/// Namespaces of a container. Network and IPC are the pod's: a client that says nothing of them
/// gets what the pod has, and so does one that says POD, which the wire cannot tell apart.
fn namespaces(
    options: Option<cri::NamespaceOption>,
    of_pod: SandboxNamespaces,
) -> Result<(NamespaceMode, NamespaceMode, ContainerPidMode), Refused> {
    let Some(options) = options else {
        return Ok((of_pod.network, of_pod.ipc, pid_of_pod(of_pod.pid)));
    };
    let field = format!("{SECURITY}.namespace_options");
    if let Some(user) = &options.userns_options
        && user_namespace(&field, Some(user))? != of_pod.user
    {
        let field = format!("{field}.userns_options");
        return Err(invalid(&field, "differs from the pod's"));
    }
    let shared = |name: &str, mode, of_pod| {
        let field = format!("{field}.{name}");
        match (namespace(&field, mode)?, of_pod) {
            (NamespaceMode::Node, NamespaceMode::Pod) => Err(invalid(
                &field,
                "NODE is asked for in a pod that has its own",
            )),
            (_, of_pod) => Ok(of_pod),
        }
    };
    Ok((
        shared("network", options.network, of_pod.network)?,
        shared("ipc", options.ipc, of_pod.ipc)?,
        pid(&field, options.pid, options.target_id, of_pod.pid)?,
    ))
}

fn pid_of_pod(mode: PidMode) -> ContainerPidMode {
    match mode {
        PidMode::Pod => ContainerPidMode::Pod,
        PidMode::Container => ContainerPidMode::Container,
        PidMode::Node => ContainerPidMode::Node,
    }
}

/// Whose process ids the container sees. POD means whatever the pod has for its containers.
fn pid(
    field: &str,
    mode: i32,
    target: String,
    of_pod: PidMode,
) -> Result<ContainerPidMode, Refused> {
    match choice::<cri::NamespaceMode>(&format!("{field}.pid"), mode)? {
        cri::NamespaceMode::Pod => Ok(pid_of_pod(of_pod)),
        cri::NamespaceMode::Container => Ok(ContainerPidMode::Container),
        cri::NamespaceMode::Node => Ok(ContainerPidMode::Node),
        cri::NamespaceMode::Target => Ok(ContainerPidMode::Target(filled(
            &format!("{field}.target_id"),
            target,
        )?)),
    }
}

fn user(number: Option<cri::Int64Value>, name: String) -> Result<UserRequest, Refused> {
    match number {
        Some(_) if !name.is_empty() => Err(invalid(
            &format!("{SECURITY}.run_as_username"),
            "is given beside run_as_user",
        )),
        Some(number) => Ok(UserRequest::Uid(account(
            &format!("{SECURITY}.run_as_user"),
            number.value,
        )?)),
        None if name.is_empty() => Ok(UserRequest::Image),
        None => Ok(UserRequest::Name(plain(
            &format!("{SECURITY}.run_as_username"),
            name,
        )?)),
    }
}

fn check_group(group: Option<i64>, user: &UserRequest) -> Result<Option<i64>, Refused> {
    let field = format!("{SECURITY}.run_as_group");
    match group {
        Some(_) if *user == UserRequest::Image => Err(invalid(&field, "is given without a user")),
        Some(group) => account(&field, group).map(Some),
        None => Ok(None),
    }
}

fn groups_policy(value: i32) -> Result<GroupsPolicy, Refused> {
    let field = format!("{SECURITY}.supplemental_groups_policy");
    Ok(
        match choice::<cri::SupplementalGroupsPolicy>(&field, value)? {
            cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        },
    )
}

fn seccomp(profile: Option<cri::SecurityProfile>, path: &str) -> Result<ProfileRequest, Refused> {
    let (field, request) = profile_of("seccomp", "seccomp_profile_path", profile, path)?;
    if let ProfileRequest::Localhost(path) = &request
        && !path.starts_with('/')
    {
        return Err(invalid(&field, format!("{path:?} is not an absolute path")));
    }
    Ok(request)
}

fn apparmor(profile: Option<cri::SecurityProfile>, name: &str) -> Result<ProfileRequest, Refused> {
    // What kubelet leaves out is the default to CRI (`apparmor_profile`).
    if profile.is_none() && name.is_empty() {
        return Ok(ProfileRequest::RuntimeDefault);
    }
    let (field, request) = profile_of("apparmor", "apparmor_profile", profile, name)?;
    if request == ProfileRequest::Localhost(String::new()) {
        return Err(invalid(&field, "names no profile"));
    }
    Ok(request)
}

/// A profile from the field, else from the deprecated one; with the name of the field that counts.
fn profile_of(
    name: &str,
    old_name: &str,
    profile: Option<cri::SecurityProfile>,
    old: &str,
) -> Result<(String, ProfileRequest), Refused> {
    match profile {
        Some(profile) => {
            let field = format!("{SECURITY}.{name}");
            let request = profile_request(&field, &profile)?;
            Ok((format!("{field}.localhost_ref"), request))
        }
        None => {
            let field = format!("{SECURITY}.{old_name}");
            let request = old_profile(&field, old)?;
            Ok((field, request))
        }
    }
}

fn profile_request(field: &str, profile: &cri::SecurityProfile) -> Result<ProfileRequest, Refused> {
    use cri::security_profile::ProfileType;

    Ok(
        match choice(&format!("{field}.profile_type"), profile.profile_type)? {
            ProfileType::RuntimeDefault => ProfileRequest::RuntimeDefault,
            ProfileType::Unconfined => ProfileRequest::Unconfined,
            ProfileType::Localhost => {
                let name = &profile.localhost_ref;
                ProfileRequest::Localhost(name.strip_prefix("localhost/").unwrap_or(name).into())
            }
        },
    )
}

/// The words of the time before profiles had types.
pub(super) fn old_profile(field: &str, text: &str) -> Result<ProfileRequest, Refused> {
    match text {
        "" | "unconfined" => Ok(ProfileRequest::Unconfined),
        "runtime/default" | "docker/default" => Ok(ProfileRequest::RuntimeDefault),
        other => match other.strip_prefix("localhost/") {
            Some(name) => Ok(ProfileRequest::Localhost(name.into())),
            None => Err(invalid(field, format!("{other:?} is not known"))),
        },
    }
}

pub(super) fn selinux(options: cri::SeLinuxOption) -> SelinuxOptions {
    SelinuxOptions {
        user: options.user,
        role: options.role,
        type_: options.r#type,
        level: options.level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned_in(
        of_pod: SandboxNamespaces,
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Result<Security, String> {
        let mut context = cri::LinuxContainerSecurityContext::default();
        change(&mut context);
        security(context, of_pod).map_err(|error| error.to_string())
    }

    fn turned(
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Result<Security, String> {
        turned_in(SandboxNamespaces::default(), change)
    }

    fn refused(change: impl FnOnce(&mut cri::LinuxContainerSecurityContext), expect: &str) {
        assert_eq!(
            turned(change).expect_err(expect),
            format!("{SECURITY}.{expect}")
        );
    }

    #[test]
    fn users() {
        let spec = turned(|c| {
            c.run_as_user = Some(cri::Int64Value { value: 7 });
            c.run_as_group = Some(cri::Int64Value { value: 8 });
        });
        let security = spec.unwrap();
        assert_eq!(
            (security.user, security.group),
            (UserRequest::Uid(7), Some(8))
        );
        refused(
            |c| c.run_as_group = Some(cri::Int64Value { value: 8 }),
            "run_as_group: is given without a user",
        );
        refused(
            |c| c.run_as_user = Some(cri::Int64Value { value: -1 }),
            "run_as_user: -1 is not within 0 to 4294967294",
        );
        refused(
            |c| {
                c.run_as_user = Some(cri::Int64Value { value: 1 });
                c.run_as_username = "x".into();
            },
            "run_as_username: is given beside run_as_user",
        );
        refused(
            |c| c.supplemental_groups = vec![1, 1 << 40],
            "supplemental_groups[1]: 1099511627776 is not within 0 to 4294967294",
        );
    }

    #[test]
    fn namespaces_come_from_the_pod() {
        let node = SandboxNamespaces {
            network: NamespaceMode::Node,
            pid: PidMode::Node,
            ipc: NamespaceMode::Node,
            user: None,
        };
        let silent = turned_in(node, |_| {}).unwrap();
        assert_eq!(silent.network, NamespaceMode::Node);
        assert_eq!(silent.pid, ContainerPidMode::Node);
        let said_pod = turned_in(node, |c| c.namespace_options = Some(Default::default()));
        assert_eq!(said_pod.unwrap().ipc, NamespaceMode::Node);
        refused(
            |c| {
                c.namespace_options = Some(cri::NamespaceOption {
                    network: 2,
                    ..Default::default()
                });
            },
            "namespace_options.network: NODE is asked for in a pod that has its own",
        );
    }

    #[test]
    fn a_target_must_be_named() {
        let target = |id: &str| cri::NamespaceOption {
            pid: cri::NamespaceMode::Target.into(),
            target_id: id.into(),
            ..Default::default()
        };
        let spec = turned(|c| c.namespace_options = Some(target("abc"))).unwrap();
        assert_eq!(spec.pid, ContainerPidMode::Target("abc".into()));
        refused(
            |c| c.namespace_options = Some(target("")),
            "namespace_options.target_id: is empty",
        );
    }

    #[test]
    fn profiles() {
        let typed = |profile_type, name: &str| cri::SecurityProfile {
            profile_type,
            localhost_ref: name.into(),
        };
        let seccomp =
            |profile| turned(|c| c.seccomp = Some(profile)).map(|security| security.seccomp);
        assert_eq!(seccomp(typed(0, "")), Ok(ProfileRequest::RuntimeDefault));
        assert_eq!(seccomp(typed(1, "")), Ok(ProfileRequest::Unconfined));
        assert_eq!(
            seccomp(typed(2, "/p")),
            Ok(ProfileRequest::Localhost("/p".into()))
        );
        assert!(
            seccomp(typed(2, "p"))
                .unwrap_err()
                .contains("seccomp.localhost_ref: \"p\"")
        );
        assert!(
            seccomp(typed(3, ""))
                .unwrap_err()
                .contains("seccomp.profile_type: 3")
        );
    }

    #[test]
    #[expect(deprecated, reason = "what older clients send")]
    fn old_profiles() {
        let seccomp = |text: &str| {
            turned(|c| c.seccomp_profile_path = text.into()).map(|security| security.seccomp)
        };
        assert_eq!(seccomp(""), Ok(ProfileRequest::Unconfined));
        assert_eq!(
            seccomp("runtime/default"),
            Ok(ProfileRequest::RuntimeDefault)
        );
        assert_eq!(
            seccomp("localhost//p"),
            Ok(ProfileRequest::Localhost("/p".into()))
        );
        assert!(
            seccomp("best")
                .unwrap_err()
                .contains("seccomp_profile_path: \"best\"")
        );
    }
}
