//! Where the control group of a container lies.

use std::path::{Component, Path};

use super::PlanError;
use crate::facts::NodeFacts;

const FIELD: &str = "linux.cgroup_parent";
/// Parent control group of the pods for which the client names none, under cgroupfs.
pub const DEFAULT_CGROUP_PARENT: &str = "/wherry";
/// Slice of those pods under systemd.
const OWN_SLICE: &str = "system.slice";
/// Prefix of the scopes under systemd. Monitoring tools find containers by patterns on cgroup
/// names; this is one that they know.
const SCOPE_PREFIX: &str = "cri-containerd";

/// The control group of `id` below `parent`, as the OCI specification writes it for the driver in
/// use: a path, or `slice:prefix:name`.
pub(super) fn path(parent: &str, id: &str, facts: &NodeFacts) -> Result<String, PlanError> {
    let climbs = Path::new(parent)
        .components()
        .any(|part| part == Component::ParentDir);
    if climbs || parent.contains(['\0', ':']) {
        return Err(PlanError::invalid(
            FIELD,
            format!("{parent:?} is no control group"),
        ));
    }
    match facts.systemd_cgroup {
        true => Ok(format!("{}:{SCOPE_PREFIX}:{id}", slice(parent)?)),
        false => Ok(format!("{}/{id}", folder(parent))),
    }
}

/// The control group `parent` itself, named as [`path`] names groups; none where the client names
/// none.
pub fn parent_cgroup(parent: &str, facts: &NodeFacts) -> Option<String> {
    let path = parent.trim_matches('/');
    match path.rsplit('/').next() {
        None | Some("") => None,
        Some(slice) if facts.systemd_cgroup => Some(format!("::{slice}")),
        Some(_) => Some(format!("/{path}")),
    }
}

/// The last part of the path is the slice's whole name.
fn slice(parent: &str) -> Result<&str, PlanError> {
    match parent.trim_end_matches('/').rsplit('/').next() {
        None | Some("") => Ok(OWN_SLICE),
        Some(name) if name.ends_with(".slice") => Ok(name),
        Some(name) => {
            let reason = format!("{name:?} is not the name of a systemd slice");
            Err(PlanError::invalid(FIELD, reason))
        }
    }
}

fn folder(parent: &str) -> String {
    match parent.trim_matches('/') {
        "" => DEFAULT_CGROUP_PARENT.to_owned(),
        path => format!("/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(systemd_cgroup: bool, parent: &str, expect: Result<&str, ()>) {
        let facts = NodeFacts {
            systemd_cgroup,
            ..Default::default()
        };
        let found = path(parent, "abc", &facts);
        assert_eq!(found.as_deref().map_err(|_refused| ()), expect, "{parent}");
    }

    #[test]
    fn cgroupfs() {
        check(false, "", Ok("/wherry/abc"));
        check(false, "/", Ok("/wherry/abc"));
        check(false, "/kubepods/podx/", Ok("/kubepods/podx/abc"));
        check(false, "k8s", Ok("/k8s/abc"));
        check(false, "/kubepods/../..", Err(()));
        check(false, "a:b", Err(()));
    }

    #[test]
    fn the_parent_itself() {
        let check = |systemd_cgroup: bool, parent: &str, expect: Option<&str>| {
            let facts = NodeFacts {
                systemd_cgroup,
                ..Default::default()
            };
            assert_eq!(parent_cgroup(parent, &facts).as_deref(), expect, "{parent}");
        };
        check(false, "", None);
        check(true, "/", None);
        check(false, "kubepods/podx/", Some("/kubepods/podx"));
        check(false, "/x.slice", Some("/x.slice"));
        check(true, "/k.slice/k-x.slice", Some("::k-x.slice"));
        check(true, "k-x.slice", Some("::k-x.slice"));
    }

    #[test]
    fn systemd() {
        check(true, "", Ok("system.slice:cri-containerd:abc"));
        check(
            true,
            "/kubepods.slice/kubepods-x.slice",
            Ok("kubepods-x.slice:cri-containerd:abc"),
        );
        check(
            true,
            "kubepods.slice",
            Ok("kubepods.slice:cri-containerd:abc"),
        );
        check(true, "/kubepods/podx", Err(()));
    }
}
