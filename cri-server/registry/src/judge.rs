//! What reads the texts of people and registries, for fuzzing: whatever comes, it does not panic, and
//! what it takes keeps its promises. Nothing else uses this.

use crate::reference::Reference;
use crate::span::Span;
use crate::{challenge, referrers};

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
