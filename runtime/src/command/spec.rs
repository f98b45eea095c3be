//! `spec`: a `config.json` to start from.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::{Value, json};

use super::bundle::directory;
use crate::cli::Values;
use crate::failure::{Attempt, Failure, Result, because};
use crate::features::OCI_VERSION;

/// A shell in a read-only root with the namespaces, mounts and limits that every engine gives.
const TEMPLATE: &str = include_str!("spec.json");

pub(super) fn run(values: &Values) -> Result<u8> {
    let path = directory(values)?.join("config.json");
    let mut spec: Value =
        serde_json::from_str(TEMPLATE).map_err(|error| because("read the template", &error))?;
    spec["ociVersion"] = json!(OCI_VERSION);
    if values.is_set("rootless") {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        for_ordinary_user(&mut spec, uid.as_raw(), gid.as_raw());
    }
    let text = serde_json::to_string_pretty(&spec)
        .map_err(|error| because("write the configuration", &error))?;
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::new(format!(
                "File {} exists. Remove it first",
                path.display()
            )));
        }
        file => file.attempt(|| format!("make {path:?}"))?,
    };
    file.write_all(text.as_bytes())
        .attempt(|| format!("write {path:?}"))?;
    Ok(0)
}

/// A user namespace with the caller as root; what an ordinary user may not have goes.
fn for_ordinary_user(spec: &mut Value, uid: u32, gid: u32) {
    let linux = &mut spec["linux"];
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return;
    };
    for mount in mounts {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_configuration() {
        let spec: crate::spec::Spec<'_> = serde_json::from_str(TEMPLATE).unwrap();
        assert_eq!(spec.root.unwrap().path.as_str(), "rootfs");
        let oci: oci_spec::runtime::Spec = serde_json::from_str(TEMPLATE).unwrap();
        assert!(oci.linux().is_some());
    }

    #[test]
    fn an_ordinary_user_gets_a_user_namespace() {
        let mut spec: Value = serde_json::from_str(TEMPLATE).unwrap();
        for_ordinary_user(&mut spec, 1000, 100);
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], json!(1000));
        let text = spec.to_string();
        assert!(text.contains("\"user\"") && !text.contains("gid=5") && !text.contains("network"));
    }
}
