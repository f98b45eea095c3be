//! Which AppArmor profile a container's process runs under.
//!
//! Loading a profile is not done here: a profile named by the client must be in the kernel already;
//! the engine's own is there before a container that has it is made.

use super::{PlanError, check};
use crate::container::{ProfileRequest, Security};
use crate::facts::NodeFacts;

const FIELD: &str = "linux.security_context.apparmor";

/// Name of the engine's own profile.
pub const DEFAULT_PROFILE: &str = "wherry-default";

/// The profile's name, if one is to be applied. A privileged container has none but by name.
pub(super) fn plan(security: &Security, facts: &NodeFacts) -> Result<Option<String>, PlanError> {
    let name = match &security.apparmor {
        ProfileRequest::Unconfined => return Ok(None),
        ProfileRequest::RuntimeDefault => {
            let has = facts.apparmor && facts.apparmor_default && !security.privileged;
            return Ok(has.then(|| DEFAULT_PROFILE.to_owned()));
        }
        ProfileRequest::Localhost(name) => name,
    };
    check::one_word(FIELD, name)?;
    if !facts.apparmor {
        let reason = format!("profile {name:?} is asked for, and AppArmor is not on");
        return Err(PlanError::unsupported(FIELD, reason));
    }
    Ok(Some(name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(asked: &ProfileRequest, on: [bool; 3]) -> Result<Option<String>, PlanError> {
        let [apparmor, apparmor_default, privileged] = on;
        let security = Security {
            apparmor: asked.clone(),
            privileged,
            ..Default::default()
        };
        let facts = NodeFacts {
            apparmor,
            apparmor_default,
            ..Default::default()
        };
        plan(&security, &facts)
    }

    #[test]
    fn profiles_by_name_and_by_default() {
        let named = |name: &str| ProfileRequest::Localhost(name.into());
        // AppArmor is on, there is a default, the container is privileged.
        for (asked, on, expect) in [
            (ProfileRequest::Unconfined, [false, false, false], None),
            (ProfileRequest::Unconfined, [true, true, false], None),
            (ProfileRequest::RuntimeDefault, [false, true, false], None),
            (ProfileRequest::RuntimeDefault, [true, false, false], None),
            (ProfileRequest::RuntimeDefault, [true, true, true], None),
            (
                ProfileRequest::RuntimeDefault,
                [true, true, false],
                Some("wherry-default"),
            ),
            (named("web"), [true, false, true], Some("web")),
        ] {
            let found = found(&asked, on).unwrap();
            assert_eq!(found.as_deref(), expect, "{asked:?} {on:?}");
        }
        assert!(found(&named("web"), [false, false, false]).is_err());
        assert!(found(&named(""), [true, true, false]).is_err());
    }
}
