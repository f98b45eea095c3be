//! Configurations of images: read leniently, since builders leave things out, and compared with what
//! the manifest says.
//!
//! Pure. What they mean for a container is the caller's business.

use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use registry::Digest;

use crate::Error;

/// Reads an image's configuration, and checks that it has as many layers as its manifest says.
pub(crate) fn parse(
    bytes: &[u8],
    layers: usize,
) -> Result<(Arc<ImageConfiguration>, Vec<Digest>), Error> {
    let unreadable = |cause: serde_json::Error| {
        Error::Corrupt(format!("the image's configuration cannot be read: {cause}"))
    };
    let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(unreadable)?;
    complete(&mut value);
    let config: ImageConfiguration = serde_json::from_value(value).map_err(unreadable)?;
    let ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| Digest::parse(id));
    let ids = ids.collect::<Result<Vec<_>, _>>().map_err(Error::Corrupt)?;
    if ids.len() != layers {
        let count = ids.len();
        return Err(Error::Corrupt(format!(
            "the manifest has {layers} layers but the configuration {count}"
        )));
    }
    Ok((Arc::new(config), ids))
}

/// Some builders leave out what the specification demands but nobody needs.
fn complete(value: &mut serde_json::Value) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    object.retain(|_, value| !value.is_null());
    object.entry("architecture").or_insert_with(|| "".into());
    object.entry("os").or_insert_with(|| "linux".into());
    let rootfs = object
        .entry("rootfs")
        .or_insert_with(|| serde_json::json!({}));
    if let Some(rootfs) = rootfs.as_object_mut() {
        rootfs.retain(|_, value| !value.is_null());
        rootfs.entry("type").or_insert_with(|| "layers".into());
        rootfs
            .entry("diff_ids")
            .or_insert_with(|| serde_json::json!([]));
    }
    if let Some(config) = object.get_mut("config").and_then(|c| c.as_object_mut()) {
        config.retain(|_, value| !value.is_null());
    }
    // Nothing here uses the history, and builders take liberties with it.
    object.remove("history");
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn incomplete_configurations_are_completed() {
        let text = format!(
            r#"{{"config":{{"Env":null,"Cmd":["sh"],"Volumes":null,"ExposedPorts":null,"Labels":null}},
                "rootfs":{{"type":"layers","diff_ids":["{D}"]}},"history":null}}"#
        );
        let (config, ids) = parse(text.as_bytes(), 1).unwrap();
        assert_eq!(
            config.config().as_ref().unwrap().cmd().as_deref(),
            Some(&["sh".to_owned()][..])
        );
        assert_eq!(ids[0].as_str(), D);
        assert!(parse(text.as_bytes(), 2).is_err());
        assert!(parse(b"[]", 0).is_err());
        assert!(parse(b"{}", 0).is_ok());
    }
}
