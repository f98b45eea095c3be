//! The built-in validator: what plugins may not adjust on this node, and which plugins must have been
//! asked.
//!
//! A pod can name more plugins that it requires by an annotation, and by another one do without those
//! that the node requires, if the node says which.

use std::collections::BTreeSet;

use nri_api::{Field, PodSandbox, SecurityProfile, ValidateContainerAdjustmentRequest};

use nri_api::security_profile::ProfileType;

use crate::owners::owners_of;

/// The annotation by which a pod names plugins that it requires: a YAML list. With
/// `/container.NAME` behind it, it is that container's alone.
const REQUIRED: &str = "required-plugins.noderesource.dev";

/// What is refused. By default nothing is, and the validator is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration"
)]
pub struct Validator {
    /// Whether anything is looked at.
    pub enable: bool,
    /// No OCI hooks.
    pub reject_oci_hook_adjustment: bool,
    /// No other filter where the engine's own was asked for.
    pub reject_runtime_default_seccomp_adjustment: bool,
    /// No filter where none was asked for.
    pub reject_unconfined_seccomp_adjustment: bool,
    /// No other filter where one of the node's was asked for.
    pub reject_custom_seccomp_adjustment: bool,
    /// No change of namespaces.
    pub reject_namespace_adjustment: bool,
    /// No kernel parameters.
    pub reject_sysctl_adjustment: bool,
    /// Plugins that every container needs, with or without their index.
    pub required_plugins: Vec<String>,
    /// The annotation that lets a pod do without required plugins; empty: none does.
    pub tolerate_missing_plugins_annotation: String,
}

impl Validator {
    /// Whether an adjustment may be; the error says why not.
    pub(crate) fn judge(&self, request: &ValidateContainerAdjustmentRequest) -> Result<(), String> {
        let fields = [
            (
                self.reject_oci_hook_adjustment,
                Field::OciHooks,
                "OCI hooks",
            ),
            (
                self.rejects_seccomp(request),
                Field::SeccompPolicy,
                "the seccomp policy",
            ),
            (
                self.reject_namespace_adjustment,
                Field::Namespace,
                "namespaces",
            ),
            (
                self.reject_sysctl_adjustment,
                Field::Sysctl,
                "kernel parameters",
            ),
        ];
        for (rejected, field, name) in fields {
            let owners = owners(request, field);
            if rejected && !owners.is_empty() {
                return Err(format!(
                    "adjusting {name} is forbidden here, and {owners} did"
                ));
            }
        }
        self.judge_plugins(request)
    }

    /// By what was asked for before any plugin.
    fn rejects_seccomp(&self, request: &ValidateContainerAdjustmentRequest) -> bool {
        let linux = request
            .container
            .as_ref()
            .and_then(|one| one.linux.as_ref());
        let profile = linux.and_then(|linux| linux.seccomp_profile.as_ref());
        match profile.map(SecurityProfile::profile_type) {
            None | Some(ProfileType::Unconfined) => self.reject_unconfined_seccomp_adjustment,
            Some(ProfileType::RuntimeDefault) => self.reject_runtime_default_seccomp_adjustment,
            Some(ProfileType::Localhost) => self.reject_custom_seccomp_adjustment,
        }
    }

    fn judge_plugins(&self, request: &ValidateContainerAdjustmentRequest) -> Result<(), String> {
        let container = request.container.as_ref();
        let container = container.map_or("", |container| container.name.as_str());
        let pod = request.pod.as_ref();
        let tolerated = &self.tolerate_missing_plugins_annotation;
        if !tolerated.is_empty()
            && let Some((key, value)) = annotation(pod, tolerated, container)
        {
            match value.parse() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(format!("annotation {key}: {value:?} is not true or false")),
            }
        }
        let mut required = self.required_plugins.clone();
        if let Some((key, value)) = annotation(pod, REQUIRED, container) {
            let named: Vec<String> = serde_saphyr::from_str(value)
                .map_err(|error| format!("annotation {key}: {value:?} is no list: {error}"))?;
            required.extend(named);
        }
        let asked: BTreeSet<String> = request
            .plugins
            .iter()
            .flat_map(|plugin| {
                [
                    plugin.name.clone(),
                    format!("{}-{}", plugin.index, plugin.name),
                ]
            })
            .collect();
        required.retain(|name| !asked.contains(name));
        match required.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "required plugins are missing: {}",
                required.join(", ")
            )),
        }
    }
}

fn owners(request: &ValidateContainerAdjustmentRequest, field: Field) -> String {
    let id = request.container.as_ref().map_or("", |one| one.id.as_str());
    let owners = request.owners.as_ref();
    owners
        .map(|owners| owners_of(owners, id, field))
        .unwrap_or_default()
}

