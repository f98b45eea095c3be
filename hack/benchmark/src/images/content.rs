//! The images that are pulled: real files of this machine, in eight layers.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ::tests::Registry;
use ::tests::image::{Blob, Image, Layer, digest};
use anyhow::Result;
use serde_json::{Value, json};

/// How many layers.
const LAYERS: usize = 8;
/// Bytes of files in all of them together.
const BYTES: u64 = 355_000_000;
/// Largest file that is taken, in bytes: none is to be a layer by itself.
const MAX_FILE: u64 = 40 << 20;
/// How often the content is repeated to make the one large layer.
const REPEATS: usize = 6;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Gzip,
    Zstd,
}

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn pack(self, tar: &[u8], level: i32) -> Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let level = flate2::Compression::new(level.unsigned_abs());
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(tar)?;
                Ok(encoder.finish()?)
            }
            Self::Zstd => Ok(zstd::bulk::compress(tar, level)?),
        }
    }
}

/// An image in the registry.
#[derive(Debug)]
pub(crate) struct Work {
    /// What the table calls it.
    pub(crate) title: String,
    /// Its name with host and tag.
    pub(crate) reference: String,
    /// How its layers are compressed.
    pub(crate) form: Form,
    /// Measured in one round only.
    pub(crate) once: bool,
}

/// The tars of the layers. Which files are taken depends on their names alone.
pub(crate) fn layers() -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    list(Path::new("/usr/lib"), &mut files)?;
    files.sort();
    let mut layers: Vec<Layer> = (0..LAYERS).map(|_| Layer::default()).collect();
    let (mut bytes, mut at) = (0, 0);
    for path in files {
        let Ok(content) = fs::read(&path) else {
            continue;
        };
        // A name that does not fit a header is left out.
        if layers[at % LAYERS]
            .file(&path.to_string_lossy(), 0o644, &content)
            .is_err()
        {
            continue;
        }
        bytes += content.len() as u64;
        // A folder's files stay neighbours, as in a real image.
        at = usize::try_from(bytes * LAYERS as u64 / BYTES)?;
        if bytes >= BYTES || at >= LAYERS {
            break;
        }
    }
    layers.into_iter().map(Layer::finish).collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() && entry.metadata()?.len() <= MAX_FILE {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Gives the registry the image of these layers.
pub(crate) fn publish(registry: &Registry, form: Form, layers: &[Vec<u8>]) -> Result<Work> {
    let level = if form == Form::Gzip { 6 } else { 3 };
    let total: usize = layers.iter().map(Vec::len).sum();
    let packed: Result<Vec<_>> = layers.iter().map(|tar| form.pack(tar, level)).collect();
    let sent = push(registry, form, form.name(), layers, packed?)?;
    let title = format!(
        "{} {}, {} MB as {} MB",
        layers.len(),
        form.name(),
        total / 1_000_000,
        sent / 1_000_000
    );
    Ok(Work {
        title,
        reference: format!("{}/bench/{}:1", registry.host, form.name()),
        form,
        once: false,
    })
}

/// Gives the registry an image of one layer of more than 2 GB.
pub(crate) fn publish_large(registry: &Registry, layers: &[Vec<u8>]) -> Result<Work> {
    let mut large = Vec::new();
    for round in 0..REPEATS {
        for tar in layers {
            append(&mut large, tar, round)?;
        }
    }
    large.extend_from_slice(&[0; 1024]);
    let packed = Form::Zstd.pack(&large, 1)?;
    push(registry, Form::Zstd, "large", &[large], vec![packed])?;
    Ok(Work {
        title: "1 zstd, 2 GB".to_owned(),
        reference: format!("{}/bench/large:1", registry.host),
        form: Form::Zstd,
        once: true,
    })
}

/// Appends the entries of a tar without its end; a round has names of its own.
fn append(large: &mut Vec<u8>, tar: &[u8], round: usize) -> Result<()> {
    let end = tar.len().saturating_sub(1024);
    let mut at = 0;
    while at < end {
        let header = &tar[at..at + 512];
        let size = std::str::from_utf8(&header[124..135])?;
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8)?;
        let whole = 512 + size.next_multiple_of(512);
        let mut block = [0; 512];
        block.copy_from_slice(header);
        rename(&mut block, round);
        large.extend_from_slice(&block);
        large.extend_from_slice(&tar[at + 512..at + whole]);
        at += whole;
    }
    Ok(())
}

