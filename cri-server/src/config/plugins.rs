//! The table `[nri]`: plugins of the node.

use std::path::{Path, PathBuf};

use nri::Validator;

use super::values::Values;
use super::{Error, listen, refuse};

/// As what the daemon introduces itself to plugins.
const NAME: &str = "wherry";

/// A switch of the validator.
type Guard = fn(&mut Validator) -> &mut bool;

/// A field that the validator may guard, by its word in `nri.reject`.
const GUARDED: [(&str, Guard); 6] = [
    ("hooks", |one| &mut one.reject_oci_hook_adjustment),
    ("namespaces", |one| &mut one.reject_namespace_adjustment),
    ("sysctls", |one| &mut one.reject_sysctl_adjustment),
    ("seccomp-runtime-default", |one| {
        &mut one.reject_runtime_default_seccomp_adjustment
    }),
    ("seccomp-unconfined", |one| {
        &mut one.reject_unconfined_seccomp_adjustment
    }),
    ("seccomp-localhost", |one| {
        &mut one.reject_custom_seccomp_adjustment
    }),
];

/// Where plugins connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginSocket {
    pub(crate) path: PathBuf,
    /// Somebody has named it: that it is taken is an error.
    pub(crate) chosen: bool,
}

/// What plugins are told, and where they are found.
pub(super) fn settle(values: &Values) -> Result<nri::Config, Error> {
    let mut validator = Validator {
        enable: values.fixed("nri.validator") == "yes",
        required_plugins: values.texts("nri.required_plugins"),
        tolerate_missing_plugins_annotation: values
            .text("nri.tolerate_missing_annotation")
            .unwrap_or_default(),
        ..Validator::default()
    };
    for word in values.texts("nri.reject") {
        let guarded = GUARDED.iter().find(|(name, _)| *name == word);
        let (_, field) = guarded.ok_or_else(|| {
            let known = GUARDED.map(|(name, _)| name).join(", ");
            refuse("nri.reject", format!("{word:?} is none of {known}"))
        })?;
        *field(&mut validator) = true;
    }
    Ok(nri::Config {
        enable: values.fixed("nri.enable") == "yes",
        plugin_path: values.path("nri.plugin_path"),
        plugin_config_path: values.path("nri.plugin_config_path"),
        registration_timeout: values.time("nri.registration_timeout"),
        request_timeout: values.time("nri.request_timeout"),
        validator,
        runtime_name: NAME.into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// Where plugins connect, if they may; not where CRI is served.
pub(super) fn socket(values: &Values, cri: &Path) -> Result<Option<PluginSocket>, Error> {
    let path = listen::socket("nri.socket", &values.fixed("nri.socket"))?;
    if path == cri {
        return Err(refuse(
            "nri.socket",
            format!("{path:?} is the socket of CRI"),
        ));
    }
    let open = values.fixed("nri.enable") == "yes" && values.fixed("nri.connections") == "yes";
    let chosen = values.is_set("nri.socket");
    Ok(open.then_some(PluginSocket { path, chosen }))
}
