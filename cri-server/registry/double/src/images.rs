//! Images for tests, and how a truthful registry serves them.

use std::collections::HashMap;
use std::io::Write;

use sha2::Digest as _;

use crate::server::{Reply, Request};

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI list of manifests.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:...` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let sum = sha2::Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug)]
pub enum Pack {
    /// Not at all.
    Plain,
    /// As gzip does (RFC 1952).
    Gzip,
    /// As zstd does (RFC 8878).
    Zstd,
}

/// A tar as a layer.
pub fn pack(tar: &[u8], how: Pack) -> Vec<u8> {
    match how {
        Pack::Plain => tar.to_vec(),
        Pack::Zstd => zstd::encode_all(tar, 1).unwrap(),
        Pack::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// An image: what a registry needs to have of it.
#[derive(Clone, Debug)]
pub struct TestImage {
    /// The configuration.
    pub config: Vec<u8>,
    /// The manifest; what [`Self::manifest_bytes`] serves.
    pub manifest: serde_json::Value,
    /// The layers as they are sent, lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl TestImage {
    /// Of these tars, lowest first, for this machine.
    pub fn new(layers: &[(Vec<u8>, Pack)]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(tar, _)| digest(tar)).collect();
        let config = serde_json::json!({
            "architecture": here(), "os": "linux", "config": {"Cmd": ["/bin/true"], "User": "1002"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let layers: Vec<_> = layers.iter().map(|(tar, how)| pack(tar, *how)).collect();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": {"a": "b"},
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": descriptors,
        });
        Self {
            config,
            manifest,
            layers,
        }
    }

    /// Digest of the configuration.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// The manifest as it is sent.
    pub fn manifest_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.manifest).unwrap()
    }

    /// Digest of that.
    pub fn manifest_digest(&self) -> String {
        digest(&self.manifest_bytes())
    }
}

/// How manifests and lists refer to some bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// What lists call this machine.
fn here() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A list that leads to an image for this machine, after one for another.
pub fn index_of(image: &TestImage) -> Vec<u8> {
    let mut other = descriptor(OCI_MANIFEST, b"of no use here");
    other["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let mut ours = descriptor(OCI_MANIFEST, &image.manifest_bytes());
    ours["platform"] = serde_json::json!({"os": "linux", "architecture": here()});
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, ours]});
    serde_json::to_vec(&index).unwrap()
}

/// What a registry has: by path below `/v2/`, content type and bytes.
#[derive(Clone, Debug, Default)]
pub struct Shelf(pub HashMap<String, (String, Vec<u8>)>);

impl Shelf {
    /// Has an image under a tag and under its digest.
    pub fn image(mut self, repository: &str, tag: &str, image: &TestImage) -> Self {
        self.blob(repository, &image.config);
        for layer in &image.layers {
            self.blob(repository, layer);
        }
        self.document(repository, tag, OCI_MANIFEST, &image.manifest_bytes())
    }

    /// Has it under a list that leads to it.
    pub fn index(self, repository: &str, tag: &str, image: &TestImage) -> Self {
        self.image(repository, "only-by-digest", image).document(
            repository,
            tag,
            OCI_INDEX,
            &index_of(image),
        )
    }

    /// Has any document under a tag and under its digest.
    pub fn document(mut self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Self {
        for name in [tag, digest(bytes).as_str()] {
            self.0.insert(
                format!("{repository}/manifests/{name}"),
                (media_type.into(), bytes.to_vec()),
            );
        }
        self
    }

    /// Has some bytes by their digest.
    pub fn blob(&mut self, repository: &str, bytes: &[u8]) {
        let path = format!("{repository}/blobs/{}", digest(bytes));
        self.0
            .insert(path, ("application/octet-stream".into(), bytes.to_vec()));
    }

    /// As a truthful registry.
    pub fn serve(&self, request: &Request) -> Reply {
        let path = request.path().strip_prefix("/v2/").unwrap_or_default();
        let Some((media_type, bytes)) = self.0.get(path) else {
            return Reply::new(
                404,
                r#"{"errors":[{"code":"NOT_FOUND","message":"nothing here"}]}"#,
            );
        };
        let reply = match part(request.header("range"), bytes.len()) {
            Some(part) => {
                let (first, end, all) = (part.start, part.end, bytes.len());
                let range = format!("bytes {first}-{}/{all}", end.saturating_sub(1));
                Reply::new(206, &bytes[part]).with("content-range", range)
            }
            None => Reply::new(200, bytes.clone()),
        };
        let reply = reply.with("accept-ranges", "bytes");
        let reply = reply.with("content-type", media_type.clone());
        // It need not tell, and hashing a large document takes its time in a test.
        if path.contains("/manifests/") && bytes.len() < 1 << 20 {
            return reply.with("docker-content-digest", digest(bytes));
        }
        reply
    }
}

/// Which bytes of so many a `Range` header asks for.
fn part(header: &str, length: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = last.parse().map_or(length, |last: usize| last + 1);
    (first < length).then(|| first..end.min(length))
}
