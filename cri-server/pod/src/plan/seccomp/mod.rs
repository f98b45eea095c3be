//! Which filter of system calls a container gets (seccomp(2)): the engine's own, one of the host,
//! or none. Turning a profile into a program for the kernel is the runtime's.

mod builtin;
mod profile;

use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::PlanError;
use super::capabilities::Set;
use crate::container::{ProfileRequest, Security};
use crate::facts::NodeFacts;

const FIELD: &str = "linux.security_context.seccomp";

/// The filter for a container with capabilities `held`; `text` is that of the profile asked for by
/// path. A privileged container has none, whatever is asked for.
pub(super) fn plan(
    security: &Security,
    facts: &NodeFacts,
    held: Set,
    text: Option<&str>,
) -> Result<Option<LinuxSeccomp>, PlanError> {
    if security.privileged || security.seccomp == ProfileRequest::Unconfined {
        return Ok(None);
    }
    if !facts.seccomp {
        let reason = "this kernel cannot filter system calls";
        return Err(PlanError::unsupported(FIELD, reason));
    }
    match &security.seccomp {
        ProfileRequest::Unconfined => Ok(None),
        ProfileRequest::RuntimeDefault => Ok(Some(builtin::profile(facts, held))),
        ProfileRequest::Localhost(path) => {
            let field = format!("{FIELD}.localhost_ref");
            let text = text.ok_or_else(|| {
                PlanError::invalid(&field, format!("the profile {path:?} cannot be read"))
            })?;
            profile::parse(text, facts, held)
                .map(Some)
                .map_err(|reason| {
                    PlanError::invalid(&field, format!("the profile {path:?} is wrong: {reason}"))
                })
        }
    }
}

/// The engine's own filter, if the kernel can filter at all.
pub(super) fn default_filter(facts: &NodeFacts, held: Set) -> Option<LinuxSeccomp> {
    facts.seccomp.then(|| builtin::profile(facts, held))
}

/// The architecture of this machine by the profile's name for it; `None` for those that have none.
fn native(facts: &NodeFacts) -> Option<Arch> {
    match facts.architecture.as_str() {
        "amd64" => Some(Arch::ScmpArchX86_64),
        "arm64" => Some(Arch::ScmpArchAarch64),
        "riscv64" => Some(Arch::ScmpArchRiscv64),
        "ppc64le" => Some(Arch::ScmpArchPpc64le),
        "s390x" => Some(Arch::ScmpArchS390x),
        "loong64" => Some(Arch::ScmpArchLoongarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: ProfileRequest, privileged: bool, kernel: bool, expect: Result<bool, &str>) {
        let security = Security {
            seccomp: asked,
            privileged,
            ..Default::default()
        };
        let facts = NodeFacts {
            seccomp: kernel,
            architecture: "amd64".into(),
            ..Default::default()
        };
        match (plan(&security, &facts, Set::default(), None), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found.is_some(), expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn requests() {
        use ProfileRequest::{Localhost, RuntimeDefault, Unconfined};
        check(Unconfined, false, true, Ok(false));
        check(Unconfined, false, false, Ok(false));
        check(RuntimeDefault, false, true, Ok(true));
        check(RuntimeDefault, true, false, Ok(false));
        check(
            RuntimeDefault,
            false,
            false,
            Err("seccomp: this kernel cannot"),
        );
        check(Localhost("/p".into()), true, true, Ok(false));
        check(
            Localhost("/p".into()),
            false,
            true,
            Err("localhost_ref: the profile \"/p\" cannot"),
        );
    }
}
