//! What reads the documents and layers of images, for fuzzing: whatever comes, it does not panic, and
//! what it takes keeps its promises. Nothing else uses this.

use std::io::Read as _;

use registry::manifest::{self, Document, MAX_LAYERS};

use crate::configuration;
use crate::layer::names::{self, Place};
use crate::layer::tar::{Archive, MAX_PATH};

/// Most bytes of an entry that are read.
const CONTENT: u64 = 1 << 16;

/// A manifest, a list of them, or a configuration.
///
/// # Panics
///
/// If what was taken breaks a promise: that is what the fuzzer looks for.
pub fn document(bytes: &[u8]) {
    for kind in [
        None,
        Some(manifest::OCI_MANIFEST),
        Some(manifest::DOCKER_LIST),
    ] {
        if let Ok(Document::Manifest(manifest)) = Document::parse(bytes, kind) {
            assert!(manifest.layers.len() <= MAX_LAYERS);
        }
    }
    for layers in [0, 1] {
        if let Ok((_, ids)) = configuration::parse(bytes, layers) {
            assert_eq!(ids.len(), layers);
        }
    }
}

/// A layer's tar.
///
/// # Panics
///
/// As [`document`].
pub fn tar(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    while let Ok(Some(entry)) = archive.next_entry() {
        assert!(entry.path.len() <= MAX_PATH && entry.link.len() <= MAX_PATH);
        if let Ok(place) = names::place(&entry.path) {
            judge_place(&place);
        }
        drop(names::link_target(&entry.link));
        let mut content = Vec::new();
        let read = (&mut archive).take(CONTENT).read_to_end(&mut content);
        let promised = usize::try_from(entry.size).unwrap_or(usize::MAX);
        assert!(content.len() <= promised, "{read:?}");
    }
}

/// Where an entry goes is below the root, whatever it is called.
fn judge_place(place: &Place) {
    let (Place::In(spot) | Place::Whiteout(spot)) = place else {
        return;
    };
    let path = spot.path();
    let mut parts = path.split(|byte| *byte == b'/');
    assert!(
        parts.all(|part| !matches!(part, b"" | b"." | b"..")),
        "{spot:?}"
    );
}
