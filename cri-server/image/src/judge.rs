//! What reads the texts and files of registries and archives, for fuzzing: whatever comes, it does
//! not panic, and what it takes keeps its promises. Nothing else uses this.

use std::io::Read as _;

use crate::layer::names::{self, Place};
use crate::layer::tar::{Archive, MAX_PATH};
use crate::manifest::{self, Document, MAX_LAYERS};
use crate::reference::Reference;
use crate::registry::span::Span;
use crate::registry::{challenge, referrers};

/// Most bytes of an entry that are read.
const CONTENT: u64 = 1 << 16;

/// The name of an image.
///
/// # Panics
///
/// If a name that was taken is not the same when it is read again: that is what the fuzzer looks
/// for.
pub fn reference(text: &str) {
    let Ok(name) = Reference::parse(text) else {
        return;
    };
    let climbs = name
        .path()
        .split('/')
        .any(|part| part.is_empty() || part == "..");
    assert!(!climbs && !name.domain().contains(['/', '@']), "{name:?}");
    for again in [
        name.tagged(),
        name.digest().map(|digest| name.with_digest(digest)),
    ] {
        let Some(text) = again else { continue };
        let again = Reference::parse(&text).expect("a complete name is a name");
        assert_eq!(again.name(), name.name());
    }
}

/// A manifest, a list of them, or a configuration.
///
/// # Panics
///
/// As [`reference`].
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
        if let Ok((_, ids)) = manifest::parse_config(bytes, layers) {
            assert_eq!(ids.len(), layers);
        }
    }
}

/// A layer's tar.
///
/// # Panics
///
/// As [`reference`].
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

/// Headers of a registry: `WWW-Authenticate`, and those of parts and of pages.
///
/// # Panics
///
/// As [`reference`].
pub fn challenge(text: &str) {
    for challenge in challenge::parse(text) {
        let upper = challenge
            .scheme
            .contains(|letter: char| letter.is_ascii_uppercase());
        assert!(!challenge.scheme.is_empty() && !upper, "{challenge:?}");
    }
    let asked = Span::after(5);
    if let Ok(begins) = asked.begins(true, text, 10) {
        assert!(begins <= asked.from, "{begins}");
    }
    if let Some(page) = referrers::next(text) {
        assert!(text.contains(page));
    }
}
