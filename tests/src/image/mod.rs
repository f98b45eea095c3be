//! Images made by the tests: layers, configuration, manifest, index.
//!
//! Only what a registry serves; how it gets there is in `registry.rs`.

mod layer;

pub use layer::Layer;

use std::io::Write;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Which of the two families of media types an image speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Docker's schema 2.
    Docker,
    /// OCI's image specification.
    #[default]
    Oci,
}

impl Format {
    fn config(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.container.image.v1+json",
            Format::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }
    fn layer(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Format::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
    fn manifest(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }
    fn index(self) -> &'static str {
        match self {
            Format::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Format::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }
}

/// Bytes with their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The bytes.
    pub bytes: Arc<[u8]>,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// Media type to serve it with.
    pub media_type: &'static str,
}

impl Blob {
    fn new(bytes: Vec<u8>, media_type: &'static str) -> Blob {
        Blob {
            digest: digest(&bytes),
            bytes: bytes.into(),
            media_type,
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A digest as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// A layer that is ready to be served, in any number of images.
#[derive(Clone, Debug)]
pub struct Packed {
    gzip: Arc<[u8]>,
    digest: String,
    diff_id: String,
}

impl Packed {
    /// Compresses a layer.
    ///
    /// # Errors
    ///
    /// Never in practice: it writes to memory.
    pub fn new(layer: Layer) -> Result<Packed> {
        let tar = layer.finish()?;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar)?;
        let gzip = gzip.finish()?;
        Ok(Packed {
            digest: digest(&gzip),
            gzip: gzip.into(),
            diff_id: digest(&tar),
        })
    }
}

/// What a registry has to serve for one image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers and configurations.
    pub blobs: Vec<Blob>,
    /// Manifests that are served by digest only.
    pub inner: Vec<Blob>,
    /// The manifest or index that a tag names.
    pub top: Blob,
}

impl Image {
    /// An image of one platform. `config` is the inner `config` object (`Env`, `Cmd`, `User`, ...).
    pub fn new(format: Format, layers: &[Packed], config: &Value) -> Image {
        Image::of(format, layers, config, architecture())
    }

    /// An index of two platforms, of which the machine's own comes last.
    pub fn indexed(format: Format, layers: &[Packed], config: &Value) -> Image {
        let own = architecture();
        let other = if own == "arm64" { "amd64" } else { "arm64" };
        let images = [other, own].map(|arch| (arch, Image::of(format, layers, config, arch)));
        let manifests: Vec<Value> = images
            .iter()
            .map(|(arch, image)| {
                let mut descriptor = image.top.descriptor();
                descriptor["platform"] = json!({"architecture": arch, "os": "linux"});
                descriptor
            })
            .collect();
        let index =
            json!({"schemaVersion": 2, "mediaType": format.index(), "manifests": manifests});
        Image {
            blobs: images
                .iter()
                .flat_map(|(_, image)| image.blobs.clone())
                .collect(),
            inner: images.into_iter().map(|(_, image)| image.top).collect(),
            top: Blob::new(index.to_string().into_bytes(), format.index()),
        }
    }

    /// The same with an annotation of its manifest.
    ///
    /// # Errors
    ///
    /// Never in practice: the manifest is one that was made here.
    pub fn annotated(mut self, key: &str, value: &str) -> Result<Image> {
        let mut manifest: Value = serde_json::from_slice(&self.top.bytes)?;
        manifest["annotations"][key] = json!(value);
        self.top = Blob::new(manifest.to_string().into_bytes(), self.top.media_type);
        Ok(self)
    }

    fn of(format: Format, layers: &[Packed], config: &Value, architecture: &str) -> Image {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob::new(config.to_string().into_bytes(), format.config());
        let layers: Vec<Blob> = layers
            .iter()
            .map(|layer| Blob {
                bytes: Arc::clone(&layer.gzip),
                digest: layer.digest.clone(),
                media_type: format.layer(),
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Image {
            top: Blob::new(manifest.to_string().into_bytes(), format.manifest()),
            blobs: layers.into_iter().chain([config]).collect(),
            inner: Vec::new(),
        }
    }
}

/// The machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