/// `usr/...` becomes `us0/...`, `us1/...`.
fn rename(block: &mut [u8; 512], round: usize) {
    let Some(digit) = u8::try_from(round)
        .ok()
        .filter(|_| block.starts_with(b"usr"))
    else {
        return;
    };
    block[2] = b'0' + digit;
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Gives the registry an image of one layer with very many small files, as of a package manager.
pub(crate) fn publish_small(registry: &Registry, count: usize) -> Result<Work> {
    let mut layer = Layer::default();
    for number in 0..count {
        let path = format!(
            "/app/modules/{:03}/{:02}/{number}.js",
            number / 400,
            number / 20 % 20
        );
        let line = format!("exports.value = {number};\n");
        layer.file(&path, 0o644, line.repeat(1 + number % 150).as_bytes())?;
    }
    let layer = layer.finish()?;
    let packed = Form::Zstd.pack(&layer, 3)?;
    push(registry, Form::Zstd, "small", &[layer], vec![packed])?;
    Ok(Work {
        title: format!("1 zstd, {count} small files"),
        reference: format!("{}/bench/small:1", registry.host),
        form: Form::Zstd,
        once: false,
    })
}

/// Gives the registry an image of many tiny layers.
pub(crate) fn publish_many(registry: &Registry, count: usize) -> Result<String> {
    let mut layers = Vec::new();
    for number in 0..count {
        let mut layer = Layer::default();
        layer.file(
            &format!("/layer/{number}"),
            0o644,
            number.to_string().as_bytes(),
        )?;
        layers.push(layer.finish()?);
    }
    let packed: Result<Vec<_>> = layers.iter().map(|tar| Form::Gzip.pack(tar, 1)).collect();
    push(registry, Form::Gzip, "many", &layers, packed?)?;
    Ok(format!("{}/bench/many:1", registry.host))
}

/// Answers with how many bytes the layers have as they are sent.
fn push(
    registry: &Registry,
    form: Form,
    name: &str,
    tars: &[Vec<u8>],
    packed: Vec<Vec<u8>>,
) -> Result<usize> {
    let blob = |bytes: Vec<u8>, media_type| Blob {
        digest: digest(&bytes),
        bytes: bytes.into(),
        media_type,
    };
    let descriptor = |blob: &Blob| -> Value {
        json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.bytes.len()})
    };
    let diff_ids: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob(config.to_string().into_bytes(), CONFIG);
    let layers: Vec<Blob> = packed
        .into_iter()
        .map(|bytes| blob(bytes, form.media_type()))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(&config),
        "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
    });
    let sent = layers.iter().map(|layer| layer.bytes.len()).sum();
    let image = Image {
        top: blob(manifest.to_string().into_bytes(), MANIFEST),
        blobs: layers.into_iter().chain([config]).collect(),
        inner: Vec::new(),
    };
    registry.push(&format!("bench/{name}"), &["1"], &image)?;
    Ok(sent)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_entries_get_names_of_their_own() {
        let mut layer = Layer::default();
        layer.file("/usr/lib/a", 0o644, b"text").unwrap();
        let tar = layer.finish().unwrap();
        let mut large = Vec::new();
        append(&mut large, &tar, 0).unwrap();
        append(&mut large, &tar, 3).unwrap();
        assert_eq!(large.len(), 2 * (tar.len() - 1024));
        assert!(large.starts_with(b"us0"));
        assert!(large[tar.len() - 1024..].starts_with(b"us3"));
    }
}
