//! Which AppArmor profile a container's process runs under.
//!
//! Loading a profile is not done here: a profile named by the client must be in the kernel already,
//! and the runtime reports it if it is not.

use super::{PlanError, check};
use crate::container::{ProfileRequest, Security};
use crate::facts::NodeFacts;

const FIELD: &str = "linux.security_context.apparmor";

/// The profile's name, if one is to be applied. The engine has no profile of its own, so
/// `RuntimeDefault` leaves the process unconfined.
pub(super) fn plan(security: &Security, facts: &NodeFacts) -> Result<Option<String>, PlanError> {
    let ProfileRequest::Localhost(name) = &security.apparmor else {
        return Ok(None);
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

    #[test]
    fn only_named_profiles_are_applied() {
        let check = |asked: ProfileRequest, on: bool, expect: Result<Option<&str>, ()>| {
            let security = Security {
                apparmor: asked,
                ..Default::default()
            };
            let facts = NodeFacts {
                apparmor: on,
                ..Default::default()
            };
            let found = plan(&security, &facts);
            assert_eq!(
                found.as_ref().map(Option::as_deref).map_err(|_refused| ()),
                expect
            );
        };
        check(ProfileRequest::Unconfined, false, Ok(None));
        check(ProfileRequest::RuntimeDefault, false, Ok(None));
        check(ProfileRequest::RuntimeDefault, true, Ok(None));
        check(
            ProfileRequest::Localhost("web".into()),
            true,
            Ok(Some("web")),
        );
        check(ProfileRequest::Localhost("web".into()), false, Err(()));
        check(ProfileRequest::Localhost(String::new()), true, Err(()));
    }
}
