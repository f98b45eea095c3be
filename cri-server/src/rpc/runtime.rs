//! Version, Status, RuntimeConfig: what the daemon is and whether it is well.

use std::collections::HashMap;

use cri_api as cri;
use engine::{Engine, Error, Handler};
use serde_json::json;

use super::request;
use crate::pressure::Pressure;

/// Version of the interface as kubelets check it; a constant of its own history.
const KUBELET_API_VERSION: &str = "0.1.0";
/// Version of the gRPC package.
const CRI_VERSION: &str = "v1";
const NAME: &str = "wherry";

/// Who answers.
pub(super) fn version() -> cri::VersionResponse {
    cri::VersionResponse {
        version: KUBELET_API_VERSION.into(),
        runtime_name: NAME.into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: CRI_VERSION.into(),
    }
}

/// How the daemon is. A missing network is a condition, never an error.
pub(super) async fn status(
    engine: &Engine,
    pressure: &Pressure,
    request: cri::StatusRequest,
) -> cri::StatusResponse {
    let status = engine.status();
    let info = if request.verbose {
        let mut info = info(engine.config(), &engine.pod_cidr().await);
        info.insert("pressure".to_owned(), short(pressure));
        info
    } else {
        HashMap::new()
    };
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: conditions(status.network),
        }),
        info,
        runtime_handlers: handlers(&status.handlers),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: status
                .handlers
                .iter()
                .any(|handler| handler.features.user_namespaces),
            mount_options: true,
        }),
    }
}

fn conditions(network: Result<(), String>) -> Vec<cri::RuntimeCondition> {
    let ready = |name: &str| cri::RuntimeCondition {
        r#type: name.into(),
        status: true,
        ..Default::default()
    };
    let network = match network {
        Ok(()) => ready("NetworkReady"),
        Err(message) => cri::RuntimeCondition {
            r#type: "NetworkReady".into(),
            status: false,
            // The word that a kubelet shows in the node's conditions.
            reason: "NetworkPluginNotReady".into(),
            message,
        },
    };
    vec![ready("RuntimeReady"), network]
}

/// All handlers; the default one under the empty name too, which is how a kubelet asks for it.
fn handlers(handlers: &[Handler]) -> Vec<cri::RuntimeHandler> {
    let default = handlers.first().map(|handler| ("", handler.features));
    let named = handlers
        .iter()
        .map(|handler| (handler.name.as_str(), handler.features));
    default
        .into_iter()
        .chain(named)
        .map(|(name, features)| cri::RuntimeHandler {
            name: name.into(),
            features: Some(cri::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: features.user_namespaces,
            }),
        })
        .collect()
}

/// The configuration in force, for `crictl info`. Clients look for `stateDir`.
fn info(config: &engine::Config, pod_cidr: &str) -> HashMap<String, String> {
    let runtimes: serde_json::Map<_, _> = config
        .runtimes
        .iter()
        .map(|(name, runtime)| (name.clone(), json!({ "path": runtime.path })))
        .collect();
    let network = &config.network;
    let shown = json!({
        "rootDir": config.root,
        "stateDir": config.state,
        "registryConfig": config.image.registry_config,
        "defaultRuntime": config.default_runtime,
        "runtimes": runtimes,
        "network": {
            "mode": network.mode,
            "bridge": network.bridge,
            "subnet": network.subnet,
            "podCIDR": pod_cidr,
            "cniConfDir": network.cni_conf_dir,
            "cniBinDirs": network.cni_bin_dirs,
        },
    });
    HashMap::from([("config".to_owned(), shown.to_string())])
}

/// What runs short on the host, with the cure; an empty list if nothing does.
fn short(pressure: &Pressure) -> String {
    let short = pressure.seen().short;
    let findings: Vec<_> = short.into_iter().map(|one| one.finding).collect();
    json!(findings).to_string()
}

/// Notes what the client says of the node.
pub(super) async fn update(
    engine: &Engine,
    asked: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse, Error> {
    let network = asked
        .runtime_config
        .and_then(|config| config.network_config);
    if let Some(network) = network {
        let cidr = request::networks("runtime_config.network_config.pod_cidr", network.pod_cidr)?;
        engine.set_pod_cidr(cidr).await?;
    }
    Ok(cri::UpdateRuntimeConfigResponse {})
}

/// Which control group driver a kubelet has to use beside us.
pub(super) fn config(engine: &Engine) -> cri::RuntimeConfigResponse {
    let driver = if engine.status().systemd_cgroup {
        cri::CgroupDriver::Systemd
    } else {
        cri::CgroupDriver::Cgroupfs
    };
    cri::RuntimeConfigResponse {
        linux: Some(cri::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_of_the_version_is_empty() {
        let version = version();
        for text in [
            version.version,
            version.runtime_name,
            version.runtime_version,
            version.runtime_api_version,
        ] {
            assert!(!text.is_empty());
        }
    }

    #[test]
    fn a_missing_network_is_a_condition() {
        let conditions = conditions(Err("no conflist".into()));
        assert!(conditions[0].status && conditions[0].r#type == "RuntimeReady");
        assert!(!conditions[1].status && conditions[1].r#type == "NetworkReady");
        assert_eq!(conditions[1].reason, "NetworkPluginNotReady");
        assert_eq!(conditions[1].message, "no conflist");
    }

    #[test]
    fn the_default_handler_has_the_empty_name_too() {
        let handler = |name: &str, user_namespaces| Handler {
            name: name.into(),
            features: engine::Features {
                recursive_read_only: true,
                user_namespaces,
            },
        };
        let handlers = handlers(&[handler("wrun", true), handler("runc", false)]);
        let names: Vec<&str> = handlers
            .iter()
            .map(|handler| handler.name.as_str())
            .collect();
        assert_eq!(names, ["", "wrun", "runc"]);
        assert!(
            handlers
                .iter()
                .all(|h| h.features.unwrap().recursive_read_only_mounts)
        );
        let users: Vec<bool> = handlers
            .iter()
            .map(|handler| handler.features.unwrap().user_namespaces)
            .collect();
        assert_eq!(users, [true, true, false]);
    }
}
