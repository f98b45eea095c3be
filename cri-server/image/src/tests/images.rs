//! Images for tests, and how a truthful registry serves them.

use std::collections::HashMap;
use std::io::Write;

use super::server::{Reply, Request};
use crate::digest::Digest;
use crate::manifest::{OCI_INDEX, OCI_MANIFEST};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pack {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn pack(tar: &[u8], how: Pack) -> Vec<u8> {
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
pub(crate) struct TestImage {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: serde_json::Value,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl TestImage {
    pub(crate) fn new(layers: &[(Vec<u8>, Pack)]) -> Self {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|(tar, _)| Digest::of(tar).to_string())
            .collect();
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

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    pub(crate) fn manifest_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.manifest).unwrap()
    }

    pub(crate) fn manifest_digest(&self) -> String {
        Digest::of(&self.manifest_bytes()).to_string()
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
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
pub(crate) fn index_of(image: &TestImage) -> Vec<u8> {
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
pub(crate) struct Shelf(pub(crate) HashMap<String, (String, Vec<u8>)>);

impl Shelf {
    pub(crate) fn image(mut self, repository: &str, tag: &str, image: &TestImage) -> Self {
        self.blob(repository, &image.config);
        for layer in &image.layers {
            self.blob(repository, layer);
        }
        self.document(repository, tag, OCI_MANIFEST, &image.manifest_bytes())
    }

    pub(crate) fn index(self, repository: &str, tag: &str, image: &TestImage) -> Self {
        self.image(repository, "only-by-digest", image).document(
            repository,
            tag,
            OCI_INDEX,
            &index_of(image),
        )
    }

    pub(crate) fn document(
        mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Self {
        for name in [tag, Digest::of(bytes).as_str()] {
            self.0.insert(
                format!("{repository}/manifests/{name}"),
                (media_type.into(), bytes.to_vec()),
            );
        }
        self
    }

    pub(crate) fn blob(&mut self, repository: &str, bytes: &[u8]) {
        let path = format!("{repository}/blobs/{}", Digest::of(bytes));
        self.0
            .insert(path, ("application/octet-stream".into(), bytes.to_vec()));
    }

    /// As a truthful registry.
    pub(crate) fn serve(&self, request: &Request) -> Reply {
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
            return reply.with("docker-content-digest", Digest::of(bytes).to_string());
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
