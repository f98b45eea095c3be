//! Texts of registries, where they are texts.

/// The name of an image.
pub(crate) fn reference(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        registry::judge::reference(text);
    }
}

/// What a registry demands.
pub(crate) fn challenge(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        registry::judge::challenge(text);
    }
}
