//! Which SELinux contexts a container's process and its mounts get.

use super::{PlanError, check};
use crate::container::{Security, SelinuxOptions};
use crate::facts::NodeFacts;

const FIELD: &str = "linux.security_context.selinux_options";

/// The contexts of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// Of the process.
    pub(super) process: String,
    /// Of the files that are made for it.
    pub(super) mount: String,
}

/// The context of the files that are made for a container; `None` where they have none of their own.
///
/// # Errors
///
/// [`PlanError`] names the field with an incomplete context.
pub fn mount_label(security: &Security, facts: &NodeFacts) -> Result<Option<String>, PlanError> {
    Ok(plan(security, facts)?.map(|labels| labels.mount))
}

/// The contexts of a container. A privileged one keeps the engine's.
pub(super) fn plan(security: &Security, facts: &NodeFacts) -> Result<Option<Labels>, PlanError> {
    let labels = labels(security.selinux.as_ref(), facts)?;
    Ok(labels.filter(|_| !security.privileged))
}

/// The contexts, if some are asked for and SELinux is on.
pub(super) fn labels(
    asked: Option<&SelinuxOptions>,
    facts: &NodeFacts,
) -> Result<Option<Labels>, PlanError> {
    let asked = asked.filter(|options| **options != SelinuxOptions::default());
    let Some(options) = asked else {
        return Ok(None);
    };
    let parts = [&options.user, &options.role, &options.type_, &options.level];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        check::one_word(FIELD, part)?;
    }
    if !facts.selinux {
        return Ok(None);
    }
    let [user, role, type_] = match parts.map(|part| part.is_empty()) {
        [false, false, false, false] => [&options.user[..], &options.role, &options.type_],
        [true, true, true, false] => ["system_u", "system_r", "container_t"],
        _ => {
            return Err(PlanError::invalid(
                FIELD,
                "needs all four parts, or only the level",
            ));
        }
    };
    let level = &options.level;
    Ok(Some(Labels {
        process: format!("{user}:{role}:{type_}:{level}"),
        mount: format!("{user}:object_r:container_file_t:{level}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(parts: [&str; 4], on: bool) -> Result<Option<String>, PlanError> {
        let [user, role, type_, level] = parts.map(String::from);
        let selinux = Some(SelinuxOptions {
            user,
            role,
            type_,
            level,
        });
        let security = Security {
            selinux,
            ..Default::default()
        };
        let facts = NodeFacts {
            selinux: on,
            ..Default::default()
        };
        Ok(plan(&security, &facts)?.map(|labels| labels.process))
    }

    #[test]
    fn all_four_parts_or_only_the_level() {
        let full = label(["u", "r", "t", "s0:c1"], true).unwrap();
        assert_eq!(full.as_deref(), Some("u:r:t:s0:c1"));
        let level = label(["", "", "", "s0:c1,c2"], true).unwrap();
        assert_eq!(
            level.as_deref(),
            Some("system_u:system_r:container_t:s0:c1,c2")
        );
        assert_eq!(label(["", "", "", ""], true).unwrap(), None);
        assert_eq!(label(["u", "r", "t", "s0"], false).unwrap(), None);
        assert!(label(["u", "", "", "s0"], true).is_err());
        assert!(label(["u", "r", "t x", "s0"], false).is_err());
    }
}