/// An annotation of a container, else of its pod.
fn annotation<'a>(
    pod: Option<&'a PodSandbox>,
    key: &str,
    container: &str,
) -> Option<(String, &'a str)> {
    let keys = [
        format!("{key}/container.{container}"),
        format!("{key}/pod"),
        key.to_owned(),
    ];
    let annotations = &pod?.annotations;
    let found = |key: String| annotations.get(&key).map(|value| (key, value.as_str()));
    keys.into_iter().find_map(found)
}

#[cfg(test)]
mod tests {
    use nri_api::{Container, ContainerAdjustment, LinuxContainer, OwningPlugins, PluginInstance};

    use super::*;
    use crate::owners::Owners;

    fn request(
        annotations: &[(&str, &str)],
        owners: OwningPlugins,
    ) -> ValidateContainerAdjustmentRequest {
        let pair = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        ValidateContainerAdjustmentRequest {
            pod: Some(PodSandbox {
                annotations: annotations.iter().map(pair).collect(),
                ..Default::default()
            }),
            container: Some(Container {
                id: "c".into(),
                name: "web".into(),
                ..Default::default()
            }),
            adjust: Some(ContainerAdjustment::default()),
            owners: Some(owners),
            plugins: vec![PluginInstance {
                name: "there".into(),
                index: "10".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn fields_are_refused_with_who_set_them() {
        let mut owners = Owners::default();
        owners.join("c", Field::OciHooks, "10-a");
        owners.claim("c", Field::SeccompPolicy, "20-b").unwrap();
        owners.claim_entry("c", Field::Sysctl, "x", "30-c").unwrap();
        owners
            .claim_entry("c", Field::Namespace, "ipc", "40-d")
            .unwrap();
        let mut request = request(&[], owners.0);
        let check = |request: &_, validator: Validator, expect: Option<&str>| {
            let found = validator.judge(request).err();
            match expect {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.as_ref().unwrap().contains(part), "{found:?}"),
            }
        };
        let none = Validator::default;
        check(&request, none(), None);
        check(
            &request,
            Validator {
                reject_oci_hook_adjustment: true,
                ..none()
            },
            Some("10-a"),
        );
        check(
            &request,
            Validator {
                reject_sysctl_adjustment: true,
                ..none()
            },
            Some("30-c"),
        );
        check(
            &request,
            Validator {
                reject_namespace_adjustment: true,
                ..none()
            },
            Some("40-d"),
        );
        let unconfined = Validator {
            reject_unconfined_seccomp_adjustment: true,
            ..none()
        };
        let default = Validator {
            reject_runtime_default_seccomp_adjustment: true,
            ..none()
        };
        let custom = Validator {
            reject_custom_seccomp_adjustment: true,
            ..none()
        };
        check(&request, unconfined.clone(), Some("20-b"));
        check(&request, default.clone(), None);
        let mut profile = |kind: ProfileType| {
            let profile = SecurityProfile {
                profile_type: kind.into(),
                ..Default::default()
            };
            let linux = LinuxContainer {
                seccomp_profile: Some(profile),
                ..Default::default()
            };
            request.container.as_mut().unwrap().linux = Some(linux);
            request.clone()
        };
        let asked = profile(ProfileType::RuntimeDefault);
        check(&asked, default, Some("seccomp"));
        check(&asked, unconfined, None);
        check(&profile(ProfileType::Localhost), custom, Some("20-b"));
    }

    #[test]
    fn required_plugins() {
        let check = |required: &[&str], annotations: &[(&str, &str)], expect: Result<(), &str>| {
            let validator = Validator {
                required_plugins: required.iter().map(ToString::to_string).collect(),
                tolerate_missing_plugins_annotation: "free.example".into(),
                ..Default::default()
            };
            match (
                validator.judge(&request(annotations, OwningPlugins::default())),
                expect,
            ) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                (found, expect) => panic!("{found:?} instead of {expect:?}"),
            }
        };
        check(&["there", "10-there"], &[], Ok(()));
        check(&["20-there", "other"], &[], Err("missing: 20-there, other"));
        check(&["other"], &[("free.example", "true")], Ok(()));
        check(
            &["other"],
            &[("free.example", "false")],
            Err("missing: other"),
        );
        check(
            &["other"],
            &[("free.example/pod", "maybe")],
            Err("free.example/pod: \"maybe\""),
        );
        let key = "required-plugins.noderesource.dev";
        check(&[], &[(key, "[other, there]")], Err("missing: other"));
        check(&[], &[(key, "{")], Err("is no list"));
        let own = "required-plugins.noderesource.dev/container.web";
        check(&[], &[(key, "[other]"), (own, "[there]")], Ok(()));
        let others = "required-plugins.noderesource.dev/container.db";
        check(&[], &[(others, "[other]")], Ok(()));
    }
}
