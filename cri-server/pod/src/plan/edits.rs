//! What others add to a container for devices of theirs, put into its specification.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, Hooks, Mount as OciMount};

use super::{PlanError, check, mounts};
use crate::container::Device;
use crate::facts::HostDevice;

const FIELD: &str = "CDI_devices";

/// What vendors add to a container (Container Device Interface, "container edits").
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// Variables of the environment; a later one wins, also over those of the request.
    pub env: Vec<(String, String)>,
    /// Device nodes; each with its path in the container and its permissions.
    pub devices: Vec<(HostDevice, Device)>,
    /// Mounts; each takes the place of what would be mounted at its path.
    pub mounts: Vec<EditMount>,
    /// Programs that the OCI runtime runs.
    pub hooks: Vec<(HookPoint, EditHook)>,
    /// More groups of the process.
    pub groups: Vec<u32>,
}

/// A mount of a vendor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditMount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: String,
    /// Type of the file system; empty for a bind mount.
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
}

/// When a hook runs (runtime-spec, config.md, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// The old name of the next one.
    Prestart,
    /// In the runtime's namespaces, before the root is changed.
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// After the program has been started.
    Poststart,
    /// After the container has been deleted.
    Poststop,
}

/// A hook of a vendor's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditHook {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
    /// Its environment, `NAME=value`.
    pub env: Vec<String>,
    /// Seconds that it may take; `None`: any time.
    pub timeout: Option<i64>,
}

/// Adds variables to an environment.
pub(super) fn add_env(edits: &Edits, env: &mut BTreeMap<String, String>) -> Result<(), PlanError> {
    for (name, value) in &edits.env {
        check::no_nul(FIELD, name)?;
        check::no_nul(FIELD, value)?;
        env.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// Adds groups to those of a process, which stay in order.
pub(super) fn add_groups(edits: &Edits, groups: &mut Vec<u32>) {
    groups.extend(&edits.groups);
    groups.sort_unstable();
    groups.dedup();
}

/// Adds mounts, outer folders before what lies in them.
pub(super) fn add_mounts(edits: &Edits, list: &mut Vec<OciMount>) -> Result<(), PlanError> {
    for edit in &edits.mounts {
        let target = check::absolute(FIELD, &edit.target)?;
        let mut options: Vec<&str> = edit.options.iter().map(String::as_str).collect();
        let bind = edit.kind.is_empty() || edit.kind == "bind";
        if bind && !options.iter().any(|one| matches!(*one, "bind" | "rbind")) {
            options.push("rbind");
        }
        let kind = if bind { "bind" } else { &edit.kind };
        let mut mount = mounts::mount("/", kind, &edit.source, &options);
        list.retain(|other| *other.destination() != target);
        mount.set_destination(target);
        list.push(mount);
    }
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(())
}

/// The hooks; `None` without any.
pub(super) fn hooks(edits: &Edits) -> Option<Hooks> {
    let at = |point| {
        let here = edits.hooks.iter().filter(|(at, _)| *at == point);
        let hooks: Vec<Hook> = here.map(|(_, hook)| one_hook(hook)).collect();
        (!hooks.is_empty()).then_some(hooks)
    };
    if edits.hooks.is_empty() {
        return None;
    }
    let mut hooks = Hooks::default();
    hooks.set_prestart(at(HookPoint::Prestart));
    hooks.set_create_runtime(at(HookPoint::CreateRuntime));
    hooks.set_create_container(at(HookPoint::CreateContainer));
    hooks.set_start_container(at(HookPoint::StartContainer));
    hooks.set_poststart(at(HookPoint::Poststart));
    hooks.set_poststop(at(HookPoint::Poststop));
    Some(hooks)
}

fn one_hook(edit: &EditHook) -> Hook {
    let mut hook = Hook::default();
    hook.set_path(edit.path.clone());
    hook.set_args((!edit.args.is_empty()).then(|| edit.args.clone()));
    hook.set_env((!edit.env.is_empty()).then(|| edit.env.clone()));
    hook.set_timeout(edit.timeout);
    hook
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_vendors_mount_takes_the_place_of_another() {
        let edits = Edits {
            mounts: vec![EditMount {
                source: "/opt/lib".into(),
                target: "/a/lib".into(),
                options: vec!["ro".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut list = vec![
            mounts::mount("/a/lib", "bind", Path::new("/other"), &["rbind"]),
            mounts::mount("/a/lib/x/y", "bind", Path::new("/below"), &["rbind"]),
        ];
        add_mounts(&edits, &mut list).unwrap();
        let sources: Vec<_> = list
            .iter()
            .filter_map(|one| one.source().as_deref())
            .collect();
        assert_eq!(sources, [Path::new("/opt/lib"), Path::new("/below")]);
        assert_eq!(
            list[0].options().as_deref(),
            Some(&["ro".to_owned(), "rbind".to_owned()][..])
        );
        let wrong = Edits {
            mounts: vec![EditMount::default()],
            ..Default::default()
        };
        assert!(add_mounts(&wrong, &mut list).is_err());
    }

    #[test]
    fn hooks_run_when_their_vendor_says() {
        assert_eq!(hooks(&Edits::default()), None);
        let hook = EditHook {
            path: "/bin/hook".into(),
            ..Default::default()
        };
        let edits = Edits {
            hooks: vec![(HookPoint::CreateContainer, hook)],
            groups: vec![7, 5],
            ..Default::default()
        };
        let planned = hooks(&edits).unwrap();
        assert!(planned.prestart().is_none());
        assert_eq!(planned.create_container().as_ref().map(Vec::len), Some(1));
        let mut groups = vec![0, 7];
        add_groups(&edits, &mut groups);
        assert_eq!(groups, [0, 5, 7]);
    }
}
