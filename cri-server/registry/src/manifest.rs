//! Manifests and lists of manifests, as registries send them.
//!
//! Parsing is lenient where registries differ and strict where ambiguity is dangerous: a document
//! that could be read both as an image and as a list is refused. The bytes stay the truth; what is
//! parsed here is only a view of them (image-spec, manifest.md and image-index.md; Docker's
//! image manifest version 2, schema 2).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Error;
use crate::digest::Digest;

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI list of manifests.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Largest manifest, list or configuration that is read, in bytes (distribution-spec: at least 4 MB).
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image: what one overlay mount takes.
pub const MAX_LAYERS: usize = 500;

/// Which machine an entry is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PlatformSpec {
    /// `linux`, ...
    #[serde(default)]
    pub os: String,
    /// `amd64`, ...
    #[serde(default)]
    pub architecture: String,
    /// `v8`, ...; empty if none.
    #[serde(default)]
    pub variant: String,
    /// What the system has to have besides; nothing that this one does is named here.
    #[serde(default, rename = "os.features")]
    pub features: Option<Vec<String>>,
}

/// A reference by content to something that is stored elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its content's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Which machine it is for.
    #[serde(default)]
    pub platform: Option<PlatformSpec>,
    /// Notes, such as a name.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where else it lies.
    #[serde(default)]
    pub urls: Option<Vec<String>>,
    /// What a manifest is that is no image.
    #[serde(default)]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A plain reference.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
            urls: None,
            artifact_type: None,
        }
    }

    /// Whether it describes another entry instead of being an image.
    pub fn is_attestation(&self) -> bool {
        self.annotation("vnd.docker.reference.type").is_some()
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown")
    }

    /// Whether it is a layer that registries need not have.
    pub fn is_foreign(&self) -> bool {
        [".nondistributable.", ".foreign."]
            .iter()
            .any(|mark| self.media_type.contains(mark))
    }

    /// Where else it lies.
    pub fn urls(&self) -> &[String] {
        self.urls.as_deref().unwrap_or_default()
    }

    /// One note.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// An image manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The configuration, whose digest is the image's id.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
}

/// What can stand under a name.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several, for different machines.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads a document; `content_type` is what the registry said that it is, if it said so.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Error> {
        let raw: Raw = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(_) if is_schema1_type(content_type) => return Err(schema1()),
            Err(cause) => return Err(corrupt(format!("the manifest cannot be read: {cause}"))),
        };
        if is_schema1_type(content_type) || raw.schema_version == 1 {
            return Err(schema1());
        }
        check_types(content_type, raw.media_type.as_deref())?;
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                let annotations = raw.annotations.unwrap_or_default();
                Manifest {
                    config,
                    layers,
                    annotations,
                }
                .checked()
                .map(|manifest| Self::Manifest(Box::new(manifest)))
            }
            (Some(_), ..) => Err(corrupt(
                "the document claims to be both a manifest and a list".into(),
            )),
            _ => Err(corrupt(
                "the document is neither a manifest nor a list".into(),
            )),
        }
    }
}

impl Manifest {
    fn checked(self) -> Result<Self, Error> {
        if self.layers.len() > MAX_LAYERS {
            let count = self.layers.len();
            return Err(corrupt(format!(
                "the image has {count} layers; at most {MAX_LAYERS} can be mounted"
            )));
        }
        match self
            .layers
            .iter()
            .find(|layer| !is_layer_type(&layer.media_type))
        {
            Some(odd) => Err(corrupt(format!(
                "layer {} is of the unsupported kind {:?}",
                odd.digest, odd.media_type
            ))),
            None => Ok(self),
        }
    }
}

/// Layers are tars, compressed in a way that their first bytes tell.
fn is_layer_type(media_type: &str) -> bool {
    let (base, _) = media_type.split_once('+').unwrap_or((media_type, ""));
    matches!(
        base,
        "" | "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ) && !media_type.ends_with("+encrypted")
}

/// Why a document is not read that is served as what Docker used first, if it is. Those are signed,
/// and their digest is not that of their bytes: this is to be asked before it is compared.
pub(crate) fn outdated(content_type: Option<&str>) -> Option<String> {
    is_schema1_type(content_type).then(|| schema1().to_string())
}

fn is_schema1_type(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|t| t.starts_with("application/vnd.docker.distribution.manifest.v1+"))
}

fn schema1() -> Error {
    corrupt(
        "the image is stored in Docker's schema 1 format, which was withdrawn and is not read here; \
         to convert it, run `skopeo copy --format oci docker://NAME docker://NAME` once, or build \
         and push it again"
            .into(),
    )
}

/// A document whose own type disagrees with the one that it was served as may mean two things.
fn check_types(served: Option<&str>, own: Option<&str>) -> Result<(), Error> {
    let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    match (served, own) {
        (Some(served), Some(own))
            if known.contains(&served) && known.contains(&own) && served != own =>
        {
            Err(corrupt(format!(
                "the manifest calls itself {own} but was served as {served}"
            )))
        }
        _ => Ok(()),
    }
}

fn corrupt(text: String) -> Error {
    Error::Corrupt(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check_refused(text: &str, content_type: Option<&str>, reason: &str) {
        match Document::parse(text.as_bytes(), content_type) {
            Err(Error::Corrupt(why)) => assert!(why.contains(reason), "{why}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":0}}"#)
    }

    #[test]
    fn ambiguous_and_outdated_documents_are_refused() {
        let (c, l) = (
            descriptor("x"),
            descriptor("application/vnd.oci.image.layer.v1.tar"),
        );
        check_refused(
            &format!(r#"{{"config":{c},"layers":[{l}],"manifests":[]}}"#),
            None,
            "both",
        );
        check_refused("{}", None, "neither");
        check_refused("nonsense", None, "cannot be read");
        check_refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1");
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        check_refused(r#"{"schemaVersion":1}"#, Some(old), "schema 1");
        let image = format!(r#"{{"mediaType":"{OCI_MANIFEST}","config":{c},"layers":[]}}"#);
        check_refused(&image, Some(OCI_INDEX), "served as");
        let odd = descriptor("application/vnd.wasm");
        check_refused(
            &format!(r#"{{"config":{c},"layers":[{odd}]}}"#),
            None,
            "unsupported",
        );
        check_refused(
            r#"{"config":{"digest":"sha256:../x","size":0},"layers":[]}"#,
            None,
            "cannot be read",
        );
    }

    #[test]
    fn manifests_and_lists_are_told_apart() {
        let (c, l) = (
            descriptor("x"),
            descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip"),
        );
        let image = format!(r#"{{"schemaVersion":2,"config":{c},"layers":[{l},{l}]}}"#);
        let Ok(Document::Manifest(manifest)) =
            Document::parse(image.as_bytes(), Some("text/plain"))
        else {
            panic!("no manifest");
        };
        assert_eq!(manifest.layers.len(), 2);
        let list = format!(r#"{{"schemaVersion":2,"manifests":[{c}]}}"#);
        assert!(
            matches!(Document::parse(list.as_bytes(), Some(OCI_INDEX)), Ok(Document::Index(e)) if e.len() == 1)
        );
    }
}
