//! Checks that many fields share. No meaning of any one field is here.

use std::path::{Component, Path, PathBuf};

use super::PlanError;

/// Refuses text that no system call can carry: a NUL byte ends a C string.
pub(super) fn no_nul(field: &str, text: &str) -> Result<(), PlanError> {
    match text.contains('\0') {
        true => Err(PlanError::invalid(field, "holds a NUL byte")),
        false => Ok(()),
    }
}

/// Refuses text that would break the line-based file it is written into.
pub(super) fn one_word(field: &str, text: &str) -> Result<(), PlanError> {
    if text.is_empty() {
        return Err(PlanError::invalid(field, "is empty"));
    }
    match text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err(PlanError::invalid(
            field,
            format!("{text:?} holds white space"),
        )),
        false => Ok(()),
    }
}

/// Refuses what is not an absolute path, and gives it back without `.`, `..` and doubled slashes.
pub(super) fn absolute(field: &str, text: &str) -> Result<PathBuf, PlanError> {
    no_nul(field, text)?;
    match text.starts_with('/') {
        true => Ok(clean(Path::new(text))),
        false => Err(PlanError::invalid(
            field,
            format!("{text:?} is not an absolute path"),
        )),
    }
}

/// An absolute path without `.`, `..` and doubled slashes, by its letters alone: no link is
/// followed.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_cleaned() {
        for (given, expect) in [
            ("/", Some("/")),
            ("/a//b/./c/", Some("/a/b/c")),
            ("/a/../b", Some("/b")),
            ("/../..", Some("/")),
            ("a/b", None),
            ("", None),
            ("/a\0b", None),
        ] {
            assert_eq!(
                absolute("f", given).ok(),
                expect.map(PathBuf::from),
                "{given:?}"
            );
        }
    }

    #[test]
    fn one_word_refuses_what_breaks_a_line() {
        for bad in ["", "a b", "a\nb", "a\tb", "a\u{7}"] {
            assert!(one_word("f", bad).is_err(), "{bad:?}");
        }
        one_word("f", "10.0.0.1").unwrap();
    }
}
